"""gradbench compare"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gradbench.analysis import conditions
from gradbench.analysis.changes import Change, Compared, compare
from gradbench.analysis.filters import fails
from gradbench.cli import cells, completing, options, parameters
from gradbench.cli.output import notes
from gradbench.cli.rendering import Answer, Cell, Column, Renderer, Styled, Table
from gradbench.core.cases import SelectionError
from gradbench.core.units import call_time, counted
from gradbench.core.verdicts import CALLED
from gradbench.store import runs as log

COLUMNS = (
    Column("case", lambda change: cells.short_case(change.case), prose=True),
    Column("old", lambda change: call_time(change.old), right=True, rank=2),
    Column("new", lambda change: call_time(change.new), right=True, rank=1),
    Column("new / old", lambda change: cells.with_interval(change.estimate), right=True),
    Column("verdict", lambda change: cells.change(change.verdict)),
    Column("q", lambda change: cells.odds(change.q), right=True, rank=4),
    Column(
        "note",
        lambda change: cells.disagreement(change.estimate),
        optional=True,
        prose=True,
        rank=3,
    ),
)


@click.command()
@click.argument("old", type=parameters.Text(), shell_complete=completing.run)
@click.argument("new", type=parameters.Text(), shell_complete=completing.run)
@options.filter_options
@options.change_options
@options.results_option
@options.format_option
def command(
    old: str,
    new: str,
    filters: options.Filters,
    judging: options.Judging,
    fail_on: str | None,
    everything: bool,
    results: Path,
    form: Renderer,
) -> int:
    """Compare run NEW with run OLD, case by case.

    The two did not take turns, so the ratios include whatever else changed on the machine between
    them. Differences in build or machine are shown first.
    """
    runs = log.find(results, old), log.find(results, new)
    notes(problem for run in runs for problem in run.problems)
    try:
        compared = compare(runs[0], runs[1], *judging, **filters)
    except ValueError as error:
        raise SelectionError(str(error)) from error
    form.write(_answer(compared, everything, [conditions.busy(run) for run in runs]))
    return int(fails((change.verdict for change in compared.changes), fail_on))


def _answer(compared: Compared, everything: bool, busy: Sequence[str]) -> Answer:
    shown = [c for c in compared.changes if everything or c.verdict in CALLED]
    shown.sort(key=lambda change: -abs(change.estimate.ratio - 1))
    names = (compared.old, compared.new)
    ahead: list[Cell] = [Styled(f"{n}: {said}", "yellow") for n, said in zip(names, busy) if said]
    if not compared.differences:
        ahead.append("Same build and machine.")
    return Answer(
        map(_record, compared.changes),
        ahead=ahead,
        differences=compared.differences,
        details=[Table(COLUMNS, shown, f"{compared.new} compared with {compared.old}")],
        summary=[
            f"{counted(len(compared.changes), 'case')} in both: "
            + ", ".join(f"{number} {verdict}" for verdict, number in compared.counts().items())
            + f". Threshold {compared.floor:.3g}, {compared.method}: "
            f"{cells.false_positives(compared)}."
        ],
        notes=[*compared.only, cells.geometric_mean(compared)],
    )


def _record(change: Change) -> dict[str, Any]:
    return {
        "case": str(change.case),
        "verdict": change.verdict,
        "q": change.q,
        "ratio": change.estimate.ratio,
        "low": change.estimate.low,
        "high": min(change.estimate.high, 1e308),
        "old_seconds": change.old,
        "new_seconds": change.new,
        "sessions": change.estimate.sessions,
    }
