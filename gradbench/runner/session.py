"""One process's share of a comparison: prepare, visit in rounds, check; retry after a death.

The baseline is visited twice in each round: its second instance is the control. docs/measuring.md
explains the method.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from gradbench.core.cases import FORWARD, Entry
from gradbench.core.deadline import Deadline
from gradbench.core.verdicts import Status
from gradbench.runner import machine
from gradbench.runner.arms import Arm, failure, open_comparison, prepare
from gradbench.runner.rounds import Rounds, visit_in_rounds
from gradbench.runner.settings import BASELINE_PATIENCE, LIMIT_SHARE, Settings
from gradbench.runner.sparing import Bound, Sparing, ordered
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerLate,
    WorkerRefused,
    WorkerSpoiled,
    WorkerTimeout,
)
from gradbench.statistics import Stopping
from gradbench.store.runs import DeviceState, Entrant, SessionMeasured

SLOW_SHARE = 0.4
"""A mode is slow if its visits in every round, SLOW_ROUNDS at most, would take this share of the
budget. The slow ones share a further budget of the same length in equal parts, and are visited at
least once."""

SLOW_ROUNDS = 100

SLOW_CALL = 0.01
SLOW_SESSIONS = 2
"""Modes whose call takes SLOW_CALL seconds, and HOPELESS times as long as the fastest, take part in
the first sessions only: these decide such a ratio."""

HOPELESS = 10

FAR_SESSIONS = 3
FAR = 3
"""Where the run has a limit in time, all modes that are FAR times slower stay out after so many
sessions, however short their calls."""

PREPARING_SHARE = 0.6
"""The share of the time until a deadline after which no further mode is prepared."""

MODE_SHARE = 0.4
"""The share of that time which the first checks of one mode may take: others wait behind it."""

NO_TIME = "no time left to try it"
BUDGET_OVER = "the time was up before its first calls were checked"

Start = Callable[[], tuple[Worker, int]]
"""Returns a running worker and its number in the log."""

State = Callable[[str, str], DeviceState | None]
"""Returns the state of a device, by the name of a moment and its uuid: see `runner.nvml`."""


class _Again(Exception):
    """The session starts over."""


@dataclass
class Measurement:
    """Measures one entry of the plan in one session.

    `start` returns a worker; it is called again where the last one died. The mode in hand is then
    tried once more, for the worker may have been killed from outside: first in a fresh process,
    so that it is not blamed for another mode's doing. `settled` holds the modes that earlier
    sessions found not to be measurable, with their records: they are not tried again. `resting`
    modes sit this session out (see `slow`). `state` returns the state of the device. At the
    `deadline` the session ends with what has been measured: see `_cut_short`. `sparing` knows which
    modes are hopeless.
    """

    entry: Entry
    session: int
    start: Start
    settings: Settings
    opt_in: frozenset[str]
    first: str
    settled: Mapping[str, Entrant]
    resting: frozenset[str] = frozenset()
    state: State = lambda when, uuid: None
    deadline: Deadline = field(default_factory=Deadline)
    sparing: Sparing | None = None

    def __post_init__(self) -> None:
        self.failed = dict(self.settled)
        self.bounds: dict[str, Bound] = {}
        if self.sparing is not None:
            self.bounds = self.sparing.bounds(self.entry.comparison)
            self.resting |= self.sparing.resting(self.entry.comparison, self.session)
        self.opened: dict[str, Any] = {}
        self.arms: list[Arm] = []
        """The modes that the current worker has prepared, and what their visits took."""
        self.suspects: list[str] = []
        """The modes in whose hands a worker has died once."""
        self.posing_died = False
        self.careful = False
        """Whether a worker was lost while visiting: visited one by one, the culprit shows."""
        self.random = random.Random(f"{self.settings.seed}/{self.entry.comparison}/{self.session}")

    def run(self) -> SessionMeasured:
        """The session's record. Raises WorkerError where no worker can be started at all, and
        WorkerLate where none starts before the deadline."""
        began, stolen = time.perf_counter(), machine.stolen()
        process = 0
        while True:
            try:
                worker, process = self.start()
                arms, opened = self._prepare(worker)
                before = self._look("warm", worker) if arms else []
                rounds = visit_in_rounds(
                    arms,
                    self._shuffled,
                    self._stopping(arms),
                    self.settings.timeout,
                    careful=self.careful,
                    failed=self._failed,
                    deadline=self.deadline,
                )
                after = self._look("timed", worker) if before else []
                self._check(arms)
            except (_Again, WorkerDied, WorkerTimeout, WorkerLate) as error:
                if not self.deadline.over:
                    continue
                if not process:
                    raise error from None
                arms = [arm for arm in self.arms if arm.mode not in self.failed]
                opened, before, after = self.opened, [], []
                rounds = _cut_short(arms)
            break
        with contextlib.suppress(WorkerError):
            worker.request("close", self.deadline.within(self.settings.timeout))
        entrants = [arm.record() for arm in arms]
        entrants += [e for mode, e in self.failed.items() if mode in self.entry.modes]
        return SessionMeasured(
            comparison=self.entry.comparison,
            session=self.session,
            process=process,
            baseline=next((arm.mode for arm in arms if arm.entrant.control), ""),
            entrants=entrants,
            order=rounds.orders,
            stopped=rounds.stopped,
            visiting=rounds.seconds,
            elapsed=time.perf_counter() - began,
            load=os.getloadavg()[0],
            steal=round(max(0.0, machine.stolen() - stolen), 3),
            result_bytes=opened.get("result_bytes", 0),
            argument_bytes=opened.get("argument_bytes", 0),
            states=before + after,
        )

    def _stopping(self, arms: Sequence[Arm]) -> Stopping:
        """When to stop; with a deadline, asked after each round where rounds take long."""
        stopping = self.settings.stopping
        if not self.settings.total:
            return stopping
        long = stopping.every * sum(arm.cost for arm in arms) > stopping.budget
        return replace(stopping, every=1) if long else stopping

    def _look(self, when: str, worker: Worker) -> list[DeviceState]:
        """The state of the device, where its driver tells."""
        device = self.entry.comparison.place.device
        uuid = worker.environment.get("device_uuids", {}).get(device, "")
        state = self.state(when, uuid)
        return [] if state is None else [state]

    def _prepare(self, worker: Worker) -> tuple[list[Arm], dict[str, Any]]:
        """Every mode that passed the gate, and the control as the last of them."""
        out = self.failed.keys() | self.resting
        modes = ordered([mode for mode in self.entry.modes if mode not in out], self.bounds)
        modes.sort(key=lambda mode: mode not in self.suspects)
        self.arms, self.opened = [], {}
        if not modes:
            return [], {}
        until = self.deadline.share(PREPARING_SHARE)
        timeout = self.deadline.within(self.settings.timeout)
        try:
            opened = self.opened = open_comparison(
                worker, self.entry.comparison, self.settings, self.session, timeout
            )
        except WorkerRefused as error:
            self._fail_all(modes, error)
            return [], {}
        except WorkerTimeout as error:
            self._fail_all(modes, error, "posing the problem: ")
            if self.deadline.over:
                self.failed |= {mode: Entrant(mode, Status.REFUSED, NO_TIME) for mode in modes}
            raise
        except WorkerDied as error:
            # A worker that was killed from outside costs nothing: the problem is posed once more.
            if self.posing_died:
                self._fail_all(modes, error, "posing the problem: ")
            self.posing_died = True
            raise
        arms = self.arms
        for mode in modes:
            if until.over and any(arm.mode != FORWARD for arm in arms):
                self.failed[mode] = Entrant(mode, Status.REFUSED, NO_TIME)
                continue
            arm = self._enter(worker, mode, len(arms))
            if arm is not None:
                arms.append(arm)
        baseline = self._baseline(arms)
        if baseline is not None:
            control = self._enter(worker, baseline.mode, len(arms))
            if control is None:
                raise _Again
            control.entrant = msgspec.structs.replace(control.entrant, control=True)
            arms.append(control)
        budget = self.settings.stopping.budget
        rounds = min(self.settings.stopping.max_rounds, SLOW_ROUNDS)
        slow_arms = [arm for arm in arms if arm.cost * rounds > SLOW_SHARE * budget]
        for arm in slow_arms:
            arm.quota = max(1, budget / len(slow_arms) // arm.cost)
        return arms, opened

    def _baseline(self, arms: list[Arm]) -> Arm | None:
        derivatives = [arm for arm in arms if arm.mode != FORWARD]
        for mode in (self.settings.baseline, self.first):
            for arm in derivatives:
                if arm.mode == mode:
                    return arm
        return next(iter(derivatives or arms), None)

    def _enter(self, worker: Worker, mode: str, handle: int) -> Arm | None:
        """Prepares one mode; None where it is not to be timed, with the reason kept."""
        settings = self.settings
        patience = self._patience(mode)
        if self.sparing is not None:
            hopeless = self.sparing.hopeless(mode, self.bounds.get(mode), patience)
            if hopeless is not None:
                self.failed[mode] = hopeless
                return None
        timeout = self.deadline.share(MODE_SHARE).within(settings.preparing(mode in self.opt_in))
        try:
            prepared = prepare(
                worker,
                mode,
                timeout,
                handle=handle,
                warm=settings.warm,
                patience=patience,
                limit=LIMIT_SHARE * timeout if settings.total else 0.0,
            )
        except (WorkerDied, WorkerTimeout) as error:
            self._charge(mode, error)
            raise
        if isinstance(prepared, Arm):
            return prepared
        self.failed[mode] = prepared
        return None

    def _patience(self, mode: str) -> float:
        """Seconds that a call of a mode may take; 0: no limit."""
        baseline = mode in (self.settings.baseline, self.first)
        if self.sparing is None:
            return self.settings.patience * (BASELINE_PATIENCE if baseline else 1)
        calls = {arm.mode: arm.plan["call"] * 1e-9 for arm in self.arms}
        return self.sparing.patience(calls, baseline or mode not in self.bounds)

    def _charge(self, mode: str, error: WorkerError) -> None:
        """Blames the mode in hand, unless it is the first death: then the mode is tried again."""
        by_chance = isinstance(error, WorkerDied) and not isinstance(error, WorkerSpoiled)
        if self.deadline.over and isinstance(error, WorkerTimeout):
            self.failed[mode] = Entrant(mode, Status.TIMED_OUT, BUDGET_OVER)
            return
        if by_chance and mode not in self.suspects:
            self.suspects.append(mode)
        else:
            self.failed[mode] = failure(mode, error)

    def _fail_all(self, modes: list[str], error: WorkerError, when: str = "") -> None:
        for mode in modes:
            self.failed[mode] = failure(mode, error, when)

    def _shuffled(self, arms: list[Arm]) -> list[Arm]:
        self.random.shuffle(arms)
        return arms

    def _failed(self, arms: Sequence[Arm], error: WorkerError) -> None:
        """Starts over: carefully, or, where that shows the culprit, without it."""
        if self.deadline.over:
            raise error
        if not self.careful:
            self.careful = True
        else:
            self._charge(arms[0].mode, error)
        raise _Again from error

    def _check(self, arms: list[Arm]) -> None:
        for arm in arms:
            if self.deadline.over:
                # It passed before it was timed.
                arm.leave_unchecked()
                continue
            try:
                arm.check(self.deadline.within(self.settings.timeout))
            except (WorkerDied, WorkerTimeout) as error:
                self._charge(arm.mode, error)
                raise


def _cut_short(arms: Sequence[Arm]) -> Rounds:
    """Gives arms whose worker was ended by the deadline what is known of them: the visits that
    were answered, or else the time of a call in their first check."""
    seconds = sum(arm.seconds(blocks) for arm in arms for blocks in arm.samples if blocks)
    rounds = enumerate(zip(*(arm.samples for arm in arms)))
    visited = [number for number, blocks in rounds if any(blocks)]
    for arm in arms:
        arm.leave_unchecked()
        if visited:
            arm.samples, arm.cpu, arm.disturbed = (
                [kept[n] for n in visited] for kept in (arm.samples, arm.cpu, arm.disturbed)
            )
        else:
            arm.samples = [[arm.plan["number"] * arm.plan["call"]]]
            arm.cpu, arm.disturbed = [[]], [[]]
    return Rounds([], "deadline", seconds)


def slow(session: SessionMeasured, settings: Settings) -> frozenset[str]:
    """The modes whose calls take long, and so much longer than the fastest's that two sessions
    decide; the baseline is kept, as ratios need it."""
    least, times_slower = (0.0, FAR) if settings.total else (SLOW_CALL, HOPELESS)
    times = {
        entrant.mode: entrant.visits.least
        for entrant in session.entrants
        if entrant.samples and entrant.mode != FORWARD
    }
    best = min(times.values(), default=0.0)
    return frozenset(
        mode
        for mode, seconds in times.items()
        if mode != session.baseline and seconds > max(least, times_slower * best)
    )
