"""gradbench verify"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any

import click

from gradbench.cli import options
from gradbench.cli.output import info, on_stop, stopped, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Column, Renderer, Styled, Table
from gradbench.cli.yours import Yours, own_options
from gradbench.core.cases import Entry, Selection
from gradbench.core.units import counted
from gradbench.runner.choosing import Measuring, planned, require_devices
from gradbench.runner.settings import Settings
from gradbench.runner.verify import Verification, verify
from gradbench.runner.wire import WorkerOptions
from gradbench.store.runs import Entrant

STYLES = {"ok": "green", "unsupported": "dim", "refused": "dim"}

CASES = (
    Column("case", itemgetter("case")),
    Column("status", lambda row: Styled(row["status"], STYLES.get(row["status"], "bold red"))),
    Column("reason", itemgetter("reason"), prose=True, optional=True),
    Column("note", itemgetter("note"), prose=True, optional=True),
)
REASONS = (
    Column("cases", lambda pair: str(pair[1]), right=True),
    Column("reason", itemgetter(0), prose=True),
)


@click.command()
@options.swept_options("standard")
@options.seed_option
@options.limit_options
@own_options
@options.files_option
@click.option("--all", "everything", is_flag=True, help="Show every case, not only the exceptions.")
@options.format_option
def command(
    selection: Selection,
    seed: int,
    timeout: float,
    memory_limit: int,
    yours: Yours,
    files: tuple[str, ...],
    everything: bool,
    form: Renderer,
) -> int:
    """Check every selected case for correctness, without timing it.

    Each mode is called on its inputs, on fresh ones, and on its inputs again; every entry of its
    results is compared with the analytic derivative in float64. Without --dtype, float32 and
    float64 are checked. Exit code 1 if a case is wrong, failed, crashed, timed out or ran out of
    memory. Ctrl-C shows what was checked until then.
    """
    settings = Settings(timeout=timeout, seed=seed)
    measuring = Measuring("", None, None, (), seed, timeout, memory_limit)
    nothing = "Stopped before anything was checked."
    with on_stop(nothing):
        suite = yours.suite(selection, files, measuring, None, info)
        selection = suite.selection
        if not suite.own:
            selection = replace(selection, dtypes=selection.dtypes or ("float32", "float64"))
        worker = WorkerOptions(files=suite.files, memory_limit=memory_limit)
        discovery = options.discovered(worker)
        require_devices(selection.devices, discovery.environment)
        entries = planned(discovery.offers, selection, warn)
    result, complete = Verification(), False
    try:
        with progress("verifying") as report:
            verify(entries, settings, worker, discovery, report, result)
        complete = True
    except KeyboardInterrupt:
        if not result.records:
            return stopped(nothing)
    rows = [_row(entry, entrant) for entry, entrant in result.records]
    form.write(
        Answer(
            (row for row in rows if everything or row["status"] != "ok" or row["note"]),
            details=_tables(rows, everything),
            summary=_summary(result),
        )
    )
    if not complete:
        return stopped(
            f"Stopped: {result.left} of {counted(len(entries), 'comparison')} left unchecked. "
            "Checks are not stored: the same command starts over."
        )
    return 0 if result.passed else 1


def _tables(rows: list[dict[str, Any]], everything: bool) -> Iterator[Table]:
    usual = ("ok", "unsupported")
    yield Table(CASES, [r for r in rows if everything or r["note"] or r["status"] not in usual])
    if not everything:
        reasons = Counter(row["reason"] for row in rows if row["status"] == "unsupported")
        title = "Unsupported, by reason (--all shows the cases)"
        yield Table(REASONS, reasons.most_common(), title)


def _summary(result: Verification) -> Iterator[str]:
    counts = {"wrong": 0} | result.counts()
    each = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    yield f"{counted(len(result.records), 'case')}: {each}"
    errors = [entrant.error for _, entrant in result.records if entrant.status == "ok"]
    if errors:
        yield f"Largest error that passed: {max(errors):.2f} of the tolerance"


def _where(entrant: Entrant) -> str:
    """Where it failed, unless the reason says it: it does for modes that are not gradbench's."""
    named = not entrant.where or re.search(r":\d+\)$", entrant.reason)
    return "" if named else f" ({entrant.where})"


def _row(entry: Entry, entrant: Entrant) -> dict[str, Any]:
    return {
        "case": str(entry.comparison.case(entrant.mode)),
        "status": entrant.status,
        "reason": entrant.reason + _where(entrant),
        "note": entrant.note,
        "error": entrant.error,
        "ulps": entrant.ulps,
    }
