"""Finds the release in which a case changed, with the fewest installations.

The ends are measured first. Each further step measures one build between the two that enclose the
change, in turns with both, and decides to which end it belongs. Builds that are installed already
come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gradbench.releases.environments import Request
from gradbench.statistics import Estimate

Belongs = Literal["before", "after", "between", "unknown"]


@dataclass(frozen=True)
class Measured:
    """One build between two others: its ratios to the old end and to the new end."""

    to_old: Estimate
    to_new: Estimate

    @property
    def belongs(self) -> Belongs:
        """The old end or the new one, by the side of their middle on which its interval lies.

        *between* where the interval covers the middle and excludes both ends: then the change came
        in steps. *unknown* where more sessions are needed.
        """
        whole = np.log(self.to_old.ratio) - np.log(self.to_new.ratio)
        if not np.isfinite(whole) or whole == 0:
            return "unknown"
        # How far along the way from old (0) to new (1), from either side's interval.
        a = np.log([self.to_old.low, self.to_old.high]) / whole
        b = 1 + np.log([self.to_new.low, self.to_new.high]) / whole
        low = max(min(a), min(b))
        high = min(max(a), max(b))
        if low > high:
            low, high = min(*a, *b), max(*a, *b)
        if high < 0.5:
            return "before"
        if low > 0.5:
            return "after"
        return "between" if low > 0.1 and high < 0.9 else "unknown"


@dataclass
class Found:
    """The two builds between which the change lies, as closely as is known."""

    before: Request
    after: Request
    left: list[Request] = field(default_factory=list)
    """Builds between the two that differ clearly from neither, or were not installed."""
    tried: list[tuple[str, Measured | str]] = field(default_factory=list)
    """The builds tried on the way, by name, and the answer of each."""


def next_one(between: Sequence[Request], there: Callable[[Request], bool]) -> int:
    """The position of the build to measure next: the middle one of those installed, if any."""
    ready = [i for i, request in enumerate(between) if there(request)]
    places = ready or list(range(len(between)))
    return places[len(places) // 2]


def bisect(
    old: Request,
    new: Request,
    between: Sequence[Request],
    there: Callable[[Request], bool],
    measure: Callable[[Request, Request, Request], Measured | str],
    report: Callable[[Request, str], None] = lambda request, belongs: None,
) -> Found:
    """Narrows the change down.

    `between` lists the builds from old to new in order, without the two. `measure(before, one,
    after)` measures one build, or returns the reason why it cannot: it is then passed over.
    `report` is called after each step.
    """
    bracket = Found(old, new)
    left = list(between)
    passed: list[Request] = []
    while left:
        place = next_one(left, there)
        request = left[place]
        answer = measure(bracket.before, request, bracket.after)
        belongs = answer if isinstance(answer, str) else answer.belongs
        bracket.tried.append((request.name, answer))
        report(request, belongs)
        if belongs == "before":
            bracket.before, left = request, left[place + 1 :]
        elif belongs == "after":
            bracket.after, left = request, left[:place]
        elif belongs == "between":
            # The larger step is on the side from which it differs more.
            assert isinstance(answer, Measured)
            if abs(np.log(answer.to_old.ratio)) >= abs(np.log(answer.to_new.ratio)):
                bracket.after, left = request, left[:place]
            else:
                bracket.before, left = request, left[place + 1 :]
        else:
            passed.append(request)
            left = left[:place] + left[place + 1 :]
    order = {request.name: i for i, request in enumerate([old, *between, new])}
    low, high = order[bracket.before.name], order[bracket.after.name]
    bracket.left = sorted(
        (request for request in passed if low < order[request.name] < high),
        key=lambda request: order[request.name],
    )
    return bracket
