"""A pair of arms, in one worker or in two, visited in rounds."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from gradbench.core.cases import Comparison
from gradbench.core.clocks import Clock, clock_of
from gradbench.runner import arms
from gradbench.runner.arms import Arm
from gradbench.runner.rounds import times_of, visit_in_rounds
from gradbench.runner.wire import Worker, WorkerRefused
from gradbench.statistics import Stopping
from gradbench.studies.rules import stored

CALIBRATION = 20_000_000
"""Nanoseconds for calibrating one injected slowdown."""


@dataclass(frozen=True)
class Measured:
    """Seconds per call of both arms in each round; why the rounds ended, seconds inside visits, and
    the clock."""

    first: list[float]
    second: list[float]
    stopped: str
    visiting: float
    clock: Clock = Clock.WALL

    @property
    def log_ratios(self) -> list[int]:
        """Second over first: above 0 the second is slower."""
        return stored(self.second, self.first)

    @property
    def seconds(self) -> float:
        timed = [t for t in self.first if t == t]
        return float(np.median(timed)) if timed else math.nan


def open_comparison(worker: Worker, comparison: Comparison, seed: int, timeout: float) -> None:
    worker.request("open", timeout, comparison=comparison, salt=seed, fresh=[1])


def prepare(worker: Worker, mode: str, handle: int, warm: float, timeout: float) -> Arm:
    """Builds, gates and warms one mode. Raises WorkerRefused where it is not to be timed."""
    prepared = arms.prepare(worker, mode, timeout, handle=handle, warm=warm)
    if isinstance(prepared, Arm):
        return prepared
    raise WorkerRefused(f"{mode}: {prepared.status}: {prepared.reason}")


def inject(first: Arm, second: Arm, share: float, timeout: float) -> float:
    """Slows the second by a share of its time, and wraps the first alike; the share injected."""
    first.worker.request("slow", timeout, handle=first.handle, share=0.0, spend=0)
    dose = second.worker.request(
        "slow", timeout, handle=second.handle, share=share, spend=CALIBRATION
    )
    return float(dose["share"])


def measure(
    first: Arm, second: Arm, stopping: Stopping, chance: random.Random, timeout: float
) -> Measured:
    """Rounds until the stopping rule says so."""
    rounds = visit_in_rounds(
        [first, second], lambda pair: chance.sample(pair, len(pair)), stopping, timeout
    )
    one, two = map(list, times_of([first, second]))
    clock = clock_of([first.visits, second.visits])
    return Measured(one, two, rounds.stopped, rounds.seconds, clock)
