"""What other processes did to a run: both clocks of its rows, and the rows that are affected."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from gradbench import statistics
from gradbench.analysis.table import Row
from gradbench.core.cases import FORWARD, Case
from gradbench.core.clocks import Clock
from gradbench.core.units import counted
from gradbench.core.verdicts import Status, Verdict
from gradbench.store.runs import Run, SessionTimed, condensing

AFFECTED = 0.25
"""The share of disturbed sub-blocks from which on a row says so."""

STOLEN = 0.02
"""The share of the processor time that a hypervisor takes, from which on a run says so."""

MIXED = "mixed"
"""The clock of a row some sessions of which were judged by one clock, some by the other."""


def medians(sessions: Iterable[SessionTimed], name: str) -> Any:
    """The median of each contestant's visits, session after session, shape (contestants,): of an
    array of `SessionTimed` by its name. NaN without a visit."""
    return np.concatenate([np.empty(0), *map(statistics.middles, batches(sessions, name))])


def batches(sessions: Iterable[SessionTimed], name: str) -> Iterator[Any]:
    """The times of contestants, session after session, in parts of `statistics.BATCH` numbers or
    so: shape (contestants, rounds)."""
    for rounds, alike in itertools.groupby(sessions, key=lambda session: session.rounds):
        batch: list[Any] = []
        size = rows = 0
        for session in alike:
            times = getattr(session, name)
            if not times:
                times = session.minima if name == "wall" else [math.nan] * len(session.minima)
            batch.append(times)
            size += len(times)
            rows += len(session.entrants)
            if size > statistics.BATCH:
                yield np.concatenate(batch).reshape(rows, rounds)
                batch, size, rows = [], 0, 0
        if batch:
            yield np.concatenate(batch).reshape(rows, rounds)


@dataclass
class _Clocked:
    """One case over its sessions."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    disturbed: int = 0
    blocks: int = 0

    @property
    def share(self) -> float:
        return self.disturbed / self.blocks

    @property
    def clock(self) -> str:
        return str(self.clocks[0]) if len(set(self.clocks)) == 1 else MIXED


def with_clocks(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows with their times by both clocks, and what disturbed them.

    A mode that was timed, and has no visit that counts, is undecided.
    """
    cases = _clocked(list(map(condensing(), run.sessions)))
    return [_row(row, cases[row.case]) if row.case in cases else row for row in rows]


def _clocked(sessions: Sequence[SessionTimed]) -> dict[Case, _Clocked]:
    found: dict[Case, _Clocked] = {}
    walls, processors = (medians(sessions, name).tolist() for name in ("wall", "processor"))
    position = itertools.count()
    for session in sessions:
        for number, entrant in enumerate(session.entrants):
            at = next(position)
            if entrant.control or entrant.status != Status.OK or not session.blocks[number]:
                continue
            own = found.setdefault(session.comparison.case(entrant.mode), _Clocked())
            own.wall.append(walls[at])
            own.processor.append(processors[at])
            own.clocks.append(session.clock)
            own.disturbed += session.disturbed[number]
            own.blocks += session.blocks[number]
    return found


def _row(row: Row, own: _Clocked) -> Row:
    processor = [t for t in own.processor if t == t]
    row = msgspec.structs.replace(
        row,
        clock=own.clock,
        wall_seconds=statistics.middle(own.wall),
        processor_seconds=statistics.middle(processor) if processor else None,
        # A log without processor times does not tell.
        disturbed=own.share if processor or own.disturbed else None,
    )
    if row.status != Status.OK:
        return row
    if row.seconds is None:
        verdict = row.verdict if row.mode == FORWARD else Verdict.UNDECIDED
        why = "no visit ran undisturbed" if own.share == 1 else "too few visits ran undisturbed"
        said = why + ("" if processor else ", and its processor time is not its own")
        return msgspec.structs.replace(row, verdict=verdict, interference=said)
    return msgspec.structs.replace(row, interference=_said(own))


def _said(own: _Clocked) -> str:
    """What a row says of interference; empty where it hardly had any."""
    disturbed = f"{own.share:.0%} of its sub-blocks disturbed"
    if own.clock == Clock.WALL:
        return f"{disturbed} and left out" if own.share >= AFFECTED else ""
    number = own.clocks.count(Clock.PROCESSOR)
    where = "" if own.clock == Clock.PROCESSOR else f" in {number} of {len(own.clocks)} sessions"
    return f"compared by processor time{where}: {disturbed}"


# ── a run in lines ────────────────────────────────────────────────────────────────────────────


def line(run: Run) -> str:
    """The load during a run and the share of its sub-blocks that were disturbed; empty where a log
    does not tell."""
    sessions = [s for s in map(condensing(), run.sessions) if len(s.processor) or sum(s.disturbed)]
    if not sessions:
        return ""
    loads = [session.load for session in sessions]
    disturbed = sum(sum(session.disturbed) for session in sessions)
    blocks = sum(sum(session.blocks) for session in sessions)
    cores = run.started.machine.get("usable_cores")
    low, high = f"{min(loads):.1f}", f"{max(loads):.1f}"
    said = "load average " + (low if low == high else f"{low} to {high}")
    said += f" on {counted(cores, 'core')}" if cores else ""
    said += f"; {disturbed / blocks:.1%} of {counted(blocks, 'sub-block')} disturbed"
    elapsed = sum(session.elapsed for session in sessions)
    stolen = sum(session.steal for session in sessions)
    all_cores = run.started.machine.get("logical_cores") or cores or 1
    if elapsed and stolen > STOLEN * elapsed * all_cores:
        said += f"; the hypervisor took {stolen / elapsed / all_cores:.0%} of the processor time"
    return said


def caution(rows: Sequence[Row]) -> str:
    """Which rows other processes affected, and what to do; empty without any."""
    affected = [row for row in rows if row.interference]
    if not affected:
        return ""
    by_processor = sum(row.clock in (Clock.PROCESSOR, MIXED) for row in affected)
    without = sum(row.seconds is None for row in affected)
    parts = []
    if by_processor:
        parts.append(f"{by_processor} compared by processor time")
    if without:
        parts.append(f"{without} too disturbed to decide")
    listed = f" ({', '.join(parts)})" if parts else ""
    return (
        f"other processes disturbed {counted(len(affected), 'case')}{listed}: 'gradbench show"
        " --all' names them, 'gradbench doctor' measures the noise. Stop them and measure again."
    )
