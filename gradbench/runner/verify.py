"""Puts cases through the gate and times nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gradbench.core.cases import Entry
from gradbench.core.verdicts import Status
from gradbench.runner.arms import Arm, failure, open_comparison, prepare
from gradbench.runner.progress import Progress, Report, silent
from gradbench.runner.settings import LIMIT_SHARE, Settings
from gradbench.runner.wire import Worker, WorkerDied, WorkerOptions, WorkerRefused, WorkerTimeout
from gradbench.runner.workers import Discovery, Workers
from gradbench.store.runs import Entrant


@dataclass
class Verification:
    """The gate's record of every case of a plan."""

    records: list[tuple[Entry, Entrant]] = field(default_factory=list)
    left: int = 0
    """Comparisons that were not checked to their end: not 0 where it was stopped."""

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(entrant.status for _, entrant in self.records).items()))

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong, failed, crashed, timed out or ran out of memory."""
        return not any(e.status not in ("ok", "unsupported", "refused") for _, e in self.records)


def verify(
    entries: Sequence[Entry],
    settings: Settings,
    options: WorkerOptions,
    discovery: Discovery,
    report: Report = silent,
    result: Verification | None = None,
) -> Verification:
    """Puts every case through the gate and times nothing.

    `result` is what to add the records to, one by one: a caller that is stopped keeps it.
    """
    began = time.perf_counter()
    result = result or Verification()
    result.left = len(entries)
    with Workers(options) as workers:
        for position, entry in enumerate(entries):
            elapsed = time.perf_counter() - began
            report(Progress(position, len(entries), entry.comparison, elapsed, unit="comparisons"))
            for record in _verify_entry(entry, settings, workers, discovery.opt_in):
                result.records.append((entry, record))
            result.left -= 1
        elapsed = time.perf_counter() - began
        report(Progress(len(entries), len(entries), "", elapsed, unit="comparisons"))
    return result


def _verify_entry(
    entry: Entry, settings: Settings, workers: Workers, opt_in: frozenset[str]
) -> Iterator[Entrant]:
    opened: Worker | None = None
    for position, mode in enumerate(entry.modes):
        limit = settings.preparing(mode in opt_in)
        for last in (False, True):
            worker, _ = workers.current()
            try:
                if worker is not opened:
                    open_comparison(worker, entry.comparison, settings)
                    opened = worker
                record = _verified(worker, mode, limit, LIMIT_SHARE * limit)
                if record.status == Status.REFUSED:
                    # Where that is for want of time, it takes all of the time.
                    record = _verified(worker, mode, limit, 0.0)
            except WorkerRefused as error:
                record = failure(mode, error)
            except (WorkerDied, WorkerTimeout) as error:
                # What has died once may have been killed from outside.
                if isinstance(error, WorkerDied) and not last:
                    continue
                if worker is not opened:
                    error.places = {}  # No mode is to blame.
                    yield from (failure(left, error) for left in entry.modes[position:])
                    return
                record = failure(mode, error)
            yield record
            break


def _verified(worker: Worker, mode: str, timeout: float, limit: float) -> Entrant:
    """The gate's record of a mode, whose repeats are left out where they might take longer than
    the limit, unless that is 0."""
    arm = prepare(worker, mode, timeout, handle=0, warm=0, fresh=(0, 1), limit=limit)
    return arm.entrant if isinstance(arm, Arm) else arm
