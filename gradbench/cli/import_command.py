"""gradbench import"""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import hint, say
from gradbench.core.units import counted


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=parameters.ReadableFile())
@options.results_option
def command(files: tuple[Path, ...], results: Path) -> int:
    """Import what 'pytest benchmarks/ --benchmark-json FILE' measured.

    Each file becomes a run that 'show' and 'export' can read. It is one session of one process
    that timed one mode after the other, so every verdict on it is 'undecided'.
    """
    from gradbench.integrations import pytest_json

    imported = 0
    for path in dict.fromkeys(files):
        run = pytest_json.store(results, path)
        timed = sum(bool(e.samples) for session in run.sessions for e in session.entrants)
        imported += timed
        say(
            f"{counted(timed, 'case')} of {counted(len(run.sessions), 'comparison')} "
            f"in {run.path}\n"
            "One session of one process, not interleaved: every verdict is 'undecided'."
        )
        hint(f"Show it with: gradbench show {run.name}")
    return 0 if imported else 1
