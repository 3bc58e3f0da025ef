"""How noisy this machine is: a short piece of work, repeated, by both clocks."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np
import psutil

from gradbench.runner import machine
from gradbench.statistics import Array

SECONDS = 3.0
WORK = 4_000
"""Turns of the loop: a quarter of a millisecond or less, as a sub-block."""


@dataclass(frozen=True)
class Noise:
    """What disturbed this thread while it worked. Shares are of its time on the wall."""

    away: float
    """The share of the time that it did not have the processor."""
    longest: float
    """Seconds of the longest time away."""
    switches: float
    """Involuntary switches per second."""
    spread: float
    """The same work's processor time, 95th percentile over 5th: neighbours that share the caches
    or the core change it without a switch."""
    stolen: float
    """The share of the machine's processor time that a hypervisor took."""


def listen(seconds: float = SECONDS) -> Noise:
    """Works for some seconds and watches."""
    work = range(WORK)
    wall: list[float] = []
    cpu: list[float] = []
    switches, stolen = _switches(), machine.stolen()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or not wall:
        start, used = time.perf_counter(), time.thread_time()
        for _ in work:
            pass
        cpu.append(time.thread_time() - used)
        wall.append(time.perf_counter() - start)
    spent = time.perf_counter() - began
    return noise(
        np.array(wall),
        np.array(cpu),
        (_switches() - switches) / spent,
        max(0.0, machine.stolen() - stolen) / spent / (psutil.cpu_count() or 1),
    )


def noise(wall: Array, cpu: Array, switches: float, stolen: float) -> Noise:
    """From the seconds of each piece by both clocks, shape (pieces,)."""
    away = np.maximum(wall - cpu, 0.0)
    low, high = np.percentile(cpu, [5, 95])
    return Noise(
        away=float(away.sum() / wall.sum()),
        longest=float(away.max()),
        switches=switches,
        spread=float(high / low),
        stolen=stolen,
    )


def _switches() -> int:
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    return resource.getrusage(who).ru_nivcsw
