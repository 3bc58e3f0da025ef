"""Reads the instruments other than the clock, comparison by comparison.

An ordinary worker puts every mode through the gate, reads the instruments that can read there,
and checks the mode once more. Instruments that need a process of their own (instructions, counted
under Valgrind) follow for the modes that passed: several such processes at a time, each with its
share of the plan, since they start slowly and other processes do not affect their counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from gradbench.core.cases import Case, Comparison, Entry
from gradbench.core.deadline import Deadline
from gradbench.core.instruments import INSTRUMENTS, Instrument
from gradbench.runner import callgrind, machine
from gradbench.runner.arms import Arm, failure, open_comparison, prepare
from gradbench.runner.session import Start
from gradbench.runner.settings import BASELINE_PATIENCE, Settings
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerLate,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.store.runs import Entrant, Reading, WorkerStarted, now

WARM = 0.001
"""Seconds of calls, to time one."""

START_TIMEOUT = 600.0
SLOWEST_TIMEOUT = 600.0
"""Seconds for an answer of an instrument's own process, which is slow."""

LANE_MEMORY = 2 << 30
LANE_ENTRIES = 4
"""The memory and the comparisons that a further process at the same time needs."""

Report = Callable[[int, int, str], None]
"""Called with the number of steps done, that of all steps, and what is being read."""


@dataclass(frozen=True)
class Task:
    """The instruments still to read for one comparison in one session."""

    entry: Entry
    session: int
    instruments: tuple[str, ...]

    @property
    def name(self) -> Comparison:
        return self.entry.comparison


@dataclass
class Passed:
    """The modes of a comparison that passed the gate, with the nanoseconds of a call, and the
    reasons why the others did not."""

    calls: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def missing(
    entries: Sequence[Entry], settings: Settings, readings: Sequence[Reading]
) -> list[Task]:
    """The readings not made yet; those of deterministic instruments in session 0 only."""
    done = {(r.comparison, r.session, r.instrument) for r in readings}
    tasks = []
    for session in range(settings.sessions):
        for entry in entries:
            names = tuple(
                name
                for name, instrument in INSTRUMENTS.items()
                if name in settings.instruments
                and not (session and instrument.deterministic)
                and not (instrument.cuda and entry.comparison.place.on_cpu)
                and (entry.comparison, session, name) not in done
            )
            if names:
                tasks.append(Task(entry, session, names))
    return tasks


@dataclass
class Readings:
    """Makes the records of all tasks.

    `start` returns an ordinary worker and its number, after `renew` a fresh one. `settled` holds
    the modes that are known not to be measurable.
    """

    tasks: Sequence[Task]
    settings: Settings
    options: WorkerOptions
    start: Start
    renew: Callable[[], None]
    opt_in: frozenset[str]
    settled: Mapping[Comparison, Mapping[str, Entrant]]
    report: Report
    deadline: Deadline = field(default_factory=Deadline)
    process: int = 0
    opened: Worker | None = None

    def records(self) -> Generator[Reading | WorkerStarted]:
        """Yields each record as soon as it is made.

        Raises WorkerError where a process cannot be started. Closing the iterator ends every
        process that it has started itself.
        """
        passed: dict[str, Passed] = {}
        session = -1
        for position, task in enumerate(self.tasks):
            here = [name for name in task.instruments if not INSTRUMENTS[name].own_process]
            what = " and ".join(here) or "the gate"
            self.report(position, len(self.tasks), f"{what}: {task.name}")
            if task.session != session:
                self.renew()
                session = task.session
            yield from self._read(task, here, passed.setdefault(task.name, Passed()))
        self.renew()
        for name, instrument in INSTRUMENTS.items():
            tasks = [task for task in self.tasks if name in task.instruments]
            if instrument.own_process and tasks:
                yield from self._in_own_processes(instrument, tasks, passed)

    def _read(self, task: Task, here: Sequence[str], passed: Passed) -> list[Reading]:
        """Gates every mode and reads the instruments that an ordinary worker can."""
        values: dict[str, dict[str, list[float]]] = {name: {} for name in here}
        reasons: dict[str, dict[str, str]] = {name: {} for name in here}
        passed.reasons.clear()
        self.opened = None
        for mode in task.entry.modes:
            settled = self.settled.get(task.name, {}).get(mode)
            if settled is not None:
                passed.reasons[mode] = _reason(settled)
                continue
            if self.deadline.over:
                passed.reasons[mode] = "refused: no time left to read it"
                continue
            try:
                outcome = self._of_mode(task, mode, here)
            except WorkerRefused as error:
                passed.reasons[mode] = f"failed: {error}"
                continue
            except (WorkerDied, WorkerTimeout, WorkerLate) as error:
                passed.calls.pop(mode, None)
                passed.reasons[mode] = _reason(failure(mode, error))
                continue
            if isinstance(outcome, str):
                passed.calls.pop(mode, None)
                passed.reasons[mode] = outcome
                continue
            passed.calls[mode], read, unread = outcome
            for name in here:
                if name in read:
                    values[name][mode] = read[name]
                else:
                    reasons[name][mode] = unread[name]
        return [
            _reading(task, name, self.process, values[name], passed.reasons | reasons[name])
            for name in here
        ]

    def _of_mode(
        self, task: Task, mode: str, here: Sequence[str]
    ) -> tuple[int, dict[str, list[float]], dict[str, str]] | str:
        """The nanoseconds of a mode's call, its values and the reasons for missing ones, or the
        reason why nothing is read.

        A worker that dies is replaced once, for it may have been killed from outside.
        """
        with contextlib.suppress(WorkerDied):
            return self._tried(task, mode, here)
        return self._tried(task, mode, here)

    def _tried(
        self, task: Task, mode: str, here: Sequence[str]
    ) -> tuple[int, dict[str, list[float]], dict[str, str]] | str:
        worker, self.process = self.start()
        if worker is not self.opened:
            timeout = self.deadline.within(self.settings.timeout)
            open_comparison(worker, task.entry.comparison, self.settings, task.session, timeout)
            self.opened = worker
        arm = prepare(
            worker,
            mode,
            self.deadline.within(self.settings.preparing(mode in self.opt_in)),
            handle=0,
            warm=WARM,
            patience=BASELINE_PATIENCE * self.settings.patience,
        )
        if not isinstance(arm, Arm):
            return _reason(arm)
        if not here:
            return arm.plan["call"], {}, {}
        read = read_by(worker, self.deadline.within(self.settings.timeout), here)
        arm.check(self.deadline.within(self.settings.timeout))
        if arm.entrant.status != "ok":
            return _reason(arm.entrant)
        return arm.plan["call"], *read

    def _in_own_processes(
        self, instrument: Instrument, tasks: Sequence[Task], passed: Mapping[str, Passed]
    ) -> Iterator[Reading | WorkerStarted]:
        """Readings of an instrument that needs processes of its own, several at a time.

        Each process takes a fixed share of the tasks: earlier tasks leave traces in its heap, so
        only a fixed share gives the same counts for the same plan.
        """
        room = psutil.virtual_memory().available // LANE_MEMORY
        lanes = max(1, min(len(machine.usable_cores()), len(tasks) // LANE_ENTRIES, room))
        records: queue.Queue[Reading | WorkerStarted | BaseException | None] = queue.Queue()
        numbers = itertools.count(self.process + 1)
        running = [
            _Lane(
                instrument,
                tasks[i::lanes],
                passed,
                self.opt_in,
                self.settings,
                self.options,
                numbers,
                records,
            )
            for i in range(lanes)
        ]
        self.report(0, len(tasks), f"{instrument.name}: starting {lanes} processes")
        done = ended = 0
        try:
            for lane in running:
                lane.thread.start()
            while ended < lanes:
                record = records.get()
                if record is None:
                    ended += 1
                    continue
                if isinstance(record, BaseException):
                    raise record
                yield record
                if isinstance(record, Reading):
                    done += 1
                    self.report(done, len(tasks), f"{instrument.name}: {record.comparison}")
                elif not done:
                    self.report(0, len(tasks), f"{instrument.name}: rehearsing")
        finally:
            for lane in running:
                lane.stop()
            for lane in running:
                if lane.thread.ident is not None:
                    lane.thread.join()


@dataclass
class _Lane:
    """A thread that drives one process of an instrument's own through its share of the tasks."""

    instrument: Instrument
    tasks: Sequence[Task]
    passed: Mapping[str, Passed]
    opt_in: frozenset[str]
    settings: Settings
    options: WorkerOptions
    numbers: Iterator[int]
    records: queue.Queue[Reading | WorkerStarted | BaseException | None]

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.number = 0
        self.worker: Worker | None = None
        self.opened: Worker | None = None
        """The process in which the current comparison is open."""
        self.lost: dict[Case, str] = {}
        """Why the process was lost, by case."""
        self.deaths: set[Case] = set()
        """Those over which the process has died once."""
        self._stopping = False
        self._pid: int | None = None
        self._lock = threading.Lock()

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as self._scratch:
                try:
                    for task in self.tasks:
                        self.records.put(self._read(task))
                finally:
                    self._end()
        except BaseException as error:
            # The main thread raises it, unless it was the one to stop this lane.
            if not self._stopping:
                self.records.put(error)
        self.records.put(None)

    def stop(self) -> None:
        """Called from another thread: ends the process, and so the thread."""
        with self._lock:
            self._stopping = True
            self._kill()

    def _born(self, pid: int) -> None:
        with self._lock:
            self._pid = pid
            if self._stopping:
                self._kill()

    def _kill(self) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _end(self) -> None:
        with self._lock:
            self._pid = None
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None

    def _read(self, task: Task) -> Reading:
        passed = self.passed[task.name]
        reasons = dict(passed.reasons)
        values: dict[str, list[float]] = {}
        name = self.instrument.name
        self.opened = None
        for mode, call in passed.calls.items():
            refusal = self._refusal(mode, call)
            if refusal is not None:
                reasons[mode] = f"refused: {refusal}"
                continue
            try:
                read, unread = self._of_mode(task, mode, call)
            except WorkerRefused as error:
                reasons[mode] = f"failed: {error}"
                continue
            if name in read:
                values[mode] = read[name]
            else:
                reasons[mode] = unread[name]
        return _reading(task, name, self.number, values, reasons)

    def _of_mode(
        self, task: Task, mode: str, call: int
    ) -> tuple[dict[str, list[float]], dict[str, str]]:
        """The values read of a mode, and the reason for a missing one."""
        name, case = self.instrument.name, task.name.case(mode)
        while True:
            worker = self._rehearsed()
            if case in self.lost:
                return {}, {name: self.lost[case]}
            try:
                if worker is not self.opened:
                    self._open(worker, task)
                    self.opened = worker
                self._request(worker, "trust", mode=mode, handle=0, call=call, rehearse=False)
                return read_by(worker, SLOWEST_TIMEOUT, [name])
            except (WorkerDied, WorkerTimeout) as error:
                self._charge(case, error)

    def _charge(self, case: Case, error: WorkerDied | WorkerTimeout) -> None:
        """Blames a case for the loss of the process, unless it is the first death: then the case is
        tried again. Raises the error where the lane was stopped."""
        if self._stopping:
            raise error
        if isinstance(error, WorkerTimeout) or case in self.deaths:
            self.lost[case] = _reason(failure(case.mode, error))
        self.deaths.add(case)

    def _refusal(self, mode: str, call: int) -> str | None:
        return callgrind.refusal(call, mode in self.opt_in)

    def _request(self, worker: Worker, op: str, **arguments: Any) -> dict[str, Any]:
        return worker.request(op, SLOWEST_TIMEOUT, **arguments)

    def _open(self, worker: Worker, task: Task) -> None:
        self._request(worker, "open", comparison=task.name, salt=self.settings.seed, fresh=[])

    def _rehearsed(self) -> Worker:
        """The process, which has called each mode once before the instrument reads anything.

        Otherwise torch's imports on first use would run under the instrument.
        """
        while self.worker is None or self.worker.lost:
            self._end()
            self.worker = self._started()
            with contextlib.suppress(WorkerDied, WorkerTimeout):
                self._rehearse(self.worker)
        return self.worker

    def _started(self) -> Worker:
        scratch = self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="gradbench-"))
        options = replace(
            self.options,
            prefix=callgrind.prefix(Path(scratch)),
            environment=callgrind.environment(Path(scratch)),
            start_timeout=START_TIMEOUT,
        )
        worker = Worker(options, self._born)
        self.number = next(self.numbers)
        self.records.put(WorkerStarted(self.number, worker.environment, now()))
        return worker

    def _rehearse(self, worker: Worker) -> None:
        seen: set[tuple[str, str]] = set()
        for task in self.tasks:
            operator = task.entry.comparison.operator
            calls = {
                mode: call
                for mode, call in self.passed[task.name].calls.items()
                if (operator, mode) not in seen
                and task.name.case(mode) not in self.lost
                and self._refusal(mode, call) is None
            }
            if not calls:
                continue
            in_hand = next(iter(calls))
            try:
                self._open(worker, task)
                for mode, call in calls.items():
                    in_hand = mode
                    seen.add((operator, mode))
                    with contextlib.suppress(WorkerRefused):
                        self._request(
                            worker, "trust", mode=mode, handle=0, call=call, rehearse=True
                        )
            except WorkerRefused:
                continue
            except (WorkerDied, WorkerTimeout) as error:
                self._charge(task.name.case(in_hand), error)
                raise


def read_by(
    worker: Worker, timeout: float, instruments: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The values that instruments read of a worker's contestant, and reasons for missing ones.

    Raises WorkerGarbled where an instrument has neither.
    """
    answer = worker.request("read", timeout, handle=0, instruments=list(instruments))
    values, reasons = answer["values"], answer["reasons"]
    if {*values, *reasons} != {*instruments}:
        raise worker.garbled("not what the instruments were asked for")
    return values, reasons


def _reason(entrant: Entrant) -> str:
    return f"{entrant.status}: {entrant.reason}" if entrant.reason else entrant.status


def _reading(
    task: Task,
    name: str,
    process: int,
    values: dict[str, list[float]],
    reasons: dict[str, str],
) -> Reading:
    return Reading(
        comparison=task.name,
        session=task.session,
        process=process,
        instrument=name,
        unit=INSTRUMENTS[name].unit,
        values=values,
        reasons={mode: reasons[mode] for mode in task.entry.modes if mode in reasons},
    )
