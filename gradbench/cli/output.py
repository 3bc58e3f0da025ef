"""Lines of text on standard output and error.

Commands write with `say` and `console`, and their answers with a `Renderer` (rendering.py): all of
these make text from outside fit to show.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from gradbench.cli import ending, verbosity
from gradbench.cli.parameters import STANDARD
from gradbench.cli.streams import Styled
from gradbench.core import text

WIDE = 120
"""Columns assumed where there is no terminal to ask."""

TEXTS = (".svg", ".html", ".csv", ".json")
"""Suffixes of files that a terminal can show."""

NARROW = 40
"""The least columns that a table is laid out for; a terminal may say that it has none."""


class _Console(Console):
    """A console on which a string is text: brackets in names and messages are no markup."""

    def render_str(self, said: str, **given: Any) -> Text:  # type: ignore[override]
        return super().render_str(shown(said), **given)


def _width(stream: Any) -> int:
    """The columns to write in: `COLUMNS`, or those of the terminal. A pipe may lead to a terminal
    too, as to `less`: then standard error tells its width."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return int(said)
    for asked in (stream, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if asked.isatty():
                return os.get_terminal_size(asked.fileno()).columns
    return WIDE


def console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    made = _Console(
        file=Styled(stream),  # type: ignore[arg-type]
        width=_width(stream),
        markup=False,
        emoji=False,
        highlight=False,
    )
    if made.width < NARROW:
        made.width = NARROW
    return made


def say(said: Any, err: bool = False) -> None:
    """Writes lines to standard output or error."""
    stream = sys.stderr if err else sys.stdout
    stream.write(shown(str(said)) + "\n")
    stream.flush()


def warn(said: Any) -> None:
    """Writes lines to standard error."""
    say(said, err=True)


def quiet() -> bool:
    """Whether the command was asked for its results only."""
    return verbosity.level() <= verbosity.QUIET


@contextmanager
def target_file(target: Path, suffix: str = "") -> Iterator[Path]:
    """The file to write for a target; with ``-`` one that is then copied to standard output.

    `suffix` is that of the file for ``-``. Raises UsageError where a terminal would get a file that
    it cannot show.
    """
    if str(target) != STANDARD:
        yield target
        return
    if suffix not in TEXTS and sys.stdout.isatty():
        raise click.UsageError(f"a {suffix} file is not for a terminal: pipe it, or name a file")
    with tempfile.TemporaryDirectory(prefix="gradbench-") as folder:
        file = Path(folder) / f"output{suffix}"
        yield file
        sys.stdout.flush()
        sys.stdout.buffer.write(file.read_bytes())
        sys.stdout.buffer.flush()


def info(said: Any) -> None:
    """Writes what the command is about to do to standard error, unless it is quiet."""
    if not quiet():
        warn(said)


def hint(said: Any) -> None:
    """Writes what to type next to standard output, unless the command is quiet."""
    if not quiet():
        say(said)


def notes(problems: Iterable[str]) -> None:
    """Writes what was left out of the stored files to standard error, in any output format."""
    for problem in dict.fromkeys(problems):
        warn(f"note: {problem}")


def stopped(hint: str) -> int:
    """Says what is kept of a command that a signal ended, and how to go on: its exit code."""
    warn(hint)
    return ending.stopped_code()


@contextmanager
def on_stop(hint: str) -> Iterator[None]:
    """Where a signal ends what is done in it, the command ends with this hint."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(stopped(hint)) from None


def shown(said: str) -> str:
    """The text as the terminal can show it, before it is laid out in columns."""
    clean = text.shown(said)
    return clean if clean.isascii() or unicode() else text.in_ascii(clean)


def unicode() -> bool:
    """Whether standard output can show more than ASCII; it and standard error have one encoding."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def printable(said: str) -> str:
    """Text from outside as the terminal can show it; what fills screens loses its middle."""
    return shown(text.shortened(said, text.LONGEST))
