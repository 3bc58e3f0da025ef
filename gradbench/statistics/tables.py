"""Ratios, intervals and p-values of many comparisons in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradbench.statistics.between import Estimate, between_each
from gradbench.statistics.samples import (
    CONFIDENCE,
    FLOOR,
    Array,
    check,
    check_column,
    estimates_of,
    logs_of,
    middles,
    table,
)


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
        tables = [table(times) for times in sessions]
        if not tables:
            raise ValueError("there is no session to compare")
        widths = {rows.shape[1] for rows in tables}
        if len(widths) > 1 or 0 in widths:
            raise ValueError(
                f"sessions must have the same contestants, and one at least, not {sorted(widths)}"
            )
        times = np.full((len(tables), *widths, max(map(len, tables))), math.nan)
        for own, rows in zip(times, tables):
            own[:, : len(rows)] = rows.T
        return cls(logs_of(times))

    @property
    def contestants(self) -> int:
        return int(self.logs.shape[1])

    def medians(self) -> Array:
        """The median log time of each contestant, sessions × contestants, as `session_time` has
        it."""
        return middles(self.logs)


BATCH = 1 << 19
"""Numbers that are computed with at once: numpy's overhead is shared, and the memory bounded."""

Asked: TypeAlias = tuple[Tables, int]
"""A comparison and the contestant that its others are related to."""


def batches(asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
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


def log_ratios(asked: Sequence[Asked]) -> Array:
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


def split(asked: Sequence[Asked], values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """What belongs to each comparison of what was computed for all contestants."""
    start = 0
    for tables, _ in asked:
        yield values[start : start + tables.contestants]
        start += tables.contestants


def relative_to_each(
    asked: Sequence[Asked],
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
) -> list[tuple[Estimate, ...]]:
    """`relative_to` for many comparisons at once, which is much faster than one by one."""
    ratios: list[tuple[Estimate, ...]] = []
    for batch in batches(asked):
        sessions = estimates_of(log_ratios(batch), confidence)
        estimates = between_each(sessions, floor, confidence)
        ratios += map(tuple, split(batch, estimates))
    return ratios


def relative_to(
    sessions: Sequence[npt.ArrayLike] | Tables,
    reference: int = 0,
    floor: float = FLOOR,
    confidence: float = CONFIDENCE,
) -> tuple[Estimate, ...]:
    """Every contestant's ratio to one of them, paired inside rounds, between sessions.

    Each session: shape (rounds, contestants), visit minima in seconds, NaN where missing; the
    contestants in the same order in all, the rounds as many as each session has. The reference's
    own entry is exactly 1. Raises ValueError for shapes or a reference that do not fit.
    """
    check(floor, confidence)
    tables = Tables.of(sessions)
    check_column("reference", reference, tables.contestants)
    return relative_to_each([(tables, reference)], floor, confidence)[0]
