"""Workers one after the other, what they offer, and whether their builds are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gradbench.core.cases import Offer
from gradbench.runner.wire import Worker, WorkerOptions, ask
from gradbench.store.environment import RESUMED, WorkerEnvironment
from gradbench.store.lines import LineLog, StoreError, now
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

    def first(self, operator: str) -> str:
        """The usual choice of an operator's modes."""
        return next((o.first for o in self.offers if o.operator == operator), "")


def discover(options: WorkerOptions) -> Discovery:
    """Asks a fresh worker. Raises WorkerError where none starts."""
    answer, environment = ask(options, "discover", options.start_timeout)
    return Discovery(
        msgspec.convert(answer["offers"], list[Offer]),
        answer["modes"],
        environment,
        answer["unavailable"],
        tuple(answer["broken"]),
    )


class Workers:
    """One worker at a time, its number, and a line in the log for each worker.

    `started` are the run's workers so far: all must be of the first one's build.
    """

    def __init__(
        self,
        options: WorkerOptions,
        log: LineLog | None = None,
        started: Sequence[WorkerStarted] = (),
    ) -> None:
        self.options = options
        self.log = log
        self.number = max((worker.process for worker in started), default=0)
        self.worker: Worker | None = None
        self._before = started[0].environment if started else None

    def current(self) -> tuple[Worker, int]:
        """The worker and its number. Raises StoreError where its build has changed."""
        if self.worker is None or self.worker.lost:
            self.end()
            self.worker = Worker(self.options)
            self.number += 1
            environment = self.worker.environment
            if self.log is not None:
                self.log.append(WorkerStarted(self.number, environment, now()))
            self._before = self._before or environment
            require_same("this run", self._before, environment)
        return self.worker, self.number

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

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
