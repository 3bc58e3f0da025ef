"""The command line: one file per command, imported when the command is called."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from gradbench import __version__
from gradbench.cli import settings
from gradbench.cli.ending import Stopped, fixable
from gradbench.cli.groups import Group, no_such_option
from gradbench.core import text

COMMANDS = {
    "list": "List functions, operators, modes and cases that can be measured.",
    "verify": "Check every case for correctness, without timing it.",
    "run": "Measure, store and show which way of differentiating is fastest.",
    "advise": "Find the fastest correct way to differentiate a function of your own.",
    "init": "Write benchmarks of your own functions, for pytest, asv and CI.",
    "show": "Show a stored run, or one comparison of it in full.",
    "compare": "Compare two stored runs, case by case.",
    "explain": "Say what a case executes: Python, dispatcher, autograd or kernels.",
    "releases": "Install, measure, compare, bisect and explain torch releases.",
    "import": "Import what 'pytest benchmarks/' measured.",
    "merge": "Put results folders of several machines together.",
    "report": "Write a report of stored runs: what to try first, every comparison, the code.",
    "plot": "Draw one figure of stored runs to a file.",
    "export": "Write stored runs as CSV, Parquet or JSON.",
    "study": "Validate the verdicts: false positives, power, coverage, other tools.",
    "doctor": "Check whether this machine is suitable for benchmarking.",
    "completion": "Print the shell completion script.",
}
HOMES = {
    name: f"{name}.command" if name in ("releases", "study") else f"{name}_command.command"
    for name in COMMANDS
}
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Formatter(click.HelpFormatter):
    """Help for a terminal that may show no more than ASCII: click would write UTF-8 to it."""

    def getvalue(self) -> str:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        said = super().getvalue()
        return said if encoding.lower().startswith("utf") else text.in_ascii(said)


click.Context.formatter_class = _Formatter


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """Errors as click and `ending` take them: what the user can fix is a UsageError.

    Click would take an interrupt or an EOFError for an end that the user asked for, and write an
    empty line.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped from None
    except EOFError as error:
        raise RuntimeError("a file or a pipe ended too early") from error
    except click.NoSuchOption as error:
        raise no_such_option(error) from error
    except click.BadParameter as error:
        raise settings.explained(error) from error
    except (click.ClickException, click.exceptions.Exit):
        # Told apart already: to look at the others would import what --help does not need.
        raise
    except Exception as error:
        if isinstance(error, fixable()):
            raise click.UsageError(str(error)) from error
        raise


class _Top(Group):
    """All commands, with the errors of each as `ending` takes them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
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


@click.group(cls=_Top, homes=HOMES, context_settings=SETTINGS)
@click.version_option(__version__, "--version", "-V")
def cli() -> None:
    """Measure derivatives in PyTorch: which way is fastest, by how much, and how certain that is.

    Start with 'gradbench run', then 'gradbench show'. Options have defaults of your own in
    pyproject.toml, under [tool.gradbench], or in variables such as GRADBENCH_RESULTS.
    """
