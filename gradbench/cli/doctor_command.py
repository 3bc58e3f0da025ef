"""gradbench doctor"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradbench.cli import options
from gradbench.cli.output import console, emit, plain, table
from gradbench.runner.doctor import Check, examine
from gradbench.runner.wire import WorkerError

STYLES = {"good": "green", "note": "", "poor": "yellow", "bad": "bold red"}


@click.command()
@options.results_option
@options.format_option("json", "csv", "md")
def command(results: Path, form: str) -> int:
    """Say whether this machine is fit to measure on, and why not.

    Takes some seconds: a worker is started and times the same code against itself. Exit code 1
    where something is bad enough that times should not be trusted.
    """
    try:
        checks = examine(results)
    except WorkerError as error:
        raise click.UsageError(str(error)) from error
    if form != "table":
        emit([_record(check) for check in checks], form)
    else:
        shown = table("", ["", "what", "found", "what to do"])
        for check in checks:
            shown.add_row(
                plain(check.grade, STYLES[check.grade]),
                plain(check.what),
                plain(check.found),
                plain(check.advice),
            )
        out = console()
        out.print(shown)
        bad = [check.what for check in checks if check.grade == "bad"]
        poor = [check.what for check in checks if check.grade == "poor"]
        if bad:
            out.print(plain(f"Not fit to measure on: {', '.join(bad)}", "bold red"))
        elif poor:
            out.print(f"Fit to measure on, with care: {', '.join(poor)}")
        else:
            out.print(plain("Fit to measure on", "green"))
    return 1 if any(check.grade == "bad" for check in checks) else 0


def _record(check: Check) -> dict[str, Any]:
    return {
        "grade": check.grade,
        "what": check.what,
        "found": check.found,
        "advice": check.advice,
    }
