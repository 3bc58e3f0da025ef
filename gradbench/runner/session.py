"""One process's share of one comparison: prepare the contestants, visit them in rounds, check.

The rounds are those of docs/measuring.md: every contestant once a round in a fresh random order,
the baseline twice (the second is the control), until the ratios are precise, the rounds are
spent or the budget is.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from gradbench.core.cases import FORWARD, Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerRefused,
    WorkerSpoiled,
    WorkerTimeout,
)
from gradbench.statistics import Stop, Stopping, enough
from gradbench.store.fields import Amount, Bytes, Positive
from gradbench.store.runs import DeviceState, Entrant, SessionMeasured, minima

SLOW_SHARE = 0.4
"""A contestant is slow whose visits in every round would take this share of the budget. The slow
ones have a budget of the same length to themselves, in equal parts, and one visit at least."""

SLOW_CALL = 0.01
SLOW_SESSIONS = 2
"""Contestants of which one call takes SLOW_CALL seconds, and that are HOPELESS times slower than
the fastest, take part in the first sessions only: these decide such a ratio."""

HOPELESS = 10

FAR_SESSIONS = 3
FAR = 3
"""Where the whole run has to end in time, all that are FAR times slower stay out after so many
sessions, however short their calls."""

BASELINE_PATIENCE = 10
"""What everything is compared with may be slower than `Settings.patience` by this factor."""

Start = Callable[[], tuple[Worker, int]]
"""Gives a running worker and its number in the log."""

State = Callable[[str, str], DeviceState | None]
"""Tells of a device, at a time of a name and by its uuid: see `gradbench.runner.nvml`."""


def no_state(when: str, uuid: str) -> DeviceState | None:
    """Nothing is told."""
    return None


@dataclass(frozen=True)
class Settings:
    """How a run measures. Times in seconds."""

    sessions: Annotated[int, Meta(ge=1, le=10_000)] = 5
    stopping: Stopping = field(default_factory=Stopping)
    warm: Amount = 0.05
    timeout: Positive = 60.0
    compile_timeout: Positive = 300.0
    seed: int = 0
    memory_limit: Bytes = 4 << 30
    """Bytes beyond which a case is refused, by estimate."""
    baseline: str = ""
    """The mode to form ratios against; empty: the mode people usually write first."""
    instruments: tuple[str, ...] = (WALL_TIME,)
    total: Amount = 0.0
    """Seconds after which the run should be over: sessions and visits are fitted in. 0: never."""
    patience: Amount = 0.0
    """A mode is refused of which one call takes longer, in seconds. 0: however long it takes."""


@dataclass
class _Contestant:
    mode: str
    handle: int
    visit: dict[str, Any]
    entrant: Entrant
    control: bool = False
    samples: list[list[int]] = field(default_factory=list)
    quota: float = math.inf

    @property
    def cost(self) -> float:
        """Seconds of one visit, as warming showed it."""
        calls = self.visit["untimed"] + self.visit["blocks"] * self.visit["number"]
        return float(calls * self.visit["call"]) * 1e-9

    def seconds(self, blocks: list[int]) -> float:
        """Seconds of a visit that was made, its untimed calls included."""
        timed = len(blocks) * self.visit["number"]
        return float(sum(blocks) * (1 + self.visit["untimed"] / timed) * 1e-9)


class _Lost(Exception):
    """The worker is gone while visiting: which contestant did it is not known."""


class _Again(Exception):
    """A contestant that was already in has to leave: the session starts over without it."""


def prepare(
    worker: Worker,
    mode: str,
    timeout: float,
    *,
    handle: int,
    warm: float,
    fresh: Sequence[int],
    patience: float = 0.0,
) -> tuple[Entrant, dict[str, Any] | None]:
    """Has a worker build and gate one mode of the open comparison.

    `patience` is that of the settings.
    Gives the record and, where the mode passed and `warm` seconds were spent on it, the plan of
    its visits. Raises WorkerDied or WorkerTimeout where the worker is lost over it.
    """
    try:
        answer = worker.request(
            "prepare",
            timeout,
            mode=mode,
            handle=handle,
            warm=int(warm * 1e9),
            fresh=list(fresh),
            patience=int(patience * 1e9),
        )
    except WorkerRefused as error:
        answer = {"status": error.status, "reason": str(error), "where": error.where}
    if answer["status"] == "ok" and warm and not answer["visit"]:
        raise worker.garbled("no visits are planned")
    entrant = Entrant(
        mode=mode,
        status=answer["status"],
        reason=answer.get("reason", ""),
        where=answer.get("where", ""),
        error=_finite(answer.get("error", 0.0)),
        ulps=_finite(answer.get("ulps", 0.0)),
        note=answer.get("note", ""),
    )
    return entrant, answer.get("visit")


def visits(
    worker: Worker, timeout: float, handles: Sequence[int], plans: Sequence[Mapping[str, Any]]
) -> tuple[list[list[int]], float]:
    """Has a worker visit contestants in this order, each with the plan of its visits.

    Gives the nanoseconds of every visit's sub-blocks, and the seconds of all. Raises WorkerGarbled
    where these are not as many as planned.
    """
    answer = worker.request("visit", timeout, handles=list(handles))
    blocks: list[list[int]] = answer["blocks"]
    if [len(found) for found in blocks] != [plan["blocks"] for plan in plans]:
        raise worker.garbled("not the sub-blocks that were planned")
    return blocks, answer["spent"] * 1e-9


def lost(mode: str, error: WorkerDied | WorkerTimeout) -> Entrant:
    """The record of a mode over which the worker was lost."""
    if isinstance(error, WorkerSpoiled):
        return Entrant(mode, "failed", str(error))
    status = "timed out" if isinstance(error, WorkerTimeout) else "crashed"
    return Entrant(mode, status, str(error))


def checked(entrant: Entrant, answer: Mapping[str, Any]) -> Entrant:
    """The record with what a worker's check after timing found: its word, and the worst error.

    The answer's note is of all that the contestant did, so it replaces the record's.
    """
    return msgspec.structs.replace(
        entrant,
        status=answer["status"],
        reason=answer.get("reason", ""),
        error=max(entrant.error, _finite(answer.get("error", 0.0))),
        ulps=max(entrant.ulps, _finite(answer.get("ulps", 0.0))),
        note=answer.get("note", "") or entrant.note,
    )


class Measurement:
    """Measures one entry of the plan in one session.

    `start` gives a worker; it is called again where the last one died. The mode that was in hand
    then is tried once more, for the worker may have been killed from outside: first in a fresh
    process, so that no other mode's doing is laid to it. `settled` holds the contestants that
    earlier sessions have shown not to be measurable, with their record: they are not tried again.
    `resting` are those that sit this session out (see `slow`). `state` tells of the device.
    """

    def __init__(
        self,
        entry: Entry,
        session: int,
        start: Start,
        settings: Settings,
        opt_in: frozenset[str],
        first: str,
        settled: dict[str, Entrant],
        resting: frozenset[str] = frozenset(),
        state: State = no_state,
    ) -> None:
        self.entry = entry
        self.session = session
        self.start = start
        self.settings = settings
        self.opt_in = opt_in
        self.first = first
        self.failed: dict[str, Entrant] = dict(settled)
        self.resting = resting
        self.state = state
        self.suspects: list[str] = []
        """The modes in whose hands a worker has died once."""
        self.posing_died = False
        self.random = random.Random(f"{settings.seed}/{entry.comparison}/{session}")
        # Fresh inputs differ from session to session, so that each adds to the evidence.
        self.fresh = [1 + 2 * session, 2 + 2 * session]

    def run(self) -> SessionMeasured:
        """The session's record. Raises WorkerError where no worker can be started at all."""
        began = time.perf_counter()
        careful = False
        while True:
            worker, process = self.start()
            try:
                contestants, opened = self._prepare(worker)
                before = self._look("warm", worker) if contestants else []
                order, stopped, visiting = self._rounds(worker, contestants, careful)
                after = self._look("timed", worker) if before else []
                self._check(worker, contestants)
            except _Lost:
                # Measured again, one visit a message, the culprit shows itself.
                careful = True
                continue
            except (_Again, WorkerDied, WorkerTimeout):
                continue
            break
        with contextlib.suppress(WorkerError):
            worker.request("close", self.settings.timeout)
        baseline = next((c.mode for c in contestants if c.control), "")
        entrants = [self._record(c) for c in contestants]
        entrants += [e for mode, e in self.failed.items() if mode in self.entry.modes]
        return SessionMeasured(
            comparison=str(self.entry.comparison),
            session=self.session,
            process=process,
            baseline=baseline,
            entrants=entrants,
            order=order,
            stopped=stopped,
            visiting=visiting,
            elapsed=time.perf_counter() - began,
            load=os.getloadavg()[0],
            result_bytes=opened.get("result_bytes", 0),
            argument_bytes=opened.get("argument_bytes", 0),
            states=before + after,
        )

    def _look(self, when: str, worker: Worker) -> list[DeviceState]:
        """The state of the device, where its driver tells."""
        device = self.entry.comparison.place.device
        known = worker.environment.get("device_uuids", {})
        found = self.state(when, known.get(device, ""))
        return [] if found is None else [found]

    def _prepare(self, worker: Worker) -> tuple[list[_Contestant], dict[str, Any]]:
        """Every contestant that passed the gate, and the control as the last of them."""
        settings = self.settings
        out = self.failed.keys() | self.resting
        modes = [mode for mode in self.entry.modes if mode not in out]
        modes.sort(key=lambda mode: mode not in self.suspects)
        if not modes:
            return [], {}
        try:
            opened = worker.request(
                "open",
                settings.timeout,
                comparison=str(self.entry.comparison),
                salt=settings.seed,
                fresh=self.fresh,
            )
        except WorkerRefused as error:
            self._fail_all(modes, error.status, str(error), error.where)
            return [], {}
        except WorkerTimeout as error:
            self._fail_all(modes, "timed out", f"posing the problem: {error}")
            raise
        except WorkerDied as error:
            # A worker that was killed from outside costs nothing: the problem is posed once more.
            if self.posing_died:
                self._fail_all(modes, "crashed", f"posing the problem: {error}")
            self.posing_died = True
            raise
        contestants: list[_Contestant] = []
        for mode in modes:
            found = self._enter(worker, mode, len(contestants))
            if found is not None:
                contestants.append(found)
        baseline = self._baseline(contestants)
        if baseline is not None:
            control = self._enter(worker, baseline.mode, len(contestants))
            if control is None:
                raise _Again
            control.control = True
            contestants.append(control)
        budget, rounds = settings.stopping.budget, settings.stopping.max_rounds
        slow_ones = [c for c in contestants if c.cost * rounds > SLOW_SHARE * budget]
        for contestant in slow_ones:
            contestant.quota = max(1, budget / len(slow_ones) // contestant.cost)
        return contestants, opened

    def _baseline(self, contestants: list[_Contestant]) -> _Contestant | None:
        wanted = (self.settings.baseline, self.first)
        derivatives = [c for c in contestants if c.mode != FORWARD]
        for name in wanted:
            for contestant in derivatives:
                if contestant.mode == name:
                    return contestant
        return next(iter(derivatives or contestants), None)

    def _enter(self, worker: Worker, mode: str, handle: int) -> _Contestant | None:
        """Prepares one mode; None where it is not to be timed, with the reason kept."""
        settings = self.settings
        limit = settings.compile_timeout if mode in self.opt_in else settings.timeout
        baseline = mode in (settings.baseline, self.first)
        patience = settings.patience * (BASELINE_PATIENCE if baseline else 1)
        try:
            entrant, visit = prepare(
                worker,
                mode,
                limit,
                handle=handle,
                warm=settings.warm,
                fresh=(0,),
                patience=patience,
            )
        except (WorkerDied, WorkerTimeout) as error:
            self._charge(mode, error)
            raise
        if visit is None:
            self.failed[mode] = entrant
            return None
        return _Contestant(mode, handle, visit, entrant)

    def _charge(self, mode: str, error: WorkerDied | WorkerTimeout) -> None:
        """Lays the loss of the worker to the mode in hand, unless it is the first death: then the
        mode is tried again."""
        its_own = isinstance(error, WorkerTimeout | WorkerSpoiled)
        if its_own or mode in self.suspects:
            self.failed[mode] = lost(mode, error)
        else:
            self.suspects.append(mode)

    def _fail_all(self, modes: list[str], status: str, reason: str, where: str = "") -> None:
        for mode in modes:
            self.failed[mode] = Entrant(mode, status, reason, where)

    def _rounds(
        self, worker: Worker, contestants: list[_Contestant], careful: bool
    ) -> tuple[list[list[int]], str, float]:
        """Visits until the stopping rule says so; the order of each round, why it stopped, and
        the seconds inside visits."""
        orders: list[list[int]] = []
        if not contestants:
            return orders, "nothing to time", 0.0
        stopping = self.settings.stopping
        spent = slow_spent = 0.0
        while True:
            batch = self._orders(contestants, len(orders), 1 if careful else stopping.every)
            if not batch:
                return orders, "budget", spent
            handles = [handle for order in batch for handle in order]
            answers: list[list[int]] = []
            pieces = [[handle] for handle in handles] if careful else [handles]
            for piece in pieces:
                made = [contestants[h] for h in piece]
                limit = self.settings.timeout + 20 * sum(c.cost for c in made)
                try:
                    blocks, seconds = visits(worker, limit, piece, [c.visit for c in made])
                except WorkerRefused as error:
                    if not careful:
                        raise _Lost from error
                    mode = made[0].mode
                    self.failed[mode] = Entrant(mode, error.status, f"while timed: {error}")
                    raise _Again from error
                except (WorkerDied, WorkerTimeout) as error:
                    if not careful:
                        raise _Lost from error
                    self._charge(made[0].mode, error)
                    raise
                answers += blocks
                spent += seconds
            found = iter(answers)
            for order in batch:
                for contestant in contestants:
                    contestant.samples.append([])
                for handle in order:
                    contestant = contestants[handle]
                    contestant.samples[-1] = next(found)
                    if contestant.quota < math.inf:
                        slow_spent += contestant.seconds(contestant.samples[-1])
            orders += batch
            why = self._enough(contestants, len(orders), spent - slow_spent)
            if why is not None:
                return orders, why, spent

    def _orders(self, contestants: list[_Contestant], done: int, rounds: int) -> list[list[int]]:
        orders = []
        rounds = min(rounds, self.settings.stopping.max_rounds - done)
        for ahead in range(rounds):
            order = [c.handle for c in contestants if done + ahead < c.quota]
            self.random.shuffle(order)
            if order:
                orders.append(order)
        return orders

    def _enough(self, contestants: list[_Contestant], rounds: int, spent: float) -> Stop | None:
        """Why to stop now. Precision is asked only of those that take part in every round."""
        stopping = self.settings.stopping
        running = [c for c in contestants if c.quota == math.inf]
        control = next((c for c in contestants if c.control), None)
        baseline = next(
            (i for i, c in enumerate(running) if control and c.mode == control.mode), None
        )
        if baseline is None:
            running, baseline = contestants, 0
        times = np.array([minima(c.visit["number"], c.samples) for c in running]).T
        return enough(times, spent, stopping, baseline)

    def _check(self, worker: Worker, contestants: list[_Contestant]) -> None:
        """Checks what was timed once more, on its inputs and on others."""
        for contestant in contestants:
            limit = self.settings.timeout
            try:
                answer = worker.request("check", limit, handle=contestant.handle, fresh=[1])
            except WorkerRefused as error:
                answer = {"status": error.status, "reason": f"after timing: {error}"}
            except (WorkerDied, WorkerTimeout) as error:
                self._charge(contestant.mode, error)
                raise
            contestant.entrant = checked(contestant.entrant, answer)

    def _record(self, contestant: _Contestant) -> Entrant:
        entrant = contestant.entrant
        return Entrant(
            mode=entrant.mode,
            status=entrant.status,
            reason=entrant.reason,
            where=entrant.where,
            error=entrant.error,
            ulps=entrant.ulps,
            number=contestant.visit["number"],
            untimed=contestant.visit["untimed"],
            control=contestant.control,
            samples=contestant.samples,
            note=entrant.note,
        )


def slow(session: SessionMeasured, settings: Settings) -> frozenset[str]:
    """The contestants whose calls take long, and so much longer than the fastest's that two
    sessions decide; the baseline is kept, as ratios need it."""
    least, times_slower = (0.0, FAR) if settings.total else (SLOW_CALL, HOPELESS)
    times = {
        entrant.mode: min(t for t in minima(entrant.number, entrant.samples) if t == t)
        for entrant in session.entrants
        if entrant.samples and entrant.mode != FORWARD
    }
    best = min(times.values(), default=0.0)
    return frozenset(
        mode
        for mode, seconds in times.items()
        if mode != session.baseline and seconds > max(least, times_slower * best)
    )


def _finite(number: float) -> float:
    """JSON has no infinity; a hopeless error is the largest number there is."""
    return number if math.isfinite(number) else 1e308
