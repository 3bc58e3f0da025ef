"""How torch releases are shown: changes, steps from release to release, single cases over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradbench.analysis.clocks import MIXED
from gradbench.analysis.conditions import nodes
from gradbench.analysis.measured import Build, Point
from gradbench.analysis.scope import Scope
from gradbench.analysis.table import Changes
from gradbench.analysis.tracks import Change, History, Judged, Pair, differing
from gradbench.cli import cells
from gradbench.cli.rendering import Answer, Cell, Column, Styled, Table
from gradbench.core.cases import Case
from gradbench.core.clocks import Clock
from gradbench.core.units import call_time, counted
from gradbench.core.verdicts import CALLED
from gradbench.statistics import Estimate

SLOWDOWN = 0.05
"""What a gate says its power of."""

SINGLY = 3
"""So many cases are shown over all releases."""


class Marks:
    """Numbers by which rows refer to what else differs: a narrow terminal has no column for it."""

    def __init__(self, changes: Iterable[Change]) -> None:
        notes = dict.fromkeys(change.note for change in changes if change.note)
        self._numbers = {note: _raised(number) for number, note in enumerate(notes, 1)}

    def on(self, said: Cell, *changes: Change) -> Cell:
        """What is said of some changes, with their numbers."""
        numbers = dict.fromkeys(self._numbers.get(change.note, "") for change in changes)
        marked = " ".join(filter(None, (str(said), *numbers)))
        return Styled(marked, said.style) if isinstance(said, Styled) else marked

    def verdict(self, change: Change) -> Cell:
        return self.on(cells.change(change.verdict), change)

    @property
    def lines(self) -> list[Cell]:
        return [f"{number} also differs: {note}" for note, number in self._numbers.items()]


def _raised(number: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(number))


def _change_columns(marks: Marks, *more: Column) -> list[Column]:
    """The columns of changes, with `more` after the verdict."""
    return [
        Column("case", lambda change: cells.short_case(change.case), prose=True),
        Column("before", lambda change: call_time(change.old.seconds), right=True, rank=4),
        Column("after", lambda change: call_time(change.new.seconds), right=True, rank=3),
        Column("after / before", lambda change: cells.with_interval(change.estimate), right=True),
        Column("verdict", marks.verdict),
        *more,
        Column("q", lambda change: cells.odds(change.q), right=True, rank=7),
        Column(
            "instructions",
            lambda change: _times(_instructions(change)),
            right=True,
            optional=True,
            rank=5,
        ),
        Column("note", lambda change: "; ".join(_notes(change)), prose=True, optional=True, rank=6),
    ]


@dataclass(frozen=True)
class Course:
    """The changes of each case from build to build, and those over the whole range."""

    history: History
    judged: Judged
    ranges: Judged

    @classmethod
    def of(cls, history: History, judging: Sequence[Any] = ()) -> Course:
        steps = history.steps()
        judged = history.changes(steps, *judging)
        return cls(history, judged, history.changes(history.ranges(steps), *judging))

    def whole(self, change: Change) -> Change | None:
        """The change over the whole range that a step is a part of."""
        return self._whole.get(change.pair)

    @cached_property
    def _whole(self) -> dict[Pair, Change]:
        into = {(c.case, c.after): c for c in self.judged.changes}
        whole = {}
        for change in self.ranges.changes:
            step = into.get((change.case, change.after))
            while step is not None:
                whole[step.pair] = change
                step = (
                    into.get((change.case, step.before)) if step.before != change.before else None
                )
        return whole

    @property
    def drifts(self) -> list[Change]:
        """What changed over the whole range, in the same direction in no step."""
        called = {(id(self.whole(c)), c.verdict) for c in self.judged.changes}
        found = [c for c in self.ranges.changes if c.verdict in CALLED]
        return [change for change in found if (id(change), change.verdict) not in called]

    def between(self, change: Change) -> str:
        label = self.history.label
        return f"{label(change.before)} → {label(change.after)}"

    @property
    def steps(self) -> list[_Step]:
        """The steps between two builds, in the order of the builds."""
        own: dict[tuple[Build, Build], list[Change]] = {}
        for change in self.judged.changes:
            own.setdefault((change.before, change.after), []).append(change)
        place = {build: number for number, build in enumerate(self.history.builds)}
        ordered = sorted(own, key=lambda step: (place[step[1]], place[step[0]]))
        return [_Step(self.between(own[step][0]), own[step]) for step in ordered]

    @property
    def strip(self) -> str:
        """How many cases each release made slower and faster."""
        counts = Counter((c.after, c.verdict) for c in self.judged.changes)
        compared = dict.fromkeys(
            b for b in self.history.builds if any(c.after == b for c in self.judged.changes)
        )
        parts = [
            f"{self.history.label(b)}\u00a0{counts[b, CALLED[0]]}↑\u00a0{counts[b, CALLED[1]]}↓"
            for b in compared
        ]
        whole = self.ranges.counts()
        if self.ranges.changes:
            parts.append(
                f"first\u00a0to\u00a0last\u00a0{whole[CALLED[0]]}↑\u00a0{whole[CALLED[1]]}↓"
            )
        return "Slower ↑ and faster ↓ by release: " + " · ".join(parts)


def changes(
    course: Course, scope: Scope | None = None, top: int = 20, everything: bool = False
) -> Answer:
    """What changed from release to release; of few cases, each over all releases."""
    history = course.history
    if len(history.cases) > SINGLY:
        return _steps(course, scope, top, everything)
    marks = Marks(course.judged.changes)
    tables = [
        Table(_release_columns(marks), list(_over_releases(course, case, *ratios)), str(case))
        for case, ratios in zip(history.cases, history.to_baseline(history.cases))
    ]
    return Answer(
        _records(course),
        details=tables,
        apart=True,
        ahead=[course.strip],
        summary=[str(scope)] if scope is not None else [],
        notes=[*marks.lines, *_nodes(history)],
    )


# ── steps from release to release ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Step:
    """What changed from one build to another, counted."""

    between: str
    changes: list[Change]

    def count(self, verdict: str) -> str:
        return str(sum(change.verdict == verdict for change in self.changes))

    @property
    def median(self) -> str:
        return f"{np.median([change.estimate.ratio for change in self.changes]):.3f}×"


def _step_columns(marks: Marks) -> list[Column]:
    return [
        Column("between", lambda step: marks.on(step.between, *step.changes), whole=True),
        Column("cases", lambda step: str(len(step.changes)), right=True, rank=3),
        Column("slower", lambda step: step.count("slower"), right=True),
        Column("faster", lambda step: step.count("faster"), right=True),
        Column("same", lambda step: step.count("same"), right=True, rank=2),
        Column("undecided", lambda step: step.count("undecided"), right=True, rank=1),
        Column("median", lambda step: step.median, right=True),
        Column("also differs", lambda step: "; ".join(differing(step.changes)), prose=True, rank=4),
    ]


def _steps(course: Course, scope: Scope | None, top: int, everything: bool) -> Answer:
    history, judged = course.history, course.judged
    called = _largest_first(judged, everything)
    title = f"the {top} largest of {len(called)} changes" if len(called) > top else "changes"
    drifts = _largest_first(course.drifts, True)
    drifting = "from first to last, without such a step"
    if len(drifts) > top:
        drifting = f"the {top} largest of {len(drifts)} {drifting}"
    failures = [
        f"{failure.name} could not be installed: {failure.reason}"
        for track in history.tracks
        for failure in track.failures
    ]
    between = Column("between", course.between, whole=True)
    whole = Column("first to last", lambda change: _whole(course.whole(change)), right=True)
    steps = course.steps
    marks = Marks([*(change for step in steps for change in step.changes), *drifts[:top]])
    return Answer(
        _records(course),
        heading="Torch releases",
        ahead=[course.strip],
        overview=Table(_step_columns(marks), steps, "from release to release"),
        details=[
            Table((between, *_change_columns(marks)), drifts[:top], drifting),
            Table((between, *_change_columns(marks, whole)), called[:top], title),
        ],
        summary=[_summary(judged), *([str(scope)] if scope is not None else [])],
        notes=[*marks.lines, *_unlike(history, judged), *failures, *_nodes(history)],
    )


ARROWS = {"slower": " ↑", "faster": " ↓"}


def _whole(change: Change | None) -> Cell:
    """The change over the whole range, as it stands beside a step."""
    if change is None:
        return ""
    verdict = cells.change(change.verdict)
    return Styled(f"{change.estimate.ratio:.3f}×{ARROWS.get(change.verdict, '')}", verdict.style)


# ── two builds ────────────────────────────────────────────────────────────────────────────────


def comparison(
    history: History,
    judged: Judged,
    between: tuple[Sequence[Build], Sequence[Build]],
    scope: Scope,
    everything: bool,
) -> Answer:
    """One release compared with another, case by case."""
    steps = dict.fromkeys((change.before, change.after) for change in judged.changes)
    if len(steps) == 1:
        between = tuple([build] for build in next(iter(steps)))  # type: ignore[assignment]
    before, after = (" and ".join(map(history.label, builds)) for builds in between)
    title = f"torch {after} compared with {before}"
    marks = Marks(judged.changes)
    columns = _change_columns(marks)
    if len(steps) > 1:

        def label(change: Change) -> str:
            return f"{history.label(change.before)} → {history.label(change.after)}"

        columns.insert(0, Column("between", label, whole=True))
    return Answer(
        map(record, judged.changes),
        heading=title,
        differences=differing(judged.changes),
        details=[Table(columns, _largest_first(judged, everything), title)],
        summary=[_summary(judged), str(scope)],
        notes=[*marks.lines, *_unlike(history, judged), cells.geometric_mean(judged)],
    )


def _largest_first(changes: Judged | Iterable[Change], everything: bool) -> list[Change]:
    """The changes to show."""
    every = changes.changes if isinstance(changes, Changes) else changes
    shown = [c for c in every if everything or c.verdict in CALLED]
    return sorted(shown, key=lambda c: -abs(np.log(c.estimate.ratio)))


def _unlike(history: History, judged: Judged) -> list[Cell]:
    """What one build of a step can do and the other cannot, by reason."""
    return [
        f"{history.label(build)}: {status}: {reason} ({counted(number, 'case')})"
        for (build, status, reason), number in history.unlike(
            [change.pair for change in judged.changes]
        ).items()
    ]


def _nodes(history: History) -> list[Cell]:
    """Which nodes of a cluster measured the cases, by track."""
    comparisons = {case.comparison for case in history.cases}
    found = {
        track.name: nodes(part.node for part in track.parts if part.comparison in comparisons)
        for track in history.tracks
    }
    return [f"{name}: {said}" for name, said in found.items() if said]


def _summary(judged: Judged) -> str:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in judged.counts().items())
    number, changes = len({c.case for c in judged.changes}), len(judged.changes)
    cases = counted(number, "case") + (f", {changes} changes" if changes > number else "")
    return (
        f"{cases} compared: {counts}. Threshold "
        f"{judged.floor:.3g}, {judged.confidence:.0%} intervals between sessions, "
        f"{judged.method}: {cells.false_positives(judged)}. A {SLOWDOWN:.0%} slowdown would have "
        f"been called in {100 * judged.power(SLOWDOWN):.0f} of 100 cases like these."
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
        "tracks": list(change.tracks),
        "groups": [group.ratio for group in change.estimate.groups]
        if change.estimate.disagree
        else [],
        "instructions": _instructions(change),
        "note": change.note,
    }


def known(seconds: float) -> float | None:
    """None where it is not known."""
    return seconds if seconds == seconds else None


def _records(course: Course) -> Iterator[dict[str, Any]]:
    """The steps, each with the change over the whole range that it is a part of."""
    for change in course.judged.changes:
        whole = course.whole(change)
        estimate = whole.estimate if whole else None
        yield record(change) | {
            "first": str(whole.before) if whole else "",
            "last": str(whole.after) if whole else "",
            "first_to_last": estimate.ratio if estimate else None,
            "first_to_last_low": estimate.low if estimate else None,
            "first_to_last_high": min(estimate.high, 1e308) if estimate else None,
            "first_to_last_verdict": whole.verdict if whole else "",
        }


def _instructions(change: Change) -> float | None:
    """Instructions after over before, where both were counted."""
    ratio = change.new.instructions / change.old.instructions
    return float(ratio) if ratio == ratio else None


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}×"


def _notes(change: Change) -> Iterator[str]:
    if change.note:
        yield change.note
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
    whole: Cell = ""
    """The change over the whole range, where it ends here."""

    @property
    def note(self) -> str:
        own = self.change.note if self.change else ""
        return "; ".join(filter(None, (own, self.point.reason)))

    @property
    def time(self) -> str:
        return call_time(self.point.seconds) if self.point.status == "ok" else self.point.status

    @property
    def step(self) -> str:
        return cells.with_interval(self.change.estimate) if self.change else ""


def _release_columns(marks: Marks) -> list[Column]:
    return [
        Column("release", lambda row: row.label, whole=True),
        Column("date", lambda row: row.date, rank=3),
        Column("time", lambda row: row.time, right=True),
        Column("× baseline", lambda row: row.against, right=True, rank=1),
        Column("× release before", lambda row: row.step, right=True),
        Column("verdict", lambda row: marks.verdict(row.change) if row.change else ""),
        Column("first to last", lambda row: row.whole, right=True, optional=True),
        Column(
            "instructions",
            lambda row: _count(row.point.instructions),
            right=True,
            optional=True,
            rank=2,
        ),
        Column("also differs", lambda row: row.note, optional=True, prose=True, rank=4),
    ]


def _count(number: float) -> str:
    return f"{number:,.0f}" if number == number else ""


def _over_releases(
    course: Course, case: Case, reference: Build | None, to_baseline: dict[Build, Estimate]
) -> Iterator[_Release]:
    history = course.history
    changes, wholes = (
        {c.after: c for c in judged.changes if c.case == case}
        for judged in (course.judged, course.ranges)
    )
    for build in history.builds:
        point = history.point(build, case)
        if point is None:
            continue
        ratio = to_baseline.get(build)
        against = cells.with_interval(ratio) if ratio else ""
        if build == reference:
            against = "baseline"
        whole = wholes.get(build)
        label, date = history.label(build), history.used(build).date
        yield _Release(label, date, point, against, changes.get(build), _from_first(whole))


def _from_first(whole: Change | None) -> Cell:
    if whole is None:
        return ""
    verdict = cells.change(whole.verdict)
    return Styled(f"{whole.estimate.ratio:.3f}× {verdict}", verdict.style)
