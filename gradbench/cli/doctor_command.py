"""gradbench doctor"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

import click

from gradbench.cli import groups, options, settings
from gradbench.cli.rendering import Answer, Cell, Column, Renderer, Styled, Table
from gradbench.core import project
from gradbench.runner.doctor import Check, examine

STYLES = {"good": "green", "note": "", "poor": "yellow", "bad": "bold red"}

COLUMNS = (
    Column("", lambda check: Styled(check.grade, STYLES[check.grade])),
    Column("check", attrgetter("what")),
    Column("result", attrgetter("found"), prose=True),
    Column("advice", attrgetter("advice"), prose=True, optional=True),
)


@click.command()
@options.results_option
@options.format_option
def command(results: Path, form: Renderer) -> int:
    """Check whether this machine is suitable for benchmarking.

    Takes some seconds: for three of them work is watched for interruptions by other processes, then
    a worker process is started, and the same code is timed against itself.
    Exit code 1 if something is bad enough that times should not be trusted.
    """
    checks = [*_settings(), *examine(results)]
    form.write(
        Answer(map(asdict, checks), details=[Table(COLUMNS, checks)], summary=[_verdict(checks)])
    )
    return 1 if any(check.grade == "bad" for check in checks) else 0


def _settings() -> Iterator[Check]:
    """Whether the project's settings can be taken, by every command."""
    from gradbench.cli import cli

    found = project.find()
    if found is None:
        return
    assert isinstance(cli, groups.Group)
    wrong = list(settings.mistakes(found, groups.every(cli), groups.names()))
    for mistake in wrong:
        yield Check("poor", "settings", mistake, "see docs/settings.md, or --help of the command")
    if not wrong:
        keys = ", ".join(found.table) or "nothing"
        yield Check("good", "settings", f"{found.path} sets {keys}")


def _verdict(checks: list[Check]) -> Cell:
    bad, poor = (", ".join(c.what for c in checks if c.grade == g) for g in ("bad", "poor"))
    if bad:
        return Styled(f"Not suitable for benchmarking: {bad}", "bold red")
    if poor:
        return f"Suitable for benchmarking, with reservations: {poor}"
    return Styled("Suitable for benchmarking", "green")
