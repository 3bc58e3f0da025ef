"""gradbench show"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import click
import msgspec

from gradbench.analysis.filters import filtered
from gradbench.analysis.multiples import multiples
from gradbench.analysis.readings import launch_bound
from gradbench.analysis.recommend import of_run, records
from gradbench.analysis.runs import judged
from gradbench.analysis.table import Judged, Row, record
from gradbench.cli import completing, explained, options, parameters, summary
from gradbench.cli.cells import number, odds, times
from gradbench.cli.multiples import answer as in_multiples_of
from gradbench.cli.output import notes, warn
from gradbench.cli.rendering import Answer, Cell, Column, Renderer, Styled, Table, Terminal, fields
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.units import call_time, counted, false_positives, reading
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.store import runs as log

VERDICTS = (*CALLED, Verdict.SAME, Verdict.UNDECIDED)

STYLES = {
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
@click.argument("run", type=parameters.Text(), default="latest", shell_complete=completing.run)
@options.filter_options
@click.option(
    "--comparison",
    "comparisons",
    multiple=True,
    type=parameters.Text(),
    metavar="GLOB",
    shell_complete=completing.comparison,
    help="Show one comparison in full: operator/function/size or a glob; may be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Show every comparison in full.")
@click.option(
    "--summary", "at_a_glance", is_flag=True, help="Show only what to try first for each operator."
)
@click.option(
    "--multiples",
    "in_multiples",
    is_flag=True,
    help="Show gradients and jacobians as multiples of the function's own evaluation, as ADBench "
    "and GradBench do.",
)
@click.option("--runs", "list_runs", is_flag=True, help="List the stored runs instead.")
@click.option(
    "--machines", "by_machine", is_flag=True, help="Show which machines agree, of all runs."
)
@options.judging_options
@options.results_option
@options.format_option
def command(
    run: str,
    filters: options.Filters,
    comparisons: tuple[str, ...],
    everything: bool,
    at_a_glance: bool,
    in_multiples: bool,
    list_runs: bool,
    by_machine: bool,
    judging: options.Judging,
    results: Path,
    form: Renderer,
) -> int:
    """Show a stored run: RUN is its name, the beginning of it, a file, or 'latest'. Of an
    explanation, RUN is its name.

    Without options, what to try first for each operator, then one line per comparison: the fastest
    mode, how far behind the next one is, and the usual choice. With --comparison or --all, every
    mode with its verdict. Verdicts are computed on reading, so an old run can be judged by another
    --threshold.
    """
    _require_one_view()
    if list_runs:
        options.reject_beside("--runs lists every stored run", "list_runs", "results", "form")
        form.write(_runs(results))
        return 0
    if by_machine:
        from gradbench.cli import agreeing

        others = set(options.typed()) - {"run", "comparisons"}
        options.reject_beside("--machines is of all cases of all runs", *others)
        form.write(agreeing.answer(results, filters, judging))
        return 0
    try:
        path = log.locate(results, run)
    except log.StoreError:
        explanation = None if run == "latest" else explained.stored(results, run)
        if explanation is None:
            raise
        form.write(explanation)
        return 0
    shown = judged(path, *judging)
    if not shown.rows:
        warn(
            f"gradbench: nothing has been measured in {shown.run} yet; "
            f"'gradbench run --resume {shown.run}' resumes it"
        )
        return 1
    if run == "latest":
        notes(log.read_headers(results)[1])
    notes(shown.problems)
    rows = filtered(shown.rows, comparisons, **filters)
    shown = msgspec.structs.replace(shown, rows=rows)
    header = log.read_header(path)
    if in_multiples:
        form.write(_in_multiples(shown))
    elif at_a_glance:
        form.write(_at_a_glance(shown, header))
    else:
        form.write(_answer(shown, header, everything or bool(comparisons)))
    return 0


VIEWS = ("everything", "at_a_glance", "in_multiples", "list_runs", "by_machine")
"""The parameters that choose what is shown of a run, or instead of one."""


def _require_one_view() -> None:
    """Raises UsageError where the command line asks for several tables, of which one is shown."""
    chosen = [shown for name, shown in options.typed().items() if name in VIEWS]
    if len(chosen) > 1:
        raise click.UsageError(f"{chosen[0]} and {chosen[1]} show different tables: remove one")


def _in_multiples(shown: Judged) -> Answer:
    found = multiples(record(row, shown) for row in shown.rows)
    if not found:
        raise log.StoreError(
            f"{shown.run}: no gradient or jacobian with its forward pass was timed and selected"
        )
    return in_multiples_of(found)


def show_run(run: log.Run, form: Renderer) -> bool:
    """The summary of a run that has just ended, for programs all its cases; whether anything was
    measured in it."""
    shown, header = judged(run.path), log.read_header(run.path)
    if isinstance(form, Terminal) and any(row.seconds for row in shown.rows):
        form.write(_at_a_glance(shown, header, summary.MOST))
    else:
        form.write(_answer(shown, header, False))
    return any(row.seconds or row.readings for row in shown.rows)


def show_cases(runs: Sequence[log.Run], form: Renderer) -> bool:
    """All cases of several runs as one list, for programs; whether anything was measured."""
    each = [judged(run.path) for run in runs]
    form.write(Answer(record(row, one) for one in each for row in one.rows))
    return any(row.seconds or row.readings for one in each for row in one.rows)


def _at_a_glance(shown: Judged, header: log.Header, most: int | None = None) -> Answer:
    """What to try first, and a few lines on how far to trust it."""
    found = of_run(shown, header)
    return Answer(
        (record for one in found for record in records(one)),
        ahead=summary.busy(shown),
        overview=summary.table(found, most),
        summary=[
            *summary.notes(found, most),
            *summary.trust(shown, header),
            *_readings(shown),
        ],
        notes=_cautions(shown),
    )


def _answer(shown: Judged, header: log.Header, in_full: bool) -> Answer:
    found = of_run(shown, header)
    trusted = summary.trust(shown, header)
    several = len(shown.comparisons()) > 1
    return Answer(
        (record(row, shown) for row in shown.rows),
        ahead=summary.busy(shown),
        overview=summary.table(found) if several and not in_full else None,
        details=_in_full(shown) if in_full else _by_operator(shown),
        summary=[
            *(() if in_full else summary.notes(found)),
            *trusted,
            *_counts(shown),
            *_readings(shown),
        ],
        notes=[*(line[0].upper() + line[1:] for line in shown.conditions), *_cautions(shown)],
    )


def _cautions(shown: Judged) -> list[Cell]:
    cautions: list[Cell] = [Styled(f"note: {line}", "yellow") for line in shown.cautions]
    if not shown.finished:
        hint = f"Not finished: 'gradbench run --resume {shown.run}' resumes it"
        cautions.append(Styled(hint, "yellow"))
    return cautions


# ── a line per comparison ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Line:
    """One comparison of an operator."""

    comparison: Comparison
    rows: list[Row]
    ranked: list[Row]
    baseline: str

    @property
    def best(self) -> Row | None:
        return self.ranked[0] if self.ranked else None

    @property
    def next(self) -> Row | None:
        return next((row for row in self.ranked[1:] if row.verdict != "faster"), None)

    @property
    def first(self) -> Row | None:
        return next((row for row in self.ranked if row.mode == self.baseline), None)

    @property
    def fastest(self) -> Styled:
        if self.best is not None:
            return Styled(self.best.mode, "bold")
        why = (f"{row.status}: {row.reason}" for row in self.rows if row.status != "ok")
        return Styled(next(why, "not timed"), "yellow")

    def of_best(self, name: str) -> str:
        return times(getattr(self.best, name)) if self.best else ""


def _by_operator(shown: Judged) -> Iterator[Table]:
    operators: dict[str, list[_Line]] = {}
    for name, rows in shown.comparisons().items():
        line = _Line(name, rows, _ranked(rows), shown.baselines.get(name, ""))
        operators.setdefault(line.comparison.operator, []).append(line)
    for operator, lines in operators.items():
        if any(row.seconds for line in lines for row in line.rows):
            yield _timed(operator, lines)
        else:
            yield _least(operator, lines, shown.by_hand)


def _timed(operator: str, lines: list[_Line]) -> Table:
    baselines = {line.baseline for line in lines}
    sizes = {_size(line.comparison) for line in lines}
    where = f" at {sizes.pop()}" if len(sizes) == 1 else ""
    columns = [
        Column("function", lambda line: line.comparison.function),
        *([] if where else [Column("size", lambda line: _size(line.comparison))]),
        Column("fastest", attrgetter("fastest")),
        Column("time", lambda line: _time(line.best), right=True),
        Column("× forward", lambda line: line.of_best("to_forward"), right=True, rank=5),
        Column("× by hand", lambda line: line.of_best("to_manual"), right=True, rank=6),
        Column("next", lambda line: line.next.mode if line.next else "", rank=3),
        Column("next ×", lambda line: _behind(line.next), right=True, rank=2),
        Column("baseline ×", lambda line: _behind(line.first, len(baselines) > 1), right=True),
        Column("too close", lambda line: str(_undecided(line.ranked) or ""), right=True, rank=4),
    ]
    names = ", ".join(sorted(baselines - {""})) or "none"
    return Table(columns, lines, f"{operator}{where} (baseline: {names})")


def _least(operator: str, lines: list[_Line], by_hand: Sequence[str]) -> Table:
    """Comparisons that were not timed: the automatic mode that each instrument reads least of."""

    def least(line: _Line, name: str) -> Row | None:
        read = [r for r in line.rows if name in r.readings and r.mode != FORWARD]
        automatic = [r for r in read if r.mode not in by_hand] or read
        return min(automatic, key=lambda row: row.readings[name], default=None)

    def columns_of(name: str) -> list[Column]:
        return [
            Column(f"least {_title(name)}", lambda line: getattr(least(line, name), "mode", "")),
            Column("", lambda line: _reading(least(line, name), name), right=True),
        ]

    columns = [
        Column("function", lambda line: line.comparison.function),
        Column("size", lambda line: _size(line.comparison)),
    ]
    for name in _instruments([row for line in lines for row in line.rows]):
        columns += columns_of(name)
    return Table(columns, lines, operator)


def _behind(row: Row | None, named: bool = False) -> Cell:
    if row is None:
        return ""
    name = f"{row.mode} " if named else ""
    if row.verdict == "fastest":
        return Styled(f"{name}fastest", "green")
    signs = {"slower": "", "undecided": " ~"}
    note = signs.get(row.verdict, f" {row.verdict}") + " !" * bool(row.groups)
    return Styled(name + times(row.to_fastest) + note, STYLES.get(row.verdict, ""))


def _undecided(rows: Sequence[Row]) -> int:
    return sum(row.verdict == "undecided" for row in rows)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The derivatives that were timed: the fastest, then the others by their ratio to it."""
    timed = [(r.to_fastest.value, r) for r in rows if r.verdict and r.to_fastest is not None]
    timed.sort(key=lambda pair: (pair[1].verdict != "fastest", pair[0]))
    return [row for _, row in timed]


def _time(row: Row | None) -> str:
    return call_time(row.seconds) if row and row.seconds else ""


def _size(c: Comparison) -> str:
    extras = [c.size, c.dtype]
    if c.device != "cpu":
        extras.append(c.device)
    if c.threads != 1:
        extras.append(f"{c.threads} threads")
    return " ".join(extras)


def _instruments(rows: Sequence[Row]) -> list[str]:
    """The instruments other than the clock that were asked for."""
    return [name for name in INSTRUMENTS if any(name in r.readings | r.unread for r in rows)]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _reading(row: Row | None, name: str) -> str:
    if row is None or name not in row.readings:
        return ""
    return reading(row.readings[name], INSTRUMENTS[name].unit)


# ── comparisons in full ───────────────────────────────────────────────────────────────────────


def _in_full(shown: Judged) -> Iterator[Table]:
    for name, rows in shown.comparisons().items():
        timed = _ranked(rows)
        forward = [r for r in rows if r.mode == FORWARD and r.seconds]
        rest = [r for r in rows if r not in timed and r not in forward]
        columns = _columns(rows, shown.baselines.get(name, ""))
        yield Table(columns, [*timed, *forward, *rest], name)


CLOCK = (
    Column("time", _time, right=True),
    Column(
        "× fastest",
        lambda row: "" if row.verdict == "fastest" else times(row.to_fastest),
        right=True,
    ),
    Column("verdict", lambda row: _verdict(row)),
    Column("q", lambda row: odds(row.q), right=True, rank=3),
    Column("× forward", lambda row: times(row.to_forward), right=True, rank=4),
    Column("× by hand", lambda row: times(row.to_manual), right=True, rank=5),
    Column("× baseline", lambda row: times(row.to_baseline), right=True, rank=2),
    Column(
        "error (ulp)",
        lambda row: f"{row.ulps:.2g}" if row.status in ("ok", "wrong") else "",
        right=True,
        rank=6,
    ),
)


def _columns(rows: Sequence[Row], baseline: str) -> list[Column]:
    names = _instruments(rows)
    timed = not names or any(row.seconds for row in rows)
    readings = [
        Column(_title(name), functools.partial(_reading, name=name), right=True, rank=1)
        for name in names
    ]
    return [
        Column(
            "mode", lambda row: Styled(row.mode, "bold" * (row.verdict == "fastest")), whole=True
        ),
        *(CLOCK if timed else ()),
        *readings,
        Column("note", lambda row: "; ".join(_notes(row, baseline, timed)), prose=True),
    ]


def _verdict(row: Row) -> Styled:
    verdict = row.verdict or (row.status if row.status != "ok" else "")
    return Styled(verdict, STYLES.get(verdict, "dim"))


def _notes(row: Row, baseline: str, timed: bool) -> Iterator[str]:
    if row.mode == baseline:
        yield "baseline"
    if row.groups:
        yield "sessions disagree: " + ", ".join(f"{number(g)}×" for g in row.groups)
    if launch_bound(row.seconds, row.readings.get("device_time")):
        share = row.readings["device_time"] / (row.seconds or 1)
        yield f"launch overhead dominates: device busy {share:.0%} of the time (see --compiled)"
    if row.of_bandwidth is not None:
        yield f"{row.of_bandwidth:.0%} of the copy bandwidth"
    if row.of_rate is not None:
        yield f"{row.of_rate:.0%} of the matrix rate"
    if row.voided:
        yield f"{row.voided} sessions void"
    if row.reason:
        yield row.reason if timed else f"{row.status}: {row.reason}"
    if row.interference:
        yield row.interference
    if row.note:
        yield row.note
    if row.status == "ok":
        yield from (f"{_title(name)}: {reason}" for name, reason in row.unread.items())


def _counts(shown: Judged) -> Iterator[str]:
    """The counts of verdicts and of statuses."""
    verdicts = Counter(row.verdict for row in shown.rows if row.verdict not in ("", "fastest"))
    if verdicts:
        each = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS)
        yield f"Verdicts against the fastest (never a mode by hand): {each}"
        false = false_positives(shown.calls, shown.expected_false, shown.expected_false_alarms)
        yield f"{shown.method}: {false}".capitalize()
    statuses = {"wrong": 0} | Counter(row.status for row in shown.rows)
    yield "Cases: " + ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))


def _readings(shown: Judged) -> Iterator[str]:
    """How many cases each instrument but the clock read."""
    for name in _instruments(shown.rows):
        read = sum(name in row.readings for row in shown.rows)
        yield f"{_title(name).capitalize()}: read for {read} of {counted(len(shown.rows), 'case')}"


def _runs(results: Path) -> Answer:
    headers, problems = log.read_headers(results)
    notes(problems)
    if not headers:
        raise log.StoreError(f"there are no runs in {results}; 'gradbench run' makes one")
    rows = [
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
        for header in headers
    ]
    cell = lambda value: ("no", "yes")[value] if isinstance(value, bool) else str(value)  # noqa: E731
    least = ("cpu", "started", "sessions", "comparisons", "torch", "finished")
    columns = fields(rows[0], cell, ("run",), ("cpu",), least)
    return Answer(rows, details=[Table(columns, rows)])
