"""`pytest benchmarks/`: a test per case, a group per comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gradbench.core.cases import Case

MOST_ROUNDS = 1000

waits: list[Callable[[], None]] = []
"""Synchronizes the device of the case that is timed; empty on the CPU."""


def clock() -> float:
    """Seconds, after the device has finished its queue."""
    for wait in waits:
        wait()
    return time.perf_counter()


@pytest.mark.benchmark(disable_gc=True, timer=clock)
def test_mode(case: Case, engine: Any, benchmark: Any) -> None:
    """The mode passes the gate, is timed, and passes the gate again."""
    benchmark.group = str(case.comparison)
    benchmark.name = case.mode
    contestant, visit, answer = engine.enter(case)
    block = visit.number * visit.call * 1e-9
    benchmark.extra_info.update(
        case=str(case), untimed=visit.number, error=answer["error"], ulps=answer["ulps"]
    )
    wall = engine.session.wall
    waits[:] = [wall.synchronize] if wall.synchronize else []
    call, arguments = contestant.call, contestant.arguments
    if len(contestant.sets) > 1:
        call, arguments = lambda: contestant.call(*next(contestant.turns)), ()
    benchmark.pedantic(
        call,
        args=arguments,
        setup=wall.flush,
        iterations=visit.number,
        rounds=max(visit.blocks, min(MOST_ROUNDS, int(engine.seconds / block))),
        warmup_rounds=1,
    )
    reason = engine.check(case)
    if reason:
        # Keeps the times out of the table and the file.
        benchmark.has_error = True
        pytest.fail(reason, pytrace=False)
