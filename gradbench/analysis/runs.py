"""From a run to its judged rows, which `show`, the report and the exports display.

Everything here is computed on reading, so an old run can be re-evaluated with another floor or a
better estimator. As that takes a moment, the rows are kept in the user's cache folder: see
`store.cache`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from gradbench.analysis import conditions
from gradbench.analysis.table import Table, judge
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.verdicts import CALLED, Status, Verdict
from gradbench.store import cache
from gradbench.store.runs import LOST, Entrant, Run, SessionMeasured, condensing, loss

if TYPE_CHECKING:
    from gradbench.statistics import Array, Estimate, Tables

MANUAL = "manual"


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of times with its interval."""

    value: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contestant of one comparison, judged.

    `seconds` is the median over sessions of the sessions' median visit minimum: descriptive.
    `verdict` and `to_fastest` are relative to the comparison's fastest mode. The forward pass is
    never that, nor is a mode that needs the derivative written by hand, unless there are no others.
    `groups` are the ratios of sessions that disagree, otherwise empty.
    """

    comparison: str
    mode: str
    status: Status
    reason: str = ""
    note: str = ""
    """What the mode changed in its process, which was put back, and the session that lost it."""
    where: str = ""
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    """The sessions' lowest and highest median."""
    verdict: Verdict = Verdict.NONE
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
    """The shares that a large case reaches of what the device can do: see `with_limits`."""


class Judged(Table, frozen=True, kw_only=True):
    """The judged rows of a run."""

    run: str
    rows: list[Row]
    baselines: dict[str, str]
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
    cautions: list[str] = []
    """What makes the run's times less trustworthy, in lines."""

    def comparisons(self) -> dict[str, list[Row]]:
        """The rows by comparison, in the run's order."""
        comparisons: dict[str, list[Row]] = {}
        for row in self.rows:
            comparisons.setdefault(row.comparison, []).append(row)
        return comparisons


def judge_run(
    run: Run, floor: float = 0.01, confidence: float = 0.95, method: str = "benjamini-hochberg"
) -> Judged:
    """Judges every comparison of a run, with false positives controlled over the whole table."""
    drafts: list[_Draft] = []
    baselines = {}
    by_comparison = [item for item in run.by_comparison().items() if item[1]]
    for start in range(0, len(by_comparison), TOGETHER):
        contests = []
        for name, sessions in by_comparison[start : start + TOGETHER]:
            baselines[name] = next((s.baseline for s in sessions if s.baseline), "")
            contests.append(_contest(name, sessions, baselines[name], floor))
        drafts += _judge_contests(contests, run.started.by_hand, floor, confidence)
    verdicts, expected = judge([draft.estimate for draft in drafts], floor, confidence, method)
    rows = [draft.judged(verdict) for draft, verdict in zip(drafts, verdicts)]
    return Judged(
        run=run.name,
        rows=with_limits(with_readings(rows, run), run),
        baselines=baselines,
        floor=floor,
        confidence=confidence,
        method=method,
        expected_false_alarms=expected,
        calls=sum(row.verdict in CALLED for row in rows),
        finished=run.finished,
        sessions=1 + max((s.session for s in run.sessions), default=-1),
        problems=list(run.problems),
        visiting=sum(s.visiting for s in run.sessions),
        elapsed=run.elapsed,
        by_hand=list(run.started.by_hand),
        conditions=conditions.lines(run),
        cautions=conditions.cautions(run),
    )


def read_values(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    """What each instrument read of each comparison and mode: the median over sessions of each
    session's median."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for reading in run.readings:
        for mode, values in reading.values.items():
            if values:
                case = found.setdefault((reading.comparison, mode), {})
                case.setdefault(reading.instrument, []).append(median(values))
    return {
        case: {name: median(values) for name, values in read.items()}
        for case, read in found.items()
    }


def with_readings(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows with what was read, and rows of their own for what was read and not timed."""
    values = read_values(run)
    reasons: dict[tuple[str, str], dict[str, str]] = {}
    for reading in run.readings:
        for mode, reason in reading.reasons.items():
            reasons.setdefault((reading.comparison, mode), {})[reading.instrument] = reason
    timed = {(row.comparison, row.mode) for row in rows}
    made = [
        msgspec.structs.replace(
            row,
            readings=values.get((row.comparison, row.mode), {}),
            unread=reasons.get((row.comparison, row.mode), {}),
        )
        for row in rows
    ]
    for entry in run.started.plan:
        for mode in entry.modes:
            case = (entry.comparison, mode)
            if case in timed or case not in values.keys() | reasons.keys():
                continue
            read, unread = values.get(case, {}), reasons.get(case, {})
            status, reason = (Status.OK, "") if read else _unread(next(iter(unread.values())))
            made.append(Row(*case, status, reason, readings=read, unread=unread))
    return made


def _unread(said: str) -> tuple[Status, str]:
    """The status and the reason of a case, from why an instrument did not read it."""
    status, _, reason = said.partition(": ")
    with contextlib.suppress(ValueError):
        return Status(status), reason
    return Status.FAILED, said


LARGE = 1e-4
"""Seconds that a case's matrix products take at least, where their rate is stated as a share."""


def with_limits(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows of large cases with the shares that they reach of what the device can do.

    `of_bandwidth`: what a call cannot but move, its arguments and its result, over its time and the
    bandwidth of a copy, where that is more than the caches hold. `of_rate`: its operations, where
    `flops` were read, over its time and the rate of a product of matrices.
    """
    limits = {(known.device, known.threads): known for known in run.limits}
    moved: dict[str, int] = {}
    for session in run.sessions:
        both = session.argument_bytes + session.result_bytes
        if session.argument_bytes:
            moved[session.comparison] = max(both, moved.get(session.comparison, 0))
    made = []
    for row in rows:
        c = Comparison.parse(row.comparison)
        known = limits.get((c.place.device, c.threads))
        # Over the bus, or without a derivative, the traffic is another.
        if known and row.seconds and row.mode != FORWARD and not c.place.transfer:
            traffic, rate = moved.get(row.comparison, 0), known.rates.get(c.dtype)
            work = row.readings.get("flops", 0.0)
            row = msgspec.structs.replace(
                row,
                of_bandwidth=traffic / known.bandwidth / row.seconds
                if traffic > known.cache
                else None,
                of_rate=work / rate / row.seconds if rate and work > LARGE * rate else None,
            )
        made.append(row)
    return made


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


LAUNCH_BOUND = 0.5
"""A call is bound by its launches where the device works for less than this share of its time."""


def launch_bound(seconds: float | None, device_time: float | None) -> bool:
    """Whether the host's launching rather than the device's work is what takes a call's time.

    Both in seconds a call; False where one of them is not known.
    """
    if not seconds or device_time is None:
        return False
    return device_time < LAUNCH_BOUND * seconds


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

    def judged(self, verdict: Verdict) -> Row:
        """The row with the verdict that the whole table gives it."""
        if self.estimate is None:
            return self.row
        if self.tied and verdict in CALLED:
            verdict = Verdict.UNDECIDED
        return msgspec.structs.replace(self.row, verdict=verdict)


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
    name: str, sessions: Sequence[SessionMeasured], baseline: str, floor: float
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


def record(row: Row, found: Judged) -> dict[str, Any]:
    """A judged row as flat fields, the same in JSON, CSV and Markdown."""
    c = Comparison.parse(row.comparison)
    flat: dict[str, Any] = {
        "run": found.run,
        "operator": c.operator,
        "function": c.function,
        "size": c.size,
        "dtype": c.dtype,
        "device": c.device,
        "threads": c.threads,
        "mode": row.mode,
        "status": str(row.status),
        "reason": row.reason,
        "note": row.note,
        "seconds": row.seconds,
        "seconds_low": row.seconds_low,
        "seconds_high": row.seconds_high,
        "verdict": str(row.verdict),
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
            return msgspec.msgpack.decode(content, type=Judged)
    found = judge_run(read(path, condensed=True), floor, confidence, method)
    # A run that is being written may have grown meanwhile.
    if key and key == cache.key(path, *parameters):
        cache.save(key, msgspec.msgpack.encode(found))
    return found
