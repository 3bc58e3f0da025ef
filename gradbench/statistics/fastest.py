"""The fastest contestant of a comparison, and those that cannot be told from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradbench.core.verdicts import Verdict
from gradbench.statistics.between import Estimate
from gradbench.statistics.samples import CONFIDENCE, FLOOR, check, middles
from gradbench.statistics.tables import (
    Tables,
    batches,
    log_ratios,
    relative_to,
    relative_to_each,
    split,
)
from gradbench.statistics.verdicts import verdict


@dataclass(frozen=True, slots=True)
class Ranking:
    """The fastest contestant, and those that cannot be told from it, by their columns.

    `estimates` and `verdicts` are relative to the fastest (above 1 is slower), one per contestant;
    `tied` are the others that are undecided or the same against it, `missing` those without a round
    in common with it. `fastest` is None where nothing was measured. `confidence` is that of the
    ranking; the estimates have the higher confidence that it requires.
    """

    fastest: int | None
    tied: tuple[int, ...]
    missing: tuple[int, ...]
    estimates: tuple[Estimate, ...]
    verdicts: tuple[Verdict, ...]
    confidence: float


def fastest_of_each(
    tables: Sequence[Tables], floor: float = FLOOR, confidence: float = CONFIDENCE
) -> list[Ranking]:
    """Names the fastest contestant of each comparison and those that cannot be told from it.

    The candidate is the one with the smallest median between sessions of the session medians
    against a common reference, the contestant with most times. Everyone is then compared with it
    directly, paired inside rounds: no interval is derived from two others. If one of them is faster
    than the candidate, the next candidate is tried.

    The fastest is picked from the data that then judges the others: a winner's curse. Its rivals
    look slower against it than they are, by up to the largest of their errors; on identical
    contestants the bias grows with their number. So each of the K - 1 comparisons is made at
    confidence 1 - (1 - confidence) / (K - 1), which by Bonferroni's inequality over the K - 1
    possible winners is valid for a rival however the winner was picked. Two statements follow at
    the given confidence: the truly fastest is among the fastest and its ties; and any one rival
    called slower is slower by more than the floor. (Multiple comparisons with the best: Hsu,
    Multiple Comparisons, 1996, chapter 4.)

    A contestant with fewer than two sessions is named only where no other has more. Raises
    ValueError for a floor or a confidence that is out of range.
    """
    check(floor, confidence)
    fields = list(_fields(tables, confidence))
    related: dict[int, tuple[Estimate, ...]] = {}
    for level in {field.level for field in fields}:
        places = [place for place, field in enumerate(fields) if field.level == level]
        questions = [
            (field.tables, next(iter(field.candidates), field.reference))
            for field in (fields[place] for place in places)
        ]
        related |= zip(places, relative_to_each(questions, floor, level))
    return [_ranked(field, related[place], confidence) for place, field in enumerate(fields)]


@dataclass(frozen=True, slots=True)
class _Field:
    """The contestants of one comparison before one of them is named the fastest."""

    tables: Tables
    reference: int
    level: float
    """The confidence of each comparison with the fastest."""
    candidates: list[int]
    """The contestants that may be the fastest, the most likely first."""


def _fields(tables: Sequence[Tables], confidence: float) -> Iterator[_Field]:
    asked, levels = [], []
    for table in tables:
        valid = np.count_nonzero(~np.isnan(table.logs), axis=(0, 2))
        rivals = max(1, int(np.count_nonzero(valid)) - 1)
        levels.append(1 - (1 - confidence) / rivals)
        asked.append((table, int(np.argmax(valid))))
    remaining = iter(levels)
    for batch in batches(asked):
        medians = middles(log_ratios(batch))
        known = np.count_nonzero(~np.isnan(medians), axis=0).tolist()
        typical = middles(medians.T).tolist()
        for (table, reference), counts, own in zip(
            batch, split(batch, known), split(batch, typical)
        ):
            fewest = max(1, min(2, max(counts)))
            columns = [column for column, count in enumerate(counts) if count >= fewest]
            columns.sort(key=lambda column: (own[column], column))
            yield _Field(table, reference, next(remaining), columns)


def _ranked(field: _Field, estimates: tuple[Estimate, ...], confidence: float) -> Ranking:
    """The ranking of a comparison, from the estimates relative to its first candidate."""
    verdicts = tuple(map(verdict, estimates))
    if not field.candidates:
        count = field.tables.contestants
        return Ranking(None, (), tuple(range(count)), estimates, verdicts, confidence)
    chosen = field.candidates[0]
    if Verdict.FASTER in verdicts:
        for candidate in field.candidates[1:]:
            others = relative_to(field.tables, candidate, estimates[0].floor, field.level)
            judged = tuple(map(verdict, others))
            if Verdict.FASTER not in judged:
                chosen, estimates, verdicts = candidate, others, judged
                break
    missing = tuple(i for i, e in enumerate(estimates) if not e.sessions)
    tied = tuple(
        i
        for i, judged_as in enumerate(verdicts)
        if judged_as in (Verdict.SAME, Verdict.UNDECIDED) and i != chosen and i not in missing
    )
    return Ranking(chosen, tied, missing, estimates, verdicts, confidence)
