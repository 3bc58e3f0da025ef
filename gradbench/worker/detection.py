"""Counts the instructions of a visit with and without looking for interference.

`gradbench.studies.detection` runs it under Callgrind. The callable is the derivative of 3 x² by
`backward`, of about 20 µs; the counts are of user space, so what the kernel does for a system call
is not in them.
"""

from __future__ import annotations

import json
import statistics
from itertools import repeat

import torch

from gradbench.worker.instruments.callgrind import Callgrind
from gradbench.worker.instruments.wall import WallTime, plan
from gradbench.worker.interference import processor

CALL = 20_000
"""Nanoseconds of the call, from which its visit is planned."""

VISITS = 15


def main() -> None:
    torch.set_num_threads(1)
    x = torch.linspace(0, 1, 64, requires_grad=True)

    def call() -> None:
        x.grad = None
        (3 * x**2).sum().backward()

    counter, how, turns = Callgrind(), plan(CALL), repeat(())
    ways = {"without": WallTime(), "with": WallTime(processor=processor())}
    counts: dict[str, list[int]] = {name: [] for name in ways}
    for _ in repeat(None, VISITS):
        for name, wall in ways.items():
            # Under Valgrind every sub-block may look disturbed, and the visit be made again.
            counts[name].append(counter.count(wall._visit, (call, turns, how), 1))
    print(json.dumps({name: statistics.median(found) for name, found in counts.items()}))


if __name__ == "__main__":
    main()
