"""gradbench verify"""

from __future__ import annotations

from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, plain, progress, stopped, table
from gradbench.cli.run_command import worker_options
from gradbench.core.cases import Entry, SelectionError
from gradbench.core.units import counted
from gradbench.runner.settings import Settings
from gradbench.runner.verify import verify
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.store.runs import Entrant

STYLES = {"ok": "green", "unsupported": "dim", "refused": "dim"}


@click.command()
@options.selection_options
@click.option(
    "--sweep",
    type=parameters.Choice(["documents", "standard", "full"]),
    default="standard",
    show_default=True,
    help="Sizes: the documents' inputs, those of the standard profile, or all.",
)
@options.seed_option
@worker_options
@click.option("--all", "everything", is_flag=True, help="Name every case, not only the exceptions.")
@options.format_option("json", "csv", "md")
def command(
    sweep: str,
    seed: int,
    timeout: float,
    memory_limit: float,
    files: tuple[str, ...],
    everything: bool,
    form: str,
    **given: Any,
) -> int:
    """Put every selected case through the correctness gate, and time nothing.

    Each mode is called on its inputs, on fresh ones, and on its inputs again; its results are
    held against the analytic derivative in float64, entry by entry. Without --dtype, in float32
    and in float64. Exit code 1 where a case is wrong, failed, crashed or timed out.
    """
    given["dtypes"] = given["dtypes"] or ("float32", "float64")
    worker = WorkerOptions(files=files, memory_limit=int(memory_limit * 2**30))
    try:
        found = options.offered(worker)
        options.require_devices(given["devices"], found.environment)
        entries = options.planned(found.offers, options.selection(sweep, **given))
        with progress("verifying") as report:
            result = verify(entries, Settings(timeout=timeout, seed=seed), worker, found, report)
    except KeyboardInterrupt:
        return stopped("Stopped; checks are not stored: the same command begins anew.")
    except (SelectionError, WorkerError) as error:
        raise click.UsageError(str(error)) from error
    rows = [_row(entry, entrant) for entry, entrant in result.records]
    if form != "table":
        emit(rows if everything else [r for r in rows if r["status"] != "ok" or r["note"]], form)
        return 0 if result.passed else 1
    out = console()
    named = [
        row
        for row in rows
        if everything or row["note"] or row["status"] not in ("ok", "unsupported")
    ]
    if named:
        shown = table("", ["case", "status", "reason", "note"])
        for row in named:
            style = STYLES.get(row["status"], "bold red")
            cells = (plain(row[name]) for name in ("reason", "note"))
            shown.add_row(plain(row["case"]), plain(row["status"], style), *cells)
        out.print(shown)
    reasons: dict[str, int] = {}
    for row in rows:
        if row["status"] == "unsupported":
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    if reasons and not everything:
        shown = table("Unsupported, by reason (--all names the cases)", [("cases", "right"), ""])
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            shown.add_row(str(count), plain(reason))
        out.print(shown)
    counts = result.counts() | {"wrong": result.counts().get("wrong", 0)}
    worst = max((e for _, e in result.records if e.status == "ok"), key=_error, default=None)
    each = ", ".join(f"{n} {status}" for status, n in counts.items())
    out.print(f"{counted(len(rows), 'case')}: {each}")
    if worst is not None:
        out.print(f"Largest error that passed: {worst.error:.2f} of what is allowed")
    return 0 if result.passed else 1


def _error(entrant: Entrant) -> float:
    return entrant.error


def _row(entry: Entry, entrant: Entrant) -> dict[str, Any]:
    return {
        "case": str(entry.comparison.case(entrant.mode)),
        "status": entrant.status,
        "reason": entrant.reason + (f" ({entrant.where})" if entrant.where else ""),
        "note": entrant.note,
        "error": entrant.error,
        "ulps": entrant.ulps,
    }
