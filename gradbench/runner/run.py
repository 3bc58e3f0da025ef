"""Measures a run: its sessions, the readings of other instruments, the limits of its devices."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.deadline import Deadline
from gradbench.core.instruments import WALL_TIME
from gradbench.core.verdicts import Status
from gradbench.runner.nvml import Nvml
from gradbench.runner.plan import lacking
from gradbench.runner.progress import Progress, Report, leader, silent, stretch
from gradbench.runner.readings import Readings, missing
from gradbench.runner.session import FAR_SESSIONS, SLOW_SESSIONS, Measurement, slow
from gradbench.runner.settings import Settings
from gradbench.runner.sparing import SETTLED, Sparing
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerLate,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.runner.workers import Discovery, Workers
from gradbench.store.lines import LineLog, now
from gradbench.store.runs import (
    RETRIED,
    Entrant,
    Limits,
    Reading,
    Run,
    RunEnded,
    SessionMeasured,
)

_log = logging.getLogger(__name__)

READING_SHARE = 0.2
"""The share of a limited run's time that is kept for instruments other than the clock."""

FIRST_SHARE = 0.1
"""The share of a limited run's time that its first session spends in visits."""

LEAST_SHARE = 0.2
"""A further session is worthwhile if its visits can take this share of its overhead."""


def measure(
    log: LineLog,
    run: Run,
    settings: Settings,
    options: WorkerOptions,
    discovery: Discovery,
    report: Report = silent,
    ready: Sequence[Worker] = (),
    ruled_out: Mapping[Comparison, Mapping[str, str]] = {},
) -> Run:
    """Measures every session of the plan that the log lacks, and stores each at once.

    Sessions are outermost: each is one process that goes through all comparisons. The other
    instruments follow, so that they disturb no times. Whatever stops it, Ctrl-C included, the log
    holds all that was measured. A mode that crashed in an earlier stretch is tried again, in
    further sessions if the plan has none left. A run with a limit in time (`Settings.total`) ends
    within it. `ready` are workers to use first; `ruled_out` are modes that are refused without a
    call, by comparison, with the reason. Raises WorkerError where no worker can be started,
    StoreError where the disk is full or the build has changed.
    """
    began = time.perf_counter()
    deadline = Deadline(settings.total or math.inf)
    entries = run.started.plan
    done = run.done()
    sessions = settings.sessions if WALL_TIME in settings.instruments else 0
    steps = planned(run, settings)
    lacks = lacking(run, settings)
    nvml = Nvml()
    known = Known(run, settings, ruled_out)
    sparing = known.sparing
    pace = _Pace(settings, len(entries), began)
    skipped = sum((entry.comparison, number) in done for number, entry in steps)
    least = 0 if settings.total else sum(number < SETTLED for number, _ in steps)
    visiting = 0.0
    session = -1
    leads = ""

    def end(finished: bool, elapsed: float) -> None:
        ended = RunEnded(now(), finished, elapsed, visiting)
        log.append(ended)
        run.ends.append(ended)

    with stretch(log, end), Workers(options, log, run.workers, ready, deadline) as workers:
        for position, (number, entry) in enumerate(steps):
            name = entry.comparison
            if (name, number) in done or (sparing and sparing.spares(entry, number)):
                continue
            if number >= sessions and lacks[name].modes <= known.settled.get(name, {}).keys():
                # These modes have had their second chance.
                continue
            elapsed = time.perf_counter() - began
            report(
                Progress(
                    *(position, len(steps), name, elapsed, skipped),
                    settings.total or settings.enough,
                    least,
                    unit="sessions",
                    leads=leads,
                )
            )
            if number != session:
                # A session is a process of its own.
                workers.end()
                session = number
                if not pace.another(sessions - number):
                    break
            measurement = Measurement(
                entry,
                number,
                workers.current,
                pace.settings,
                discovery.opt_in,
                discovery.first(entry.comparison.operator),
                known.settled.get(name, {}),
                known.slow(name, number),
                nvml.state,
                deadline,
                sparing,
            )
            try:
                record = measurement.run()
            except WorkerLate:
                break
            log.append(record)
            run.sessions.append(record)
            leads = leader(record, run.started.by_hand)
            visiting += record.visiting
            _tell(record, known.settled.get(name, {}))
            known.learn(record)
            pace.visited += record.visiting
        if settings.total:
            known.rule_out_slow()
        else:
            # The processes that were timed may be read where time is short.
            workers.end()
        _read(log, run, settings, workers, discovery, known.settled, report, deadline)
        if sessions and not settings.total:
            for measured in limits(entries, settings, workers, report, run.limits):
                log.append(measured)
                run.limits.append(measured)
    report(Progress(len(steps), len(steps), "", time.perf_counter() - began, unit="sessions"))
    return run


class Known:
    """What the sessions of a run so far say of the further ones.

    `ruled_out` are modes that are refused without a call. A mode that crashed in an earlier stretch
    of the run is tried again, one that crashes in this one is not.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        ruled_out: Mapping[Comparison, Mapping[str, str]] = {},
    ) -> None:
        self._settings = settings
        self._together = FAR_SESSIONS if settings.total else SLOW_SESSIONS
        self._slow: dict[Comparison, frozenset[str]] = {}
        self.settled = {
            name: {mode: Entrant(mode, Status.REFUSED, reason) for mode, reason in modes.items()}
            for name, modes in ruled_out.items()
        }
        """The modes that are not tried again, with their records, by comparison."""
        self.sparing = Sparing.of(run, settings)
        for record in run.sessions:
            self._keep(record, but=RETRIED)

    def learn(self, record: SessionMeasured) -> None:
        """Keeps what a session says."""
        if self.sparing:
            self.sparing.learn(record)
        self._keep(record)

    def _keep(self, record: SessionMeasured, but: Sequence[str] = ()) -> None:
        for entrant in record.entrants:
            # Modes with a status of `but` are tried again.
            if entrant.status not in ("ok", *but):
                bare = msgspec.structs.replace(entrant, samples=[], control=False)
                self.settled.setdefault(record.comparison, {})[entrant.mode] = bare
        if record.session == 0:
            self._slow[record.comparison] = slow(record, self._settings)

    def slow(self, name: Comparison, session: int) -> frozenset[str]:
        """The modes that sit out a session of a comparison as they are slow."""
        return self._slow.get(name, frozenset()) if session >= self._together else frozenset()

    def rule_out_slow(self) -> None:
        """Has the other instruments leave out what is slow."""
        for name, modes in self._slow.items():
            refused = {m: Entrant(m, Status.REFUSED, "is slower by far") for m in modes}
            self.settled.setdefault(name, {}).update(refused)


class _Pace:
    """Fits the sessions of a run into its `Settings.total` seconds, if it has a limit.

    The first session has a short budget for its visits. Starting and checking take later sessions
    no longer than the first, and they share the time left.
    """

    def __init__(self, settings: Settings, entries: int, began: float) -> None:
        self.settings = self._given = settings
        self._entries = entries
        self._began = began
        self._end = settings.total * (1 - READING_SHARE * (settings.instruments != (WALL_TIME,)))
        self._started = -1.0
        self._overhead = 0.0
        self._second = False
        self.visited = 0.0
        """Seconds in visits of the current session."""

    def another(self, left: int) -> bool:
        """Whether there is time for one of the `left` sessions; fits `settings` to it."""
        if not self._given.total:
            return True
        now = time.perf_counter() - self._began
        if self._started < 0:
            share = FIRST_SHARE * self._end
        else:
            overhead = now - self._started - self.visited
            self._overhead = min(overhead, self._overhead) if self._second else overhead
            fit = int((self._end - now) / (self._overhead * (1 + LEAST_SHARE)))
            # Without a second session no verdict is possible.
            if fit < 1 and self._second:
                return False
            share = (self._end - now) / max(1, min(left, fit)) - self._overhead
            self._second = True
        self._started, self.visited = now, 0.0
        stopping = self._given.stopping
        # Slow modes have a further budget of the same length.
        budget = min(stopping.budget, max(share / (2 * self._entries), 1e-3))
        self.settings = replace(self._given, stopping=replace(stopping, budget=budget))
        return True


def _read(
    log: LineLog,
    run: Run,
    settings: Settings,
    workers: Workers,
    discovery: Discovery,
    settled: dict[Comparison, dict[str, Entrant]],
    report: Report,
    deadline: Deadline,
) -> None:
    """Reads what the log lacks, of all instruments but the clock, until the deadline."""
    began = 0.0

    def progress(done: int, total: int, label: str) -> None:
        nonlocal began
        if not done:
            # Each instrument has a pace of its own.
            began = time.perf_counter()
        report(Progress(done, total, label, time.perf_counter() - began, unit="readings"))

    readings = Readings(
        missing(run.started.plan, settings, run.readings),
        settings,
        workers.options,
        workers.current,
        (lambda: None) if settings.total else workers.end,
        discovery.opt_in,
        settled,
        progress,
        deadline,
    )
    with contextlib.closing(readings.records()) as records:
        for record in records:
            log.append(record)
            if isinstance(record, Reading):
                run.readings.append(record)


def limits(
    entries: Sequence[Entry],
    settings: Settings,
    workers: Workers,
    report: Report = silent,
    stored: Sequence[Limits] = (),
) -> Iterator[Limits]:
    """Measures the limits of each device of a plan, but those that are stored.

    In a process of its own and last, so that it disturbs no times. If it fails, the run has no
    limits: no time depends on them.
    """
    wanted: dict[tuple[str, int], list[str]] = {}
    for entry in entries:
        c = entry.comparison
        dtypes = wanted.setdefault((c.place.device, c.threads), [])
        if c.dtype not in dtypes:
            dtypes.append(c.dtype)
    known = {(limits.device, limits.threads) for limits in stored}
    left = [(key, dtypes) for key, dtypes in wanted.items() if key not in known]
    workers.end()
    began = time.perf_counter()
    for position, ((device, threads), dtypes) in enumerate(left):
        elapsed = time.perf_counter() - began
        report(Progress(position, len(left), f"limits of {device}", elapsed, unit="devices"))
        for _ in range(2):
            worker, process = workers.current()
            try:
                answer = worker.request(
                    "limits", settings.timeout, device=device, threads=threads, dtypes=dtypes
                )
            except WorkerDied:
                continue
            except (WorkerTimeout, WorkerRefused):
                break
            yield Limits(
                process, device, threads, answer["bandwidth"], answer["rates"], answer["cache"]
            )
            break


def planned(run: Run, settings: Settings) -> list[tuple[int, Entry]]:
    """The numbers of all sessions with what each measures, and after them the further ones of modes
    that crashed; also those that are done."""
    sessions = settings.sessions if WALL_TIME in settings.instruments else 0
    steps = [(number, entry) for number in range(sessions) for entry in run.started.plan]
    lacks = lacking(run, settings)
    further = [
        (number, entry)
        for entry in run.started.plan
        if (lack := lacks.get(entry.comparison)) is not None
        for number in lack.sessions
    ]
    return steps + sorted(further, key=lambda step: step[0])


def _tell(record: SessionMeasured, known: Mapping[str, Entrant]) -> None:
    """Logs a session of a comparison, and why modes of it were not timed."""
    timed = sum(entrant.status == Status.OK for entrant in record.entrants)
    _log.debug(
        "%s, process %d: %d of %d timed in %d rounds and %.1f s (stopped: %s)",
        *(record.comparison, record.session + 1, timed, len(record.entrants)),
        *(len(record.order), record.elapsed, record.stopped),
    )
    for entrant in record.entrants:
        if entrant.status != Status.OK and entrant.mode not in known:
            case = record.comparison.case(entrant.mode)
            _log.debug("%s: %s: %s", case, entrant.status, entrant.reason)
