"""gradbench compare"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradbench.analysis.changes import Change, Compared, compare
from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, notes, plain, short_case, table
from gradbench.core.units import call_time, counted
from gradbench.store import runs as log

STYLES = {"faster": "green", "slower": "bold red", "undecided": "yellow"}


@click.command()
@click.argument("old", type=parameters.Text(), shell_complete=options.complete_run)
@click.argument("new", type=parameters.Text(), shell_complete=options.complete_run)
@options.filter_options
@click.option("--all", "everything", is_flag=True, help="Undecided and unchanged cases too.")
@options.change_floor_option
@options.confidence_option
@options.method_option
@click.option(
    "--fail-on",
    type=parameters.Choice(["slower", "faster", "any"]),
    help="Exit with code 1 where a case is called so.",
)
@options.results_option
@options.format_option("json", "csv", "md")
def command(
    old: str,
    new: str,
    everything: bool,
    floor: float,
    confidence: float,
    method: str,
    fail_on: str | None,
    results: Path,
    form: str,
    **filters: Any,
) -> int:
    """Hold run NEW against run OLD, case by case.

    The two were not measured in turns, so whatever else changed on the machine between them is in
    the ratios too. What differs in build or machine is said first.
    """
    try:
        runs = log.find(results, old), log.find(results, new)
        notes(problem for run in runs for problem in run.problems)
        found = compare(*runs, floor, confidence, method, **filters)
    except (log.StoreError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    shown = [c for c in found.changes if everything or c.verdict in ("faster", "slower")]
    if form != "table":
        emit([_record(c) for c in found.changes], form)
    else:
        _show(found, shown)
    calls = {c.verdict for c in found.changes}
    if fail_on and calls & ({"slower", "faster"} if fail_on == "any" else {fail_on}):
        return 1
    return 0


def _record(change: Change) -> dict[str, Any]:
    return {
        "case": str(change.case),
        "verdict": change.verdict,
        "ratio": change.estimate.ratio,
        "low": change.estimate.low,
        "high": min(change.estimate.high, 1e308),
        "old_seconds": change.old,
        "new_seconds": change.new,
        "sessions": change.estimate.sessions,
    }


def _show(found: Compared, changes: list[Change]) -> None:
    out = console()
    for difference in found.differences:
        out.print(plain(f"differs: {difference}", "yellow"))
    if changes:
        shown = table(
            f"{found.new} against {found.old}",
            ["case", ("old", "right"), ("new", "right"), ("new / old", "right"), "verdict", "note"],
        )
        for change in sorted(changes, key=lambda c: -abs(c.estimate.ratio - 1)):
            e = change.estimate
            note = ""
            if e.disagree:
                note = "sessions disagree: " + ", ".join(f"{g.ratio:.2f}×" for g in e.groups)
            shown.add_row(
                plain(short_case(change.case)),
                plain(call_time(change.old)),
                plain(call_time(change.new)),
                plain(f"{e.ratio:.3f}× [{e.low:.3f}, {e.high:.3f}]"),
                plain(change.verdict, STYLES.get(change.verdict, "")),
                plain(note),
            )
        out.print(shown)
    out.print(
        f"{counted(len(found.changes), 'case')} in both: "
        + ", ".join(f"{n} {verdict}" for verdict, n in found.counts().items())
        + f" (floor {found.floor:.3g}; at most {found.expected_false_alarms:.1f} false calls "
        "expected)"
    )
    for what in found.only:
        out.print(plain(what))
