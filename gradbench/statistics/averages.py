"""The mean of log ratios over several comparisons, with the interval that their own give it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradbench.statistics.between import TRIM
from gradbench.statistics.groups import quantile


def degrees(sessions: int) -> int:
    """Student's degrees of freedom of an interval over so many sessions: see `between_sessions`."""
    return sessions - 2 * (sessions // TRIM) - 1


def mean_half_width(
    errors: Iterable[tuple[float, int]], count: int, confidence: float, level: float
) -> float:
    """Half the interval, at `level`, of the mean of `count` independent log ratios.

    `errors` has a half width of an interval of a log ratio at `confidence`, and the number of its
    sessions, for each; 0 for one that is exact, several for one that is a sum. The variances are
    added, with Satterthwaite's degrees of freedom (Welch, Biometrika 34 (1947) 28): a mean over
    many comparisons is much better known than any of them. Infinite where one of them rests on a
    single session, which says nothing of how processes differ.

    A half width is the larger of the one between sessions and the one of their rounds, so what is
    taken back to a standard error here is never less than the one between sessions.
    """
    variance = shared = 0.0
    for half, sessions in errors:
        if half == 0:
            continue
        free = degrees(sessions)
        if free < 1 or not math.isfinite(half):
            return math.inf
        own = (half / quantile(free, confidence)) ** 2
        variance += own
        shared += own**2 / free
    if not variance:
        return 0.0
    return quantile(variance**2 / shared, level) * math.sqrt(variance) / count
