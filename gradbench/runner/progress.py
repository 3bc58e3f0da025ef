"""The progress of a measurement, and the end of a stretch of it."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from statistics import median

from gradbench.core.cases import FORWARD
from gradbench.core.clocks import clock_of
from gradbench.core.text import line
from gradbench.core.units import duration
from gradbench.runner.wire import WorkerError
from gradbench.store.lines import LineLog, StoreError
from gradbench.store.runs import SessionMeasured


@dataclass(frozen=True)
class Progress:
    """The progress of a measurement, in steps: of a run, its sessions of all comparisons."""

    done: int
    total: int
    label: str
    elapsed: float
    skipped: int = 0
    """Steps done in an earlier stretch."""
    limit: float = 0.0
    """Seconds after which it ends, once `least` steps are done; 0: no limit."""
    least: int = 0
    unit: str = "steps"
    """What is counted, in the plural."""
    leads: str = ""
    """What leads in the step before, in a few words."""
    share: float | None = None
    """The share of this stretch's work that is done, where steps differ in how long they take."""


Report = Callable[[Progress], None]


def leader(record: SessionMeasured, by_hand: Collection[str]) -> str:
    """The fastest automatic mode of a session and how far behind the next one is, in a few words;
    empty where fewer than two were timed."""
    visits = {
        entrant.mode: entrant.visits
        for entrant in record.entrants
        if entrant.mode != FORWARD and entrant.mode not in by_hand and not entrant.control
    }
    clock = clock_of(list(visits.values()))
    times = {}
    for mode, own in visits.items():
        known = [seconds for seconds in own.by(clock) if not math.isnan(seconds)]
        if known:
            times[mode] = median(known)
    if len(times) < 2:
        return ""
    first, second = sorted(times, key=lambda mode: times[mode])[:2]
    c = record.comparison
    ahead = times[second] / times[first]
    return f"{c.operator} of {c.function}: {first} leads {second} by {ahead:.2f}×"


def left(progress: Progress) -> str:
    """About how long it still takes, for the end of a sentence; empty where that is not known."""
    fresh = progress.done - progress.skipped
    if fresh <= 0 or progress.done >= progress.total:
        return ""
    each = progress.elapsed / fresh
    seconds = each * (progress.total - progress.done)
    if progress.share:
        seconds = progress.elapsed * (1 / progress.share - 1)
    if progress.limit:
        needed = each * (progress.least - progress.done)
        seconds = min(seconds, max(progress.limit - progress.elapsed, needed, 0.0))
    return f", about {duration(seconds)} left"


class Lines:
    """Progress where a line cannot be written over: a whole line now and then, and at the end."""

    EVERY = 15.0
    FIRST = 1.0
    """Seconds after which the first line comes: what is faster needs none."""

    def __init__(self, what: str, write: Callable[[str], None]) -> None:
        self.what = what
        self.write = write
        self._last = time.monotonic() - self.EVERY + min(self.FIRST, self.EVERY)
        self._begun = False
        self._unsaid: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last < self.EVERY:
            self._unsaid = progress
            return
        self._last = time.monotonic()
        self._say(progress)

    def end(self) -> None:
        """Says that all is done, where lines came before it."""
        if self._begun and self._unsaid is not None and self._unsaid.done >= self._unsaid.total:
            self._say(self._unsaid)

    def _say(self, progress: Progress) -> None:
        self._begun, self._unsaid = True, None
        label = f" ({line(progress.label)})" if progress.label else ""
        leads = f"; {line(progress.leads)}" if progress.leads else ""
        self.write(
            f"{self.what}: {progress.done} of {progress.total} {progress.unit}, "
            f"{duration(progress.elapsed)} so far{left(progress)}{label}{leads}"
        )


def silent(progress: Progress) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def stretch(log: LineLog, end: Callable[[bool, float], None]) -> Iterator[None]:
    """One stretch of measuring into a log.

    Whatever ends it, `end` is called with whether it finished and its seconds, to write the log's
    last line. An error of the workers tells how to resume.
    """
    began = time.perf_counter()
    finished = False
    try:
        yield
        finished = True
    except WorkerError as error:
        raise WorkerError(f"{error}; {log.hint}") from error
    finally:
        # Where the disk is full the first error is the one to show.
        if finished or not isinstance(sys.exc_info()[1], StoreError):
            end(finished, time.perf_counter() - began)
