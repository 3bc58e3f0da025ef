"""One pair measured by the suite's protocol: two contestants, random rounds, visit minima."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradbench.runner.session import visits
from gradbench.runner.wire import Worker, WorkerRefused
from gradbench.statistics import Stopping, enough
from gradbench.studies.rules import stored

CALIBRATION = 20_000_000
"""Nanoseconds spent on finding the turns of one injected slowdown."""


@dataclass(frozen=True)
class Side:
    """A prepared contestant: where it lives and how it is visited."""

    worker: Worker
    handle: int
    visit: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Visit minima of both sides, seconds, one per round; seconds inside visits and in all."""

    first: list[float]
    second: list[float]
    stopped: str
    visiting: float
    wall: float

    @property
    def log_ratios(self) -> list[int]:
        """Second over first: above 0 the second is slower."""
        return stored(self.second, self.first)

    @property
    def seconds(self) -> float:
        return float(np.median(self.first)) if self.first else math.nan


def open_comparison(worker: Worker, comparison: str, seed: int, timeout: float) -> None:
    worker.request("open", timeout, comparison=comparison, salt=seed, fresh=[1])


def prepare(worker: Worker, mode: str, handle: int, warm: float, timeout: float) -> Side:
    """Builds, gates and warms one contestant. Raises WorkerRefused where it is not to be timed."""
    answer = worker.request(
        "prepare", timeout, mode=mode, handle=handle, warm=int(warm * 1e9), fresh=[0]
    )
    visit = answer.get("visit")
    if visit is None:
        raise WorkerRefused(f"{mode}: {answer['status']}: {answer.get('reason', '')}")
    return Side(worker, handle, visit)


def inject(sides: Sequence[Side], share: float, timeout: float) -> float:
    """Slows the second side by a share of its time, and wraps the first alike; the dose given."""
    first, second = sides
    first.worker.request("slow", timeout, handle=first.handle, share=0.0, spend=0)
    dose = second.worker.request(
        "slow", timeout, handle=second.handle, share=share, spend=CALIBRATION
    )
    return float(dose["share"])


def measure(
    first: Side, second: Side, stopping: Stopping, chance: random.Random, timeout: float
) -> Measured:
    """Rounds until the stopping rule says so.

    In one process a batch of rounds is one message; in two the workers take turns, visit by visit.
    """
    together = first.worker is second.worker
    sides = (first, second)
    samples: tuple[list[float], list[float]] = ([], [])
    spent = 0.0
    began = time.perf_counter()
    why = None
    while why is None:
        batch = max(1, min(stopping.every, stopping.max_rounds - len(samples[0])))
        order: list[int] = []
        for _ in range(batch):
            order += chance.sample((0, 1), 2)
        if together:
            answers = [_visits(first.worker, [sides[i] for i in order], timeout)]
        else:
            answers = [_visits(sides[i].worker, [sides[i]], timeout) for i in order]
        blocks = [found for answer, _ in answers for found in answer]
        spent += sum(seconds for _, seconds in answers)
        for i, found in zip(order, blocks):
            samples[i].append(min(found) / sides[i].visit["number"] * 1e-9)
        why = enough(np.array(samples).T, spent, stopping)
    return Measured(samples[0], samples[1], why, spent, time.perf_counter() - began)


def _visits(worker: Worker, sides: Sequence[Side], timeout: float) -> tuple[list[list[int]], float]:
    return visits(worker, timeout, [s.handle for s in sides], [s.visit for s in sides])
