"""Whether a ratio of times is at most some factor, as a test claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradbench.statistics.between import Estimate, _upper


@dataclass(frozen=True)
class Bound:
    """Whether a ratio is at most a factor, by its interval; None where that is too close to call.

    `p` is the p-value of the opposite of what was decided: at most how likely data like these are
    where it is wrong. Undecided, it is the smaller of both sides; NaN with fewer than two sessions.
    """

    holds: bool | None
    p: float


def at_most(estimate: Estimate, factor: float, among: int = 1) -> Bound:
    """Holds where the interval lies at or below the factor, not where it lies above it.

    Each side is one-sided at half of 1 - confidence: 2.5 % at 95 %. `among` claims that hold only
    together, the p-value that one fails is multiplied by their number (Bonferroni); that all hold
    needs no correction (Berger, Technometrics 24 (1982) 295). Where sessions disagree, every group
    has to lie on the same side too. One session is undecided.
    """
    if estimate.sessions < 2:
        return Bound(None, math.nan)
    distance = math.log(estimate.ratio) - math.log(factor)
    over, within = (
        max(
            float(_upper(np.array([d]), np.array([error]), degrees)[0])
            for error, degrees in (
                (estimate.standard_error, estimate.degrees),
                (estimate.within_error, math.inf),
            )
        )
        for d in (distance, -distance)
    )
    over = min(1.0, over * among)
    low, high = estimate.low, estimate.high
    if estimate.disagree:
        low = min(low, *(group.low for group in estimate.typical))
        high = max(high, *(group.high for group in estimate.typical))
    alpha = (1 - estimate.confidence) / 2
    if high <= factor and within <= alpha:
        return Bound(True, within)
    if low > factor and over <= alpha:
        return Bound(False, over)
    return Bound(None, min(over, within))
