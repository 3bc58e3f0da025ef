"""gradbench plot"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import notes, say, target_file
from gradbench.core.cases import DOCUMENTS
from gradbench.core.extras import require
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "atlas": "the fastest mode over outputs × inputs, and the price of the usual choice",
    "heatmap": "function × mode of one operator, as multiples of the fastest",
    "dots": "the modes of one comparison, with intervals",
    "forward": "the fastest as a multiple of the forward pass",
    "scaling": "time over size, with crossovers",
    "devices": "the fastest mode of each device over size, with crossovers",
    "memory": "peak memory against time, with the Pareto front",
    "correctness": "errors in units in the last place",
    "releases": "ratios over torch releases",
    "derivatives": "a function of the source notebooks and its derivative",
    "aa": "the study of false positives",
    "power": "the study of injected slowdowns",
    "coverage": "the study of the intervals' coverage",
    "peers": "the study of other tools on the same pairs",
    "load": "the study of busy machines",
}
STUDIES = ("aa", "power", "coverage", "peers", "load")
ENDINGS = (".svg", ".png", ".pdf")


@click.command(
    epilog="\b\nKinds:\n" + "\n".join(f"  {kind:<12} {what}" for kind, what in KINDS.items())
)
@click.argument("kind", metavar="KIND", type=parameters.Choice(list(KINDS)))
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=completing.plotted)
@options.to_option(ENDINGS)
@click.option(
    "--width",
    type=parameters.Width(),
    metavar="WIDTH",
    help="Inches, or column (3.5), wide (5.5) or page (7.2). Text gets smaller, down to 6 points, "
    "until nothing is clipped.  [default: as wide as the figure needs]",
)
@options.filter_options
@options.judging_options
@options.results_option
def command(
    kind: str,
    runs: tuple[str, ...],
    target: Path,
    suffix: str,
    width: float | None,
    filters: options.Filters,
    judging: options.Judging,
    results: Path,
) -> None:
    """Draw one figure of stored RUNS to a file.

    Default: all runs, of which the newest of each comparison counts.

    For 'releases', RUNS are tracks; for 'aa', 'power', 'coverage' and 'peers', studies.
    """
    require("gradbench plot", "matplotlib")
    from gradbench.report.fitting import fit
    from gradbench.report.style import NothingToDraw, save

    try:
        if kind == "derivatives":
            figure = _derivatives(filters["functions"])
        elif kind == "releases":
            if filters.pop("families"):
                raise click.UsageError("--family is of runs: choose a track's with --function")
            figure = _releases(results, runs, filters)
        elif kind in STUDIES:
            figure = _study(kind, results, runs)
        else:
            figure = _measured(kind, results, runs, judging, filters, width)
        if width is not None:
            fit(figure, width)
        with target_file(target, suffix) as file:
            save(figure, file)
    except NothingToDraw as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"cannot write {target}: {error.strerror or error}") from error
    if str(target) != parameters.STANDARD:
        say(target)


def _measured(
    kind: str,
    results: Path,
    runs: tuple[str, ...],
    judging: options.Judging,
    filters: options.Filters,
    width: float | None,
) -> Figure:
    from gradbench import report
    from gradbench.report.data import selected, why_none

    draw: Any = {
        "heatmap": report.heat_map,
        "dots": report.dots,
        "forward": report.forward,
        "scaling": report.scaling,
        "devices": report.by_device,
        "memory": report.memory,
        "correctness": report.errors,
    }.get(kind)
    frame = report.table(results, runs, *judging)
    frame = frame[frame["newest"]] if len(frame) else frame
    chosen = selected(frame, **filters)
    if chosen.empty:
        raise StoreError(why_none(frame, **filters))
    if kind == "heatmap" and not (filters["functions"] or filters["sizes"]):
        small = chosen[chosen["size"] == DOCUMENTS]
        if 0 < len(small) < len(chosen):
            notes(["drawn: the small example inputs; --size '*' or --function draws more"])
            chosen = small
    if kind == "atlas":
        return report.atlas(chosen, width)
    made: Figure = draw(chosen).figure
    return made


def _releases(results: Path, tracks: tuple[str, ...], filters: options.Filters) -> Figure:
    from gradbench.releases import timeline
    from gradbench.report import history
    from gradbench.report.data import selected

    frame = timeline(results, tracks or None)
    return history.figure(selected(frame, **filters) if len(frame) else frame)


def _study(kind: str, results: Path, names: tuple[str, ...]) -> Figure:
    from gradbench.report.style import NothingToDraw
    from gradbench.store import studies as store
    from gradbench.studies import evidence, figures

    if names:
        chosen = [store.find(results, name, kind) for name in names]
    else:
        studies, problems = store.read_all(results)
        notes(problems)
        chosen = evidence.newest(studies)
    drawn = dict(figures.figures([study for study in chosen if study.started.study == kind]))
    if kind not in drawn:
        raise NothingToDraw(
            f"there is no finished {kind} study in {store.folder(results)}; "
            f"'gradbench study {kind}' makes one"
        )
    return drawn[kind]


def _derivatives(functions: tuple[str, ...]) -> Figure:
    from gradbench.report import curves, derivatives
    from gradbench.report.style import NothingToDraw
    from gradbench.runner.wire import WorkerOptions, once_more

    if len(functions) != 1 or functions[0] not in curves.CURVES:
        raise NothingToDraw(f"name one function with -f: {' or '.join(curves.CURVES)}")
    curve = once_more(WorkerOptions(), lambda worker: curves.computed(worker, functions[0]))
    made: Figure = derivatives(curve).figure  # type: ignore[assignment]
    return made
