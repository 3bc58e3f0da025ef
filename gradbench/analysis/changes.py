"""Two stored runs, compared case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradbench import statistics
from gradbench.analysis import table
from gradbench.analysis.runs import settled
from gradbench.analysis.table import Changes
from gradbench.core.cases import Case, nothing_fits
from gradbench.core.clocks import Clock, Visits, clock_of
from gradbench.core.families import family_of, of_families
from gradbench.core.verdicts import Status
from gradbench.store.environment import COMPARED, WorkerEnvironment
from gradbench.store.runs import Run


@dataclass(frozen=True, kw_only=True)
class Change(table.Change):
    """One case in both runs."""

    old: float
    new: float
    """Seconds per call."""


class Compared(Changes[Change], frozen=True, kw_only=True):
    """All cases that two runs share, what differs between their builds, and what only one has."""

    old: str
    new: str
    differences: list[str]
    only: list[str]


def compare(
    old: Run,
    new: Run,
    floor: float = statistics.RELEASE_FLOOR,
    confidence: float = statistics.CONFIDENCE,
    method: str = "benjamini-hochberg",
    families: Sequence[str] = (),
    **filters: tuple[str, ...],
) -> Compared:
    """Judges every case that both runs timed, with false positives controlled over the table.

    `filters`: globs by functions, operators, modes, sizes, dtypes, devices. Raises ValueError where
    the runs have no case in common, or none of these `families`.
    """
    if families:
        old, new = _of_families(old, families), _of_families(new, families)
    times_old, times_new = _times(old, filters), _times(new, filters)
    shared = [case for case in times_old if case in times_new]
    if not shared:
        if any(filters.values()) and not (times_old or times_new):
            everything = [
                case for run in (old, new) for entry in run.started.plan for case in entry.cases
            ]
            raise ValueError(nothing_fits(everything, **filters))
        raise ValueError(f"{old.name} and {new.name} have no timed case in common")
    timed = [_by_one_clock(times_old[case], times_new[case]) for case in shared]
    estimates = [statistics.compare_runs(b, a, floor, confidence) for a, b in timed]
    verdicts, judging = table.judge(estimates, floor, confidence, method)
    changes = [
        Change(
            case=case,
            estimate=estimate,
            verdict=verdict,
            q=q,
            old=_seconds(before),
            new=_seconds(after),
        )
        for case, (before, after), estimate, (verdict, q) in zip(shared, timed, estimates, verdicts)
    ]
    only = []
    for run, mine, other in ((old, times_old, times_new), (new, times_new, times_old)):
        lone = sum(case not in other for case in mine)
        if lone:
            only.append(f"{lone} cases were timed in {run.name} alone")
    return Compared(
        changes=changes,
        **judging,
        old=old.name,
        new=new.name,
        differences=_differences(old, new),
        only=only,
    )


def _of_families(run: Run, wanted: Sequence[str]) -> Run:
    """The run without the sessions of other families."""
    known = run.started.families

    def family(name: str) -> str:
        return family_of(name, known)

    there = [family(entry.comparison.function) for entry in run.started.plan]
    kept = set(of_families(there, wanted, str))
    sessions = [s for s in run.sessions if family(s.comparison.function) in kept]
    return replace(run, sessions=sessions)


def _times(run: Run, filters: dict[str, tuple[str, ...]]) -> dict[Case, list[Visits]]:
    """Each timed case's visits, one `Visits` per session."""
    bad = {
        comparison.case(mode)
        for comparison, sessions in run.by_comparison().items()
        for mode, entrant in settled(sessions).items()
        if entrant.status != Status.OK
    }
    times: dict[Case, list[Any]] = {}
    for session in run.sessions:
        for entrant in session.entrants:
            if entrant.control or entrant.status != Status.OK:
                continue
            case = session.comparison.case(entrant.mode)
            if case in bad or not case.matches(**filters):
                continue
            visits = entrant.visits
            if any(t == t for t in visits.raw):
                times.setdefault(case, []).append(visits)
    return times


def _by_one_clock(old: list[Visits], new: list[Visits]) -> tuple[list[Any], list[Any]]:
    """The times of both runs in seconds, an array per session with one."""
    clock = clock_of([*old, *new])
    if not all(own.processor for own in (*old, *new)):
        # An older log has no processor times.
        clock = Clock.WALL
    timed = ([np.array(own.by(clock)) for own in side] for side in (old, new))
    first, second = ([t for t in side if not np.isnan(t).all()] for side in timed)
    return first, second


def _seconds(sessions: list[Any]) -> float:
    """The median of the sessions' medians; NaN where no visit counts."""
    if not sessions:
        return math.nan
    return float(np.median([math.exp(statistics.session_time(t).median) for t in sessions]))


def _differences(old: Run, new: Run) -> list[str]:
    found = []
    for key in ("cpu", "cores", "governor", "turbo", "gpu_driver"):
        a, b = old.started.machine.get(key), new.started.machine.get(key)
        if a != b:
            found.append(f"{key}: {a} → {b}")
    first, second = (WorkerEnvironment.of(run.first_environment) for run in (old, new))
    changed = first.differences(second, COMPARED)
    return found + [f"{name}: {a} → {b}" for name, a, b in changed]
