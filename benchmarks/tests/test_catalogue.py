"""`pytest benchmarks/`: a test per case, a group per comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gradbench.core.cases import Case

MOST_ROUNDS = 1000

waits: list[Callable[[], None]] = []
"""What waits for the device of the case that is timed; none on the processor."""


def clock() -> float:
    """Seconds, read when the device has done what was queued on it."""
    for wait in waits:
        wait()
    return time.perf_counter()


@pytest.mark.benchmark(disable_gc=True, timer=clock)
def test_mode(case: Case, engine: Any, benchmark: Any) -> None:
    """Passes the gate, is timed, and is checked once more."""
    benchmark.group = str(case.comparison)
    benchmark.name = case.mode
    contestant, how, found = engine.enter(case)
    block = how.number * how.call * 1e-9
    benchmark.extra_info.update(
        case=str(case), untimed=how.number, error=found["error"], ulps=found["ulps"]
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
        iterations=how.number,
        rounds=max(how.blocks, min(MOST_ROUNDS, int(engine.seconds / block))),
        warmup_rounds=1,
    )
    wrong = engine.check(case)
    if wrong:
        # Its times stay out of the table and out of the file.
        benchmark.has_error = True
        pytest.fail(wrong, pytrace=False)
