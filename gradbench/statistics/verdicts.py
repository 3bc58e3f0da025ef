"""Verdicts of one ratio and of a table, with the correction for multiple comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from gradbench.core.verdicts import CALLED, Verdict
from gradbench.statistics.between import Estimate, p_signs
from gradbench.statistics.samples import CONFIDENCE, FLOOR, Array, array, check

Method = Literal["holm", "benjamini-hochberg"]


def verdict(estimate: Estimate) -> Verdict:
    """*faster* or *slower* than the reference, *same* within the floor, or *undecided*.

    The whole interval beyond the floor (a ratio above 1 + floor, or below 1 / (1 + floor))
    decides, the whole interval inside it is *same*. Fewer than two sessions are undecided. Where
    sessions disagree, the verdict is never *same*, and every typical group must lie beyond on the
    same side; so must the interval, unless there are enough sessions for their sides alone to
    decide (five, at 95 %: see `p_signs`).
    """
    floor = estimate.floor
    if estimate.sessions < 2:
        return Verdict.UNDECIDED
    low, high = estimate.low, estimate.high
    if estimate.disagree:
        if p_signs(estimate) <= 1 - estimate.confidence:
            low, high = math.inf, -math.inf
        low = min(low, *(group.low for group in estimate.typical))
        high = max(high, *(group.high for group in estimate.typical))
    if low > 1 + floor:
        return Verdict.SLOWER
    if high < 1 / (1 + floor):
        return Verdict.FASTER
    if 1 / (1 + floor) <= low and high <= 1 + floor and not estimate.disagree:
        return Verdict.SAME
    return Verdict.UNDECIDED


def adjust(p_values: npt.ArrayLike, method: str) -> Array:
    """p-values, shape (m,), adjusted for their number: reject where the result is ≤ alpha.

    "holm": bounds the chance of even one false rejection, under any dependence (Holm, Scand. J.
    Statist. 6 (1979) 65). "benjamini-hochberg": bounds the expected share of false ones among the
    rejections, where the tests are independent or positively dependent, as those that share a
    baseline are (Benjamini and Hochberg, J. R. Statist. Soc. B 57 (1995) 289; Benjamini and
    Yekutieli, Ann. Statist. 29 (2001) 1165).

    NaN is no test: it stays NaN and does not count in m. Raises ValueError for a p-value outside
    [0, 1] or an unknown method.
    """
    if method not in get_args(Method):
        raise ValueError(f"method {method!r} is none of {', '.join(get_args(Method))}")
    p = array(p_values, 1, "p_values")
    known = np.nonzero(~np.isnan(p))[0]
    if np.any((p[known] < 0) | (p[known] > 1)):
        raise ValueError("p_values must lie between 0 and 1")
    order = known[np.argsort(p[known], kind="stable")]
    ordered, m = p[order], len(order)
    rank = np.arange(1, m + 1)
    if method == "holm":
        adjusted = np.maximum.accumulate((m - rank + 1) * ordered)
    else:
        adjusted = np.minimum.accumulate((m / rank * ordered)[::-1])[::-1]
    result = np.full(p.shape, math.nan)
    result[order] = np.minimum(adjusted, 1)
    return result


def _joining(p_values: Array, calls: Array, method: str) -> Array:
    """What `adjust` would make of each p-value, shape (m,), were it one more of the sorted `calls`,
    shape (r,), in a table of m where all others are 1."""
    m, r = len(p_values), len(calls)
    before = np.searchsorted(calls, p_values, side="right")
    rank = np.arange(1, r + 1)
    if method == "holm":
        worst = np.maximum.accumulate(np.append(0.0, (m - rank + 1) * calls))
        return np.minimum(np.maximum(worst[before], (m - before) * p_values), 1)
    # Those after it have moved up by one rank.
    later = np.minimum.accumulate(np.append(m / (rank + 1) * calls, 1.0)[::-1])[::-1]
    return np.minimum(later[before], m / (before + 1) * p_values)


def _expected_false(p_values: Array, calls: int, alpha: float, method: str) -> float:
    """About how many of the calls made are false: n₀ t, where t is the largest p-value that would
    have been called, by its interval and by the adjustment, and n₀ = (1 + #{p > ½}) / ½ estimates
    how many ratios lie inside the floor.

    Storey, Taylor and Siegmund, J. R. Statist. Soc. B 66 (2004) 187, with λ = ½. Ratios well inside
    the floor have p-values near 1, so n₀ rather errs upwards. The largest p-value that was called
    would not do in place of t: that is where chance has put it.
    """
    m = len(p_values)
    if not calls:
        return 0.0
    n0 = min(2 * (1 + int(np.count_nonzero(p_values > 0.5))), m)
    threshold = alpha / max(m - calls, 1) if method == "holm" else alpha * calls / m
    return min(n0 * min(threshold, alpha / 2), float(calls))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts of a table, in its order, with their odds.

    verdicts               as in the table
    adjusted               p-values adjusted for the table (q-values, by Benjamini–Hochberg): of a
                           row that is not called, what it would be if its interval alone decided.
                           NaN where an estimate has no p-value
    calls                  how many verdicts are faster or slower
    expected_false         about how many of these are false, by the p-values at hand
    expected_false_alarms  its bound, for the worst case: see `judge`
    """

    verdicts: tuple[Verdict, ...]
    adjusted: tuple[float, ...]
    calls: int
    expected_false: float
    expected_false_alarms: float


def judge(
    estimates: Sequence[Estimate],
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
    method: str = "benjamini-hochberg",
) -> Judgement:
    """The verdicts of a whole table, with its multiplicity under control.

    alpha is 1 - confidence. *faster* and *slower* require both: the estimate's own `verdict` (its
    interval and, where sessions disagree, every group), and an adjusted p-value ≤ alpha. Any other
    estimate enters the adjustment with p = 1; as this only raises a p-value, the control of
    `adjust` applies to exactly the calls that are made. What the adjustment withdraws becomes
    undecided. *same* is judged row by row.

    The intervals themselves are not adjusted: each covers its own ratio with the stated confidence,
    and among those picked for being called, fewer do. A called ratio is therefore somewhat
    exaggerated where it barely passes, and hardly where it lies well beyond.

    `expected_false_alarms` bounds the expected number of false faster and slower calls (true ratio
    inside the floor, or on the other side) that this rule makes in a table like this one, averaged
    over repetitions, for independent rows in the worst case: all true ratios right at the floor.

    - Benjamini–Hochberg: alpha · R, with R the calls that would be made if the largest p-value were
      0: about alpha · (calls + 1). For m rows, a true null i is called where p_i ≤ alpha R_i / m,
      with R_i the calls for p_i = 0, which p_i has no part in; so the expected number is at most
      Σ (alpha / m) E[R_i] over the nulls, hence ≤ alpha E[R].
    - Holm: alpha / (1 - alpha), as each further false call has at most a chance of alpha.
    - 0 where nothing could be tested.

    A table without a call still shows about alpha: the probability of one. Rows that share a
    baseline share its error, so their false positives come rarely, but together: the share of
    false calls stays bounded by alpha, while the mean number was 2.8 times the bound in the worst
    case simulated (40 rows, all right at the floor, half their variance shared).

    `expected_false` is no bound but an estimate of the same number from the p-values of the calls
    that were made and of the other rows: far below the bound where most ratios are large.

    Raises ValueError for an estimate made for another floor or confidence: its p-values and
    groups do not fit.
    """
    check(floor, confidence)
    for number, estimate in enumerate(estimates):
        if (estimate.floor, estimate.confidence) != (floor, confidence):
            raise ValueError(
                f"estimate {number} was made for floor {estimate.floor:g} and confidence "
                f"{estimate.confidence:g}, not {floor:g} and {confidence:g}"
            )
    alpha = 1 - confidence
    alone = [verdict(estimate) for estimate in estimates]
    raw = np.array([e.p_beyond for e in estimates], dtype=float)
    decided = np.array([own in CALLED for own in alone], dtype=bool)
    p = np.where(decided | np.isnan(raw), raw, 1.0)
    adjusted = adjust(p, method)
    verdicts = [
        Verdict.UNDECIDED if own in CALLED and not q <= alpha else own
        for own, q in zip(alone, adjusted.tolist())
    ]
    calls = sum(said in CALLED for said in verdicts)
    expected = 0.0
    if not np.all(np.isnan(p)):
        if method == "holm":
            expected = alpha / (1 - alpha)
        else:
            favoured = p.copy()
            favoured[np.nanargmax(p)] = 0.0
            expected = alpha * int(np.count_nonzero(adjust(favoured, method) <= alpha))
    known = ~np.isnan(raw)
    odds = adjusted.copy()
    odds[known & ~decided] = _joining(raw[known], np.sort(raw[known & decided]), method)[
        ~decided[known]
    ]
    return Judgement(
        tuple(verdicts),
        tuple(odds.tolist()),
        calls,
        min(_expected_false(raw[known], calls, alpha, method), expected),
        expected,
    )
