"""One comparison measured in several builds, whose workers take turns."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradbench.core.cases import Comparison, Entry
from gradbench.core.verdicts import Status
from gradbench.runner.arms import Arm, failure, open_comparison, prepare
from gradbench.runner.rounds import visit_in_rounds
from gradbench.runner.settings import Settings
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.store.runs import Entrant
from gradbench.store.tracks import CaseMeasured, PartMeasured, Side

Settled = dict[tuple[Comparison, str, str], Entrant]
"""Records of what is not measurable, by comparison, mode and environment."""


class Team:
    """One worker for each environment of a group, started when it is first needed."""

    def __init__(self, options: Mapping[str, WorkerOptions]) -> None:
        self.options = options
        self.workers: dict[str, Worker] = {}

    def worker(self, name: str) -> Worker:
        """The running worker of an environment; a fresh one if the last has ended."""
        worker = self.workers.get(name)
        if worker is not None and not worker.lost:
            return worker
        self.end(name)
        self.workers[name] = Worker(self.options[name])
        return self.workers[name]

    def start(self, names: Sequence[str]) -> None:
        """Starts several workers at once: importing torch takes long."""
        for name in names:
            self.workers[name] = Worker(self.options[name], greet=False)
        for name in names:
            self.workers[name].greet()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end_all()

    def end(self, name: str) -> None:
        if name in self.workers:
            self.workers.pop(name).__exit__()

    def end_all(self) -> None:
        for name in list(self.workers):
            self.end(name)


class _Again(Exception):
    """A worker has died over a case for the first time: the case is measured once more."""


@dataclass
class Part:
    """Measures one comparison of one group in one session.

    A worker that dies over a case may have been killed from outside: the case starts over, all
    environments together, since their times are compared round by round.
    """

    entry: Entry
    session: int
    group: int
    names: Sequence[str]
    team: Team
    settings: Settings
    opt_in: frozenset[str]
    settled: Settled
    resting: frozenset[tuple[Comparison, str]] = frozenset()

    def __post_init__(self) -> None:
        self.name = self.entry.comparison
        seed = f"{self.settings.seed}/{self.name}/{self.session}/{self.group}"
        self.random = random.Random(seed)
        self.visiting = 0.0
        self.opened: dict[str, Worker] = {}

    def run(self) -> PartMeasured:
        """The part's record. Raises WorkerError where a worker cannot be started at all."""
        began = time.perf_counter()
        cases = [
            self._case(mode) for mode in self.entry.modes if (self.name, mode) not in self.resting
        ]
        for worker in self.opened.values():
            with contextlib.suppress(WorkerError):
                worker.request("close", self.settings.timeout)
        return PartMeasured(
            comparison=self.name,
            session=self.session,
            group=self.group,
            cases=cases,
            visiting=round(self.visiting, 5),
            elapsed=round(time.perf_counter() - began, 4),
            load=round(os.getloadavg()[0], 2),
        )

    def _open(self, name: str) -> Worker:
        worker = self.team.worker(name)
        if self.opened.get(name) is not worker:
            open_comparison(worker, self.entry.comparison, self.settings, self.session)
            self.opened[name] = worker
        return worker

    def _case(self, mode: str) -> CaseMeasured:
        self.deaths: set[str] = set()
        while True:
            with contextlib.suppress(_Again):
                return self._tried(mode)

    def _tried(self, mode: str) -> CaseMeasured:
        arms: list[Arm] = []
        names: dict[Arm, str] = {}
        out: list[Side] = []
        for name in self.names:
            prepared = self.settled.get((self.name, mode, name)) or self._enter(name, mode)
            if isinstance(prepared, Arm):
                arms.append(prepared)
                names[prepared] = name
            else:
                out.append(Side(name, prepared))

        def drop(arm: Arm, record: Entrant) -> None:
            arms.remove(arm)
            out.append(Side(names[arm], record))

        def failed(visited: Sequence[Arm], error: WorkerError) -> None:
            drop(visited[0], self._failure(names[visited[0]], mode, error))

        rounds = visit_in_rounds(
            arms,
            lambda arms: self.random.sample(arms, len(arms)),
            self.settings.stopping,
            self.settings.timeout,
            careful=True,
            failed=failed,
        )
        self.visiting += rounds.seconds
        for arm in list(arms):
            try:
                arm.check(self.settings.timeout)
            except (WorkerDied, WorkerTimeout) as error:
                drop(arm, self._failure(names[arm], mode, error))
                continue
            if arm.entrant.status != "ok":
                drop(arm, arm.entrant)
        # Of each visit only its value is stored: all sub-blocks of all builds would take five
        # times the room, and no estimator needs the others.
        sides = [Side(names[arm], arm.shortened()) for arm in arms]
        return CaseMeasured(mode, sides + out, rounds.stopped)

    def _enter(self, name: str, mode: str) -> Arm | Entrant:
        """One build's mode, ready to be visited, or the record of why it is not."""
        settings = self.settings
        limit = settings.preparing(mode in self.opt_in)
        try:
            try:
                worker = self._open(name)
            except WorkerRefused as error:
                if not self.team.worker(name).failed:
                    raise
                # What declares the function does not load in this build.
                return Entrant(mode, Status.UNSUPPORTED, str(error))
            # One handle for all modes: each takes the place of the last.
            return prepare(worker, mode, limit, handle=0, warm=settings.warm)
        except (WorkerRefused, WorkerDied, WorkerTimeout) as error:
            # A release may not have what another one offers: its refusal is a result, no failure.
            return self._failure(name, mode, error)

    def _failure(self, name: str, mode: str, error: WorkerError) -> Entrant:
        """The record of a mode over which a request to an environment's worker failed. Raises
        _Again where the worker died for the first time."""
        if isinstance(error, WorkerDied) and name not in self.deaths:
            self.deaths.add(name)
            raise _Again from error
        return failure(mode, error)
