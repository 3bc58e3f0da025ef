"""The two clocks of a visit, and which of them compares contestants.

A ratio has the same clock on both sides. On a quiet machine that is the wall clock, of undisturbed
sub-blocks alone. Calls that outlast a time slice have none on a busy machine; then all contestants
of a session are compared by the processor time of their thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradbench.core.verdicts import Word

USABLE = 0.5
"""The share of a contestant's visits with an undisturbed sub-block that the wall clock needs."""


class Clock(Word):
    WALL = "wall"
    PROCESSOR = "processor"


@dataclass(frozen=True)
class Visits:
    """One contestant's visits in seconds per call; NaN in rounds that it sat out.

    `wall` is the fastest undisturbed sub-block of each visit, NaN where there is none. `processor`
    is the mean processor time of its sub-blocks, NaN where it is not known: an empty list if it
    never is. (A minimum would find the fast moments of a shared core for short calls alone.)
    `raw` is the fastest sub-block, disturbed or not. `disturbed` of `blocks` sub-blocks were so.
    """

    wall: Sequence[float]
    processor: Sequence[float]
    raw: Sequence[float]
    disturbed: int = 0
    blocks: int = 0

    @classmethod
    def of(
        cls,
        number: int,
        samples: Sequence[Sequence[int]],
        cpu: Sequence[Sequence[int]] = (),
        disturbed: Sequence[Sequence[int]] = (),
    ) -> Visits:
        """From the nanoseconds of sub-blocks of `number` calls, their processor times, and the
        positions of the disturbed ones; a list per visit each."""
        raw = _least(number, samples)
        wall = raw
        if any(disturbed):
            wall = _least(
                number,
                [
                    [block for place, block in enumerate(blocks) if place not in marks]
                    for blocks, marks in zip(samples, disturbed)
                ],
            )
        return cls(
            wall,
            _mean(number, cpu) if any(cpu) else [],
            raw,
            sum(map(len, disturbed)),
            sum(map(len, samples)),
        )

    @property
    def usable(self) -> bool:
        """Whether enough visits have an undisturbed sub-block."""
        timed = sum(t == t for t in self.raw)
        return sum(t == t for t in self.wall) >= USABLE * timed

    @property
    def share(self) -> float:
        """The share of its sub-blocks that were disturbed."""
        return self.disturbed / self.blocks if self.blocks else 0.0

    @property
    def least(self) -> float:
        """Seconds of the fastest call: in processor time where that is known."""
        return min((t for t in (*self.raw, *self.processor) if t == t), default=math.nan)

    def by(self, clock: Clock) -> Sequence[float]:
        """Seconds per call of each visit by this clock; NaN where it does not tell."""
        if clock is Clock.WALL:
            return self.wall
        return self.processor or [math.nan] * len(self.raw)


def _mean(number: int, visits: Sequence[Sequence[int]]) -> list[float]:
    return [sum(own) / len(own) / number * 1e-9 if own else math.nan for own in visits]


def _least(number: int, visits: Sequence[Sequence[int]]) -> list[float]:
    return [min(blocks) / number * 1e-9 if blocks else math.nan for blocks in visits]


def clock_of(contestants: Iterable[Visits]) -> Clock:
    """The clock that compares these: the processor's where one that has such a time ran
    undisturbed in too few visits."""
    busy = any(not own.usable and own.processor for own in contestants)
    return Clock.PROCESSOR if busy else Clock.WALL
