"""gradbench show"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from gradbench.analysis.runs import Judged, Ratio, Row, judged, launch_bound, record
from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, notes, plain, say, table
from gradbench.core import text
from gradbench.core.cases import FORWARD, Comparison, nothing_fits
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.suggest import hint
from gradbench.core.units import call_time, counted, reading
from gradbench.store import runs as log

VERDICTS = ("slower", "faster", "same", "undecided")

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
@click.argument(
    "run", type=parameters.Text(), default="latest", shell_complete=options.complete_run
)
@options.filter_options
@click.option(
    "--comparison",
    "comparisons",
    multiple=True,
    type=parameters.Text(),
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
    try:
        if list_runs:
            return _list_runs(results, form)
        path = log.locate(results, run)
        found = judged(path, floor, confidence, method)
    except log.StoreError as error:
        raise click.UsageError(str(error)) from error
    if not found.rows:
        say(
            f"gradbench: nothing was measured in {found.run} yet; "
            f"'gradbench run --resume {found.run}' goes on with it",
            err=True,
        )
        return 1
    if run == "latest":
        notes(log.read_headers(results)[1])
    notes(found.problems)
    rows = _filtered(found.rows, comparisons, **filters)
    if form != "table":
        emit([record(row, found) for row in rows], form)
        return 0
    show(msgspec.structs.replace(found, rows=rows), everything or bool(comparisons))
    return 0


def show_run(run: log.Run) -> bool:
    """The table of a run that has just ended; whether anything was measured in it."""
    found = judged(run.path)
    show(found, False)
    return any(row.seconds or row.readings for row in found.rows)


def _filtered(
    rows: Sequence[Row], comparisons: tuple[str, ...], **filters: tuple[str, ...]
) -> list[Row]:
    kept = []
    for row in rows:
        c = Comparison.parse(row.comparison)
        if c.matches(row.mode, **filters) and (
            not comparisons or any(_is_called(row.comparison, glob) for glob in comparisons)
        ):
            kept.append(row)
    if not kept:
        raise click.UsageError(_why_none(rows, comparisons, filters))
    return kept


def _is_called(comparison: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(comparison, glob) or fnmatch.fnmatchcase(comparison, f"{glob}/*")


def _why_none(
    rows: Sequence[Row], comparisons: tuple[str, ...], filters: dict[str, tuple[str, ...]]
) -> str:
    names = list(dict.fromkeys(row.comparison for row in rows))
    for glob in comparisons:
        if not any(_is_called(name, glob) for name in names):
            near = hint(glob, names) or "'gradbench show' lists its comparisons"
            return f"nothing in this run is called that: {text.line(glob, 80)!r}; {near}"
    why = nothing_fits(((Comparison.parse(r.comparison), r.mode) for r in rows), **filters)
    return f"nothing in this run is called that: {why}"


def times(ratio: Ratio | None) -> str:
    """A ratio as people read it, with its interval: as a share where that is small."""
    if ratio is None:
        return ""
    wide = max(ratio.high / ratio.value, ratio.value / ratio.low if ratio.low else math.inf) - 1
    if wide < 0.3:
        return (
            f"{_number(ratio.value)} ±{wide:.1%}"
            if wide < 0.0995
            else (f"{_number(ratio.value)} ±{wide:.0%}")
        )
    high = "∞" if ratio.high > 1e300 else _number(ratio.high)
    return f"{_number(ratio.value)} [{_number(ratio.low)}, {high}]"


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
        operators: dict[str, dict[str, list[Row]]] = {}
        for name, rows in groups.items():
            operators.setdefault(name.partition("/")[0], {})[name] = rows
        for operator, mine in operators.items():
            if any(row.seconds for rows in mine.values() for row in rows):
                _show_operator(operator, mine, found)
            else:
                _show_least(operator, mine, found)
    _show_odds(found)


def _show_operator(operator: str, groups: dict[str, list[Row]], found: Judged) -> None:
    """One operator's comparisons, a line each."""
    baselines = {found.baselines.get(name, "") for name in groups}
    sizes = {_size(Comparison.parse(name)) for name in groups}
    where = f" at {sizes.pop()}" if len(sizes) == 1 else ""
    made = table(
        f"{operator}{where} (baseline: {', '.join(sorted(baselines - {''})) or 'none'})",
        [
            "function",
            *([] if where else ["size"]),
            "fastest",
            ("time", "right"),
            ("× forward", "right"),
            ("× by hand", "right"),
            "next",
            ("× fastest", "right"),
            ("baseline", "right"),
            ("undecided", "right"),
        ],
    )
    for name, rows in groups.items():
        c = Comparison.parse(name)
        cells = [plain(c.function), *([] if where else [plain(_size(c))])]
        ranked = _ranked(rows)
        if not ranked:
            said = next((f"{r.status}: {r.reason}" for r in rows if r.status != "ok"), "not timed")
            made.add_row(*cells, plain(said, "yellow"))
            continue
        best = ranked[0]
        others = [r for r in ranked[1:] if r.verdict != "faster"]
        first = next((r for r in ranked if r.mode == found.baselines.get(name)), None)
        undecided = sum(r.verdict == "undecided" for r in ranked)
        made.add_row(
            *cells,
            plain(best.mode, "bold"),
            plain(call_time(best.seconds) if best.seconds else ""),
            plain(times(best.to_forward)),
            plain(times(best.to_manual)),
            plain(others[0].mode if others else ""),
            _verdict_ratio(others[0] if others else None),
            _verdict_ratio(first, named=len(baselines) > 1),
            plain(undecided or ""),
        )
    console().print(made)


def _show_least(operator: str, groups: dict[str, list[Row]], found: Judged) -> None:
    """Comparisons that were not timed: the automatic mode that each instrument reads least of."""
    names = _instruments([row for rows in groups.values() for row in rows])
    columns: list[str | tuple[str, str]] = ["function", "size"]
    for name in names:
        columns += [f"least {_title(name)}", ("", "right")]
    made = table(operator, columns)
    for comparison, rows in groups.items():
        c = Comparison.parse(comparison)
        cells = [plain(c.function), plain(_size(c))]
        for name in names:
            read = [r for r in rows if name in r.readings and r.mode != FORWARD]
            automatic = [r for r in read if r.mode not in found.by_hand] or read
            least = min(automatic, key=lambda r: r.readings[name], default=None)
            cells += [plain(least.mode if least else ""), plain(_reading(least, name))]
        made.add_row(*cells)
    console().print(made)


def _instruments(rows: Sequence[Row]) -> list[str]:
    """The instruments other than the clock that were asked for."""
    return [name for name in INSTRUMENTS if any(name in r.readings | r.unread for r in rows)]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _reading(row: Row | None, name: str) -> str:
    if row is None or name not in row.readings:
        return ""
    return reading(row.readings[name], INSTRUMENTS[name].unit)


def _size(c: Comparison) -> str:
    extras = [c.size, c.dtype]
    if c.device != "cpu":
        extras.append(c.device)
    if c.threads != 1:
        extras.append(f"{c.threads} threads")
    return " ".join(extras)


def _verdict_ratio(row: Row | None, named: bool = False) -> Any:
    if row is None:
        return plain("")
    name = f"{row.mode} " if named else ""
    if row.verdict == "fastest":
        return plain(f"{name}fastest", "green")
    note = "" if row.verdict == "slower" else f" {row.verdict}"
    if row.groups:
        note += " (sessions disagree)"
    return plain(name + times(row.to_fastest) + note, VERDICT_STYLES.get(row.verdict, ""))


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The derivatives that were timed: the fastest, then the others by their ratio to it."""
    timed = [(r.to_fastest.value, r) for r in rows if r.verdict and r.to_fastest is not None]
    timed.sort(key=lambda pair: (pair[1].verdict != "fastest", pair[0]))
    return [row for _, row in timed]


def _show_comparison(name: str, rows: Sequence[Row], found: Judged) -> None:
    clock: list[str | tuple[str, str]] = [
        ("time", "right"),
        ("× fastest", "right"),
        "verdict",
        ("× forward", "right"),
        ("× by hand", "right"),
        ("× baseline", "right"),
        ("error (ulp)", "right"),
    ]
    names = _instruments(rows)
    if names and not any(row.seconds for row in rows):
        clock = []
    titles = [(_title(instrument), "right") for instrument in names]
    shown = table(name, ["mode", *clock, *titles, "note"])
    baseline = found.baselines.get(name, "")
    timed = _ranked(rows)
    forward = [r for r in rows if r.mode == FORWARD and r.seconds]
    rest = [r for r in rows if r not in timed and r not in forward]
    for row in [*timed, *forward, *rest]:
        notes = []
        if row.mode == baseline:
            notes.append("baseline")
        if row.groups:
            notes.append("sessions disagree: " + ", ".join(f"{_number(g)}×" for g in row.groups))
        if launch_bound(row.seconds, row.readings.get("device_time")):
            share = row.readings["device_time"] / (row.seconds or 1)
            notes.append(f"launch-bound: the device works {share:.0%} of the time (see --compiled)")
        if row.of_bandwidth is not None:
            notes.append(f"{row.of_bandwidth:.0%} of the copy bandwidth")
        if row.of_rate is not None:
            notes.append(f"{row.of_rate:.0%} of the matrix rate")
        if row.voided:
            notes.append(f"{row.voided} sessions void")
        if row.reason:
            notes.append(row.reason if clock else f"{row.status}: {row.reason}")
        if row.note:
            notes.append(row.note)
        if row.status == "ok":
            notes += [f"{_title(n)}: {reason}" for n, reason in row.unread.items()]
        said = row.verdict or (row.status if row.status != "ok" else "")
        cells = [
            plain(call_time(row.seconds) if row.seconds else ""),
            plain("" if row.verdict == "fastest" else times(row.to_fastest)),
            plain(said, VERDICT_STYLES.get(said, "dim")),
            plain(times(row.to_forward)),
            plain(times(row.to_manual)),
            plain(times(row.to_baseline)),
            plain(f"{row.ulps:.2g}" if row.status in ("ok", "wrong") else ""),
        ]
        shown.add_row(
            plain(row.mode, "bold" if row.verdict == "fastest" else ""),
            *(cells if clock else []),
            *(plain(_reading(row, instrument)) for instrument in names),
            plain("; ".join(notes)),
        )
    console().print(shown)


def _show_odds(found: Judged) -> None:
    timed = [row for row in found.rows if row.verdict not in ("", "fastest")]
    counts = {v: sum(r.verdict == v for r in timed) for v in VERDICTS}
    statuses: dict[str, int] = {}
    for row in found.rows:
        statuses[row.status] = statuses.get(row.status, 0) + 1
    statuses.setdefault("wrong", 0)
    out = console()
    if found.sessions:
        out.print(
            f"{counted(len(timed), 'mode')} against the fastest of their comparison "
            "(by hand: may be faster): "
            + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            + f".\nFloor {found.floor:.3g}, {found.confidence:.0%} intervals between "
            f"{counted(found.sessions, 'process')}, {found.method}: at most "
            f"{found.expected_false_alarms:.1f} false calls expected among the run's {found.calls}."
        )
    out.print("Cases: " + ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())))
    for name in _instruments(found.rows):
        read = sum(name in row.readings for row in found.rows)
        out.print(
            f"{_title(name).capitalize()}: read of {read} of {counted(len(found.rows), 'case')}"
        )
    for line in found.conditions:
        out.print(plain(line[0].upper() + line[1:]))
    for line in found.cautions:
        out.print(plain(f"note: {line}", "yellow"))
    if not found.finished:
        out.print(
            plain(f"Not finished: 'gradbench run --resume {found.run}' goes on with it", "yellow")
        )


def _list_runs(results: Path, form: str) -> int:
    headers, problems = log.read_headers(results)
    notes(problems)
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
        shown.add_row(
            *(plain(("no", "yes")[v] if isinstance(v, bool) else v) for v in row.values())
        )
    console().print(shown)
    return 0
