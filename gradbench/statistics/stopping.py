"""While measuring: when to stop, and whether the session counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradbench.statistics.samples import (
    CONFIDENCE,
    FLOOR,
    Array,
    array,
    check,
    check_column,
    column_intervals,
    logs_of,
    table,
)

Stop = Literal["precise", "rounds", "budget"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a session has measured enough: precision, rounds or budget, never significance.

    A rule that stops once a difference is significant gave 4 to 24 % false positives. A half-width
    of a quarter of the threshold leaves room for what two instances of the same code differ by: at
    half of it, and 100 rounds, slowdowns of twice the threshold were left undecided while more than
    half of the budget was unused. `half_width`
    is of the median log ratio at `confidence` (0.0025 is 0.25 %), `budget` in seconds.
    """

    min_rounds: int = 16
    max_rounds: int = 400
    every: int = 4
    half_width: float = 0.0025
    budget: float = math.inf
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if not 1 <= self.min_rounds <= self.max_rounds:
            raise ValueError(
                f"min_rounds {self.min_rounds} must lie between 1 and max_rounds {self.max_rounds}"
            )
        if self.every < 1:
            raise ValueError(f"every must be 1 round at least, not {self.every}")
        if not self.half_width > 0:
            raise ValueError(f"half_width must be positive, not {self.half_width!r}")
        if not self.budget > 0:
            raise ValueError(f"budget must be a positive number of seconds, not {self.budget!r}")
        check(0, self.confidence)


def half_widths(times: npt.ArrayLike, baseline: int = 0, confidence: float = CONFIDENCE) -> Array:
    """Half the interval of each contestant's median log ratio to the baseline.

    `times`: shape (rounds, contestants), seconds per call, NaN where missing. The result has shape
    (contestants,): infinite below 6 rounds (at 95 %), NaN for a contestant without a round in
    common with the baseline.
    Raises ValueError for shapes, baseline or confidence that do not fit.
    """
    check(0, confidence)
    logs = logs_of(table(times))
    check_column("baseline", baseline, logs.shape[1])
    counts, lows, highs = column_intervals(logs - logs[:, [baseline]], confidence)
    return np.where(counts > 0, (highs - lows) / 2, math.nan)


def enough(
    times: npt.ArrayLike, elapsed: float, stopping: Stopping, baseline: int = 0
) -> Stop | None:
    """Why the session should stop now, or None to go on.

    "budget" where `elapsed` (seconds) has reached it, at any time; "rounds" from max_rounds on;
    "precise" where, from min_rounds and then every so many, each half-width is small enough. A
    contestant that has no ratio at all is not waited for; one that dropped out halfway is, so
    pass the columns still running. `times` as for `half_widths`.
    """
    visits = table(times)
    rounds = len(visits)
    if elapsed >= stopping.budget:
        return "budget"
    if rounds >= stopping.max_rounds:
        return "rounds"
    if rounds < stopping.min_rounds or (rounds - stopping.min_rounds) % stopping.every:
        return None
    widths = half_widths(visits, baseline, stopping.confidence)
    widths = widths[~np.isnan(widths)]
    return "precise" if widths.size and bool(np.all(widths <= stopping.half_width)) else None


def controls_differ(
    control_log_ratios: npt.ArrayLike, floor: float = FLOOR, confidence: float = 0.999
) -> list[bool]:
    """Whether each session is void: its control, the same code, differs from the baseline.

    `control_log_ratios`, shape (sessions, rounds): ln(control / baseline), NaN where missing. A
    session is void where the median's whole interval lies beyond the floor. For a control exactly
    at the floor the chance is at most (1 - confidence) / 2; a good session, whose control is within
    a small part of the floor, is voided far less often than 1 in 1 000. The price: below 11 rounds
    no interval has this confidence and no session is voided; and a control off by less than the
    floor plus the half-width passes, which the floor of every verdict allows for.
    """
    check(floor, confidence)
    values = array(control_log_ratios, 2, "control_log_ratios").T
    values = np.where(np.isfinite(values), values, math.nan)
    if not values.size:
        return [False] * values.shape[1]
    _, lows, highs = column_intervals(values, confidence)
    edge = math.log1p(floor)
    differs: list[bool] = ((lows > edge) | (highs < -edge)).tolist()
    return differs
