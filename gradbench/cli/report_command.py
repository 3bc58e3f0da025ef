"""gradbench report"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import notes, on_stop, say, target_file, warn
from gradbench.cli.progress import progress
from gradbench.core.extras import require
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradbench.report.content import Report

Steps = Callable[[int, int, str], None]
Code = tuple[tuple[list[dict[str, Any]], str], list[Any]]
NO_CODE: Code = ([], ""), []


@click.command()
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=completing.run)
@click.option(
    "-t",
    "--to",
    "target",
    type=parameters.NewFolder(),
    help="Output folder; '-' writes the page to standard output.  [default: 'report' in the "
    "results folder]",
)
@click.option(
    "--format",
    "forms",
    multiple=True,
    type=parameters.Choice(["html", "md"]),
    default=("html",),
    help="One HTML file, or Markdown with a folder of figures; may be repeated.",
)
@click.option(
    "--with",
    "wanted",
    multiple=True,
    type=parameters.Choice(["devices", "memory", "correctness", "notebooks", "studies", "all"]),
    help="Add sections: devices compared over size, memory against time, errors, plots of the "
    "source notebooks, or studies; may be repeated.",
)
@click.option("--no-code", is_flag=True, help="Leave out the code of the modes, which needs torch.")
@options.filter_options
@options.files_option
@options.judging_options
@options.results_option
def command(
    runs: tuple[str, ...],
    target: Path | None,
    forms: tuple[str, ...],
    wanted: tuple[str, ...],
    no_code: bool,
    filters: options.Filters,
    files: tuple[str, ...],
    judging: options.Judging,
    results: Path,
) -> int:
    """Write a report of stored RUNS (names, beginnings of names or 'latest'; default: all).

    The HTML page is one file that needs no network. It begins with the runs of this machine; those
    of others can be chosen in it, and are never averaged with them.
    """
    require("gradbench report", "matplotlib")
    from gradbench.report import page
    from gradbench.report.sections import EXTRAS

    target = target or parameters.NewFolder().convert(results / "report", None, None)
    standard = str(target) == parameters.STANDARD
    if standard and set(forms) != {"html"}:
        raise click.UsageError(
            "'--to -' writes one HTML file: remove --format md, or name a folder"
        )
    writers = {"html": page.write_html, "md": page.write_markdown}
    hint = "Stopped. A page is written whole or not at all: run the command again."
    with on_stop(hint), progress("reporting") as told:
        extras = EXTRAS if "all" in wanted else wanted
        code = NO_CODE if no_code else _code(files, "notebooks" in extras)
        report = _assembled(results, runs, judging, filters, code, extras, _steps(told))
        written = []
        if standard:
            with target_file(target, ".html") as file:
                page.write_html(report, file, _steps(told))
            return 0
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
    extras: Collection[str],
    told: Steps,
) -> Report:
    from gradbench.report import content, data, why

    stored, problems = data.read(results, runs, *judging, told)
    changes, damaged = ({}, []) if runs else content.releases(results)
    whys, unread = ([], []) if runs else why.read(results)
    notes(damaged + unread)
    if not stored and not changes:
        raise StoreError(
            f"there are no runs in {results / 'runs'}; 'gradbench run' makes one"
            + "".join(f" ({problem})" for problem in problems[:3])
        )
    modes, drawn = code
    return content.assemble(
        stored,
        problems,
        lambda frame: data.selected(frame, **filters),
        changes,
        modes,
        extras,
        drawn,
        _studies(results) if "studies" in extras else [],
        whys,
    )


def _studies(results: Path) -> list[tuple[str, Figure]]:
    from gradbench.store import studies
    from gradbench.studies import evidence, figures

    measured, damaged = studies.read_all(results)
    notes(damaged)
    return list(figures.figures(evidence.newest(measured)))


def _code(files: tuple[str, ...], curves: bool) -> Code:
    from gradbench.report.sources import told_by_worker
    from gradbench.runner.wire import WorkerError

    try:
        return told_by_worker(files, curves)
    except WorkerError as error:
        warn(f"note: the report is without code: {error}")
        return NO_CODE
