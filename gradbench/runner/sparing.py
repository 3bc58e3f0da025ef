"""What a run of many sizes spares itself: calls that are hopeless, and sessions that are settled.

A mode takes no less time where no number of the size is smaller. So what it took at smaller sizes
bounds its time at larger ones, and it is not called where that bound, or its first calls, are far
above the patience and above what the fastest mode so far takes. Later sessions are for the modes
that are close to the fastest, as the times of the others hardly matter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradbench.core.cases import FORWARD, Comparison, Entry, is_size, parse_size
from gradbench.core.units import call_time
from gradbench.core.verdicts import Status
from gradbench.runner.settings import BASELINE_PATIENCE, Settings
from gradbench.store.runs import Entrant, Run, SessionMeasured

FAR = 3
"""A mode may take longer than the patience if it is no more than so many times slower than the
fastest one so far."""

MOST = 100
"""No call may take longer than so many times the patience."""

LONGER = 1.5
"""A bound rests on one size's fastest call, which chance may have made longer by so much."""

RESTING = ((2, 100.0), (3, 2.0))
"""From which session on modes sit out that are how many times slower than the fastest one. At the
confidence of `statistics.fastest_of_each` an interval of two sessions reaches a dozen times its
ratio either way where they differ by 3 %, one of three sessions a quarter of it."""

SETTLED = 3
"""From so many sessions on only modes are measured that are close to the fastest, and only while
`Settings.enough` is not over."""


@dataclass(frozen=True)
class Bound:
    """A mode takes at least so long, as it did at a size that is no larger."""

    seconds: float
    size: str


@dataclass
class Sparing:
    """Learns from the sessions of a run which calls and which sessions the others need not make."""

    settings: Settings
    by_hand: Collection[str] = ()
    elapsed: float = 0.0
    """Seconds in all sessions."""
    _times: dict[tuple[str, ...], dict[str, dict[str, float]]] = field(default_factory=dict)
    """Seconds of a call at least, of each mode, by size."""
    _nearest: dict[Comparison, dict[str, float]] = field(default_factory=dict)
    """The least multiple of a session's fastest mode that each mode took."""

    @classmethod
    def of(cls, run: Run, settings: Settings) -> Sparing | None:
        """What is known after a run's sessions so far; None where it spares itself nothing."""
        if not settings.patience or settings.total:
            return None
        made = cls(settings, run.started.by_hand)
        made.learn(*run.sessions)
        return made

    def learn(self, *records: SessionMeasured) -> None:
        """Keeps what sessions say of their comparisons."""
        for record in records:
            self.elapsed += record.elapsed
            self._learn(record)

    def _learn(self, record: SessionMeasured) -> None:
        times = {e.mode: e.visits.least for e in record.entrants if e.samples}
        best = min((times[mode] for mode in self._automatic(times)), default=math.nan)
        nearest = self._nearest.setdefault(record.comparison, {})
        for mode in self._automatic(times):
            nearest[mode] = min(nearest.get(mode, math.inf), times[mode] / best)
        least = {mode: seconds / LONGER for mode, seconds in times.items()}
        least |= {e.mode: e.takes for e in record.entrants if e.takes}
        least |= {
            e.mode: self.settings.timeout for e in record.entrants if e.status == Status.TIMED_OUT
        }
        sizes = self._times.setdefault(_but_size(record.comparison), {})
        sizes.setdefault(record.comparison.size, {}).update(least)

    def bounds(self, name: Comparison) -> dict[str, Bound]:
        """How long each mode takes at least, by the sizes of which no number is larger."""
        found: dict[str, Bound] = {}
        for size, modes in self._times.get(_but_size(name), {}).items():
            if not _no_larger(size, name.size):
                continue
            for mode, seconds in modes.items():
                if mode not in found or seconds > found[mode].seconds:
                    found[mode] = Bound(seconds, size)
        return found

    def patience(self, calls: Mapping[str, float], generous: bool = False) -> float:
        """Seconds that a call may take beside modes whose calls take so long.

        `generous` for the usual choice, and for modes that no smaller size speaks of: their first
        calls load code.
        """
        own = self.settings.patience
        best = min((calls[mode] for mode in self._automatic(calls)), default=math.inf)
        least = own * (BASELINE_PATIENCE if generous else 1)
        return min(MOST * own, max(least, FAR * best))

    def hopeless(self, mode: str, bound: Bound | None, patience: float) -> Entrant | None:
        """The record of a mode that is not called, as its bound is beyond the patience."""
        if bound is None or bound.seconds <= patience:
            return None
        reason = f"a call takes at least {call_time(bound.seconds)} (as at {bound.size})"
        return Entrant(mode, Status.REFUSED, reason, takes=bound.seconds)

    def resting(self, name: Comparison, number: int) -> frozenset[str]:
        """The modes that sit out the session of this number."""
        nearest = self._nearest.get(name, {})
        far = next((far for first, far in RESTING[::-1] if number >= first), math.inf)
        resting = {mode for mode, ratio in nearest.items() if ratio > far}
        return frozenset(resting | {FORWARD, *self.by_hand} if number >= SETTLED else resting)

    def spares(self, entry: Entry, number: int) -> bool:
        """Whether the session of this number is left out: no modes are left to tell apart, or the
        time for it is over."""
        if number >= SETTLED and 0 < self.settings.enough < self.elapsed:
            return True
        if number < RESTING[0][0]:
            return False
        nearest = self._nearest.get(entry.comparison, {})
        return len(nearest.keys() - self.resting(entry.comparison, number)) < 2

    def _automatic(self, modes: Mapping[str, float]) -> Iterator[str]:
        return (mode for mode in modes if mode != FORWARD and mode not in self.by_hand)


def ordered(modes: Sequence[str], bounds: Mapping[str, Bound]) -> list[str]:
    """The modes, the forward pass first and then those that took least at smaller sizes."""

    def key(mode: str) -> tuple[bool, float]:
        return mode != FORWARD, bounds[mode].seconds if mode in bounds else 0.0

    return sorted(modes, key=key)


def _but_size(name: Comparison) -> tuple[str, ...]:
    return name.operator, name.function, name.dtype, name.device, str(name.threads)


def _no_larger(one: str, other: str) -> bool:
    """Whether a size has the same numbers as another, none of them larger, and is not the same."""
    if not (is_size(one) and is_size(other)) or one == other:
        return False
    a, b = parse_size(one), parse_size(other)
    return a.keys() == b.keys() and all(a[key] <= b[key] for key in a)
