"""How much sessions vary, pooled over the cases of a table: a few sessions of each then suffice.

The variance that the sessions of one case show has few degrees of freedom: with five sessions
Student's quantile for one false call in 500 cases is 25, with a hundred degrees it is 4.3. The
cases of one track share the machine and the hour, so their variances are alike but for the noise of
their rounds, which is known, and each is moderated by the others (Smyth, Stat. Appl. Genet. Mol.
Biol. 3 (2004) 3; Phipson et al., Ann. Appl. Stat. 10 (2016) 946, for outliers).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradbench.statistics.between import Estimate, estimated, p_signs
from gradbench.statistics.groups import quantile
from gradbench.statistics.samples import ROUNDING, Array

FEWEST = 20
"""Cases that a spread is pooled over, at least."""

MOST_DEGREES = 100.0
TAILS = (0.05, 0.90)
"""The quantiles between which the variances of cases are compared with theory: those above are left
to cases with a spread of their own."""

UNLIKE = 0.01
"""A case keeps its own variance where cases like the others show so large a one this rarely."""

SHARES = np.geomspace(1e-9, 1.0, 46)
"""Candidates for the variance between processes, as a multiple of that of a session's rounds."""


@dataclass(frozen=True)
class Spread:
    """What the variance of a session's log ratio is expected to be: `scale` · (`processes` + that
    of its rounds), known as if from `degrees` further sessions."""

    scale: float
    processes: float
    degrees: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> Spread | None:
        """Pooled over estimates of several sessions each; None for fewer than `FEWEST`.

        The variance between processes is the one that makes the cases most alike: it has the
        narrowest range of log variances over those expected. Scale and degrees of freedom are those
        of the F distribution whose median and range between `TAILS` are the same.
        """
        usable = [e for e in estimates if e.sessions > 1 and e.standard_error > ROUNDING]
        usable = [e for e in usable if e.within_error == e.within_error]
        if not usable:
            return None
        degrees, number = Counter(e.degrees for e in usable).most_common(1)[0]
        if number < FEWEST:
            return None
        alike = [e for e in usable if e.degrees == degrees]
        sessions = np.array([e.sessions for e in alike])
        observed = np.log(np.array([e.standard_error for e in alike]) ** 2 * sessions)
        rounds = np.array([e.within_error for e in alike]) ** 2 * sessions
        candidates = SHARES * max(float(np.exp(observed).max()), ROUNDING)
        ranges, medians = [], []
        for processes in candidates:
            left = observed - np.log(processes + rounds)
            low, middle, high = np.quantile(left, [TAILS[0], 0.5, TAILS[1]])
            ranges.append(high - low)
            medians.append(middle)
        best = int(np.argmin(ranges))
        found = _degrees(ranges[best], degrees)
        scale = math.exp(medians[best]) / _f_quantile(0.5, degrees, found)
        return cls(scale, float(candidates[best]), found)

    def moderated(self, estimate: Estimate) -> Estimate:
        """An estimate with its variance between sessions moderated: the interval and p-values
        follow. One whose sessions vary far more than the others' keeps what it has."""
        if estimate.sessions < 2 or estimate.within_error != estimate.within_error:
            return estimate
        own = estimate.standard_error**2 * estimate.sessions
        rounds = estimate.within_error**2 * estimate.sessions
        expected, degrees = self.scale * (self.processes + rounds), estimate.degrees
        if own / expected > _f_quantile(1 - UNLIKE, degrees, self.degrees):
            return estimate
        total = degrees + self.degrees
        variance = (self.degrees * expected + degrees * own) / total / estimate.sessions
        (fields,) = estimated(
            np.array([math.log(estimate.ratio)]),
            np.array([math.sqrt(variance)]),
            total,
            np.array([estimate.within_error]),
            estimate.floor,
            estimate.confidence,
        )
        made = replace(estimate, **fields)  # type: ignore[arg-type]
        return replace(made, p_beyond=min(made.p_beyond, p_signs(made)))


def _f_quantile(share: float, over: float, under: float) -> float:
    """The quantile of the F distribution."""
    from scipy.special import fdtri

    return float(fdtri(over, under, share))


def _degrees(width: float, over: float) -> float:
    """The degrees of freedom under which log F has such a range between `TAILS`."""
    low, high = 0.5, MOST_DEGREES
    for _ in range(40):
        middle = math.sqrt(low * high)
        bottom, top = (_f_quantile(share, over, middle) for share in TAILS)
        if math.log(top / bottom) > width:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def power(estimates: Sequence[Estimate], slowdown: float, level: float, confidence: float) -> Array:
    """The chance that each case, were it slower by `slowdown` (0.05 is 5 %), would be called so.

    `level`: the p-value that suffices for a call in their table; `confidence` that of the interval
    that has to lie beyond the threshold. Cases of one session are never called. The slowdown adds
    to what a case differs by anyway: see `apart`.
    """
    from scipy.special import ndtri, stdtr, stdtrit

    chances, offset = np.zeros(len(estimates)), apart(estimates)
    for place, e in enumerate(estimates):
        if e.sessions < 2 or not e.standard_error > 0:
            continue
        gap = math.log1p(slowdown) - math.log1p(e.floor)
        student = max(-float(stdtrit(e.degrees, level)), quantile(e.degrees, confidence))
        normal = max(-float(ndtri(level)), quantile(math.inf, confidence))
        within = e.within_error if e.within_error == e.within_error else 0.0
        reach = max(student * e.standard_error, normal * within)
        chances[place] = stdtr(e.degrees, (gap - reach) / math.hypot(e.standard_error, offset))
    return chances


def apart(estimates: Sequence[Estimate]) -> float:
    """How far cases that are the same differ all the same, in every session alike: the standard
    deviation of their log ratios about 0, beyond that of their errors.

    One build that is installed twice has cases 1 % faster and others 1 % slower (`gradbench study
    releases`). Cases within the threshold count; fewer than `FEWEST` of them say nothing.
    """
    usable = [e for e in estimates if e.sessions > 1 and e.standard_error > 0]
    near = [e for e in usable if abs(math.log(e.ratio)) <= math.log1p(e.floor)]
    if len(near) < FEWEST:
        return 0.0
    found = np.mean([math.log(e.ratio) ** 2 - e.standard_error**2 for e in near])
    return math.sqrt(max(0.0, float(found)))
