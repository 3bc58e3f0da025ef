"""How much a command says beside its results: ``-q`` and ``-v``, the same on every command.

`groups.Group` gives both options to each command. `output` asks for the level where it writes:
results and warnings at any level, progress and advice unless quiet, details if verbose. Details are
what the rest of gradbench logs under the logger ``gradbench``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from gradbench import __version__

QUIET, NORMAL, VERBOSE = -1, 0, 1

_LEVEL = "gradbench.level"
_SOURCE = "gradbench.level.source"
_SOURCES = (
    ParameterSource.DEFAULT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.ENVIRONMENT,
    ParameterSource.COMMANDLINE,
)


def level() -> int:
    """The level of the command that is running; normal where none is."""
    context = click.get_current_context(silent=True)
    return NORMAL if context is None else int(context.meta.get(_LEVEL, NORMAL))


def _chosen(context: click.Context, parameter: click.Parameter, flag: bool) -> None:
    if not flag or context.resilient_parsing:
        return
    source = context.get_parameter_source(str(parameter.name))
    rank = _SOURCES.index(source) if source in _SOURCES else len(_SOURCES)
    before = context.meta.get(_SOURCE, -1)
    if rank == before:
        raise click.UsageError("--quiet and --verbose exclude each other: remove one", context)
    # A flag on the command line has precedence over a variable, as with every option.
    if rank > before:
        context.meta[_SOURCE] = rank
        context.meta[_LEVEL] = QUIET if parameter.name == "quiet" else VERBOSE


def options() -> list[click.Option]:
    """The options, as every command has them."""
    return [
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_chosen,
            help="Results and warnings only: no progress, no advice.",
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_chosen,
            help="Also say what is run, with paths, versions and what is skipped.",
        ),
    ]


class _Details(logging.Handler):
    """Writes the message of each record."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())


def begin(context: click.Context, write: Callable[[str], None]) -> None:
    """Has the details of a verbose command written until it ends."""
    if level() < VERBOSE:
        return
    logger = logging.getLogger("gradbench")
    handler, before = _Details(write), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    context.call_on_close(end)
    logger.debug(
        "gradbench %s in %s; Python %s, %s",
        __version__,
        Path(__file__).resolve().parents[1],
        sys.version.split()[0],
        sys.executable,
    )
