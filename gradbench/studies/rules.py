"""How a study reaches a verdict on one comparison, and a rate over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradbench.core.verdicts import Verdict
from gradbench.statistics import CONFIDENCE, median_interval

MICRO = 1e-6
"""Log ratios are stored as whole millionths."""

STEP = 10
"""Millionths to which they are rounded: a thousandth of what visits scatter by. More digits are
noise, and a fifth of a log's size."""


def stored(a: Sequence[float], b: Sequence[float]) -> list[int]:
    """The log ratios of two lists of times, in whole millionths, to STEP of them."""
    unit = STEP * MICRO
    return [STEP * round(math.log(x / y) / unit) for x, y in zip(a, b) if x > 0 and y > 0]


def logs(ratios: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log ratios from their stored form."""
    return np.asarray(ratios, dtype=np.float64) * MICRO


def within_process(
    log_ratios: npt.ArrayLike, floor: float, confidence: float = CONFIDENCE
) -> Verdict:
    """The verdict within one process: its median's interval against the threshold.

    As processes differ, a run compares several (`statistics.between_sessions`), and a single one
    stays *undecided*. This rule answers the smaller question whether two callables differ *in this
    process*. The figures for one process rest on it.
    """
    interval = median_interval(log_ratios, confidence)
    edge = math.log1p(floor)
    if interval.low > edge:
        return Verdict.SLOWER
    if interval.high < -edge:
        return Verdict.FASTER
    inside = interval.low >= -edge and interval.high <= edge
    return Verdict.SAME if inside else Verdict.UNDECIDED


@dataclass(frozen=True)
class Rate:
    """A rate with its exact (Clopper–Pearson) interval."""

    count: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.trials if self.trials else math.nan


def rate(count: int, trials: int, confidence: float = CONFIDENCE) -> Rate:
    """Clopper and Pearson's interval, Biometrika 26 (1934) 404; (0, 1) without trials."""
    if not 0 <= count <= trials:
        raise ValueError(f"{count} of {trials} is no rate")
    if not trials:
        return Rate(0, 0, 0.0, 1.0)
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(count, trials - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, trials - count, 1 - tail)) if count < trials else 1.0
    return Rate(count, trials, low, high)
