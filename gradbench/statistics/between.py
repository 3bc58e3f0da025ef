"""Between sessions: one ratio of times, its interval and its p-value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from gradbench.statistics.groups import Group, clusters, quantile, required_gaps
from gradbench.statistics.samples import (
    CONFIDENCE,
    FLOOR,
    RELEASE_FLOOR,
    ROUNDING,
    Array,
    SessionEstimate,
    Sessions,
    check,
    exp,
    middles,
    session_time,
)

TRIM = 10
"""From so many sessions on, one in so many is left out at either end: see `_centre`."""


def _upper(distance: Array, error: Array, degrees: float) -> Array:
    """P(T > distance / error); certainty where there is no error at all."""
    from scipy.special import ndtr, stdtr

    exact = error < ROUNDING
    t = distance / np.where(exact, 1.0, error)
    tail = ndtr(-t) if math.isinf(degrees) else stdtr(degrees, -t)
    return np.where(exact, np.where(distance > 0, 0.0, 1.0), tail)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of times between sessions: a contestant over its reference, above 1 is slower.

    ratio, low, high    geometric mean over the sessions (trimmed from `TRIM` of them on), and its
                        interval at `confidence`
    floor               the smallest difference that matters, as a ratio less 1
    sessions, rounds    what it rests on; rounds over all sessions. One session says nothing of
                        how processes differ: its interval is that of its rounds only, its p-value
                        is NaN and its verdict is undecided
    p_beyond            p-value of "the ratio is inside the floor": |log ratio| ≤ ln(1 + floor)
    standard_error, degrees
                        of the log ratio between sessions, with Student's degrees of freedom
    within_error        the same from the rounds alone: what it would be if processes did not differ
    groups              where sessions fall into several, `ratio` is between them and describes none

    Without any session the ratio is NaN, the interval (0, inf).
    """

    ratio: float
    low: float
    high: float
    confidence: float
    floor: float
    sessions: int
    rounds: int
    p_beyond: float
    standard_error: float = math.nan
    degrees: float = math.nan
    within_error: float = math.nan
    groups: tuple[Group, ...] = ()

    @property
    def disagree(self) -> bool:
        """Whether the sessions fall into groups, so that one ratio cannot speak for all."""
        return len(self.groups) > 1

    @property
    def typical(self) -> tuple[Group, ...]:
        """The groups without strays: the lowest and the highest where trimming leaves out all of
        their sessions."""
        cut = self.sessions // TRIM
        kept = [
            group
            for place, group in enumerate(self.groups)
            if place not in (0, len(self.groups) - 1) or group.against or len(group.sessions) > cut
        ]
        return tuple(kept) or self.groups


def _p_beyond(log: Array, floor: float, errors: Sequence[tuple[Array, float]]) -> Array:
    """p_beyond: the larger of those by each (standard error, degrees of freedom).

    It is exact at the edge of the floor, the least favourable point inside it: both tails count, of
    which the farther one matters only where the error is as large as the floor. See Wellek, Testing
    Statistical Hypotheses of Equivalence and Noninferiority (2010), chapters 3 and 11.
    """
    edge, size = math.log1p(floor), np.abs(log)
    beyond = [_upper(size - edge, se, df) + _upper(size + edge, se, df) for se, df in errors]
    p: Array = np.minimum(np.maximum.reduce(beyond), 1.0)
    return p


def estimated(
    log: Array,
    error: Array,
    degrees: float,
    within: Array,
    floor: float,
    confidence: float,
) -> Iterator[dict[str, float]]:
    """The numbers of each contestant's `Estimate`; interval and p-value are the wider of Student's
    and the rounds' own."""
    # The rounds show no error: medians without any spread are then no evidence of precision.
    unknown = np.where(error > ROUNDING, 0.0, math.inf)
    within = np.where(np.isnan(within), unknown, within)
    # Medians equal to the last digit are the work of a coarse clock, and say nothing of how
    # processes differ: the error of the rounds then has to do for it.
    error = np.where(error < ROUNDING, within, error)
    half = np.maximum(
        quantile(degrees, confidence) * error, quantile(math.inf, confidence) * within
    )
    beyond = _p_beyond(log, floor, [(error, degrees), (within, math.inf)])
    columns = (log, log - half, log + half, beyond, error, within)
    for centre, low, high, p_beyond, se, own in zip(*(c.tolist() for c in columns)):
        yield {
            "ratio": exp(centre),
            "low": exp(low),
            "high": exp(high),
            "confidence": confidence,
            "floor": floor,
            "p_beyond": p_beyond,
            "standard_error": se,
            "degrees": degrees,
            "within_error": own,
        }


@dataclass(frozen=True)
class _Centres:
    """Where the sessions of each contestant lie: the mean of their medians, the variance of that
    mean between sessions with its degrees of freedom, and its variance by the rounds alone."""

    log: Array
    between: Array
    degrees: int
    within: Array


def _centres(medians: Array, errors: Array) -> _Centres:
    """The trimmed means of the sessions' medians and their variances.

    `medians` and `errors`: contestants × sessions, without gaps, the medians in their order.

    Of S sessions the S // `TRIM` smallest and as many of the largest are left out of the mean, and
    the variance is Winsorized (Tukey and McLaughlin, Sankhyā A 25 (1963) 331; Yuen, Biometrika 61
    (1974) 165): one disturbed process of ten is a fact of processes, not of what they run. With
    fewer than `TRIM` sessions nothing is left out.

    A typical session stands for the rounds, by the median of the errors: with few rounds one burst
    of a neighbour makes an error a hundred times too large, and a mean would hand it on.
    """
    count = medians.shape[-1]
    cut = count // TRIM
    kept = medians[:, cut : count - cut]
    winsorized = np.clip(medians, kept[:, :1], kept[:, -1:])
    size = kept.shape[-1]
    if count > 1:
        between = winsorized.var(axis=-1, ddof=1) / ((size / count) ** 2 * count)
    else:
        between = np.full(len(medians), math.nan)
    return _Centres(kept.mean(axis=-1), between, size - 1, middles(errors) ** 2 / count)


def _centre(estimates: Sequence[SessionEstimate]) -> _Centres:
    """Of one contestant's sessions."""
    medians = np.sort([e.median for e in estimates])
    return _centres(medians[np.newaxis], np.array([[e.error for e in estimates]]))


def between_sessions(
    estimates: Sequence[SessionEstimate],
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The t-interval over the session medians of a log ratio, widened where it cannot be true.

    The mean of the S medians ± the larger of

    - t(S - 1) · s / √S, with s the SD of the medians. It includes the noise of the rounds,
      since every median has its share of it; adding that again would count it twice. It is exact
      for normal medians, and also with the few sessions for which it is wide (t(1) is 12.7). From
      `TRIM` sessions on the mean is trimmed and s Winsorized, see `_centre`.
    - z · (the median of the sessions' standard errors by their rounds) / √S: what would be left if
      processes did not differ at all. The truth cannot be narrower. It only acts when the medians
      lie together by chance, and takes the normal quantile, as it rests on many rounds and not on
      S numbers. Medians equal to the last digit are a coarse clock's: then s is replaced by that
      standard error. Only where all rounds are equal too is there no width.

    Taking the larger can only raise the coverage. The p-values are the larger of the two in the
    same way, so they agree with the interval. Sessions count alike, whatever their number of
    rounds: processes differ by more than rounds do.

    One session has no s. Its interval is that of its rounds, its p-value is NaN, and its verdict is
    undecided, whatever it shows: one process's 95 % interval covered the true ratio of two
    different modes only 12 to 56 % of the time. Sessions without rounds are left out.

    No method finds what no session showed. Where a process takes one of two speeds with even odds,
    all sessions take the same by chance in 1 of 2 cases with two sessions, 1 of 4 with three, 1 of
    16 with five, 1 of 512 with ten; the interval then speaks for that speed only.

    Raises ValueError for a floor or a confidence that is out of range.
    """
    return between_each(Sessions.of(estimates), floor, confidence)[0]


def between_each(sessions: Sessions, floor: float, confidence: float) -> tuple[Estimate, ...]:
    """`between_sessions` for every contestant at once."""
    check(floor, confidence)
    counts = np.count_nonzero(sessions.rounds, axis=0)
    estimates: dict[int, Estimate] = {}
    for count in set(counts.tolist()):
        columns = np.nonzero(counts == count)[0].tolist()
        if count > 1:
            estimates |= zip(columns, _between_several(sessions, columns, count, floor, confidence))
        else:
            for column in columns:
                seen = sessions.contestant(column)
                estimates[column] = _of_one(seen, floor, confidence)
    return tuple(estimates[column] for column in range(len(counts)))


def _between_several(
    sessions: Sessions, columns: list[int], count: int, floor: float, confidence: float
) -> Iterator[Estimate]:
    """The estimates of contestants that have `count` sessions each, two at least."""
    timed = sessions.rounds[:, columns].T > 0
    order = np.argsort(
        np.where(timed, sessions.median[:, columns].T, math.inf), axis=-1, kind="stable"
    )[:, :count]
    medians = np.take_along_axis(sessions.median[:, columns].T, order, axis=-1)
    errors = np.take_along_axis(sessions.error[:, columns].T, order, axis=-1)
    centres = _centres(medians, errors)
    numbers = estimated(
        centres.log,
        np.sqrt(centres.between),
        centres.degrees,
        np.sqrt(centres.within),
        floor,
        confidence,
    )
    rounds = sessions.rounds[:, columns].sum(axis=0).tolist()
    grouped = _groups(sessions, columns, order, medians, errors, floor, confidence)
    for fields, total, groups in zip(numbers, rounds, grouped):
        estimate = Estimate(sessions=count, rounds=total, groups=groups, **fields)
        if estimate.disagree:
            beyond = min(estimate.p_beyond, p_signs(estimate))
            estimate = replace(estimate, p_beyond=beyond)
        yield estimate


def _groups(
    sessions: Sessions,
    columns: list[int],
    order: npt.NDArray[np.intp],
    medians: Array,
    errors: Array,
    floor: float,
    confidence: float,
) -> Iterator[tuple[Group, ...]]:
    """`clusters` of each contestant. It is asked only where the widest gap splits the sessions;
    the others agree, and their one group is made here."""
    half_widths = quantile(math.inf, confidence) * errors
    gaps = medians[:, 1:] - medians[:, :-1]
    widest = gaps.argmax(axis=-1)[:, np.newaxis]
    required = required_gaps(half_widths, floor)
    split = np.take_along_axis(gaps, widest, axis=-1) > np.take_along_axis(required, widest, -1)
    reach = np.nan_to_num(middles(half_widths))
    logs = np.stack([medians.mean(axis=-1), medians[:, 0] - reach, medians[:, -1] + reach], axis=-1)
    positions = np.sort(order, axis=-1)
    for column, apart, (log, low, high), seen in zip(
        columns, split[:, 0].tolist(), logs.tolist(), positions.tolist()
    ):
        if apart:
            yield clusters(sessions.contestant(column), floor, confidence)
        else:
            yield (Group(exp(log), exp(low), exp(high), tuple(seen)),)


def _of_one(estimates: Sequence[SessionEstimate], floor: float, confidence: float) -> Estimate:
    """The estimate of a contestant with one session, or none."""
    seen = [e for e in estimates if e.rounds]
    if not seen:
        nan = math.nan
        return Estimate(nan, 0.0, math.inf, confidence, floor, 0, 0, nan)
    (only,) = seen
    groups = clusters(estimates, floor, confidence)
    within = only.error
    if only.coverage < confidence - 1e-9:
        raise ValueError(
            f"the session's interval covers {only.coverage:.3g}, less than the {confidence:.3g} "
            "asked for: estimate the session at that confidence"
        )
    return Estimate(
        ratio=exp(only.median),
        low=exp(only.low),
        high=exp(only.high),
        confidence=confidence,
        floor=floor,
        sessions=1,
        rounds=only.rounds,
        p_beyond=math.nan,
        within_error=within,
        groups=groups,
    )


def p_signs(estimate: Estimate) -> float:
    """The p-value of "inside the floor" by the sides alone, where paired sessions disagree.

    One session of five that ran half as fast again makes the t-interval useless, and yet all five
    may lie beyond the floor on one side, each with its own rounds' interval. Were the truth at the
    floor, each would fall on that side with a chance of a half at most: 2 to the power of minus
    their number (the sign test). 1 where the groups do not all lie beyond on the same side.
    """
    groups, floor = estimate.groups, estimate.floor
    if not estimate.disagree or any(group.against for group in groups):
        return 1.0
    above = all(group.low > 1 + floor for group in groups)
    below = all(group.high < 1 / (1 + floor) for group in groups)
    return 2.0**-estimate.sessions if above or below else 1.0


def compare_runs(
    sessions_a: Sequence[npt.ArrayLike],
    sessions_b: Sequence[npt.ArrayLike],
    floor: float = RELEASE_FLOOR,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The ratio of two runs that did not take turns: run a over run b, from absolute times.

    Each run: one array of visit minima per session, shape (rounds,), seconds. Welch's t-interval
    between the log medians of the sessions, with Satterthwaite's degrees of freedom (Welch,
    Biometrika 34 (1947) 28), and never narrower than the rounds allow, as in `between_sessions`.
    What changed on the machine from one run to the other is in the ratio and cannot be told from
    what changed in the code: `relative_to` is the fair comparison.

    Where the sessions of either run disagree, `groups` has every pairing of their groups.
    `sessions` is the smaller of the two numbers; with one it is as for one session there: the
    interval of the rounds, NaN for the p-value, undecided. Raises ValueError for bad shapes,
    floor or confidence.
    """
    check(floor, confidence)
    a = [session_time(times, confidence) for times in sessions_a]
    b = [session_time(times, confidence) for times in sessions_b]
    seen_a, seen_b = [e for e in a if e.rounds], [e for e in b if e.rounds]
    sessions = min(len(seen_a), len(seen_b))
    rounds = sum(e.rounds for e in seen_a + seen_b)
    if not sessions:
        nan = math.nan
        return Estimate(nan, 0.0, math.inf, confidence, floor, 0, rounds, nan)
    groups = tuple(
        Group(x.ratio / y.ratio, x.low / y.high, x.high / y.low, x.sessions, y.sessions)
        for x, y in product(clusters(a, floor, confidence), clusters(b, floor, confidence))
    )
    one, two = _centre(seen_a), _centre(seen_b)
    logs, variance = one.log - two.log, one.within + two.within
    if sessions > 1:
        total = one.between + two.between
        (sum_of_both,) = total.tolist()
        # Without any spread the formula is 0 / 0; the within error decides then.
        parts = float((one.between**2 / one.degrees + two.between**2 / two.degrees)[0])
        degrees = sum_of_both**2 / parts if parts else one.degrees + two.degrees
        (fields,) = estimated(logs, np.sqrt(total), degrees, np.sqrt(variance), floor, confidence)
        return Estimate(sessions=sessions, rounds=rounds, groups=groups, **fields)
    log, within = float(logs[0]), math.sqrt(variance[0])
    half = math.inf if math.isnan(within) else quantile(math.inf, confidence) * within
    return Estimate(
        ratio=exp(log),
        low=exp(log - half),
        high=exp(log + half),
        confidence=confidence,
        floor=floor,
        sessions=1,
        rounds=rounds,
        p_beyond=math.nan,
        within_error=within,
        groups=groups,
    )
