"""Judges the rows of a table together, and counts how many false positives are expected.

The rows are the cases of one run, or the changes of each case from one run or build to another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from gradbench.core.cases import Case, Comparison
from gradbench.core.families import NOTEBOOKS
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.verdicts import CALLED, Status, Verdict

if TYPE_CHECKING:
    from gradbench.statistics import Estimate


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """How a table was judged; subclasses add its rows."""

    floor: float
    confidence: float
    method: str
    expected_false: float
    """About how many of the calls are false."""
    expected_false_alarms: float
    """At most how many, in the worst case. See `statistics.judge` for both."""


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of times with its interval."""

    value: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One contestant of one comparison, judged.

    `seconds` is the median over sessions of the sessions' median visit minimum: descriptive.
    `verdict` and `to_fastest` are relative to the comparison's fastest mode. The forward pass is
    never that, nor is a mode that needs the derivative written by hand, unless there are no others.
    `groups` are the ratios of sessions that disagree, otherwise empty.
    """

    comparison: Comparison
    mode: str
    status: Status
    family: str = NOTEBOOKS
    reason: str = ""
    takes: float = 0.0
    """Seconds that a call takes at least, of a mode that was refused for it; 0 where not known."""
    note: str = ""
    """What the mode changed in its process, which was put back, and the session that lost it."""
    where: str = ""
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    """The sessions' lowest and highest median."""
    clock: str = ""
    """The clock of `seconds` and of the ratios: see `core.clocks`."""
    wall_seconds: float | None = None
    processor_seconds: float | None = None
    """The medians by both clocks, disturbed visits included."""
    disturbed: float | None = None
    """The share of its sub-blocks that were disturbed."""
    interference: str = ""
    """What other processes did to this row; empty where it hardly matters."""
    verdict: Verdict = Verdict.NONE
    q: float | None = None
    """The p-value of `verdict`, adjusted for the table: see `statistics.Judgement.adjusted`."""
    to_fastest: Ratio | None = None
    to_forward: Ratio | None = None
    to_manual: Ratio | None = None
    to_baseline: Ratio | None = None
    """Relative to the baseline, the usual choice, where it was timed."""
    groups: list[float] = []
    sessions: int = 0
    voided: int = 0
    rounds: int = 0
    error: float = 0.0
    ulps: float = 0.0
    readings: dict[str, float] = {}
    """The readings of instruments other than the clock, by their names."""
    unread: dict[str, str] = {}
    """Why such an instrument read nothing, by its name."""
    of_bandwidth: float | None = None
    of_rate: float | None = None
    """The shares of the device's limits that a large case reaches: see `readings.with_limits`."""

    @property
    def case(self) -> Case:
        return self.comparison.case(self.mode)


class Judged(Table, frozen=True, kw_only=True):
    """The judged rows of a run."""

    run: str
    rows: list[Row]
    baselines: dict[Comparison, str]
    calls: int
    """The rows that are faster or slower."""
    finished: bool
    sessions: int
    problems: list[str]
    visiting: float
    elapsed: float
    by_hand: list[str] = []
    conditions: list[str] = []
    """The limits of the devices and their clocks, in lines."""
    busy: str = ""
    """That the machine was busy, in a sentence; empty where it was not."""
    cautions: list[str] = []
    """What makes the run's times less trustworthy, in lines."""

    def comparisons(self) -> dict[Comparison, list[Row]]:
        """The rows by comparison, in the run's order."""
        comparisons: dict[Comparison, list[Row]] = {}
        for row in self.rows:
            comparisons.setdefault(row.comparison, []).append(row)
        return comparisons


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case measured twice: the ratio after over before, and its verdict."""

    case: Case
    estimate: Estimate
    verdict: Verdict
    q: float | None
    """See `Row.q`."""


C = TypeVar("C", bound=Change)


class Changes(Table, Generic[C], frozen=True, kw_only=True):
    changes: list[C]

    def counts(self) -> dict[Verdict, int]:
        """The number of changes by verdict, in the order in which tables show them."""
        counts = Counter(change.verdict for change in self.changes)
        shown = (Verdict.SLOWER, Verdict.FASTER, Verdict.SAME, Verdict.UNDECIDED)
        return {verdict: counts[verdict] for verdict in shown}

    def power(self, slowdown: float) -> float:
        """The share of cases such as these in which a slowdown (0.05 is 5 %) would have been
        called, by the spread that was measured. NaN without any."""
        from gradbench import statistics

        number, alpha = len(self.changes), 1 - self.confidence
        if not number:
            return math.nan
        calls = sum(change.verdict in CALLED for change in self.changes)
        needed = level(number, calls, alpha, self.method)
        estimates = [change.estimate for change in self.changes]
        return float(statistics.power(estimates, slowdown, needed, self.confidence).mean())

    def geometric_mean(self) -> float:
        """Of the ratios of all cases. NaN without any."""
        logs = [math.log(change.estimate.ratio) for change in self.changes]
        return math.exp(sum(logs) / len(logs)) if logs else math.nan


def level(cases: int, calls: int, alpha: float, method: str) -> float:
    """The p-value that suffices for one more call in a table: see `statistics.adjust`."""
    if method == "holm":
        return alpha / max(cases - calls, 1)
    return alpha * min(calls + 1, cases) / cases


def judge(
    estimates: Sequence[Estimate | None], floor: float, confidence: float, method: str
) -> tuple[list[tuple[Verdict, float | None]], dict[str, Any]]:
    """A verdict and its q-value for each row of a table, none for a row without an estimate; and
    the fields of `Table`."""
    from gradbench import statistics

    known = [estimate for estimate in estimates if estimate is not None]
    judgement = statistics.judge(known, floor, confidence, method)
    found = iter(zip(judgement.verdicts, judgement.adjusted))
    judged = []
    for estimate in estimates:
        verdict, q = (Verdict.NONE, math.nan) if estimate is None else next(found)
        judged.append((verdict, None if math.isnan(q) else q))
    return judged, {
        "floor": floor,
        "confidence": confidence,
        "method": method,
        "expected_false": judgement.expected_false,
        "expected_false_alarms": judgement.expected_false_alarms,
    }


def record(row: Row, found: Judged) -> dict[str, Any]:
    """A judged row as flat fields, the same in JSON, CSV and Markdown."""
    c = row.comparison
    flat: dict[str, Any] = {
        "run": found.run,
        "operator": c.operator,
        "function": c.function,
        "family": row.family,
        "size": c.size,
        "dtype": c.dtype,
        "device": c.device,
        "threads": c.threads,
        "mode": row.mode,
        "by_hand": row.mode in found.by_hand,
        "baseline": row.mode == found.baselines.get(c),
        "status": str(row.status),
        "reason": row.reason,
        "takes": row.takes or None,
        "note": row.note,
        "seconds": row.seconds,
        "seconds_low": row.seconds_low,
        "seconds_high": row.seconds_high,
        "clock": row.clock,
        "wall_seconds": row.wall_seconds,
        "processor_seconds": row.processor_seconds,
        "disturbed": row.disturbed,
        "interference": row.interference,
        "verdict": str(row.verdict),
        "q": row.q,
    }
    for name in ("to_fastest", "to_forward", "to_manual", "to_baseline"):
        ratio: Ratio | None = getattr(row, name)
        flat[name] = ratio.value if ratio else None
        flat[f"{name}_low"] = ratio.low if ratio else None
        flat[f"{name}_high"] = ratio.high if ratio else None
    flat["groups"] = row.groups
    flat["sessions"] = row.sessions
    flat["voided"] = row.voided
    flat["rounds"] = row.rounds
    flat["ulps"] = row.ulps
    for name in INSTRUMENTS:
        flat[name] = row.readings.get(name)
    flat |= {"of_bandwidth": row.of_bandwidth, "of_rate": row.of_rate}
    return flat
