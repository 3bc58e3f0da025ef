"""From a run to its judged rows, which `show`, the report and the exports display.

Everything here is computed on reading, so an old run can be re-evaluated with another floor or a
better estimator. As that takes a moment, the rows are kept in the user's cache folder: see
`store.cache`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gradbench.analysis import clocks, conditions
from gradbench.analysis.clocks import with_clocks
from gradbench.analysis.readings import with_limits, with_readings
from gradbench.analysis.table import Judged, Ratio, Row, judge
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.verdicts import CALLED, Status, Verdict
from gradbench.store import cache
from gradbench.store.fields import parsed
from gradbench.store.runs import LOST, Entrant, Run, SessionMeasured, condensing, loss

if TYPE_CHECKING:
    from gradbench.statistics import Array, Estimate, Tables

MANUAL = "manual"


def judge_run(
    run: Run, floor: float = 0.01, confidence: float = 0.95, method: str = "benjamini-hochberg"
) -> Judged:
    """Judges every comparison of a run, with false positives controlled over the whole table."""
    # Once for all that follows: each of its steps takes sessions without samples as they are.
    run = replace(run, sessions=list(map(condensing(), run.sessions)))
    drafts: list[_Draft] = []
    baselines = {}
    by_comparison = [item for item in run.by_comparison().items() if item[1]]
    for start in range(0, len(by_comparison), TOGETHER):
        contests = []
        for name, sessions in by_comparison[start : start + TOGETHER]:
            baselines[name] = next((s.baseline for s in sessions if s.baseline), "")
            contests.append(_contest(name, sessions, baselines[name], floor))
        drafts += _judge_contests(contests, run.started.by_hand, floor, confidence)
    verdicts, judging = judge([draft.estimate for draft in drafts], floor, confidence, method)
    rows = [draft.judged(*verdict) for draft, verdict in zip(drafts, verdicts)]
    rows = with_limits(with_readings(with_clocks(rows, run), run), run)
    rows = [_with_family(row, run.started.families) for row in rows]
    return Judged(
        run=run.name,
        rows=rows,
        baselines=baselines,
        **judging,
        calls=sum(row.verdict in CALLED for row in rows),
        finished=run.finished,
        sessions=1 + max((s.session for s in run.sessions), default=-1),
        problems=list(run.problems),
        visiting=sum(s.visiting for s in run.sessions),
        elapsed=run.elapsed,
        by_hand=list(run.started.by_hand),
        conditions=conditions.lines(run) + list(filter(None, [clocks.line(run)])),
        busy=conditions.busy(run),
        cautions=list(filter(None, [clocks.caution(rows)])) + conditions.cautions(run),
    )


def _with_family(row: Row, families: Mapping[str, str]) -> Row:
    family = families.get(row.comparison.function)
    return row if family is None else msgspec.structs.replace(row, family=family)


def ratios_to(
    run: Run, comparison: Comparison, reference: str, floor: float = 0.01, confidence: float = 0.95
) -> dict[str, Estimate]:
    """The ratio of each mode that is right to one of them, between sessions: empty where that one
    was not timed. Sessions whose control differs are left out, as everywhere."""
    from gradbench import statistics

    contest = _contest(comparison, run.by_comparison().get(comparison, []), "", floor)
    if contest.timed is None or reference not in contest.good:
        return {}
    estimates = statistics.relative_to(
        contest.timed, contest.good.index(reference), floor, confidence
    )
    return {mode: e for mode, e in zip(contest.good, estimates) if e.sessions}


def settled(sessions: Sequence[SessionMeasured]) -> dict[str, Entrant]:
    """Each mode's record over all sessions.

    A mode that was ever wrong or failed is not ok, and none of its times count. One that was lost
    in some sessions is ok by the others, and its note says so.
    """
    found: dict[str, Entrant | None] = {}
    losses: dict[str, tuple[int, Entrant]] = {}
    for session in sessions:
        for entrant in session.entrants:
            if entrant.control and entrant.status == Status.OK:
                continue
            old = found.setdefault(entrant.mode, None)
            if entrant.status in LOST:
                losses.setdefault(entrant.mode, (session.session, entrant))
            elif old is None or (old.status == Status.OK and entrant.status != Status.OK):
                found[entrant.mode] = entrant
            elif old.status == entrant.status == Status.OK:
                found[entrant.mode] = msgspec.structs.replace(
                    old,
                    error=max(old.error, entrant.error),
                    ulps=max(old.ulps, entrant.ulps),
                    note=old.note or entrant.note,
                )
    count = 1 + max((session.session for session in sessions), default=0)
    for mode, (number, entrant) in losses.items():
        other = found[mode]
        if other is None:
            found[mode] = entrant
        elif other.status == Status.OK:
            notes = [other.note, loss(entrant, number, count)]
            found[mode] = msgspec.structs.replace(other, note="; ".join(filter(None, notes)))
    return {mode: entrant for mode, entrant in found.items() if entrant is not None}


TOGETHER = 256
"""Comparisons that are judged at once: see `statistics.relative_to_each`."""


@dataclass(frozen=True)
class _Draft:
    """A row before the whole table is judged."""

    row: Row
    estimate: Estimate | None = None
    """What is judged; None where the verdict is known, or there is none."""
    tied: bool = False
    """The choice of the fastest leaves open whether this one is: see `fastest_of_each`."""

    def judged(self, verdict: Verdict, q: float | None) -> Row:
        """The row with the verdict that the whole table gives it."""
        if self.estimate is None:
            return self.row
        if self.tied and verdict in CALLED:
            verdict = Verdict.UNDECIDED
        return msgspec.structs.replace(self.row, verdict=verdict, q=q)


@dataclass(frozen=True)
class _Contest:
    """One comparison before it is judged."""

    bare: dict[str, Row]
    """A row for each mode, without times."""
    good: list[str]
    """The modes that are ok: see `settled`."""
    baseline: str
    timed: Tables | None
    """Their times; None without any."""


def _contest(
    name: Comparison, sessions: Sequence[SessionMeasured], baseline: str, floor: float
) -> _Contest:
    from gradbench import statistics

    entrants = settled(sessions)
    good = [mode for mode, entrant in entrants.items() if entrant.status == Status.OK]
    times, controls = _visits(sessions, good)
    void = statistics.controls_differ(controls, floor)
    kept = [number for number, is_void in enumerate(void) if not is_void]
    bare = {
        mode: Row(
            comparison=name,
            mode=mode,
            status=entrant.status,
            reason=entrant.reason,
            takes=entrant.takes,
            note=entrant.note,
            where=entrant.where,
            error=entrant.error,
            ulps=entrant.ulps,
            voided=sum(void),
        )
        for mode, entrant in entrants.items()
    }
    return _Contest(bare, good, baseline, statistics.Tables.of(list(times[kept])) if kept else None)


def _visits(sessions: Sequence[SessionMeasured], modes: Sequence[str]) -> tuple[Array, Array]:
    """The visit minima of these modes, sessions × rounds × modes, and the log ratios of the
    controls to their baselines, sessions × rounds; of the sessions in which one was timed.

    NaN where a mode or a control was not timed.
    """
    import numpy as np

    condensed = list(map(condensing(), sessions))
    rounds = max((session.rounds for session in condensed), default=0)
    times = np.full((len(condensed), rounds, len(modes)), math.nan)
    controls, baselines = np.full((2, len(condensed), rounds), math.nan)
    columns = {mode: column for column, mode in enumerate(modes)}
    for number, session in enumerate(condensed):
        own = np.array(session.minima).reshape(len(session.entrants), session.rounds)
        lost = {entrant.mode for entrant in session.entrants if entrant.status != Status.OK}
        for entrant, visits in zip(session.entrants, own):
            if entrant.mode in lost:
                continue
            if entrant.control:
                controls[number, : len(visits)] = visits
            elif entrant.mode in columns:
                times[number, : len(visits), columns[entrant.mode]] = visits
        if session.baseline in columns:
            baselines[number] = times[number, :, columns[session.baseline]]
    timed = ~np.isnan(times).all(axis=(1, 2))
    return times[timed], np.log(controls[timed] / baselines[timed])


def _judge_contests(
    contests: Sequence[_Contest], by_hand: Sequence[str], floor: float, confidence: float
) -> Iterator[_Draft]:
    """A row per mode, with the estimate to be judged where there is one."""
    from gradbench import statistics

    # Modes that need a derivative written by hand are ranked only where there are no others.
    ranked = []
    for contest in contests:
        derivatives = [i for i, mode in enumerate(contest.good) if mode != FORWARD]
        automatic = [i for i in derivatives if contest.good[i] not in by_hand]
        ranked.append((automatic or derivatives) if contest.timed else [])
    rankings = iter(
        statistics.fastest_of_each(
            [
                statistics.Tables(contest.timed.logs[:, columns])
                for contest, columns in zip(contests, ranked)
                if contest.timed and columns
            ],
            floor,
            confidence,
        )
    )
    # Each comparison's reference contestants, and then all ratios to them at once.
    references: list[dict[str, int]] = []
    ties: list[set[int]] = []
    asked = []
    for contest, columns in zip(contests, ranked):
        references.append({})
        ties.append(set())
        ranking = next(rankings) if columns else None
        if contest.timed and ranking is not None and ranking.fastest is not None:
            modes = {"to_forward": FORWARD, "to_manual": MANUAL, "to_baseline": contest.baseline}
            references[-1] = {"to_fastest": columns[ranking.fastest]} | {
                name: contest.good.index(mode)
                for name, mode in modes.items()
                if mode in contest.good
            }
            ties[-1] = {columns[i] for i in ranking.tied}
            asked += [(contest.timed, column) for column in references[-1].values()]
    estimates = iter(statistics.relative_to_each(asked, floor, confidence))
    for contest, mine, tied in zip(contests, references, ties):
        if mine and contest.timed:
            ratios = {name: next(estimates) for name in mine}
            medians = contest.timed.medians().T.tolist()
            yield from _drafts(contest, mine["to_fastest"], tied, ratios, medians)
        else:
            yield from map(_Draft, contest.bare.values())


def _drafts(
    contest: _Contest,
    fastest: int,
    tied: set[int],
    ratios: dict[str, tuple[Estimate, ...]],
    medians: list[list[float]],
) -> Iterator[_Draft]:
    """The rows of a comparison that has a fastest mode; `medians` are of log times, by mode."""
    from gradbench import statistics

    columns = {mode: column for column, mode in enumerate(contest.good)}
    for mode, row in contest.bare.items():
        if mode not in columns:
            yield _Draft(row)
            continue
        column = columns[mode]
        estimate = ratios["to_fastest"][column]
        known = [m for m in medians[column] if not math.isnan(m)]
        row = msgspec.structs.replace(
            row,
            seconds=math.exp(statistics.middle(known)) if known else None,
            seconds_low=math.exp(min(known)) if known else None,
            seconds_high=math.exp(max(known)) if known else None,
            verdict=Verdict.FASTEST if column == fastest else Verdict.NONE,
            groups=[group.ratio for group in estimate.groups] if estimate.disagree else [],
            sessions=estimate.sessions,
            rounds=estimate.rounds,
            **{name: _ratio(found[column]) for name, found in ratios.items()},
        )
        judged = column != fastest and mode != FORWARD and estimate.sessions > 0
        yield _Draft(row, estimate if judged else None, column in tied)


def _ratio(estimate: Estimate) -> Ratio | None:
    if not estimate.sessions:
        return None
    # JSON has no infinity: an interval without an end goes as far as numbers do.
    return Ratio(estimate.ratio, estimate.low, min(estimate.high, 1e308))


# ── the cache ─────────────────────────────────────────────────────────────────────────────────


def judged(
    path: Path, floor: float = 0.01, confidence: float = 0.95, method: str = "benjamini-hochberg"
) -> Judged:
    """The judged rows of a log, from the cache where neither the log nor gradbench has changed.

    Raises StoreError where the file is no run log.
    """
    from gradbench.store.runs import read

    parameters = (floor, confidence, method)
    key = cache.key(path, *parameters)
    content = cache.load(key) if key else None
    if content is not None:
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.msgpack.decode(content, type=Judged, dec_hook=parsed)
    found = judge_run(read(path, condensed=True), floor, confidence, method)
    # A run that is being written may have grown meanwhile.
    if key and key == cache.key(path, *parameters):
        cache.save(key, msgspec.msgpack.encode(found, enc_hook=str))
    return found
