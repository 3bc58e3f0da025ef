"""gradbench report"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import notes, progress, say, stopped
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    from gradbench.report.page import Report


@click.command()
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=options.complete_run)
@click.option(
    "-t",
    "--to",
    "target",
    type=parameters.Folder(),
    help="The folder to write to.  [default: 'report' in the results folder]",
)
@click.option(
    "--format",
    "forms",
    multiple=True,
    type=parameters.Choice(["html", "md"]),
    default=("html",),
    show_default=True,
    help="One HTML file, or Markdown with a folder of figures; may be repeated.",
)
@click.option("--no-code", is_flag=True, help="Leave out what needs torch: code, documents' plots.")
@options.filter_options
@options.files_option
@options.floor_option
@options.confidence_option
@options.method_option
@options.results_option
def command(
    runs: tuple[str, ...],
    target: Path | None,
    forms: tuple[str, ...],
    no_code: bool,
    files: tuple[str, ...],
    floor: float,
    confidence: float,
    method: str,
    results: Path,
    **filters: tuple[str, ...],
) -> int:
    """Make a report of stored RUNS (names, beginnings of names, 'latest'; all without any).

    The HTML page is one file that needs no network. Figures show the newest run of each comparison
    on each machine and build; the table has all runs.
    """
    from gradbench.report import page

    target = target or results / "report"
    writers = {"html": page.write_html, "md": page.write_markdown}
    try:
        with progress("reporting") as told:
            report = _assembled(
                *(results, runs, floor, confidence, method, filters, files),
                code=not no_code,
                told=_steps(told),
            )
            written = []
            for form in dict.fromkeys(forms):
                written.append(target / f"report.{form}")
                writers[form](report, written[-1], _steps(told))
    except KeyboardInterrupt:
        return stopped("Stopped; a page is written whole or not at all: run the command again.")
    except StoreError as error:
        raise click.UsageError(str(error)) from error
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
    floor: float,
    confidence: float,
    method: str,
    filters: dict[str, tuple[str, ...]],
    files: tuple[str, ...],
    code: bool,
    told: Callable[[int, int, str], None],
) -> Report:
    from gradbench.report import data, page
    from gradbench.store import studies as studies
    from gradbench.studies import evidence, figures

    stored, problems = data.read(results, runs, floor, confidence, method, told)
    changes = None if runs else page.releases(results)
    measured, damaged = studies.read_all(results)
    notes(damaged)
    if not stored and (changes is None or changes.empty):
        raise StoreError(
            f"there are no runs in {results / 'runs'}; 'gradbench run' makes one"
            + "".join(f" ({problem})" for problem in problems[:3])
        )
    sources, drawn = told_by_worker(files) if code else (([], ""), [])
    return page.assemble(
        stored,
        problems,
        lambda frame: data.selected(frame, **filters),
        changes,
        list(figures.figures(evidence.newest(measured))),
        sources,
        drawn,
    )


def told_by_worker(files: tuple[str, ...]) -> tuple[tuple[list[dict[str, Any]], str], list[Any]]:
    """The modes' code and the documents' curves, from a worker; nothing where none starts."""
    from gradbench.report import curves
    from gradbench.runner.wire import Worker, WorkerError, WorkerOptions, once_more

    def asked(worker: Worker) -> tuple[list[dict[str, Any]], dict[str, Any], list[Any]]:
        drawn = [curves.computed(worker, name) for name in curves.CURVES]
        return worker.request("discover", 120)["modes"], worker.environment, drawn

    try:
        modes, version, drawn = once_more(WorkerOptions(files=files), asked)
    except WorkerError as error:
        say(f"note: no code and no documents' plots: {error}", err=True)
        return ([], ""), []
    said = (
        f"As installed when this report was made: gradbench {version['gradbench']}, torch "
        f"{version['torch']}. Runs of other versions may have measured other code."
    )
    return (modes, said), drawn
