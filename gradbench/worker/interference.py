"""Whether a timed call had its processor to itself.

Other processes that want the core show in three ways: the thread's processor time falls behind the
clock on the wall, the system counts involuntary switches, and a hypervisor takes time that neither
accounts for. A call that waits by itself, as for a file or another thread, is switched voluntarily.
docs/measuring.md has the measurements behind the rules.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

AWAY, AWAY_SHARE = 10_000, 0.01
"""A sub-block is disturbed if the thread was away from the processor for more nanoseconds than
this, and this share of the sub-block."""

OTHERS, OTHERS_SHARE = 20_000, 0.02
"""Other threads took part if they used more processor time than this, and this share of the
thread's own."""


class Look(NamedTuple):
    """What the system has counted of this process at one moment."""

    process: int
    """Nanoseconds of processor time of all threads."""
    thread: int
    """The same of this one."""
    voluntary: int
    involuntary: int
    """How often this thread gave the processor up, for want of work and to another thread."""


class Processor:
    """Reads the processor time and the switches of the calling thread."""

    def __init__(self) -> None:
        self.thread: Callable[[], int] = time.thread_time_ns
        """Nanoseconds of processor time that this thread has used."""
        reads = [self.thread() for _ in range(20)]
        self.cost = max(0, min(b - a for a, b in itertools.pairwise(reads)))
        """Nanoseconds of processor time that such a read takes itself."""
        self.last: Look | None = None
        """The look that ended the last visit, where the next one follows at once: each is a system
        call or two."""

    def look(self, thread: int | None = None) -> Look:
        """A look now, or at a moment when this thread's processor time was read."""
        used = resource.getrusage(_WHO)
        thread = self.thread() if thread is None else thread
        return Look(time.process_time_ns(), thread, used.ru_nvcsw, used.ru_nivcsw)


if resource is not None:
    # Without counts for a thread those of the process serve: it has hardly any other.
    _WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


@functools.cache
def processor() -> Processor | None:
    """The system's account of the calling thread; None where it keeps none."""
    return Processor() if resource is not None and hasattr(time, "thread_time_ns") else None


def look() -> Look | None:
    known = processor()
    return None if known is None else known.look()


def own_time(wall: int, before: Look | None, after: Look | None) -> int:
    """Nanoseconds of one call between two looks: in processor time where it ran in this thread
    alone."""
    if before is None or after is None:
        return wall
    return min([wall, *judged([wall], [after.thread - before.thread], before, after).cpu])


@dataclass
class Visited:
    """What a visit measured.

    `wall` has the nanoseconds of each sub-block. `cpu` has the thread's processor time in each, or
    their mean, and is empty where that is not what the calls took: other threads worked, or the
    thread waited.
    `disturbed` are the positions of the sub-blocks in which others had the processor.
    """

    wall: list[int]
    cpu: list[int]
    disturbed: list[int]

    def __add__(self, other: Visited) -> Visited:
        """Both visits as one; without processor times where one has none."""
        cpu = self.cpu + other.cpu if self.cpu and other.cpu else []
        moved = [len(self.wall) + position for position in other.disturbed]
        return Visited(self.wall + other.wall, cpu, self.disturbed + moved)


def judged(wall: list[int], cpu: list[int], before: Look, after: Look) -> Visited:
    """A visit from the times of its sub-blocks and two looks, before the first and after the last.

    Time away from the processor is a disturbance where the thread was switched involuntarily, or
    not at all: then a hypervisor or an interrupt had it. Where sub-blocks share a reading of the
    processor time, those that took longer than their share were disturbed.
    """
    waited = after.voluntary > before.voluntary
    interrupted = after.involuntary > before.involuntary
    own = after.thread - before.thread
    others = after.process - before.process - own
    alone = not waited and others <= max(OTHERS, OTHERS_SHARE * own)
    disturbed: list[int] = []
    if sum(wall) - sum(cpu) > AWAY and (interrupted or not waited):
        disturbed = [
            position
            for position, (total, used) in enumerate(zip(wall, cpu))
            if total - used > max(AWAY, AWAY_SHARE * total)
        ]
    return Visited(wall, cpu if alone else [], disturbed)
