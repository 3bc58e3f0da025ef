"""A whole run: plan, sessions, checkpoints, and going on where one was cut off."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from gradbench.core.cases import Entry, Offer
from gradbench.core.instruments import WALL_TIME
from gradbench.runner import machine
from gradbench.runner.nvml import Nvml
from gradbench.runner.readings import Readings, missing
from gradbench.runner.session import (
    FAR_SESSIONS,
    SLOW_SESSIONS,
    Measurement,
    Settings,
    lost,
    prepare,
    slow,
)
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
    ask,
)
from gradbench.statistics import Stopping
from gradbench.store.executed import digests
from gradbench.store.fields import reason
from gradbench.store.lines import LineLog, new_id
from gradbench.store.runs import (
    KIND,
    RETRIED,
    SCHEMA,
    Entrant,
    Limits,
    PlanEntry,
    Reading,
    Run,
    RunEnded,
    RunStarted,
    SessionMeasured,
    StoreError,
    WorkerStarted,
    folder,
    now,
    read,
)

if TYPE_CHECKING:
    from gradbench.store.tracks import Track


@dataclass(frozen=True)
class Profile:
    """How much is measured, and how closely."""

    summary: str
    sweep: str
    settings: Settings
    dtypes: tuple[str, ...] = ()


PROFILES = {
    "quick": Profile(
        "the documents' inputs, a few short rounds in 5 processes: minutes",
        "documents",
        Settings(
            sessions=5,
            warm=0.003,
            stopping=Stopping(min_rounds=4, max_rounds=4, every=4, half_width=0.005, budget=0.25),
        ),
    ),
    "standard": Profile(
        "the documents' inputs and sizes beyond, 16 to 100 rounds in 5 processes: an hour",
        "standard",
        Settings(
            sessions=5,
            warm=0.02,
            stopping=Stopping(min_rounds=16, max_rounds=100, every=4, half_width=0.005, budget=1.0),
        ),
    ),
    "full": Profile(
        "every size, float32 and float64, 10 processes: a night",
        "full",
        Settings(
            sessions=10,
            warm=0.05,
            stopping=Stopping(min_rounds=16, max_rounds=100, every=4, half_width=0.005, budget=2.0),
        ),
        dtypes=("float32", "float64"),
    ),
}


@dataclass(frozen=True)
class Discovery:
    """What a worker offers: the functions under their operators, and the modes."""

    offers: list[Offer]
    modes: list[dict[str, Any]]
    environment: dict[str, Any]
    unavailable: dict[str, str | None] = field(default_factory=dict)
    """Why an instrument cannot be used here; None where it can."""
    broken: tuple[str, ...] = ()
    """A line for each entry point of an installed package that could not be loaded."""

    @property
    def by_hand(self) -> list[str]:
        """The modes that need a derivative written by hand."""
        return sorted({mode["mode"] for mode in self.modes if mode["by_hand"]})

    @property
    def opt_in(self) -> frozenset[str]:
        return frozenset(mode["mode"] for mode in self.modes if mode["opt_in"])

    def first(self, operator: str) -> str:
        """The mode of an operator that people usually write first."""
        return next((o.first for o in self.offers if o.operator == operator), "")


def discover(options: WorkerOptions) -> Discovery:
    """Asks a fresh worker. Raises WorkerError with one line where there is none to ask."""
    answer, environment = ask(options, "discover", options.start_timeout)
    return Discovery(
        msgspec.convert(answer["offers"], list[Offer]),
        answer["modes"],
        environment,
        answer["unavailable"],
        tuple(answer["broken"]),
    )


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps are comparisons times sessions."""

    done: int
    total: int
    label: str
    elapsed: float
    skipped: int = 0
    """Steps that an earlier stretch of the run had made already."""
    limit: float = 0.0
    """Seconds after which it ends whatever is left; 0: none."""


Report = Callable[[Progress], None]


def _silent(progress: Progress) -> None:
    pass


class Workers:
    """One worker at a time, its number, and a line in the log for each that is started.

    `started` are those of the run so far: every further one has to be of the first one's build.
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
        """The worker and its number. Raises StoreError where its build is another than before."""
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

    def end(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None


READING_SHARE = 0.2
"""Of a limited run's time, what is kept for the readings of other instruments than the clock."""

FIRST_SHARE = 0.1
"""Of a limited run's time, what its first session spends in visits."""

LEAST_SHARE = 0.2
"""A further session is worth its start where it can visit for this share of what it takes."""


# A run may only go on where these are as they were: everything else is in each worker's line.
IDENTITY = ("torch", "torch_git", "cpu_capability", "python", "numpy", "gradbench", "device_names")


def start(
    results: Path,
    entries: Sequence[Entry],
    settings: Settings,
    discovery: Discovery,
    files: Sequence[str] = (),
    command: Sequence[str] = (),
    loaded: Sequence[str] = (),
) -> tuple[LineLog, Run]:
    """A new log with the plan. `loaded` are files that the user's `files` load in turn.

    Raises StoreError where it cannot be written, or a file cannot be read.
    """
    header = RunStarted(
        schema=SCHEMA,
        run=new_id(),
        started=now(),
        settings=asdict(settings),
        machine=machine.facts(),
        plan=[PlanEntry(str(entry.comparison), list(entry.modes)) for entry in entries],
        command=list(command),
        files=list(files),
        by_hand=discovery.by_hand,
        digests=digests([*files, *loaded]),
    )
    log = KIND.create(folder(results), header)
    return log, Run(log.path, header)


def resume(run: Run) -> tuple[LineLog, Run, Settings]:
    """An interrupted run's log, what it holds, and its settings; a finished one's too where modes
    crashed, for they get another chance. Raises StoreError where there is nothing left to make, the
    log is in use, or no line of it can be read that tells which build its sessions are of."""
    settings = settings_of(run)
    if run.sessions and not run.workers:
        raise StoreError(
            f"{run.name} cannot go on: which build of torch it was begun with is not known, as the "
            "lines of its processes are damaged or missing; start a new run"
        )
    log = KIND.reopen(run)
    # What was read before the log was locked another process may have added to.
    return log, read(run.path), settings


def settings_of(run: Run) -> Settings:
    """The settings that a run goes on with.

    Raises StoreError where there is nothing left to make, or where they are damaged.
    """
    settings = converted_settings(run)
    if not lacking(run, settings):
        run.require_unfinished()
    return settings


def converted_settings(stored: Run | Track) -> Settings:
    """The settings of a run or a track. Raises StoreError where they are damaged."""
    try:
        return msgspec.convert(stored.started.settings, Settings)
    except msgspec.ValidationError as error:
        raise StoreError(
            f"{stored.name} cannot go on: its settings are damaged ({reason(error)})"
        ) from error


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Lack(Generic[K]):
    """What a comparison has too little of, as modes crashed in some of its sessions."""

    modes: frozenset[K]
    sessions: range
    """The numbers of as many further sessions as it takes until each mode has those planned."""


def lack_of(
    planned: int, statuses: Mapping[int, Mapping[K, str]], resting: Collection[K]
) -> Lack[K] | None:
    """What is lacking of a comparison with these statuses by session, if anything is.

    A session of the plan that is still to be made tries every mode anyway. What is wrong, or rests
    as it is slow, would not be timed again.
    """
    left = planned - sum(number < planned for number in statuses)
    good: dict[K, int] = {}
    lost: set[K] = set()
    settled: set[K] = set()
    for found in statuses.values():
        for mode, status in found.items():
            good[mode] = good.get(mode, 0) + (status == "ok")
            if status in RETRIED:
                lost.add(mode)
            elif status != "ok":
                settled.add(mode)
    modes = frozenset(mode for mode in lost - settled if mode not in resting)
    missing = max((planned - left - good[mode] for mode in modes), default=0)
    if missing <= 0:
        return None
    first = max(planned, 1 + max(statuses))
    return Lack(modes, range(first, first + missing))


def lacking(run: Run, settings: Settings) -> dict[str, Lack[str]]:
    """The comparisons in which modes crashed, or ran out of memory, and could be tried again.

    A run that has to end in time makes no sessions beyond its plan.
    """
    if settings.total or WALL_TIME not in settings.instruments:
        return {}
    found = {}
    for name, sessions in run.by_comparison().items():
        resting = {m for s in sessions if s.session == 0 for m in slow(s, settings)}
        statuses = {
            s.session: {e.mode: e.status for e in s.entrants if not e.control} for s in sessions
        }
        lack = lack_of(settings.sessions, statuses, resting)
        if lack is not None:
            found[name] = lack
    return found


def measure(
    log: LineLog,
    run: Run,
    settings: Settings,
    options: WorkerOptions,
    discovery: Discovery,
    report: Report = _silent,
) -> Run:
    """Makes every session of the plan that the log lacks, storing each as soon as it is made.

    Sessions are outermost: each is one process that goes through all comparisons. The readings
    of other instruments than the clock follow, so that they disturb no times. Whatever stops
    it, Ctrl-C included, the log holds all that was measured. A mode that crashed in an earlier
    stretch is tried again, in further sessions where the plan has none left. Raises WorkerError
    where no worker can be started, StoreError where the disk is full or the build has changed.
    """
    began = time.perf_counter()
    entries = run.started.entries()
    done = run.done()
    sessions = settings.sessions if WALL_TIME in settings.instruments else 0
    lacks = lacking(run, settings)
    steps = [(s, e) for s in range(sessions) for e in entries] + _further(run, lacks)
    nvml = Nvml()
    workers = Workers(options, log, run.workers)
    settled: dict[str, dict[str, Entrant]] = {}
    slow_ones: dict[str, frozenset[str]] = {}
    for record in run.sessions:
        _settle(settled, record, but=RETRIED)
        if record.session == 0:
            slow_ones[record.comparison] = slow(record, settings)
    together = FAR_SESSIONS if settings.total else SLOW_SESSIONS
    pace = _Pace(settings, len(entries), began)
    skipped = sum((str(entry.comparison), number) in done for number, entry in steps)
    finished = False
    visiting = 0.0
    session = -1
    try:
        for position, (number, entry) in enumerate(steps):
            name = str(entry.comparison)
            if (name, number) in done:
                continue
            if number >= sessions and lacks[name].modes <= settled.get(name, {}).keys():
                # They had their other chance.
                continue
            elapsed = time.perf_counter() - began
            report(Progress(position, len(steps), name, elapsed, skipped, settings.total))
            if number != session:
                # A session is a process of its own.
                workers.end()
                session = number
                if not pace.another(sessions - number):
                    break
            record = Measurement(
                entry,
                number,
                workers.current,
                pace.settings,
                discovery.opt_in,
                discovery.first(entry.comparison.operator),
                settled.get(name, {}),
                slow_ones.get(name, frozenset()) if number >= together else frozenset(),
                nvml.state,
            ).run()
            log.append(record)
            run.sessions.append(record)
            visiting += record.visiting
            _settle(settled, record)
            pace.visited += record.visiting
            if number == 0:
                slow_ones[name] = slow(record, settings)
        workers.end()
        if settings.total:
            for name, modes in slow_ones.items():
                known = settled.setdefault(name, {})
                known |= {m: Entrant(m, "refused", "is slower by far") for m in modes}
        _read(log, run, settings, workers, discovery, settled, report)
        if sessions and not settings.total:
            _limits(log, run, settings, workers, report)
        finished = True
        report(Progress(len(steps), len(steps), "", time.perf_counter() - began))
    except WorkerError as error:
        raise WorkerError(f"{error}; {log.hint}") from error
    finally:
        workers.end()
        end = RunEnded(now(), finished, time.perf_counter() - began, visiting)
        # Where the disk is full the first error is the one to show.
        if finished or not isinstance(sys.exc_info()[1], StoreError):
            log.append(end)
            run.ends.append(end)
    return run


class _Pace:
    """Fits the sessions of a run into its `Settings.total` seconds, where it has a limit.

    The first session has a short budget for its visits. What starting and checking took in it is
    what later ones will take at most, and they share what is left.
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
        """Seconds in visits of the session that is being made."""

    def another(self, left: int) -> bool:
        """Whether there is time for a session of the `left` ones; fits `settings` to it."""
        if not self._given.total:
            return True
        now = time.perf_counter() - self._began
        if self._started < 0:
            share = FIRST_SHARE * self._end
        else:
            overhead = now - self._started - self.visited
            self._overhead = min(overhead, self._overhead) if self._second else overhead
            fit = int((self._end - now) / (self._overhead * (1 + LEAST_SHARE)))
            # Without a second session nothing can be decided.
            if fit < 1 and self._second:
                return False
            share = (self._end - now) / max(1, min(left, fit)) - self._overhead
            self._second = True
        self._started, self.visited = now, 0.0
        stopping = self._given.stopping
        # The slow contestants have a budget of the same length to themselves.
        budget = min(stopping.budget, max(share / (2 * self._entries), 1e-3))
        self.settings = replace(self._given, stopping=replace(stopping, budget=budget))
        return True


def _read(
    log: LineLog,
    run: Run,
    settings: Settings,
    workers: Workers,
    discovery: Discovery,
    settled: dict[str, dict[str, Entrant]],
    report: Report,
) -> None:
    """Makes the readings that the log lacks, of all instruments but the clock."""
    began = 0.0

    def told(done: int, total: int, label: str) -> None:
        nonlocal began
        if not done:
            # Each instrument has a pace of its own.
            began = time.perf_counter()
        report(Progress(done, total, label, time.perf_counter() - began))

    readings = Readings(
        missing(run.started.entries(), settings, run.readings),
        settings,
        workers.options,
        workers.current,
        workers.end,
        discovery.opt_in,
        settled,
        told,
    )
    with contextlib.closing(readings.records()) as records:
        for record in records:
            log.append(record)
            if isinstance(record, Reading):
                run.readings.append(record)


def _limits(log: LineLog, run: Run, settings: Settings, workers: Workers, report: Report) -> None:
    """Measures what each device of the plan can do at most, unless the log has it.

    In a process of its own and after all else, so that it disturbs no times. Where it fails the run
    goes without: no time depends on it.
    """
    wanted: dict[tuple[str, int], list[str]] = {}
    for entry in run.started.entries():
        c = entry.comparison
        dtypes = wanted.setdefault((c.place.device, c.threads), [])
        if c.dtype not in dtypes:
            dtypes.append(c.dtype)
    known = {(found.device, found.threads) for found in run.limits}
    left = [(key, dtypes) for key, dtypes in wanted.items() if key not in known]
    workers.end()
    began = time.perf_counter()
    for position, ((device, threads), dtypes) in enumerate(left):
        elapsed = time.perf_counter() - began
        report(Progress(position, len(left), f"limits of {device}", elapsed))
        for _ in range(2):
            worker, process = workers.current()
            try:
                found = worker.request(
                    "limits", settings.timeout, device=device, threads=threads, dtypes=dtypes
                )
            except WorkerDied:
                continue
            except (WorkerTimeout, WorkerRefused):
                break
            made = Limits(
                process, device, threads, found["bandwidth"], found["rates"], found["cache"]
            )
            log.append(made)
            run.limits.append(made)
            break


def _further(run: Run, lacks: Mapping[str, Lack[str]]) -> list[tuple[int, Entry]]:
    """Sessions beyond the plan's for what is lacking."""
    steps = [
        (number, entry)
        for entry in run.started.entries()
        if (lack := lacks.get(str(entry.comparison))) is not None
        for number in lack.sessions
    ]
    return sorted(steps, key=lambda step: step[0])


def _settle(
    settled: dict[str, dict[str, Entrant]], record: SessionMeasured, but: Sequence[str] = ()
) -> None:
    """Contestants that one session showed not to be measurable are not tried in the next; `but`
    are the statuses that say nothing for this."""
    for entrant in record.entrants:
        if entrant.status not in ("ok", *but):
            settled.setdefault(record.comparison, {})[entrant.mode] = _without_samples(entrant)


def _without_samples(entrant: Entrant) -> Entrant:
    """The record of a contestant without its samples."""
    return msgspec.structs.replace(entrant, samples=[], control=False)


def require_same(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises StoreError where the build has changed since `what` was begun: a run, a track."""
    for key in IDENTITY:
        if before.get(key) != after.get(key):
            raise StoreError(
                f"{what} was begun with {key} {before.get(key)} and now there is "
                f"{after.get(key)}: start a new one, so that unlike builds are not mixed"
            )


@dataclass
class Verification:
    """What the gate said of every case of a plan."""

    found: list[tuple[Entry, Entrant]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for _, entrant in self.found:
            totals[entrant.status] = totals.get(entrant.status, 0) + 1
        return dict(sorted(totals.items()))

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong, failed, crashed, timed out or ran out of memory."""
        return not any(e.status not in ("ok", "unsupported", "refused") for _, e in self.found)


def verify(
    entries: Sequence[Entry],
    settings: Settings,
    options: WorkerOptions,
    discovery: Discovery,
    report: Report = _silent,
) -> Verification:
    """Puts every case through the gate and times nothing."""
    began = time.perf_counter()
    workers = Workers(options)
    result = Verification()
    try:
        for position, entry in enumerate(entries):
            report(
                Progress(position, len(entries), str(entry.comparison), time.perf_counter() - began)
            )
            for entrant in _verify_entry(entry, settings, workers, discovery.opt_in):
                result.found.append((entry, entrant))
        report(Progress(len(entries), len(entries), "", time.perf_counter() - began))
    finally:
        workers.end()
    return result


def _verify_entry(
    entry: Entry, settings: Settings, workers: Workers, opt_in: frozenset[str]
) -> list[Entrant]:
    found: list[Entrant] = []
    opened: Worker | None = None
    for position, mode in enumerate(entry.modes):
        limit = settings.compile_timeout if mode in opt_in else settings.timeout
        for last in (False, True):
            worker, _ = workers.current()
            try:
                if worker is not opened:
                    worker.request(
                        "open",
                        settings.timeout,
                        comparison=str(entry.comparison),
                        salt=settings.seed,
                        fresh=[1, 2],
                    )
                    opened = worker
                entrant, _ = prepare(worker, mode, limit, handle=0, warm=0, fresh=(0, 1))
            except WorkerRefused as error:
                entrant = Entrant(mode, error.status, str(error), error.where)
            except (WorkerDied, WorkerTimeout) as error:
                # What has died once may have been killed from outside.
                if isinstance(error, WorkerDied) and not last:
                    continue
                if worker is not opened:
                    return found + [lost(left, error) for left in entry.modes[position:]]
                entrant = lost(mode, error)
            found.append(entrant)
            break
    return found
