"""Estimators, intervals and verdicts: pure functions on arrays, apart from every measurement.

Words. A *round* holds one visit of each contestant; a visit's value is the smallest time per call
of its sub-blocks, in seconds. A *session* is one process's share of a comparison: its rounds.
Ratios are formed inside a round, so that a drift of the machine, which both sides of a round share,
cancels. "Log" is the natural logarithm throughout; a log ratio of 0.01 is a slowdown of 1.005 %. A
ratio is time over time of reference: above 1 the contestant is slower. A missing visit is NaN.

How a verdict comes about:

1. in a session, the median of the paired log ratios, with its order-statistic interval
   (`median_interval`);
2. between sessions, a t-interval over those medians (`between_sessions`), because what varies
   from process to process (memory layout, hash seeds) is outside any one session's interval;
3. against a floor, a smallest difference that matters, *faster* or *slower* where the whole
   interval lies beyond it, *same* where it lies inside, else *undecided* (`verdict`);
4. over a table, faster and slower only where the p-value adjusted for the table's size says so
   too (`judge`).

**Multiplicity and the winner's curse.** Three different traps, each met in one place. Many rows in
one table: `judge` adjusts the p-values and says how many false alarms to expect. One contestant
picked as the fastest from the same data: it owes part of its place to luck, so others look slower
against it than they are; `fastest` pays for the choice with one Bonferroni factor, which holds
however the choice was made. Many looks while measuring: `enough` never looks at a difference, only
at precision, so stopping cannot select one.

Nothing here imports torch or scipy.stats; scipy.special is imported where a t-distribution is
needed, and not by the stopping rule or the control, which run inside the measuring loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Verdict = Literal["faster", "slower", "same", "undecided"]
Method = Literal["holm", "benjamini-hochberg"]
Stop = Literal["precise", "rounds", "budget"]

FLOOR = 0.01
"""The smallest difference that matters between contestants of one process: a ratio of 1.01."""

RELEASE_FLOOR = 0.02
"""The same between releases, which never share a process: the spread of pairs is 0.75–0.9 %."""

CONFIDENCE = 0.95

TRIM = 10
"""From so many sessions on, one in so many is left out at either end: see `_centre`."""

_ROUNDING = 1e-12
"""Logs that are closer than this are equal: what is left is rounding, not a clock's step."""

CAUTIOUS_SPREAD = 0.1
"""An `assumed_spread` for the case of one session, an SD of the log ratio between processes.

It covers modes whose processes disagree (one ran at 1.40 or 1.64 times its partner, an SD of 0.08);
most pairs vary by 0.002 to 0.005. Only what differs by more than a quarter is decided on it."""


# ── checks ────────────────────────────────────────────────────────────────────────────────────


def _check(floor: float, confidence: float) -> None:
    if not (math.isfinite(floor) and floor >= 0):
        raise ValueError(f"floor must be a finite number from 0 (0.01 is 1 %), not {floor!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence!r}")


def _array(values: npt.ArrayLike, dimensions: int, name: str) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None
    if array.ndim != dimensions:
        raise ValueError(
            f"{name} must have {dimensions} dimension(s), not {array.ndim} (shape {array.shape})"
        )
    return array


def _logs(times: Array) -> Array:
    """Natural logs, NaN where a time is missing, infinite or not positive."""
    usable = (times > 0) & (times < math.inf)
    return np.log(times, where=usable, out=np.full(times.shape, math.nan))


def middle(values: Sequence[float] | Array) -> float:
    """The median of a few numbers: what numpy's costs ten times as much for."""
    found = sorted(values)
    half = len(found) // 2
    return float(found[half]) if len(found) % 2 else float(found[half - 1] + found[half]) / 2


def _exp(log: float) -> float:
    """exp that answers infinity where math.exp raises."""
    return math.exp(log) if log < 700 else math.inf


# ── inside a session ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SessionEstimate:
    """What one session says: a median with what its own rounds know of its uncertainty.

    On the scale of the sample: natural log of a ratio (`session_ratio`) or of seconds
    (`session_time`). `low` and `high` are the order-statistic interval and `coverage` what it
    achieves, at least what was asked for: (-inf, inf) with 1.0 where there are too few rounds.
    `error` is the median's standard error from the same order statistics, NaN below two rounds,
    and not below that of a coarse clock's step.
    None of these knows how processes differ.
    """

    median: float
    low: float
    high: float
    coverage: float
    error: float
    rounds: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@lru_cache(maxsize=4096)
def _rank(count: int, confidence: float) -> tuple[int, float]:
    """The rank k, from 1, for which [x_(k), x_(n+1-k)] covers the median, and its coverage.

    The coverage is 1 - 2 P(B ≤ k - 1) with B binomial(n, 1/2), for any continuous distribution
    (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). k is the largest that covers
    at least `confidence`; 0, for the whole line, where none does.
    """
    if count < 1:
        return 0, 1.0
    k = np.arange(1, (count + 1) // 2)
    steps = np.concatenate(([0.0], np.log((count - k + 1) / k)))
    tails = np.cumsum(np.exp(np.cumsum(steps) - count * math.log(2)))
    # The margin keeps rounding from refusing a tail that equals the limit exactly.
    rank = int(np.searchsorted(tails, (1 - confidence) / 2 * (1 + 1e-9), side="right"))
    return rank, 1 - 2 * float(tails[rank - 1]) if rank else 1.0


@lru_cache(maxsize=4096)
def _error_rank(count: int) -> tuple[int, float]:
    """The rank k of the interval that gives the median's standard error, and its normal width.

    The error is the length of a 95 % interval over twice its normal quantile (McKean and Schrader,
    Communications in Statistics B 13 (1984) 751), with the quantile of the coverage that is
    achieved rather than 1.96 (Price and Bonett, J. Stat. Comput. Simul. 68 (2001) 295). Where
    95 % is out of reach, the whole range and its coverage serve.
    """
    from scipy.special import ndtri

    rank, coverage = _rank(count, 0.95)
    if not rank:
        rank, coverage = 1, 1 - 2 * 0.5**count
    return rank, 2 * float(ndtri((1 + coverage) / 2))


def _column_intervals(values: Array, confidence: float) -> tuple[Array, Array, Array, Array]:
    """Sorted values, counts, lows and highs of the columns; a NaN is no sample.

    This is the whole cost of the stopping rule: one sort and cached ranks, no scipy.
    """
    ordered = np.sort(values, axis=0)
    counts = np.count_nonzero(~np.isnan(values), axis=0)
    ranks = np.array([_rank(n, confidence)[0] for n in counts.tolist()], dtype=np.intp)
    known = ranks > 0
    columns = np.nonzero(known)[0]
    lows = np.full(len(counts), -math.inf)
    highs = np.full(len(counts), math.inf)
    lows[known] = ordered[ranks[known] - 1, columns]
    highs[known] = ordered[counts[known] - ranks[known], columns]
    return ordered, counts, lows, highs


@dataclass(frozen=True, slots=True)
class _Sessions:
    """`SessionEstimate`s of several contestants: its fields as arrays, sessions × contestants."""

    median: Array
    low: Array
    high: Array
    coverage: Array
    error: Array
    rounds: npt.NDArray[np.intp]

    @classmethod
    def of(cls, estimates: Sequence[SessionEstimate]) -> _Sessions:
        """The sessions of one contestant."""

        def column(name: str) -> Any:
            return np.array([getattr(e, name) for e in estimates]).reshape(-1, 1)

        return cls(*map(column, cls.__slots__))

    def contestant(self, column: int) -> list[SessionEstimate]:
        fields = (getattr(self, name)[:, column].tolist() for name in self.__slots__)
        return [SessionEstimate(*values) for values in zip(*fields)]


@lru_cache(maxsize=256)
def _ranks(rounds: int, confidence: float) -> tuple[Array, ...]:
    """By the number of rounds, up to this one: rank and coverage of the interval, rank and width
    of the standard error (0 and NaN below two rounds)."""
    intervals = [_rank(n, confidence) for n in range(rounds + 1)]
    errors = [_error_rank(n) if n > 1 else (0, math.nan) for n in range(rounds + 1)]
    return tuple(np.array(column) for pair in (intervals, errors) for column in zip(*pair))


def _estimates(values: Array, confidence: float) -> _Sessions:
    """Estimates of samples, shape (sessions, contestants, rounds), all at once; a NaN is no
    sample."""
    size = values.shape[-1]
    if not size:
        values, size = np.full((*values.shape[:-1], 1), math.nan), 1
    ordered = np.sort(values, axis=-1)
    counts = np.count_nonzero(~np.isnan(values), axis=-1)
    ranks, coverages, error_ranks, widths = _ranks(size, confidence)

    def at(places: Any) -> Array:
        """The numbers at these places; of places outside any number, which is then not used."""
        inside = np.clip(places, 0, size - 1)[..., np.newaxis]
        found: Array = np.take_along_axis(ordered, inside, axis=-1)[..., 0]
        return found

    rank, error_rank = ranks[counts].astype(np.intp), error_ranks[counts].astype(np.intp)
    # Of no sample the places hold NaN, and so does the median.
    median = (at((counts - 1) // 2) + at(counts // 2)) / 2
    low = np.where(rank > 0, at(rank - 1), -math.inf)
    high = np.where(rank > 0, at(counts - rank), math.inf)
    error = (at(counts - error_rank) - at(error_rank - 1)) / widths[counts]
    # The median is only known to a step of the clock, evenly spread over it. Without a coarse
    # clock the smallest step is far below the error.
    steps = ordered[..., 1:] - ordered[..., :-1]
    step = np.min(steps, axis=-1, where=steps > _ROUNDING, initial=math.inf)
    stepped = (counts > 1) & (at(counts - 1) - ordered[..., 0] > counts * _ROUNDING)
    error = np.where(stepped, np.maximum(error, step / math.sqrt(12)), error)
    return _Sessions(median, low, high, coverages[counts], error, counts)


def log_ratios(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """The paired log ratios ln(a/b) of the rounds in which both sides have a time.

    `a` and `b`: shape (rounds,), seconds per call, one entry per round in the same order. A round
    where either is missing (NaN), infinite or not positive drops out, so the result can be shorter.
    Raises ValueError where the shapes differ or are not one-dimensional.
    """
    a, b = _array(a, 1, "a"), _array(b, 1, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must pair up round by round: {len(a)} and {len(b)} rounds")
    ratios = _logs(a) - _logs(b)
    return ratios[~np.isnan(ratios)]


def median_interval(x: npt.ArrayLike, confidence: float = CONFIDENCE) -> SessionEstimate:
    """The median of a sample, shape (n,), with its order-statistic interval; NaN is dropped.

    The interval assumes independent rounds and no shape of their distribution. With too few samples
    for the confidence (under 6 for 95 %) it is (-inf, inf); of no sample, the median is NaN. Raises
    ValueError for a confidence outside (0, 1) and for an array of another dimension.
    """
    _check(0, confidence)
    return _estimates(_array(x, 1, "x")[np.newaxis, np.newaxis], confidence).contestant(0)[0]


def session_ratio(
    a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = CONFIDENCE
) -> SessionEstimate:
    """One session's median of ln(a/b), paired inside rounds; arguments as for `log_ratios`."""
    return median_interval(log_ratios(a, b), confidence)


def session_time(times: npt.ArrayLike, confidence: float = CONFIDENCE) -> SessionEstimate:
    """One session's median of the log of its visit minima, shape (rounds,), in seconds.

    Descriptive beside `session_ratio`: absolute times vary by 2 to 18 % between processes.
    """
    return median_interval(_logs(_array(times, 1, "times")), confidence)


# ── the t-distribution, once ──────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1024)
def _quantile(degrees: float, confidence: float) -> float:
    """Student's two-sided quantile; the normal one for infinitely many degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + confidence) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))


def _upper(distance: Array, error: Array, degrees: float) -> Array:
    """P(T > distance / error); certainty where there is no error at all."""
    from scipy.special import ndtr, stdtr

    exact = error < _ROUNDING
    t = distance / np.where(exact, 1.0, error)
    tail = ndtr(-t) if math.isinf(degrees) else stdtr(degrees, -t)
    return np.where(exact, np.where(distance > 0, 0.0, 1.0), tail)


# ── sessions that disagree ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Group:
    """Sessions that agree with each other: their mean ratio and the range their rounds allow.

    `sessions` are positions in the sequence that was given; `against` those of the other run, where
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


def _required_gaps(half_widths: Array, floor: float) -> Array:
    """How wide the gaps between neighbours, along the last axis, have to be to split them."""
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
    _check(floor, confidence)
    seen = [i for i, e in enumerate(estimates) if e.rounds]
    if not seen:
        return ()
    if len(seen) == 1:
        only = estimates[seen[0]]
        reach = 0.0 if math.isnan(only.error) else _quantile(math.inf, confidence) * only.error
        low, high = _exp(only.median - reach), _exp(only.median + reach)
        return (Group(_exp(only.median), low, high, (seen[0],)),)
    seen.sort(key=lambda i: estimates[i].median)
    medians = np.array([estimates[i].median for i in seen])
    # A session of one round does not know its error: it can neither be told from its neighbours
    # nor widen its group.
    half_widths = _quantile(math.inf, confidence) * np.array([estimates[i].error for i in seen])
    gaps = medians[1:] - medians[:-1]
    required = _required_gaps(half_widths, floor)
    count, bounds = len(seen), [0, len(seen)]
    widest = np.argsort(-gaps, kind="stable")
    for groups in range(2, max(2, count // 2) + 1):
        cuts = np.sort(widest[: groups - 1])
        if not cuts.size or not np.all(gaps[cuts] > required[cuts]):
            break
        edges = [0, *(cuts + 1).tolist(), count]
        spread = max(medians[j - 1] - medians[i] for i, j in pairwise(edges))
        if gaps[cuts].min() > max(2.0, CONTRAST / count) * spread:
            bounds = edges
            break
    found = []
    for i, j in pairwise(bounds):
        known = half_widths[i:j][~np.isnan(half_widths[i:j])]
        # The typical half-width: one session with a burst must not stretch its group.
        reach = middle(known) if known.size else 0.0
        ratio = _exp(float(medians[i:j].mean()))
        low, high = _exp(float(medians[i]) - reach), _exp(float(medians[j - 1]) + reach)
        found.append(Group(ratio, low, high, tuple(sorted(seen[i:j]))))
    return tuple(found)


# ── between sessions ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of times between sessions: a contestant over its reference, above 1 is slower.

    ratio, low, high    geometric mean over the sessions (trimmed from `TRIM` of them on), and its
                        interval at `confidence`
    floor               the smallest difference that matters, as a ratio less 1
    sessions, rounds    what it rests on; rounds over all sessions. One session says nothing of
                        how processes differ: its interval is that of its rounds only, its p-values
                        are NaN and its verdict is undecided, unless `assumed_spread` was given
    p_beyond            p-value of "the ratio is inside the floor": |log ratio| ≤ ln(1 + floor)
    p_same              p-value of "the ratio is beyond the floor" (two one-sided tests, TOST)
    standard_error, degrees
                        of the log ratio between sessions, with Student's degrees of freedom
    within_error        the same from the rounds alone: what it would be if processes did not differ
    groups              where sessions fall into several, `ratio` is between them and describes none
    assumed_spread      the SD between processes (log ratio) that was assumed for one session

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
    p_same: float
    standard_error: float = math.nan
    degrees: float = math.nan
    within_error: float = math.nan
    groups: tuple[Group, ...] = ()
    assumed_spread: float | None = None

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


def _p_values(
    log: Array, floor: float, errors: Sequence[tuple[Array, float]]
) -> tuple[Array, Array]:
    """p_beyond and p_same: the larger of those by each (standard error, degrees of freedom).

    p_beyond is exact at the edge of the floor, the least favourable point inside it: both tails
    count, of which the farther one matters only where the error is as large as the floor. See
    Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority (2010), chapters 3
    and 11; Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657, for the equivalence test.
    """
    edge, size = math.log1p(floor), np.abs(log)
    beyond = [_upper(size - edge, se, df) + _upper(size + edge, se, df) for se, df in errors]
    same = [_upper(edge - size, se, df) for se, df in errors]
    return np.minimum(np.maximum.reduce(beyond), 1.0), np.maximum.reduce(same)


def _estimated(
    log: Array,
    error: Array,
    degrees: float,
    within: Array,
    floor: float,
    confidence: float,
) -> Iterator[dict[str, float]]:
    """For each contestant the numbers of its `Estimate`, whose interval and p-values are the wider
    of Student's and the rounds' own."""
    # Of rounds nothing is known: no spread at all is then no evidence of none.
    unknown = np.where(error > _ROUNDING, 0.0, math.inf)
    within = np.where(np.isnan(within), unknown, within)
    # Medians equal to the last digit are the work of a coarse clock, and say nothing of how
    # processes differ: the error of the rounds then has to do for it.
    error = np.where(error < _ROUNDING, within, error)
    half = np.maximum(
        _quantile(degrees, confidence) * error, _quantile(math.inf, confidence) * within
    )
    beyond, same = _p_values(log, floor, [(error, degrees), (within, math.inf)])
    columns = (log, log - half, log + half, beyond, same, error, within)
    for centre, low, high, p_beyond, p_same, se, own in zip(*(c.tolist() for c in columns)):
        yield {
            "ratio": _exp(centre),
            "low": _exp(low),
            "high": _exp(high),
            "confidence": confidence,
            "floor": floor,
            "p_beyond": p_beyond,
            "p_same": p_same,
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


def middles(values: Array) -> Array:
    """The medians along the last axis; a NaN is no number, and of none the median is NaN."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], math.nan)
    ordered = np.sort(values, axis=-1)
    counts = np.count_nonzero(~np.isnan(values), axis=-1)[..., np.newaxis]
    low = np.take_along_axis(ordered, np.maximum(counts - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(counts // 2, values.shape[-1] - 1), axis=-1)
    found: Array = ((low + high) / 2)[..., 0]
    return found


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
    assumed_spread: float | None = None,
) -> Estimate:
    """The t-interval over the session medians of a log ratio, widened where it cannot be true.

    The mean of the S medians ± the larger of

    - t(S - 1) · s / √S, with s the SD of the medians. It holds the noise of the rounds already,
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

    One session has no s. Its interval is that of its rounds, its p-values are NaN, and its verdict
    is undecided, whatever it shows: one process's 95 % interval covered the true ratio of two
    different modes only 12 to 56 % of the time. `assumed_spread`, an SD between processes in log
    ratio (`CAUTIOUS_SPREAD`), decides from one session on that assumption, which the estimate then
    states; it is not used from two sessions on. Sessions without rounds are left out.

    No method finds what no session showed. Where a process takes one of two speeds with even odds,
    all sessions take the same by chance in 1 of 2 cases with two sessions, 1 of 4 with three, 1 of
    16 with five, 1 of 512 with ten; the interval then speaks for that speed only.

    Raises ValueError for a floor, confidence or spread that is out of range.
    """
    return _between(_Sessions.of(estimates), floor, confidence, assumed_spread)[0]


def _between(
    sessions: _Sessions, floor: float, confidence: float, assumed_spread: float | None = None
) -> tuple[Estimate, ...]:
    """`between_sessions` for every contestant at once."""
    _check(floor, confidence)
    if assumed_spread is not None and not (math.isfinite(assumed_spread) and assumed_spread > 0):
        raise ValueError(f"assumed_spread must be a positive number, not {assumed_spread!r}")
    counts = np.count_nonzero(sessions.rounds, axis=0)
    found: dict[int, Estimate] = {}
    for count in set(counts.tolist()):
        columns = np.nonzero(counts == count)[0].tolist()
        if count > 1:
            found |= zip(columns, _between_several(sessions, columns, count, floor, confidence))
        else:
            for column in columns:
                seen = sessions.contestant(column)
                found[column] = _of_one(seen, floor, confidence, assumed_spread)
    return tuple(found[column] for column in range(len(counts)))


def _between_several(
    sessions: _Sessions, columns: list[int], count: int, floor: float, confidence: float
) -> Iterator[Estimate]:
    """The estimates of contestants that have `count` sessions each, two at least."""
    timed = sessions.rounds[:, columns].T > 0
    order = np.argsort(
        np.where(timed, sessions.median[:, columns].T, math.inf), axis=-1, kind="stable"
    )[:, :count]
    medians = np.take_along_axis(sessions.median[:, columns].T, order, axis=-1)
    errors = np.take_along_axis(sessions.error[:, columns].T, order, axis=-1)
    centres = _centres(medians, errors)
    numbers = _estimated(
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
            beyond = min(estimate.p_beyond, _p_signs(estimate, floor))
            estimate = replace(estimate, p_beyond=beyond)
        yield estimate


def _groups(
    sessions: _Sessions,
    columns: list[int],
    order: npt.NDArray[np.intp],
    medians: Array,
    errors: Array,
    floor: float,
    confidence: float,
) -> Iterator[tuple[Group, ...]]:
    """`clusters` of each contestant. It is asked only where the widest gap splits the sessions;
    the others agree, and their one group is made here."""
    half_widths = _quantile(math.inf, confidence) * errors
    gaps = medians[:, 1:] - medians[:, :-1]
    widest = gaps.argmax(axis=-1)[:, np.newaxis]
    required = _required_gaps(half_widths, floor)
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
            yield (Group(_exp(log), _exp(low), _exp(high), tuple(seen)),)


def _of_one(
    estimates: Sequence[SessionEstimate],
    floor: float,
    confidence: float,
    assumed_spread: float | None,
) -> Estimate:
    """The estimate of a contestant with one session, or none."""
    seen = [e for e in estimates if e.rounds]
    if not seen:
        nan = math.nan
        return Estimate(nan, 0.0, math.inf, confidence, floor, 0, 0, nan, nan)
    (only,) = seen
    groups = clusters(estimates, floor, confidence)
    within = only.error
    if assumed_spread is not None and not math.isnan(within):
        log, spread = np.array([only.median]), math.sqrt(within**2 + assumed_spread**2)
        (fields,) = _estimated(
            log, np.array([spread]), math.inf, np.array([within]), floor, confidence
        )
        return Estimate(
            sessions=1, rounds=only.rounds, groups=groups, assumed_spread=assumed_spread, **fields
        )
    if only.coverage < confidence - 1e-9:
        raise ValueError(
            f"the session's interval covers {only.coverage:.3g}, less than the {confidence:.3g} "
            "asked for: estimate the session at that confidence"
        )
    return Estimate(
        ratio=_exp(only.median),
        low=_exp(only.low),
        high=_exp(only.high),
        confidence=confidence,
        floor=floor,
        sessions=1,
        rounds=only.rounds,
        p_beyond=math.nan,
        p_same=math.nan,
        within_error=within,
        groups=groups,
    )


def _p_signs(estimate: Estimate, floor: float) -> float:
    """The p-value of "inside the floor" by the sides alone, where paired sessions disagree.

    One session of five that ran half as fast again makes the t-interval useless, and yet all five
    may lie beyond the floor on one side, each with its own rounds' interval. Were the truth at the
    floor, each would fall on that side with a chance of a half at most: 2 to the power of minus
    their number (the sign test). 1 where the groups do not all lie beyond on the same side.
    """
    groups = estimate.groups
    if not estimate.disagree or any(group.against for group in groups):
        return 1.0
    above = all(group.low > 1 + floor for group in groups)
    below = all(group.high < 1 / (1 + floor) for group in groups)
    return 2.0**-estimate.sessions if above or below else 1.0


def compare_paired(
    session_pairs: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    floor: float = RELEASE_FLOOR,
    confidence: float = CONFIDENCE,
    assumed_spread: float | None = None,
) -> Estimate:
    """The ratio of two environments whose workers took turns, visit by visit.

    Each pair holds the visit minima of both workers, shapes (rounds,), seconds: the first over the
    second, paired inside rounds, then `between_sessions` over the pairs of processes.
    """
    estimates = [session_ratio(a, b, confidence) for a, b in session_pairs]
    return between_sessions(estimates, floor, confidence, assumed_spread)


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
    what changed in the code: `compare_paired` is the fair comparison.

    Where the sessions of either run disagree, `groups` holds every pairing of their groups.
    `sessions` is the smaller of the two numbers; with one it is as for one session there: the
    interval of the rounds, NaN for p-values, undecided. Raises ValueError for bad shapes, floor or
    confidence.
    """
    _check(floor, confidence)
    a = [session_time(times, confidence) for times in sessions_a]
    b = [session_time(times, confidence) for times in sessions_b]
    seen_a, seen_b = [e for e in a if e.rounds], [e for e in b if e.rounds]
    sessions = min(len(seen_a), len(seen_b))
    rounds = sum(e.rounds for e in seen_a + seen_b)
    if not sessions:
        nan = math.nan
        return Estimate(nan, 0.0, math.inf, confidence, floor, 0, rounds, nan, nan)
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
        (fields,) = _estimated(logs, np.sqrt(total), degrees, np.sqrt(variance), floor, confidence)
        return Estimate(sessions=sessions, rounds=rounds, groups=groups, **fields)
    log, within = float(logs[0]), math.sqrt(variance[0])
    half = math.inf if math.isnan(within) else _quantile(math.inf, confidence) * within
    return Estimate(
        ratio=_exp(log),
        low=_exp(log - half),
        high=_exp(log + half),
        confidence=confidence,
        floor=floor,
        sessions=1,
        rounds=rounds,
        p_beyond=math.nan,
        p_same=math.nan,
        within_error=within,
        groups=groups,
    )


def _table(times: npt.ArrayLike) -> Array:
    return _array(times, 2, "a session (rounds × contestants)")


@dataclass(frozen=True)
class Tables:
    """The sessions of one comparison, ready for several questions to be asked of them.

    `logs`: natural logs of the visit minima, sessions × contestants × rounds; NaN where missing and
    beyond the rounds of a session that has fewer than others.
    """

    logs: Array

    @classmethod
    def of(cls, sessions: Sequence[npt.ArrayLike] | Tables) -> Tables:
        """Of sessions as `relative_to` takes them. Raises ValueError for shapes that do not fit."""
        if isinstance(sessions, Tables):
            return sessions
        tables = [_table(times) for times in sessions]
        if not tables:
            raise ValueError("there is no session to compare")
        widths = {table.shape[1] for table in tables}
        if len(widths) > 1 or 0 in widths:
            raise ValueError(
                f"sessions must have the same contestants, and one at least, not {sorted(widths)}"
            )
        times = np.full((len(tables), *widths, max(map(len, tables))), math.nan)
        for own, table in zip(times, tables):
            own[:, : len(table)] = table.T
        return cls(_logs(times))

    @property
    def contestants(self) -> int:
        return int(self.logs.shape[1])

    def medians(self) -> Array:
        """The median log time of each contestant, sessions × contestants, as `session_time` has
        it."""
        return middles(self.logs)


def _check_column(name: str, column: int, count: int) -> None:
    if not 0 <= column < count:
        raise ValueError(f"{name} {column} is none of the {count} contestants (counted from 0)")


BATCH = 1 << 19
"""Numbers that are computed with at once: numpy's overhead is shared, and the memory bounded."""

Asked: TypeAlias = tuple[Tables, int]
"""A comparison and the contestant that its others are related to."""


def _batches(asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    """The questions in their order, in parts whose log ratios are `BATCH` numbers or so."""
    start, shape = 0, (0, 0, 0)
    for number, (tables, _) in enumerate(asked):
        sessions, contestants, rounds = tables.logs.shape
        wider = max(shape[0], sessions), shape[1] + contestants, max(shape[2], rounds)
        if math.prod(wider) > BATCH and number > start:
            yield asked[start:number]
            start, wider = number, tables.logs.shape
        shape = wider
    if start < len(asked):
        yield asked[start:]


def _log_ratios(asked: Sequence[Asked]) -> Array:
    """The log ratios to the references, the contestants of all comparisons side by side: sessions ×
    contestants × rounds, NaN where a comparison has fewer sessions or rounds than others."""
    sessions = max(tables.logs.shape[0] for tables, _ in asked)
    rounds = max(tables.logs.shape[2] for tables, _ in asked)
    joined = np.full((sessions, sum(t.contestants for t, _ in asked), rounds), math.nan)
    start = 0
    for tables, reference in asked:
        logs, end = tables.logs, start + tables.contestants
        joined[: len(logs), start:end, : logs.shape[2]] = logs - logs[:, [reference]]
        start = end
    return joined


def _split(asked: Sequence[Asked], values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """What belongs to each comparison of what was computed for all contestants."""
    start = 0
    for tables, _ in asked:
        yield values[start : start + tables.contestants]
        start += tables.contestants


def relative_to_each(
    asked: Sequence[Asked],
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
    assumed_spread: float | None = None,
) -> list[tuple[Estimate, ...]]:
    """`relative_to` for many comparisons at once, which is much faster than one by one."""
    found: list[tuple[Estimate, ...]] = []
    for batch in _batches(asked):
        sessions = _estimates(_log_ratios(batch), confidence)
        estimates = _between(sessions, floor, confidence, assumed_spread)
        found += map(tuple, _split(batch, estimates))
    return found


def relative_to(
    sessions: Sequence[npt.ArrayLike] | Tables,
    reference: int = 0,
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
    assumed_spread: float | None = None,
) -> tuple[Estimate, ...]:
    """Every contestant's ratio to one of them, paired inside rounds, between sessions.

    Each session: shape (rounds, contestants), visit minima in seconds, NaN where missing; the
    contestants in the same order in all, the rounds as many as each session has. The reference's
    own entry is exactly 1. Raises ValueError for shapes or a reference that do not fit.
    """
    _check(floor, confidence)
    tables = Tables.of(sessions)
    _check_column("reference", reference, tables.contestants)
    return relative_to_each([(tables, reference)], floor, confidence, assumed_spread)[0]


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────


def verdict(estimate: Estimate, floor: float | None = None) -> Verdict:
    """*faster* or *slower* than the reference, *same* within the floor, or *undecided*.

    The whole interval beyond the floor (a ratio above 1 + floor, or below 1 / (1 + floor))
    decides, the whole interval inside it is *same*. Of no or one session nothing is decided unless
    a spread between processes was assumed. Where sessions disagree, *same* is never said, and every
    typical group must lie beyond on the same side; so must the interval, unless there are sessions
    enough for their sides alone to decide (five, at 95 %: see `_p_signs`). `floor` is the
    estimate's own unless given.
    """
    floor = estimate.floor if floor is None else floor
    _check(floor, estimate.confidence)
    if estimate.sessions < 2 and estimate.assumed_spread is None:
        return "undecided"
    low, high = estimate.low, estimate.high
    if estimate.disagree:
        if _p_signs(estimate, floor) <= 1 - estimate.confidence:
            low, high = math.inf, -math.inf
        low = min(low, *(group.low for group in estimate.typical))
        high = max(high, *(group.high for group in estimate.typical))
    if low > 1 + floor:
        return "slower"
    if high < 1 / (1 + floor):
        return "faster"
    if 1 / (1 + floor) <= low and high <= 1 + floor and not estimate.disagree:
        return "same"
    return "undecided"


def adjust(p_values: npt.ArrayLike, method: Method) -> Array:
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
    p = _array(p_values, 1, "p_values")
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


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts of a table, in its order, with the odds of the whole.

    `adjusted` are the p-values adjusted for the table; NaN where an estimate has none. `calls` is
    how many verdicts are faster or slower. `expected_false_alarms`: see `judge`.
    """

    verdicts: tuple[Verdict, ...]
    adjusted: tuple[float, ...]
    calls: int
    expected_false_alarms: float
    method: Method
    alpha: float


def judge(
    estimates: Sequence[Estimate],
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
    method: Method = "benjamini-hochberg",
) -> Judgement:
    """The verdicts of a whole table, with its multiplicity under control.

    alpha is 1 - confidence. *faster* and *slower* ask for both: the estimate says so on its own
    (`verdict`: its interval and, where sessions disagree, every group), and the adjusted p-value is
    ≤ alpha. An estimate that does not say so on its own enters the adjustment with p = 1; as this
    only raises a p-value, the control of `adjust` holds for exactly the calls that are made. What
    the adjustment withdraws becomes undecided. *same* is judged row by row.

    The intervals themselves are not adjusted: each covers its own ratio with the stated confidence,
    and among those picked for being called, fewer do. A called ratio is therefore somewhat
    exaggerated where it barely passes, and hardly where it lies well beyond.

    `expected_false_alarms` bounds the expected number of false faster and slower calls (true ratio
    inside the floor, or on the other side) that this rule makes in a table like this one, averaged
    over repetitions, for independent rows and true ratios as awkward as can be, right at the floor.

    - Benjamini–Hochberg: alpha · R, with R the calls that would be made if the largest p-value were
      0: about alpha · (calls + 1). For m rows, a true null i is called where p_i ≤ alpha R_i / m,
      with R_i the calls for p_i = 0, which p_i has no part in; so the expected number is at most
      Σ (alpha / m) E[R_i] over the nulls, hence ≤ alpha E[R].
    - Holm: alpha / (1 - alpha), as each further false call has at most a chance of alpha.
    - 0 where nothing could be tested.

    A table without a call still shows alpha or so: those were the odds of one. Rows that share a
    baseline share its error, so their false alarms come rarely, but together: the share of false
    calls stays bounded by alpha, while the mean number came to 2.8 times the bound in the worst
    case simulated (40 rows, all right at the floor, half their variance shared).

    Raises ValueError for an estimate made for another floor or confidence: its p-values and
    groups do not fit.
    """
    _check(floor, confidence)
    for number, estimate in enumerate(estimates):
        if (estimate.floor, estimate.confidence) != (floor, confidence):
            raise ValueError(
                f"estimate {number} was made for floor {estimate.floor:g} and confidence "
                f"{estimate.confidence:g}, not {floor:g} and {confidence:g}"
            )
    alpha = 1 - confidence
    alone = [verdict(estimate) for estimate in estimates]
    p = np.array(
        [
            e.p_beyond if said in ("faster", "slower") or math.isnan(e.p_beyond) else 1.0
            for e, said in zip(estimates, alone)
        ]
    )
    adjusted = adjust(p, method)
    verdicts: list[Verdict] = [
        "undecided" if said in ("faster", "slower") and not q <= alpha else said
        for said, q in zip(alone, adjusted.tolist())
    ]
    calls = sum(said in ("faster", "slower") for said in verdicts)
    expected = 0.0
    if not np.all(np.isnan(p)):
        if method == "holm":
            expected = alpha / (1 - alpha)
        else:
            favoured = p.copy()
            favoured[np.nanargmax(p)] = 0.0
            expected = alpha * int(np.count_nonzero(adjust(favoured, method) <= alpha))
    return Judgement(tuple(verdicts), tuple(adjusted.tolist()), calls, expected, method, alpha)


# ── the fastest ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ranking:
    """Who is fastest, and who cannot be told from it; contestants by their column.

    `estimates` and `verdicts` are relative to the fastest (above 1 is slower), one per contestant;
    `tied` are the others that are undecided or the same against it, `missing` those without a round
    in common with it. `fastest` is None where nothing was measured. `confidence` is what holds for
    the ranking; each estimate has the higher confidence that this takes.
    """

    fastest: int | None
    tied: tuple[int, ...]
    missing: tuple[int, ...]
    estimates: tuple[Estimate, ...]
    verdicts: tuple[Verdict, ...]
    confidence: float


def fastest(
    sessions: Sequence[npt.ArrayLike] | Tables,
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
    reference: int | None = None,
    assumed_spread: float | None = None,
) -> Ranking:
    """Names the fastest contestant and those that cannot be told from it.

    Sessions as for `relative_to`. The candidate is the one with the smallest median between
    sessions of the session medians against a common reference (the contestant with most times
    unless given). Everyone is then compared with it directly, paired inside rounds: no interval is
    made of two others. Should one be called faster than the candidate, the next candidate is tried.

    The fastest is picked from the data that then judges the others: a winner's curse. Its rivals
    look slower against it than they are, by up to the largest of their errors; on identical
    contestants the bias grows with their number. So each of the K - 1 comparisons is made at
    confidence 1 - (1 - confidence) / (K - 1), which by Bonferroni's inequality over the K - 1
    possible winners holds for a rival however the winner was picked. Two statements follow at the
    confidence given: the truly fastest is among the fastest and its ties; and any one rival called
    slower is slower by more than the floor. (That of the best: Hsu, Multiple Comparisons, 1996,
    chapter 4.)

    A contestant with fewer than two sessions is named only where no other has more. Raises
    ValueError for shapes, reference, floor or confidence that do not fit.
    """
    _check(floor, confidence)
    tables = Tables.of(sessions)
    if reference is not None:
        _check_column("reference", reference, tables.contestants)
    return _fastest([(tables, reference)], floor, confidence, assumed_spread)[0]


def fastest_of_each(
    tables: Sequence[Tables], floor: float = FLOOR, confidence: float = CONFIDENCE
) -> list[Ranking]:
    """`fastest` for many comparisons at once, which is much faster than one by one."""
    _check(floor, confidence)
    return _fastest([(table, None) for table in tables], floor, confidence, None)


@dataclass(frozen=True, slots=True)
class _Field:
    """The contestants of one comparison before anyone is named the fastest."""

    tables: Tables
    reference: int
    level: float
    """The confidence of each comparison with the fastest."""
    candidates: list[int]
    """Who may be the fastest, the most likely first."""


def _fields(asked: Sequence[tuple[Tables, int | None]], confidence: float) -> Iterator[_Field]:
    resolved, levels = [], []
    for tables, reference in asked:
        valid = np.count_nonzero(~np.isnan(tables.logs), axis=(0, 2))
        rivals = max(1, int(np.count_nonzero(valid)) - 1)
        levels.append(1 - (1 - confidence) / rivals)
        resolved.append((tables, int(np.argmax(valid)) if reference is None else reference))
    remaining = iter(levels)
    for batch in _batches(resolved):
        medians = middles(_log_ratios(batch))
        known = np.count_nonzero(~np.isnan(medians), axis=0).tolist()
        typical = middles(medians.T).tolist()
        for (tables, reference), counts, own in zip(
            batch, _split(batch, known), _split(batch, typical)
        ):
            fewest = max(1, min(2, max(counts)))
            columns = [column for column, count in enumerate(counts) if count >= fewest]
            columns.sort(key=lambda column: (own[column], column))
            yield _Field(tables, reference, next(remaining), columns)


def _fastest(
    asked: Sequence[tuple[Tables, int | None]],
    floor: float,
    confidence: float,
    assumed_spread: float | None,
) -> list[Ranking]:
    fields = list(_fields(asked, confidence))
    related: dict[int, tuple[Estimate, ...]] = {}
    for level in {field.level for field in fields}:
        places = [place for place, field in enumerate(fields) if field.level == level]
        questions = [
            (field.tables, next(iter(field.candidates), field.reference))
            for field in (fields[place] for place in places)
        ]
        related |= zip(places, relative_to_each(questions, floor, level, assumed_spread))
    return [
        _ranked(field, related[place], floor, confidence, assumed_spread)
        for place, field in enumerate(fields)
    ]


def _ranked(
    field: _Field,
    estimates: tuple[Estimate, ...],
    floor: float,
    confidence: float,
    assumed_spread: float | None,
) -> Ranking:
    """The ranking of a comparison, from the estimates relative to its first candidate."""
    verdicts = tuple(map(verdict, estimates))
    if not field.candidates:
        count = field.tables.contestants
        return Ranking(None, (), tuple(range(count)), estimates, verdicts, confidence)
    chosen = field.candidates[0]
    if "faster" in verdicts:
        for candidate in field.candidates[1:]:
            others = relative_to(field.tables, candidate, floor, field.level, assumed_spread)
            said = tuple(map(verdict, others))
            if "faster" not in said:
                chosen, estimates, verdicts = candidate, others, said
                break
    missing = tuple(i for i, e in enumerate(estimates) if not e.sessions)
    tied = tuple(
        i
        for i, said in enumerate(verdicts)
        if said in ("same", "undecided") and i != chosen and i not in missing
    )
    return Ranking(chosen, tied, missing, estimates, verdicts, confidence)


# ── while measuring ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a session has measured enough: precision, rounds or budget, never significance.

    A rule that stops once a difference is significant gave 4 to 24 % false alarms. `half_width`
    is of the median log ratio at `confidence` (0.005 is 0.5 %), `budget` in seconds.
    """

    min_rounds: int = 16
    max_rounds: int = 100
    every: int = 4
    half_width: float = 0.005
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
        _check(0, self.confidence)


def half_widths(times: npt.ArrayLike, baseline: int = 0, confidence: float = CONFIDENCE) -> Array:
    """Half the interval of each contestant's median log ratio to the baseline.

    `times`: shape (rounds, contestants), seconds per call, NaN where missing. The result has shape
    (contestants,): infinite below 6 rounds (at 95 %), NaN for a contestant without a round in
    common with the baseline.
    Raises ValueError for shapes, baseline or confidence that do not fit.
    """
    _check(0, confidence)
    logs = _logs(_table(times))
    _check_column("baseline", baseline, logs.shape[1])
    _, counts, lows, highs = _column_intervals(logs - logs[:, [baseline]], confidence)
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
    table = _table(times)
    rounds = len(table)
    if elapsed >= stopping.budget:
        return "budget"
    if rounds >= stopping.max_rounds:
        return "rounds"
    if rounds < stopping.min_rounds or (rounds - stopping.min_rounds) % stopping.every:
        return None
    widths = half_widths(table, baseline, stopping.confidence)
    widths = widths[~np.isnan(widths)]
    return "precise" if widths.size and bool(np.all(widths <= stopping.half_width)) else None


def control_differs(
    control_log_ratios: npt.ArrayLike, floor: float = FLOOR, confidence: float = 0.999
) -> bool:
    """Whether a session is void: its control, the same code, differs from the baseline.

    `control_log_ratios`, shape (rounds,): ln(control / baseline), NaN where missing. Void where the
    median's whole interval lies beyond the floor. At the floor itself that has a chance of at
    most (1 - confidence) / 2; a good session, whose control is truly within a small part of
    the floor, is voided far less often than 1 in 1 000. The price: below 11 rounds no
    interval has this confidence and no session is voided; and a control off by less than the floor
    plus the half-width passes, which the floor of every verdict allows for.
    """
    values = _array(control_log_ratios, 1, "control_log_ratios")
    return controls_differ(values[np.newaxis], floor, confidence)[0]


def controls_differ(
    control_log_ratios: npt.ArrayLike, floor: float = FLOOR, confidence: float = 0.999
) -> list[bool]:
    """`control_differs` for each of several sessions: shape (sessions, rounds)."""
    _check(floor, confidence)
    values = _array(control_log_ratios, 2, "control_log_ratios").T
    values = np.where(np.isfinite(values), values, math.nan)
    if not values.size:
        return [False] * values.shape[1]
    _, _, lows, highs = _column_intervals(values, confidence)
    edge = math.log1p(floor)
    differs: list[bool] = ((lows > edge) | (highs < -edge)).tolist()
    return differs
