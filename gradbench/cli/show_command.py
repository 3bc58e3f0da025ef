"""gradbench show"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from gradbench.cases import FORWARD, Comparison
from gradbench.cli import options
from gradbench.cli.output import call_time, console, emit, plain, table
from gradbench.judge import Judged, Ratio, Row, judged, record
from gradbench.store import log

VERDICT_STYLES = {
    "fastest": "bold green",
    "same": "green",
    "undecided": "yellow",
    "slower": "",
    "wrong": "bold red",
    "failed": "bold red",
    "crashed": "bold red",
    "timed out": "bold red",
}


@click.command()
@click.argument("run", default="latest", shell_complete=options.complete_run)
@options.filter_options
@click.option(
    "--comparison",
    "comparisons",
    multiple=True,
    metavar="GLOB",
    help="One comparison in full, by its name, as operator/function/size, or by a glob.",
)
@click.option("--all", "everything", is_flag=True, help="Every comparison in full.")
@click.option("--runs", "list_runs", is_flag=True, help="List the stored runs instead.")
@options.floor_option
@options.confidence_option
@options.method_option
@options.results_option
@options.format_option("json", "csv", "md")
def command(
    run: str,
    comparisons: tuple[str, ...],
    everything: bool,
    list_runs: bool,
    floor: float,
    confidence: float,
    method: str,
    results: Path,
    form: str,
    **filters: Any,
) -> int:
    """Show a stored run: RUN is its name, the beginning of it, a file, or 'latest'.

    Without options, a line per comparison: the fastest mode, how far behind the next one is, and
    the mode that people usually write first. With --comparison or --all, every mode with its
    verdict. Verdicts are worked out on reading, so another --floor re-judges an old run.
    """
    options.check_sizes(filters["sizes"])
    try:
        if list_runs:
            return _list_runs(results, form)
        path = log.locate(results, run)
        found = judged(path, floor, confidence, method)
    except log.StoreError as error:
        raise click.UsageError(str(error)) from error
    rows = _filtered(found.rows, comparisons, **filters)
    if form != "table":
        emit([record(row, found) for row in rows], form)
        return 0
    if run == "latest":
        _, problems = log.read_headers(results)
        for problem in problems:
            click.echo(f"note: {problem}", err=True)
    show(msgspec.structs.replace(found, rows=rows), everything or bool(comparisons))
    return 0


def show_run(run: log.Run) -> None:
    """The table of a run that has just ended."""
    show(judged(run.path), False)


def _filtered(
    rows: Sequence[Row], comparisons: tuple[str, ...], **filters: tuple[str, ...]
) -> list[Row]:
    kept = []
    for row in rows:
        c = Comparison.parse(row.comparison)
        if c.matches(row.mode, **filters) and (
            not comparisons
            or any(
                fnmatch.fnmatchcase(row.comparison, glob)
                or fnmatch.fnmatchcase(row.comparison, f"{glob}/*")
                for glob in comparisons
            )
        ):
            kept.append(row)
    if not kept:
        raise click.UsageError(
            "nothing in this run is called that; 'gradbench show' lists its comparisons"
        )
    return kept


def times(ratio: Ratio | None, interval: bool = True) -> str:
    """A ratio as people read it, with its interval."""
    if ratio is None:
        return ""
    if not interval:
        return f"{_number(ratio.value)}×"
    high = "∞" if ratio.high > 1e300 else _number(ratio.high)
    return f"{_number(ratio.value)}× [{_number(ratio.low)}, {high}]"


def _number(value: float) -> str:
    if value >= 9999.5:
        return f"{value:.3g}"
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 9.995 else f"{value:.2f}"


def show(found: Judged, in_full: bool) -> None:
    """Prints the judged rows and the odds of the whole table."""
    groups = found.comparisons()
    if in_full:
        for name, rows in groups.items():
            _show_comparison(name, rows, found)
    else:
        _show_overview(groups, found)
    for problem in found.problems:
        console(stderr=True).print(plain(f"note: {problem}"))
    _show_odds(found)


def _show_overview(groups: dict[str, list[Row]], found: Judged) -> None:
    shown = table(
        "",
        [
            "operator",
            "function",
            "size",
            "fastest",
            ("time", "right"),
            ("× forward", "right"),
            "next",
            ("× fastest", "right"),
            "written first",
            ("× fastest", "right"),
            ("undecided", "right"),
        ],
    )
    before = ""
    for name, rows in groups.items():
        c = Comparison.parse(name)
        if before and c.operator != before:
            shown.add_section()
        ranked = _ranked(rows)
        cells = [plain(c.operator if c.operator != before else ""), plain(c.function)]
        before = c.operator
        cells.append(plain(_size(c)))
        if not ranked:
            said = next((f"{r.status}: {r.reason}" for r in rows if r.status != "ok"), "not timed")
            shown.add_row(*cells, plain(said, "yellow"))
            continue
        best = ranked[0]
        follower = ranked[1] if len(ranked) > 1 else None
        first = next((r for r in ranked if r.mode == found.baselines.get(name)), None)
        undecided = sum(r.verdict == "undecided" for r in ranked)
        cells += [
            plain(best.mode, "bold"),
            plain(call_time(best.seconds) if best.seconds else ""),
            plain(times(best.to_forward, interval=False)),
            plain(follower.mode if follower else ""),
            _verdict_ratio(follower),
            plain(first.mode if first else ""),
            _verdict_ratio(first),
            plain(undecided or ""),
        ]
        shown.add_row(*cells)
    console().print(shown)


def _size(c: Comparison) -> str:
    extras = [c.dtype]
    if c.device != "cpu":
        extras.append(c.device)
    if c.threads != 1:
        extras.append(f"{c.threads} threads")
    return f"{c.size} {' '.join(extras)}"


def _verdict_ratio(row: Row | None) -> Any:
    if row is None:
        return plain("")
    if row.verdict == "fastest":
        return plain("fastest", "green")
    style = VERDICT_STYLES.get(row.verdict, "")
    note = "" if row.verdict == "slower" else f" {row.verdict}"
    return plain(times(row.to_fastest) + note, style)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The derivatives that were timed, fastest first."""
    timed = [r for r in rows if r.verdict and r.to_fastest is not None]
    return sorted(timed, key=lambda r: (r.verdict != "fastest", r.to_fastest.value))  # type: ignore[union-attr]


def _show_comparison(name: str, rows: Sequence[Row], found: Judged) -> None:
    shown = table(
        name,
        [
            "mode",
            ("time", "right"),
            ("× fastest", "right"),
            "verdict",
            ("× forward", "right"),
            ("× manual", "right"),
            ("× first", "right"),
            ("error (ulp)", "right"),
            "note",
        ],
    )
    first = found.baselines.get(name, "")
    timed = _ranked(rows)
    forward = [r for r in rows if r.mode == FORWARD and r.seconds]
    rest = [r for r in rows if r not in timed and r not in forward]
    for row in [*timed, *forward, *rest]:
        notes = []
        if row.mode == first:
            notes.append("written first")
        if row.groups:
            notes.append("sessions disagree: " + ", ".join(f"{_number(g)}×" for g in row.groups))
        if row.voided:
            notes.append(f"{row.voided} sessions void")
        if row.reason:
            notes.append(row.reason)
        said = row.verdict or (row.status if row.status != "ok" else "")
        shown.add_row(
            plain(row.mode, "bold" if row.verdict == "fastest" else ""),
            plain(call_time(row.seconds) if row.seconds else ""),
            plain("" if row.verdict == "fastest" else times(row.to_fastest)),
            plain(said, VERDICT_STYLES.get(said, "dim")),
            plain(times(row.to_forward, interval=False)),
            plain(times(row.to_manual, interval=False)),
            plain(times(row.to_first, interval=False)),
            plain(f"{row.ulps:.2g}" if row.status in ("ok", "wrong") else ""),
            plain("; ".join(notes)),
        )
    console().print(shown)


def _show_odds(found: Judged) -> None:
    timed = [row for row in found.rows if row.verdict not in ("", "fastest")]
    counts = {v: sum(r.verdict == v for r in timed) for v in ("slower", "same", "undecided")}
    statuses: dict[str, int] = {}
    for row in found.rows:
        statuses[row.status] = statuses.get(row.status, 0) + 1
    statuses.setdefault("wrong", 0)
    out = console()
    out.print(
        f"Against the fastest of their comparison, {len(timed)} modes: {counts['slower']} slower, "
        f"{counts['same']} the same within {found.floor:.3g}, {counts['undecided']} undecided "
        f"({found.confidence:.0%} intervals between {found.sessions} processes; at most "
        f"{found.expected_false_alarms:.1f} false calls expected among {found.calls}, "
        f"{found.method})"
    )
    out.print("Cases: " + ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())))
    if not found.finished:
        out.print(
            plain(f"Not finished: 'gradbench run --resume {found.run}' goes on with it", "yellow")
        )


def _list_runs(results: Path, form: str) -> int:
    headers, problems = log.read_headers(results)
    for problem in problems:
        click.echo(f"note: {problem}", err=True)
    if not headers:
        raise log.StoreError(f"there are no runs in {results}; 'gradbench run' makes one")
    rows = []
    for header in headers:
        rows.append(
            {
                "run": header.started.run,
                "started": header.started.started,
                "comparisons": len(header.started.plan),
                "sessions": header.started.settings.get("sessions"),
                "torch": header.torch,
                "cpu": header.started.machine.get("cpu", ""),
                "command": " ".join(header.started.command),
                "finished": header.finished,
            }
        )
    if form != "table":
        emit(rows, form)
        return 0
    shown = table("", list(rows[0]))
    for row in rows:
        shown.add_row(*(plain({True: "yes", False: "no"}.get(v, v)) for v in row.values()))
    console().print(shown)
    return 0
