"""The instructions of one call, counted by Callgrind.

Background load hardly affects a count, so it shows changes of a fraction of a per cent, which times
cannot. It is no time: instructions differ in cost, and Valgrind's CPU has no AVX-512. Compare
counts of the same mode, not of two modes.
"""

from __future__ import annotations

import platform
import shutil
import statistics
from itertools import repeat

import torch

from gradbench.core.instruments import INSTRUCTIONS
from gradbench.worker.contestant import Contestant
from gradbench.worker.instruments.callgrind import Callgrind
from gradbench.worker.instruments.instrument import Reader, Unreadable

CALLS = 11
"""The most calls that are counted."""

WARM = 5
"""Calls before those, since CPython specialises code that has run a few times."""

ENOUGH = 20_000_000
"""Instructions after which no more calls are counted."""


class Instructions(Reader):
    declared = INSTRUCTIONS

    def __init__(self) -> None:
        self._counter: Callgrind | None = None

    def unavailable(self) -> str | None:
        here = f"{platform.system()} {platform.machine()}"
        if here != "Linux x86_64":
            return f"instructions are counted on Linux x86_64 only, and this is {here}"
        if shutil.which("valgrind") is None:
            return "valgrind is not installed: apt-get install valgrind (or your system's package)"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        if contestant.gate.problem.device.type != "cpu":
            raise Unreadable("unsupported", "instructions are counted on the CPU only")
        if torch.get_num_threads() > 1:
            raise Unreadable("unsupported", "waiting threads spin, so counts do not repeat")
        if self._counter is None:
            self._counter = Callgrind()
        return [count(contestant, self._counter)]


def count(contestant: Contestant, counter: Callgrind) -> float:
    """Instructions per call: the median of single calls, less the cost of marking a call.

    A median of single calls, since one call in many grows a table or tidies a heap.
    """
    call, arguments = contestant.call, contestant.arguments
    first = counter.count(call, arguments, 1)
    number = max(1, min(CALLS, ENOUGH // first))
    for _ in repeat(None, WARM if number > 1 else 0):
        call(*arguments)
    counts = [counter.count(call, arguments, 1) for _ in repeat(None, number)]
    return statistics.median(counts) - counter.count(call, arguments, 0)
