"""A run on a fleet: one for each kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.fleet.jobs import LIMITS, READINGS, Share, encode
from gradbench.fleet.shares import READ_TOGETHER, Job, Shares, chunks
from gradbench.runner.choosing import Opened
from gradbench.runner.plan import lacking
from gradbench.runner.readings import missing
from gradbench.runner.run import Known, planned
from gradbench.runner.settings import Settings
from gradbench.store.executed import digests
from gradbench.store.lines import now, storable
from gradbench.store.runs import (
    KIND,
    Limits,
    Reading,
    Run,
    RunEnded,
    SessionMeasured,
    WorkerStarted,
)


@dataclass
class RunShares(Shares):
    """What a run lacks."""

    opened: Opened[Run]

    def __post_init__(self) -> None:
        run, settings = self.opened.stored, self.opened.settings
        self.visiting = 0.0
        self.known = Known(run, settings)
        self.digests = digests([*run.started.digests] or self.opened.worker.files)
        self._lacks = lacking(run, settings)
        self._first = {o.operator: o.first for o in self.opened.discovery.offers}
        self._process = max((worker.process for worker in run.workers), default=0)
        self._stored = {own.unique_key() for own in [*run.sessions, *run.readings, *run.limits]}
        done = run.done()
        steps = planned(run, settings)
        left = [step for step in steps if (step[1].comparison, step[0]) not in done]
        self.steps, self.skipped = len(steps), len(steps) - len(left)
        each = settings.warm + 1.5 * settings.stopping.budget
        split = chunks(run.started.plan, each, self.nodes)
        for number in sorted({number for number, _ in left}):
            lacked = {entry.comparison for own, entry in left if own == number}
            for place, chunk in enumerate(split):
                entries = tuple(entry for entry in chunk if entry.comparison in lacked)
                if entries:
                    self.waiting.append(Job(number, entries, (0, place)))
        self._add_readings()

    def _add_readings(self) -> None:
        """Jobs of other instruments, and of the limits of devices, come after all sessions."""
        run, settings = self.opened.stored, self.opened.settings
        plan = run.started.plan
        if any(name != WALL_TIME for name in settings.instruments):
            for i in range(0, len(plan), READ_TOGETHER):
                entries = tuple(plan[i : i + READ_TOGETHER])
                others = missing(entries, settings, run.readings)
                if any(set(task.instruments) - {WALL_TIME} for task in others):
                    self.waiting.append(Job(READINGS, entries, (0, i)))
        if WALL_TIME in settings.instruments and not run.limits:
            self.waiting.append(Job(LIMITS, tuple(plan), (0, 0)))

    @property
    def stored(self) -> Run:
        return self.opened.stored

    @property
    def done(self) -> int:
        return len(self.opened.stored.done())

    def _is_further(self, job: Job) -> bool:
        return job.session >= self.opened.settings.sessions

    def after_first_only(self, job: Job) -> bool:
        return not (self.known.sparing or self._is_further(job))

    def spared(self, job: Job) -> Job:
        if job.session < 0:
            return job
        sparing, settled = self.known.sparing, self.known.settled

        def wanted(entry: Entry) -> bool:
            name = entry.comparison
            if self._is_further(job):
                return not self._lacks[name].modes <= settled.get(name, {}).keys()
            return not (sparing and sparing.spares(entry, job.session))

        return replace(job, entries=tuple(filter(wanted, job.entries)))

    def text(self, job: Job) -> str:
        run, opened = self.opened.stored, self.opened
        names = [entry.comparison for entry in job.entries]
        sparing = self.known.sparing
        resting = {}
        for name in names if job.session >= 0 else []:
            modes = self.known.slow(name, job.session)
            if sparing:
                modes |= sparing.resting(name, job.session)
            resting[str(name)] = sorted(modes)
        return encode(
            Share(
                session=job.session,
                entries=list(job.entries),
                # As a log has them: JSON has no infinity.
                settings=msgspec.convert(storable(asdict(opened.settings)), Settings),
                environment=_less_node(run.first_environment),
                files=self.digests,
                suite=list(opened.worker.files),
                opt_in=sorted(opened.discovery.opt_in),
                first=self._first,
                settled={
                    str(name): list(self.known.settled.get(name, {}).values()) for name in names
                },
                resting=resting,
                done=[r for r in run.readings if r.comparison in names]
                if job.session == READINGS
                else [],
                quiet=self.quiet,
            )
        )

    def store(self, job: Job, lines: Sequence[str]) -> None:
        run, log = self.opened.stored, self.opened.log
        names = {entry.comparison for entry in job.entries}
        numbers: dict[int, int] = {}
        for said in lines:
            record = KIND.decode(said.encode().rstrip(b"\n"), run.started)
            if isinstance(record, WorkerStarted):
                self._process += 1
                numbers[record.process] = self._process
            elif not _fits(record, job, names) or record.process not in numbers:
                raise ValueError("it is not what was asked for")
            record = msgspec.structs.replace(record, process=numbers[record.process])
            key = record.unique_key()
            if key in self._stored:
                continue
            self._stored.add(key)
            log.append(record)
            run.take([record])
            if isinstance(record, SessionMeasured):
                self.visiting += record.visiting
                self.known.learn(record)

    def end(self, finished: bool, elapsed: float) -> None:
        ended = RunEnded(now(), finished and not self.given_up, round(elapsed, 1), self.visiting)
        self.opened.log.append(ended)
        self.opened.stored.ends.append(ended)


def _fits(record: object, job: Job, names: set[Comparison]) -> bool:
    if isinstance(record, Limits):
        return job.session == LIMITS
    if isinstance(record, Reading):
        return job.session == READINGS and record.comparison in names
    return (
        isinstance(record, SessionMeasured)
        and record.session == job.session
        and record.comparison in names
    )


def _less_node(environment: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in environment.items() if name != "node"}
