"""How torch releases are shown: changes, steps from release to release, single cases over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradbench.analysis.clocks import MIXED
from gradbench.analysis.tracks import Build, Change, History, Judged, Point, Step
from gradbench.cli import cells
from gradbench.cli.rendering import Answer, Cell, Column, Table, places
from gradbench.core.cases import Case
from gradbench.core.clocks import Clock
from gradbench.core.units import call_time, counted
from gradbench.core.verdicts import CALLED
from gradbench.statistics import Estimate

SINGLY = 3
"""So many cases are shown over all releases."""

BETWEEN = Column("between", lambda change: f"{change.before} → {change.after}", whole=True)
CHANGES = (
    Column("case", lambda change: cells.short_case(change.case), prose=True),
    Column("before", lambda change: call_time(change.old.seconds), right=True, rank=3),
    Column("after", lambda change: call_time(change.new.seconds), right=True, rank=2),
    Column("after / before", lambda change: cells.with_interval(change.estimate), right=True),
    Column("verdict", lambda change: cells.change(change.verdict)),
    Column("q", lambda change: cells.odds(change.q), right=True, rank=6),
    Column(
        "instructions",
        lambda change: _times(_instructions(change)),
        right=True,
        optional=True,
        rank=4,
    ),
    Column("note", lambda change: "; ".join(_notes(change)), prose=True, rank=5),
)


def changes(history: History, judged: Judged, top: int = 20, everything: bool = False) -> Answer:
    """What changed from release to release; of few cases, each over all releases."""
    if len(history.cases) > SINGLY:
        return _steps(history, judged, top, everything)
    tables = [
        Table(OVER_RELEASES, list(_over_releases(history, judged, case, ratios)), str(case))
        for case, ratios in zip(history.cases, history.to_baseline(history.cases))
    ]
    return Answer(map(record, judged.changes), details=tables, apart=True)


# ── steps from release to release ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Step:
    """What changed from one build to the next, counted."""

    before: Build
    after: Build
    changes: list[Change]
    differences: list[str]

    def count(self, verdict: str) -> str:
        return str(sum(change.verdict == verdict for change in self.changes))

    @property
    def median(self) -> str:
        ratios = [change.estimate.ratio for change in self.changes]
        return f"{np.median(ratios):.3f}×" if ratios else ""


STEPS = (
    BETWEEN,
    Column("slower", lambda step: step.count("slower"), right=True),
    Column("faster", lambda step: step.count("faster"), right=True),
    Column("same", lambda step: step.count("same"), right=True, rank=2),
    Column("undecided", lambda step: step.count("undecided"), right=True, rank=1),
    Column("median", lambda step: step.median, right=True),
    Column("also differs", lambda step: "; ".join(step.differences), prose=True, rank=3),
)


def _steps(history: History, judged: Judged, top: int, everything: bool) -> Answer:
    steps = [
        _Step(*step, _of(judged.changes, step), history.differences(*step))
        for step in history.steps()
    ]
    called = _largest_first(judged, everything)
    title = f"the {top} largest of {len(called)} changes" if len(called) > top else "changes"
    failures = [
        f"{failure.name} could not be installed: {failure.reason}"
        for track in history.tracks
        for failure in track.failures
    ]
    return Answer(
        map(record, judged.changes),
        heading="Torch releases",
        overview=Table(STEPS, steps, "from release to release"),
        details=[Table((BETWEEN, *CHANGES), called[:top], title)],
        summary=[_summary(judged)],
        notes=[*_unlike(history, history.steps()), *failures],
    )


def groups(history: History, judged: Judged, by: str) -> Answer:
    """For each mode, operator or function, what a release did to its cases as a whole."""
    groups: dict[str, list[Change]] = {}
    for change in judged.changes:
        case = change.case
        name = case.mode if by == "mode" else getattr(case.comparison, by)
        groups.setdefault(name, []).append(change)
    steps = history.steps()
    rows = [
        [
            name,
            str(len({change.case for change in changes})),
            *(_group(_of(changes, step)) for step in steps),
        ]
        for name, changes in sorted(groups.items())
    ]
    headings = [by, "cases", *(f"{before} → {after}" for before, after in steps)]
    legend = (
        "Median ratio after / before, number of cases slower (↑) and faster (↓)"
        f" at a threshold of {judged.floor:.3g}."
    )
    return Answer(
        (dict(zip(headings, row)) for row in rows),
        heading=f"Torch releases by {by}",
        overview=Table(places(headings, headings[1:], least=headings[2:-1]), rows, f"by {by}"),
        summary=[legend],
    )


def _group(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    slower, faster = (sum(c.verdict == verdict for c in changes) for verdict in CALLED)
    ratio = np.median([change.estimate.ratio for change in changes])
    return f"{ratio:.2f}× {slower}↑ {faster}↓"


# ── two builds ────────────────────────────────────────────────────────────────────────────────


def comparison(
    history: History, judged: Judged, before: Build, after: Build, everything: bool
) -> Answer:
    """One build compared with another, case by case."""
    title = f"torch {history.label(after)} compared with {history.label(before)}"
    return Answer(
        map(record, judged.changes),
        heading=title,
        differences=history.differences(before, after),
        details=[Table(CHANGES, _largest_first(judged, everything), title)],
        summary=[_summary(judged)],
        notes=[*_unlike(history, [(before, after)]), cells.geometric_mean(judged)],
    )


def _of(changes: Iterable[Change], step: Step) -> list[Change]:
    return [change for change in changes if (change.before, change.after) == step]


def _largest_first(judged: Judged, everything: bool) -> list[Change]:
    """The changes to show."""
    shown = [c for c in judged.changes if everything or c.verdict in CALLED]
    return sorted(shown, key=lambda c: -abs(np.log(c.estimate.ratio)))


def _unlike(history: History, steps: Sequence[Step]) -> list[Cell]:
    """What one build of a step can do and the other cannot, by reason."""
    return [
        f"{build}: {status}: {reason} ({counted(number, 'case')})"
        for (build, status, reason), number in history.unlike(steps).items()
    ]


def _summary(judged: Judged) -> str:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in judged.counts().items())
    return (
        f"{counted(len(judged.changes), 'case')} compared: {counts}. Threshold "
        f"{judged.floor:.3g}, {judged.confidence:.0%} intervals between sessions, "
        f"{judged.method}: {cells.false_positives(judged)}."
    )


def record(change: Change) -> dict[str, Any]:
    """A change as flat fields."""
    return {
        "case": str(change.case),
        "before": str(change.before),
        "after": str(change.after),
        "verdict": change.verdict,
        "q": change.q,
        "ratio": change.estimate.ratio,
        "low": change.estimate.low,
        "high": min(change.estimate.high, 1e308),
        "before_seconds": change.old.seconds,
        "after_seconds": change.new.seconds,
        "clock": change.new.clock,
        "before_wall_seconds": known(change.old.wall_seconds),
        "after_wall_seconds": known(change.new.wall_seconds),
        "before_processor_seconds": known(change.old.processor_seconds),
        "after_processor_seconds": known(change.new.processor_seconds),
        "sessions": change.estimate.sessions,
        "in_turns": change.paired,
        "groups": [group.ratio for group in change.estimate.groups]
        if change.estimate.disagree
        else [],
        "instructions": _instructions(change),
        "note": change.note,
    }


def known(seconds: float) -> float | None:
    """None where it is not known."""
    return seconds if seconds == seconds else None


def _instructions(change: Change) -> float | None:
    """Instructions after over before, where both were counted."""
    ratio = change.new.instructions / change.old.instructions
    return float(ratio) if ratio == ratio else None


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}×"


def _notes(change: Change) -> Iterator[str]:
    if not change.paired:
        yield "through the baseline"
    if change.new.clock not in ("", Clock.WALL):
        yield f"by {change.new.clock} time" if change.new.clock != MIXED else "by two clocks"
    if change.estimate.disagree:
        yield cells.disagreement(change.estimate)


# ── one case over all releases ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Release:
    """One case in one build."""

    label: str
    date: str
    point: Point
    against: str
    """The ratio to the baseline."""
    change: Change | None

    @property
    def before(self) -> Estimate | None:
        return self.change.estimate if self.change else None


OVER_RELEASES = (
    Column("release", lambda row: row.label, whole=True),
    Column("date", lambda row: row.date, rank=3),
    Column(
        "time",
        lambda row: call_time(row.point.seconds) if row.point.status == "ok" else row.point.status,
        right=True,
    ),
    Column("× baseline", lambda row: row.against, right=True, rank=1),
    Column(
        "× release before",
        lambda row: cells.with_interval(row.before) if row.before else "",
        right=True,
    ),
    Column("verdict", lambda row: cells.change(row.change.verdict) if row.change else ""),
    Column(
        "instructions",
        lambda row: _count(row.point.instructions),
        right=True,
        optional=True,
        rank=2,
    ),
    Column(
        "also differs",
        lambda row: row.change.note if row.change else row.point.reason,
        optional=True,
        prose=True,
        rank=4,
    ),
)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number == number else ""


def _over_releases(
    history: History, judged: Judged, case: Case, to_baseline: dict[Build, Estimate]
) -> Iterator[_Release]:
    changes = {c.after: c for c in judged.changes if c.case == case}
    for build in history.builds:
        point = history.point(build, case)
        if point is None:
            continue
        ratio = to_baseline.get(build)
        against = cells.with_interval(ratio) if ratio else ""
        if build == history.baseline(build):
            against = "baseline"
        label, date = history.label(build), history.used[build].date
        yield _Release(label, date, point, against, changes.get(build))
