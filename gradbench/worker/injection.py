"""Injects a slowdown of known size: a counted loop before each measured call.

The loop is work of the interpreter: it scales with the core's clock as the call does, and
background load affects both alike. Both sides of a comparison are wrapped, the reference with a few
turns of the loop, so that the cost of the wrapper cancels. The cost of a turn is calibrated in
place, from calls with few and with many turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

from gradbench.worker.instruments.wall import Turns, Visit, WallTime
from gradbench.worker.interference import Visited

PROBE = 0.5
"""The slowdown of the call during calibration, as a share of its time."""

FEW = 16
"""Turns of the reference's loop."""

FEWEST, MOST = 5, 60
"""The least number of pairs of visits of a calibration, and the most, where a turn seems to cost
what it cannot: on a busy machine half the pairs may have had other processes beside one side."""

TURN = 2.0, 80.0
"""The nanoseconds that a turn of the loop costs, at least and at most."""


def slowed(call: Callable[..., Any], turns: int) -> Callable[..., Any]:
    """The call after `turns` turns of an empty loop, besides the reference's few."""
    turns += FEW

    def slow(*arguments: Any) -> Any:
        for _ in repeat(None, turns):
            pass
        return call(*arguments)

    return slow


def repeated(call: Callable[..., Any], times: int) -> Callable[..., Any]:
    """A call so many times as long, of the same work: it repeats the call."""
    if times == 1:
        return call

    def long(*arguments: Any) -> Any:
        for _ in repeat(None, times - 1):
            call(*arguments)
        return call(*arguments)

    return long


def _least(visited: Visited) -> int:
    return min(visited.cpu or visited.wall)


@dataclass(frozen=True)
class Slowdown:
    """The turns that slow a call of `call` nanoseconds by `share`, as calibrated."""

    turns: int
    share: float
    call: float


def calibrate(
    wall: WallTime,
    call: Callable[..., Any],
    arguments: Turns,
    how: Visit,
    share: float,
    spend: int,
) -> Slowdown:
    """The slowdown nearest to `share`, from alternating visits for `spend` nanoseconds."""
    if share <= 0:
        return Slowdown(0, 0.0, float(how.call))
    # A turn costs some 8 ns.
    probe = max(10, round(PROBE * how.call / 8))
    sides = (slowed(call, 0), slowed(call, probe))
    start = wall.clock()
    plain: list[float] = []
    extra: list[float] = []
    turn_time = 0.0
    while (
        len(plain) < FEWEST
        or wall.clock() - start < spend
        or (len(plain) < MOST and not TURN[0] <= turn_time <= TURN[1])
    ):
        base, more = (_least(wall.visit(side, arguments, how)) / how.number for side in sides)
        plain.append(base)
        extra.append(more - base)
        turn_time = median(extra) / probe
    call_time = median(plain)
    turn_time = min(max(turn_time, TURN[0]), TURN[1])
    turns = round(share * call_time / turn_time)
    return Slowdown(turns, turns * turn_time / call_time, call_time)
