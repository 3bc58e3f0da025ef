"""gradbench report"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import notes, on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    from gradbench.report.page import Report

Steps = Callable[[int, int, str], None]
Code = tuple[tuple[list[dict[str, Any]], str], list[Any]]
NO_CODE: Code = ([], ""), []


@click.command()
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=options.complete_run)
@click.option(
    "-t",
    "--to",
    "target",
    type=parameters.Folder(),
    help="Output folder.  [default: 'report' in the results folder]",
)
@click.option(
    "--format",
    "forms",
    multiple=True,
    type=parameters.Choice(["html", "md"]),
    default=("html",),
    help="One HTML file, or Markdown with a folder of figures; may be repeated.",
)
@click.option("--no-code", is_flag=True, help="Leave out what needs torch: code and curves.")
@options.filter_options
@options.files_option
@options.judging_options
@options.results_option
def command(
    runs: tuple[str, ...],
    target: Path | None,
    forms: tuple[str, ...],
    no_code: bool,
    filters: options.Filters,
    files: tuple[str, ...],
    judging: options.Judging,
    results: Path,
) -> int:
    """Write a report of stored RUNS (names, beginnings of names or 'latest'; default: all).

    The HTML page is one file that needs no network. Figures show the newest run of each comparison
    on each machine and build; the table has all runs.
    """
    from gradbench.report import page

    target = target or results / "report"
    writers = {"html": page.write_html, "md": page.write_markdown}
    hint = "Stopped. A page is written whole or not at all: run the command again."
    with on_stop(hint), progress("reporting") as told:
        code = NO_CODE if no_code else _code(files)
        report = _assembled(results, runs, judging, filters, code, _steps(told))
        written = []
        for form in dict.fromkeys(forms):
            written.append(target / f"report.{form}")
            writers[form](report, written[-1], _steps(told))
    for path in written:
        say(path)
    return 0


def _steps(told: Any) -> Callable[[int, int, str], None]:
    """What tells the bar of steps done of a number of steps."""
    from gradbench.runner.progress import Progress

    began = time.monotonic()
    return lambda done, total, label: told(Progress(done, total, label, time.monotonic() - began))


def _assembled(
    results: Path,
    runs: tuple[str, ...],
    judging: options.Judging,
    filters: options.Filters,
    code: Code,
    told: Steps,
) -> Report:
    from gradbench.report import data, page
    from gradbench.store import studies
    from gradbench.studies import evidence, figures

    stored, problems = data.read(results, runs, *judging, told)
    changes = None if runs else page.releases(results)
    measured, damaged = studies.read_all(results)
    notes(damaged)
    if not stored and (changes is None or changes.empty):
        raise StoreError(
            f"there are no runs in {results / 'runs'}; 'gradbench run' makes one"
            + "".join(f" ({problem})" for problem in problems[:3])
        )
    return page.assemble(
        stored,
        problems,
        lambda frame: data.selected(frame, **filters),
        changes,
        list(figures.figures(evidence.newest(measured))),
        *code,
    )


def _code(files: tuple[str, ...]) -> Code:
    from gradbench.report.sources import told_by_worker
    from gradbench.runner.wire import WorkerError

    try:
        return told_by_worker(files)
    except WorkerError as error:
        warn(f"note: the report is without code and curves: {error}")
        return NO_CODE
