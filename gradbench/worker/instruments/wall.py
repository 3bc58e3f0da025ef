"""Wall time of a call: visits with a few short sub-blocks.

Short visits are what makes ratios precise: what disturbs a shared processor lasts, so contestants
that follow each other sooner see the same of it. Sub-blocks are as short as the cost of the clocks
allows. Each visit starts with untimed calls, since the first ones after a switch of contestant are
cold (docs/measuring.md has the numbers). Beside the wall clock stands the thread's processor time:
where the two part, another process had the core, and the sub-block is marked as disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

from gradbench.worker.interference import Processor, Visited, judged

Clock = Callable[[], int]
Turns = Iterator[tuple[Any, ...]]
"""The arguments of successive calls, without end."""

BLOCK, DEVICE_BLOCK = 100_000, 250_000
"""The target length of a sub-block, in nanoseconds; longer on a device, which is waited for at both
ends."""

COLD, WARMTH = 4, 400_000
"""A visit begins with so many untimed calls, or as many as take so many nanoseconds, if fewer."""

GLANCE = 2
"""The sub-blocks of a glance: a call's time is estimated by the fastest of some glances."""

MILLISECOND = 1_000_000

ALONE = MILLISECOND
"""Sub-blocks of so many nanoseconds have a reading of the thread's processor time each. It is a
system call, after which the next calls are slower; shorter sub-blocks share one."""

TRIES = 3
SLICE = 2 * MILLISECOND
"""A visit without an undisturbed sub-block is made TRIES times at most, if a sub-block can end
between two switches: the system takes the processor away after some milliseconds."""

SETTLED, QUIET, MOST_SETTLING = 0.9, 3, 50
"""A device has settled after QUIET calls in a row that are less than a tenth faster than the best
one, or after MOST_SETTLING calls."""


@dataclass(frozen=True)
class Visit:
    """The plan of a visit: `untimed` calls, then `blocks` sub-blocks of `number` calls.

    `call` is the time of a call in nanoseconds, as estimated while warming up.
    """

    number: int
    blocks: int
    untimed: int
    call: int


def plan(call: int, block: int = BLOCK) -> Visit:
    """The visit for calls of that many nanoseconds.

    Long calls are less disturbed and get fewer repeats: up to 2 ms five sub-blocks after one to
    four untimed calls, up to 20 ms three after one, and a single call beyond that.
    """
    call = max(call, 1)
    number = max(1, round(block / call))
    if call <= 2 * MILLISECOND:
        return Visit(number, 5, min(COLD, max(1, round(WARMTH / call))), call)
    if call <= 20 * MILLISECOND:
        return Visit(1, 3, 1, call)
    return Visit(1, 1, 0, call)


def glance(how: Visit) -> Visit:
    """A short visit, which tells about how long a call takes."""
    return replace(how, blocks=min(GLANCE, how.blocks), untimed=min(1, how.untimed))


@dataclass
class WallTime:
    """Measures nanoseconds on the host, including the wait for a device.

    With `flush` each call is timed alone, after its data was evicted from the caches. Without
    a `processor`, as on devices, interference is not looked for.
    """

    clock: Clock = time.perf_counter_ns
    synchronize: Callable[[], None] | None = None
    flush: Callable[[], None] | None = None
    processor: Processor | None = None

    def _block(self, call: Callable[..., Any], turns: Turns, number: int) -> int:
        clock, synchronize = self.clock, self.synchronize
        if synchronize is not None:
            synchronize()
        start = clock()
        for arguments in islice(turns, number):
            call(*arguments)
        if synchronize is not None:
            synchronize()
        return clock() - start

    def _blocks(
        self, call: Callable[..., Any], turns: Turns, number: int, blocks: int, lasts: int = 0
    ) -> Visited:
        """The times of so many sub-blocks, each of which lasts about so many nanoseconds.

        Short ones share a reading of the thread's processor time, and have equal parts of it.
        """
        processor, flush = self.processor, self.flush
        wall: list[int] = []
        if processor is None:
            for _ in repeat(None, blocks):
                if flush is not None:
                    flush()
                wall.append(self._block(call, turns, number))
            return Visited(wall, [], [])
        thread, cost, cpu = processor.thread, processor.cost, []
        before = processor.last or processor.look()
        together = 1 if flush is not None or lasts >= ALONE else blocks
        start = thread()
        for _ in repeat(None, blocks // together):
            if flush is not None:
                flush()
                start = thread()
            for _ in repeat(None, together):
                wall.append(self._block(call, turns, number))
            end = thread()
            cpu += [max(1, (end - start - cost) // together)] * together
            start = end
        processor.last = processor.look(start)
        return judged(wall, cpu, before, processor.last)

    def begin(self) -> None:
        """Called before visits that follow each other at once."""
        if self.processor is not None:
            self.processor.last = None

    def warm(self, call: Callable[..., Any], turns: Turns, spend: int) -> Visit:
        """Calls for `spend` nanoseconds, at least twice, and plans the visits.

        The plan uses the fastest block, since the first calls are cold; in processor time where
        that is known, so that other processes do not change it.
        """
        start = self.clock()
        if self.synchronize is not None:
            self._settle(call, turns)
        best = self._least(call, turns, 1)
        number = 1
        while True:
            best = min(best, self._least(call, turns, number))
            spent = self.clock() - start
            if spent >= spend:
                return self.planned(best)
            if self.flush is not None:
                continue
            number = max(1, min(self._block_length, spend - spent) // best)

    def planned(self, call: int) -> Visit:
        """The visit for calls of that many nanoseconds by this clock."""
        how = plan(call, self._block_length)
        return how if self.flush is None else replace(how, number=1)

    @property
    def _block_length(self) -> int:
        return BLOCK if self.synchronize is None else DEVICE_BLOCK

    def _least(self, call: Callable[..., Any], turns: Turns, number: int) -> int:
        """Nanoseconds that a call takes, from one block."""
        self.begin()
        block = self._blocks(call, turns, number, 1)
        return max(1, min(block.wall + block.cpu) // number)

    def _settle(self, call: Callable[..., Any], turns: Turns) -> None:
        """Calls until the time of a call stops falling.

        The first calls on a device create its context, load kernels, and may tune them.
        """
        best, since = self._least(call, turns, 1), 0
        for _ in repeat(None, MOST_SETTLING):
            now = self._least(call, turns, 1)
            since = 0 if now < SETTLED * best else since + 1
            best = min(best, now)
            if since >= QUIET:
                return

    def visit(self, call: Callable[..., Any], turns: Turns, how: Visit) -> Visited:
        """One visit: the times of each sub-block of ``how.number`` calls.

        Where all sub-blocks were disturbed and are short, it is made again, and has them all.
        """
        visited = self._visit(call, turns, how)
        for _ in repeat(None, TRIES - 1):
            short = min(visited.cpu or visited.wall) <= SLICE
            if len(visited.disturbed) < len(visited.wall) or not short:
                break
            visited += self._visit(call, turns, how)
        return visited

    def _visit(self, call: Callable[..., Any], turns: Turns, how: Visit) -> Visited:
        for arguments in islice(turns, how.untimed):
            call(*arguments)
        lasts = how.number * how.call
        return self._blocks(call, turns, how.number, how.blocks, lasts)
