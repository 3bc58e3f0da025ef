"""Inside a session: the median of a sample, with the uncertainty that its own rounds show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

FLOOR = 0.01
"""The smallest difference that matters between contestants of one process: a ratio of 1.01."""

RELEASE_FLOOR = 0.02
"""The same between releases, which never share a process: pairs vary by 0.75 to 0.9 %."""

CONFIDENCE = 0.95

ENOUGH = 5
"""A measurement of so many sessions takes the place of an older one, whatever that had. One of
fewer, as an interruption leaves, does so only where the older one had no more."""

ROUNDING = 1e-12
"""Logs closer than this are equal: the difference is rounding, not a step of the clock."""


# ── checks ────────────────────────────────────────────────────────────────────────────────────


def check(floor: float, confidence: float) -> None:
    if not (math.isfinite(floor) and floor >= 0):
        raise ValueError(f"floor must be a finite number from 0 (0.01 is 1 %), not {floor!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence!r}")


def array(values: npt.ArrayLike, dimensions: int, name: str) -> Array:
    try:
        made = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None
    if made.ndim != dimensions:
        raise ValueError(
            f"{name} must have {dimensions} dimension(s), not {made.ndim} (shape {made.shape})"
        )
    return made


def logs_of(times: Array) -> Array:
    """Natural logs, NaN where a time is missing, infinite or not positive."""
    usable = (times > 0) & (times < math.inf)
    return np.log(times, where=usable, out=np.full(times.shape, math.nan))


def middle(values: Sequence[float] | Array) -> float:
    """The median of a few numbers, ten times as fast as numpy's."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[half])
    return float(ordered[half - 1] + ordered[half]) / 2


def exp(log: float) -> float:
    """exp, infinite where math.exp overflows."""
    return math.exp(log) if log < 700 else math.inf


def table(times: npt.ArrayLike) -> Array:
    return array(times, 2, "a session (rounds × contestants)")


def check_column(name: str, column: int, count: int) -> None:
    if not 0 <= column < count:
        raise ValueError(f"{name} {column} is none of the {count} contestants (counted from 0)")


def middles(values: Array) -> Array:
    """The medians along the last axis, ignoring NaN; NaN where there is nothing else."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], math.nan)
    ordered = np.sort(values, axis=-1)
    counts = np.count_nonzero(~np.isnan(values), axis=-1)[..., np.newaxis]
    low = np.take_along_axis(ordered, np.maximum(counts - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(counts // 2, values.shape[-1] - 1), axis=-1)
    medians: Array = ((low + high) / 2)[..., 0]
    return medians


# ── inside a session ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SessionEstimate:
    """The median of one session and its uncertainty, as far as its own rounds show it.

    On the scale of the sample: natural log of a ratio or of seconds (`session_time`). `low` and
    `high` are the order-statistic interval and `coverage` is its actual coverage, at least the one
    requested: (-inf, inf) with 1.0 where there are too few rounds. `error` is the median's standard
    error from the same order statistics, NaN below two rounds, and never below that of a coarse
    clock's step. None of these includes the differences between processes.
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
def order_rank(count: int, confidence: float) -> tuple[int, float]:
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

    rank, coverage = order_rank(count, 0.95)
    if not rank:
        rank, coverage = 1, 1 - 2 * 0.5**count
    return rank, 2 * float(ndtri((1 + coverage) / 2))


def column_intervals(values: Array, confidence: float) -> tuple[Array, Array, Array]:
    """The number of values in each column and the interval of their median, ignoring NaN.

    This is the whole cost of the stopping rule: one sort and cached ranks, no scipy.
    """
    ordered = np.sort(values, axis=0)
    counts = np.count_nonzero(~np.isnan(values), axis=0)
    ranks = np.array([order_rank(n, confidence)[0] for n in counts.tolist()], dtype=np.intp)
    known = ranks > 0
    columns = np.nonzero(known)[0]
    lows = np.full(len(counts), -math.inf)
    highs = np.full(len(counts), math.inf)
    lows[known] = ordered[ranks[known] - 1, columns]
    highs[known] = ordered[counts[known] - ranks[known], columns]
    return counts, lows, highs


@dataclass(frozen=True, slots=True)
class Sessions:
    """`SessionEstimate`s of several contestants: its fields as arrays, sessions × contestants."""

    median: Array
    low: Array
    high: Array
    coverage: Array
    error: Array
    rounds: npt.NDArray[np.intp]

    @classmethod
    def of(cls, estimates: Sequence[SessionEstimate]) -> Sessions:
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
    intervals = [order_rank(n, confidence) for n in range(rounds + 1)]
    errors = [_error_rank(n) if n > 1 else (0, math.nan) for n in range(rounds + 1)]
    return tuple(np.array(column) for pair in (intervals, errors) for column in zip(*pair))


def estimates_of(values: Array, confidence: float) -> Sessions:
    """Estimates of samples, shape (sessions, contestants, rounds), all at once, ignoring
    NaN."""
    size = values.shape[-1]
    if not size:
        values, size = np.full((*values.shape[:-1], 1), math.nan), 1
    ordered = np.sort(values, axis=-1)
    counts = np.count_nonzero(~np.isnan(values), axis=-1)
    ranks, coverages, error_ranks, widths = _ranks(size, confidence)

    def at(places: Any) -> Array:
        """The numbers at these places; any number for places outside, which is not used."""
        inside = np.clip(places, 0, size - 1)[..., np.newaxis]
        values: Array = np.take_along_axis(ordered, inside, axis=-1)[..., 0]
        return values

    rank, error_rank = ranks[counts].astype(np.intp), error_ranks[counts].astype(np.intp)
    # Without a sample all places are NaN, and so is the median.
    median = (at((counts - 1) // 2) + at(counts // 2)) / 2
    low = np.where(rank > 0, at(rank - 1), -math.inf)
    high = np.where(rank > 0, at(counts - rank), math.inf)
    error = (at(counts - error_rank) - at(error_rank - 1)) / widths[counts]
    # The median is only known to a step of the clock, evenly spread over it. Without a coarse
    # clock the smallest step is far below the error.
    steps = ordered[..., 1:] - ordered[..., :-1]
    step = np.min(steps, axis=-1, where=steps > ROUNDING, initial=math.inf)
    stepped = (counts > 1) & (at(counts - 1) - ordered[..., 0] > counts * ROUNDING)
    error = np.where(stepped, np.maximum(error, step / math.sqrt(12)), error)
    return Sessions(median, low, high, coverages[counts], error, counts)


def median_interval(x: npt.ArrayLike, confidence: float = CONFIDENCE) -> SessionEstimate:
    """The median of a sample, shape (n,), with its order-statistic interval, ignoring NaN.

    The interval assumes independent rounds and no shape of their distribution. With too few values
    for the confidence (under 6 for 95 %) it is (-inf, inf); without any the median is NaN. Raises
    ValueError for a confidence outside (0, 1) and for an array of another dimension.
    """
    check(0, confidence)
    return estimates_of(array(x, 1, "x")[np.newaxis, np.newaxis], confidence).contestant(0)[0]


def session_time(times: npt.ArrayLike, confidence: float = CONFIDENCE) -> SessionEstimate:
    """One session's median of the log of its visit minima, shape (rounds,), in seconds.

    Descriptive: absolute times vary by 2 to 18 % between processes.
    """
    return median_interval(logs_of(array(times, 1, "times")), confidence)
