"""The same code against itself: the false positive rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradbench.core.cases import Case
from gradbench.studies.engine import Step, shuffled
from gradbench.studies.tally import SESSIONS, false_alarms

rows = false_alarms

PROCESSES = 20
"""The processes over which single-process trials are spread: five times four."""


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Pairs of two instances of one mode, spread over processes and cases.

    In one process: `trials` comparisons with the whole budget each, and `comparisons` by the full
    protocol, a fifth of the budget in each of five processes. Between processes: `trials`
    comparisons of `pairs` pairs of processes.
    """
    trials, budget = settings["trials"], settings["budget"]
    if settings["between"]:
        return between(cases, trials, budget, (0.0,), settings["pairs"], settings["seed"])
    processes = max(1, min(PROCESSES, trials // len(cases)))
    steps = [
        Step("process", cases[i % len(cases)], i // len(cases) % processes, i, budget)
        for i in range(trials)
    ]
    steps += sessions(cases, settings["comparisons"], budget, (0.0,))
    return shuffled(steps, settings["seed"])


def sessions(
    cases: Sequence[Case], comparisons: int, budget: float, shares: Sequence[float]
) -> list[Step]:
    """Comparisons by the full protocol: five processes, all cases and slowdowns in each."""
    sets = max(1, PROCESSES // SESSIONS)
    return [
        Step(
            "session",
            cases[i % len(cases)],
            SESSIONS * (i // len(cases) % sets) + process,
            i,
            budget / SESSIONS,
            share,
        )
        for i in range(comparisons)
        for process in range(SESSIONS)
        for share in shares
    ]


def between(
    cases: Sequence[Case],
    trials: int,
    budget: float,
    shares: Sequence[float],
    pairs: int,
    seed: int,
) -> list[Step]:
    """Comparisons of two processes of the same build, by several pairs of them each."""
    steps = [
        Step(
            "between",
            cases[i % len(cases)],
            pairs * (i // len(cases)) + pair,
            i,
            budget / pairs,
            share,
        )
        for i in range(trials)
        for pair in range(pairs)
        for share in shares
    ]
    return shuffled(steps, seed)
