"""Judges the rows of a table together, and counts how many false positives are expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from gradbench.core.cases import Case
from gradbench.core.verdicts import Verdict

if TYPE_CHECKING:
    from gradbench.statistics import Estimate


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """How a table was judged; subclasses add its rows."""

    floor: float
    confidence: float
    method: str
    expected_false_alarms: float
    """See `statistics.judge`."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case measured twice: the ratio after over before, and its verdict."""

    case: Case
    estimate: Estimate
    verdict: Verdict


C = TypeVar("C", bound=Change)


class Changes(Table, Generic[C], frozen=True, kw_only=True):
    changes: list[C]

    def counts(self) -> dict[Verdict, int]:
        """The number of changes by verdict, in the order in which tables show them."""
        counts = Counter(change.verdict for change in self.changes)
        shown = (Verdict.SLOWER, Verdict.FASTER, Verdict.SAME, Verdict.UNDECIDED)
        return {verdict: counts[verdict] for verdict in shown}


def judge(
    estimates: Sequence[Estimate | None], floor: float, confidence: float, method: str
) -> tuple[list[Verdict], float]:
    """A verdict for each row of a table, none for a row without an estimate; and the number of
    false calls to expect."""
    from gradbench import statistics

    known = [estimate for estimate in estimates if estimate is not None]
    judgement = statistics.judge(known, floor, confidence, method)
    verdicts = iter(judgement.verdicts)
    judged = [Verdict.NONE if e is None else next(verdicts) for e in estimates]
    return judged, judgement.expected_false_alarms
