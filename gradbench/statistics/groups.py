"""Sessions that disagree: the groups that their medians fall into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from gradbench.statistics.samples import (
    CONFIDENCE,
    FLOOR,
    Array,
    SessionEstimate,
    check,
    exp,
    middle,
)


@lru_cache(maxsize=1024)
def quantile(degrees: float, confidence: float) -> float:
    """Student's two-sided quantile; the normal one for infinitely many degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))


@dataclass(frozen=True, slots=True)
class Group:
    """Sessions that agree with each other: their mean ratio and its range by their rounds.

    `sessions` are positions in the sequence of sessions; `against` those of the other run, where
    two runs are compared.
    """

    ratio: float
    low: float
    high: float
    sessions: tuple[int, ...]
    against: tuple[int, ...] = ()


SEPARATION = 2.0
CONTRAST = 20.0
"""See `clusters`; the contrast is shared among the sessions, and 2 at least."""


def required_gaps(half_widths: Array, floor: float) -> Array:
    """The gap between neighbours, along the last axis, above which they are split."""
    both = half_widths[..., :-1] + half_widths[..., 1:]
    return np.maximum(2 * math.log1p(floor), SEPARATION * both)


def clusters(
    estimates: Sequence[SessionEstimate], floor: float = FLOOR, confidence: float = CONFIDENCE
) -> tuple[Group, ...]:
    """The groups that the session medians fall into, from low to high; one group is agreement.

    A split is made in the widest gaps of the sorted medians, into as few groups as will do, at most
    one for every two sessions (two at least). Every gap must be

    - wider than the band of *same*, 2 ln(1 + floor): no single verdict could hold both sides;
    - SEPARATION times wider than the half-widths of the two sessions beside it taken together, so
      the rounds cannot explain it;
    - CONTRAST / S times wider than any group it leaves (S sessions, not below 2), so that sessions
      which merely scatter are not called groups. Fewer sessions leave narrower groups by chance.

    Simulated: sessions that scatter normally with an SD of half the floor are split in under 1 of
    100 cases. Far above the floor, where absolute times scatter and the contrast is all there is to
    go by, it is 3 to 6 of 100 from five sessions on, but 22 with three and nearly always with two,
    which cannot tell groups from scatter. Two speeds 15 % apart, in 16 rounds with bursts, are
    found in 95 of 100 cases in which both occurred. Sessions without a round are left out.
    """
    check(floor, confidence)
    seen = [i for i, e in enumerate(estimates) if e.rounds]
    if not seen:
        return ()
    if len(seen) == 1:
        only = estimates[seen[0]]
        reach = 0.0 if math.isnan(only.error) else quantile(math.inf, confidence) * only.error
        low, high = exp(only.median - reach), exp(only.median + reach)
        return (Group(exp(only.median), low, high, (seen[0],)),)
    seen.sort(key=lambda i: estimates[i].median)
    medians = np.array([estimates[i].median for i in seen])
    # A session of one round does not know its error: it can neither be told from its neighbours
    # nor widen its group.
    half_widths = quantile(math.inf, confidence) * np.array([estimates[i].error for i in seen])
    gaps = medians[1:] - medians[:-1]
    required = required_gaps(half_widths, floor)
    count, bounds = len(seen), [0, len(seen)]
    widest = np.argsort(-gaps, kind="stable")
    for number in range(2, max(2, count // 2) + 1):
        cuts = np.sort(widest[: number - 1])
        if not cuts.size or not np.all(gaps[cuts] > required[cuts]):
            break
        edges = [0, *(cuts + 1).tolist(), count]
        spread = max(medians[j - 1] - medians[i] for i, j in pairwise(edges))
        if gaps[cuts].min() > max(2.0, CONTRAST / count) * spread:
            bounds = edges
            break
    groups = []
    for i, j in pairwise(bounds):
        known = half_widths[i:j][~np.isnan(half_widths[i:j])]
        # The typical half-width: one session with a burst must not stretch its group.
        reach = middle(known) if known.size else 0.0
        ratio = exp(float(medians[i:j].mean()))
        low, high = exp(float(medians[i]) - reach), exp(float(medians[j - 1]) + reach)
        groups.append(Group(ratio, low, high, tuple(sorted(seen[i:j]))))
    return tuple(groups)
