"""Measures the limits of a device: memory bandwidth and the rate of matmuls.

They are measured once a run in a separate process; tables state times as a share of them. Each is
the best of several attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from gradbench.core.cases import TF32
from gradbench.problems.operators import torch_dtype
from gradbench.worker.devices import MIB, largest_cache, set_tf32, synchronizer

BEYOND = 4
"""How many times larger than the last-level cache the copied data is, within bounds:"""

LEAST_COPIED, MOST_COPIED = 64 * MIB, 512 * MIB

SPEND = 0.2
"""Seconds for all copies, and for all matmuls of one dtype."""

FEWEST = 3
"""The least number of calls, the first of which is not timed."""

SMALLEST, LARGEST = 256, 8192
"""Rows of the square matrices, doubled as long as the time allows."""

GROWTH = 8
"""How many times longer a matmul takes with twice the rows."""

Clock = Callable[[], float]


def measure(
    device: torch.device,
    threads: int,
    dtypes: Iterable[str],
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """The limits of a device at that number of threads.

    `bandwidth`: bytes per second that a copy reads and writes together. `rates`: floating-point
    operations per second of a square matmul by dtype, without dtypes that the device cannot
    multiply. `cache`: bytes of the last-level cache.
    """
    torch.set_num_threads(threads)
    wait = synchronizer(device) or (lambda: None)
    cache = largest_cache(device)
    rates = {}
    for dtype in dtypes:
        set_tf32(device, dtype == TF32)
        try:
            rates[dtype] = _rate(device, torch_dtype(dtype), wait, clock)
        except RuntimeError:
            # The device cannot multiply this dtype, or has too little memory.
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
    best, rows, seconds_left = 0.0, SMALLEST, SPEND
    while rows <= LARGEST:
        a = torch.ones(rows, rows, dtype=dtype, device=device)
        start = clock()
        fastest = _fastest(partial(torch.matmul, a, a), wait, clock, 0.0)
        seconds_left -= clock() - start
        best = max(best, 2 * rows**3 / fastest)
        if FEWEST * GROWTH * fastest > seconds_left:
            break
        rows *= 2
    return best


def _fastest(
    call: Callable[[], Any], wait: Callable[[], None], clock: Clock, spend: float
) -> float:
    """Seconds of the fastest of at least FEWEST calls, and more while `spend` seconds allow."""
    call()
    wait()
    best, calls, began = float("inf"), 1, clock()
    while calls < FEWEST or clock() - began < spend:
        start = clock()
        call()
        wait()
        best = min(best, clock() - start)
        calls += 1
    return max(best, 1e-9)
