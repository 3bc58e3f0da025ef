"""A slowdown of known size: a counted loop in front of the measured call.

It is real work of the interpreter, so it scales with the clock of the core as the call does, and
a neighbour takes the same share of both. Both sides of a comparison are wrapped, the reference
with a few turns, so that what wrapper and loop cost by themselves cancels. The cost of one more
turn is found in place, from the call with many and with few. Worker's side: the standard library
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

from gradbench.worker.instruments.wall import Turns, Visit, WallTime

PROBE = 0.5
"""The share by which the call is slowed while the cost of a turn is found."""

FEW = 16
"""The turns of the reference."""

FEWEST = 5
"""Pairs of visits that a calibration makes at least."""


def slowed(call: Callable[..., Any], turns: int) -> Callable[..., Any]:
    """The same call after `turns` turns of an empty loop, besides the reference's few."""
    turns += FEW

    def slow(*arguments: Any) -> Any:
        for _ in repeat(None, turns):
            pass
        return call(*arguments)

    return slow


@dataclass(frozen=True)
class Dose:
    """Turns that make a call slower by `share` of its own `call` nanoseconds, as calibrated."""

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
) -> Dose:
    """The dose nearest to `share`, from alternate visits for `spend` nanoseconds."""
    if share <= 0:
        return Dose(0, 0.0, float(how.call))
    # An upper bound of a turn's cost is enough to choose the probe.
    probe = max(10, round(PROBE * how.call / 8))
    sides = (slowed(call, 0), slowed(call, probe))
    start = wall.clock()
    plain: list[float] = []
    extra: list[float] = []
    while len(plain) < FEWEST or wall.clock() - start < spend:
        base, more = (min(wall.visit(side, arguments, how)) / how.number for side in sides)
        plain.append(base)
        extra.append(more - base)
    own = median(plain)
    turn = max(median(extra) / probe, 1e-3)
    turns = round(share * own / turn)
    return Dose(turns, turns * turn / own, own)
