"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from gradbench import __version__
from gradbench.cli.ending import Stopped
from gradbench.cli.parameters import Group
from gradbench.core import text

COMMANDS = {
    "list": "What can be measured: functions, operators, modes, sizes.",
    "verify": "Put every case through the correctness gate, timing nothing.",
    "run": "Measure, store and show which way of differentiating is fastest.",
    "advise": "Find the fastest correct way to differentiate a function of your own.",
    "show": "Show a stored run, or one comparison of it in full.",
    "compare": "Hold two stored runs against each other, case by case.",
    "releases": "Torch releases: install, measure in turns, compare, bisect.",
    "import": "Take what 'pytest benchmarks/' measured into the results.",
    "report": "Make a page of stored runs: findings, figures, all cases, the code of each mode.",
    "plot": "Draw one figure of stored runs to a file.",
    "export": "Write stored runs as CSV, Parquet or JSON.",
    "study": "Prove the verdicts: false alarms, power, coverage, and the peers' beside them.",
    "doctor": "Say whether this machine is fit to measure on, and why not.",
    "completion": "Print the shell completion script.",
}


class _Formatter(click.HelpFormatter):
    """Help for a terminal that may show no more than ASCII: click would write UTF-8 to it."""

    def getvalue(self) -> str:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        said = super().getvalue()
        return said if encoding.lower().startswith("utf") else text.in_ascii(said)


click.Context.formatter_class = _Formatter


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """Click takes both of these for an end that the user asked for, and writes an empty line."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped from None
    except EOFError as error:
        raise RuntimeError("a file or a pipe ended too early") from error


class _Lazy(Group):
    """A group that knows its commands by name and loads each when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gradbench.cli.{cmd_name}_command")
        command: click.Command = module.command
        command.short_help = COMMANDS[cmd_name]
        return command

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with _told_apart():
            return super().make_context(*given, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _told_apart():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The summaries stand above so that help imports none of the commands.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V")
def cli() -> None:
    """Measure derivatives in PyTorch: which way is fastest, by how much, and with what odds.

    Start with 'gradbench run', then 'gradbench show'.
    """
