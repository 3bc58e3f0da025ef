"""Workers one after the other, what they offer, and whether their builds are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from gradbench.core.cases import Entry, Offer
from gradbench.core.deadline import Deadline
from gradbench.core.families import NOTEBOOKS
from gradbench.runner.wire import Worker, WorkerError, WorkerLate, WorkerOptions, ask
from gradbench.store.environment import RESUMED, WorkerEnvironment
from gradbench.store.lines import Appending, StoreError, now
from gradbench.store.runs import WorkerStarted


@dataclass(frozen=True)
class Discovery:
    """What a worker offers: functions under their operators, and modes."""

    offers: list[Offer]
    modes: list[dict[str, Any]]
    environment: dict[str, Any]
    unavailable: dict[str, str | None] = field(default_factory=dict)
    """The reason why an instrument cannot be used here, or None."""
    broken: tuple[str, ...] = ()
    """A line for each entry point of an installed package that failed to load."""

    @property
    def by_hand(self) -> list[str]:
        """The modes that need a derivative written by hand."""
        return sorted({mode["mode"] for mode in self.modes if mode["by_hand"]})

    @property
    def opt_in(self) -> frozenset[str]:
        return frozenset(mode["mode"] for mode in self.modes if mode["opt_in"])

    def families(self, entries: Iterable[Entry]) -> dict[str, str]:
        """The families of planned functions that are not of the source notebooks."""
        known = {o.function: o.family for o in self.offers if o.family != NOTEBOOKS}
        planned = dict.fromkeys(entry.comparison.function for entry in entries)
        return {name: known[name] for name in planned if name in known}

    def first(self, operator: str) -> str:
        """The usual choice of an operator's modes."""
        return next((o.first for o in self.offers if o.operator == operator), "")


def discover(options: WorkerOptions) -> Discovery:
    """Asks a fresh worker. Raises WorkerError where none starts."""
    return _discovery(*ask(options, "discover", options.start_timeout))


def discovered(worker: Worker, timeout: float) -> Discovery:
    """Asks a worker that has started. Raises what `Worker.request` raises."""
    return _discovery(worker.request("discover", timeout), worker.environment)


def _discovery(answer: dict[str, Any], environment: dict[str, Any]) -> Discovery:
    return Discovery(
        msgspec.convert(answer["offers"], list[Offer]),
        answer["modes"],
        environment,
        answer["unavailable"],
        tuple(answer["broken"]),
    )


class Workers:
    """One worker at a time, its number, and a line in the log for each worker.

    `started` are the run's workers so far: all must be of the first one's build. `ready` are
    workers that have started and loaded their files, to be used first. None is started after the
    `deadline`.
    """

    def __init__(
        self,
        options: WorkerOptions,
        log: Appending | None = None,
        started: Sequence[WorkerStarted] = (),
        ready: Sequence[Worker] = (),
        deadline: Deadline | None = None,
    ) -> None:
        self.options = options
        self.log = log
        self.number = max((worker.process for worker in started), default=0)
        self.worker: Worker | None = None
        self._ready = list(ready)
        self._deadline = deadline or Deadline()
        self._before = started[0].environment if started else None

    def current(self) -> tuple[Worker, int]:
        """The worker and its number. Raises StoreError where its build has changed, WorkerLate
        where the time is up."""
        if self.worker is None or self.worker.lost:
            self.end()
            self.worker = self._ready.pop(0) if self._ready else self._started()
            self.number += 1
            environment = self.worker.environment
            if self.log is not None:
                self.log.append(WorkerStarted(self.number, environment, now()))
            self._before = self._before or environment
            require_same("this run", self._before, environment)
        return self.worker, self.number

    def _started(self) -> Worker:
        timeout = self._deadline.within(self.options.start_timeout)
        try:
            if timeout:
                return Worker(replace(self.options, start_timeout=timeout))
        except WorkerError:
            if not self._deadline.over:
                raise
        raise WorkerLate("there is no time left to start a process")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        for worker in self._ready:
            worker.__exit__()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None


def require_same(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises StoreError where the build has changed since `what`, a run or a track, began."""
    for key, old, new in WorkerEnvironment.of(before).differences(
        WorkerEnvironment.of(after), RESUMED
    ):
        raise StoreError(
            f"{what} was begun with {key} {old} and now there is {new}: start a new one, so that "
            "unlike builds are not mixed"
        )
