"""What a device can do at most: how fast it copies, and how fast it multiplies matrices.

Measured once a run in a process of its own, so that a time can be stated as a share of it. Both
are the best of what was tried: a limit that nothing measured here has beaten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from gradbench.core.cases import TF32
from gradbench.problems.operators import torch_dtype
from gradbench.worker.devices import MIB, exactness, largest_cache, synchronizer

BEYOND = 4
"""What is copied is so many times as large as the last-level cache, within the bounds below."""

LEAST_COPIED, MOST_COPIED = 64 * MIB, 512 * MIB

SPEND = 0.2
"""Seconds for the copies, and for the products of one dtype."""

FEWEST = 3
"""Calls of one kind at least, the first of which is not counted."""

SMALLEST, LARGEST = 256, 8192
"""Rows of the square matrices: doubled while a product leaves time for the next."""

GROWTH = 8
"""A product of matrices with twice the rows takes so many times as long."""

Clock = Callable[[], float]


def measure(
    device: torch.device,
    threads: int,
    dtypes: Iterable[str],
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """The limits of a device with so many threads.

    `bandwidth`: bytes per second that a copy reads and writes together. `rates`: floating-point
    operations per second of a product of square matrices, by the names of the dtypes; one that the
    device cannot multiply is left out. `cache`: bytes of its last-level cache.
    """
    torch.set_num_threads(threads)
    wait = synchronizer(device) or (lambda: None)
    cache = largest_cache(device)
    rates = {}
    for dtype in dtypes:
        exactness(device, dtype == TF32)
        try:
            rates[dtype] = _rate(device, torch_dtype(dtype), wait, clock)
        except RuntimeError:
            # Not every device multiplies every dtype, and none has to have the memory.
            continue
    return {"bandwidth": _bandwidth(device, cache, wait, clock), "rates": rates, "cache": cache}


def _bandwidth(device: torch.device, cache: int, wait: Callable[[], None], clock: Clock) -> float:
    size = max(LEAST_COPIED, min(MOST_COPIED, BEYOND * cache))
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * size / _fastest(lambda: target.copy_(source), wait, clock, SPEND)


def _rate(
    device: torch.device, dtype: torch.dtype, wait: Callable[[], None], clock: Clock
) -> float:
    best, rows, left = 0.0, SMALLEST, SPEND
    while rows <= LARGEST:
        a = torch.ones(rows, rows, dtype=dtype, device=device)
        began = clock()
        took = _fastest(partial(torch.matmul, a, a), wait, clock, 0.0)
        left -= clock() - began
        best = max(best, 2 * rows**3 / took)
        if FEWEST * GROWTH * took > left:
            break
        rows *= 2
    return best


def _fastest(
    call: Callable[[], Any], wait: Callable[[], None], clock: Clock, spend: float
) -> float:
    """Seconds of the fastest of FEWEST calls or more, as many as `spend` seconds allow."""
    call()
    wait()
    best, made, began = float("inf"), 1, clock()
    while made < FEWEST or clock() - began < spend:
        start = clock()
        call()
        wait()
        best = min(best, clock() - start)
        made += 1
    return max(best, 1e-9)
