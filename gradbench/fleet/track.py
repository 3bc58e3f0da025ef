"""A track on a fleet: one for each kind of machine, in which its builds take turns on each node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.fleet.jobs import READINGS, TrackShare, encode
from gradbench.fleet.shares import READ_TOGETHER, Job, Shares, chunks
from gradbench.releases import track as tracking
from gradbench.runner.choosing import Opened
from gradbench.runner.readings import missing
from gradbench.runner.settings import Settings
from gradbench.store.executed import digests
from gradbench.store.lines import now, storable
from gradbench.store.logs import Ended
from gradbench.store.tracks import KIND, PartMeasured, ReadingMade, Track


@dataclass
class TrackShares(Shares):
    """What a track lacks."""

    opened: Opened[Track]

    what = "track"

    def __post_init__(self) -> None:
        track, settings = self.stored, self.opened.settings
        self.digests = digests([*track.started.digests] or self.opened.worker.files)
        self.settled = tracking.settled_so_far(track)
        self._sessions = tracking.planned_sessions(settings)
        self._lacks = tracking.lacking(track, self._sessions)
        self._stored = {own.unique_key() for own in [*track.parts, *track.readings]}
        done = track.done()
        steps = tracking.steps_of(track, settings)
        left = [step for step in steps if step[0] not in done]
        self.steps, self.skipped = len(steps), len(steps) - len(left)
        rounds = settings.stopping.max_rounds * tracking.VISIT + settings.warm
        modes = max((len(entry.modes) for entry in track.started.plan), default=0)
        builds = max(map(len, track.started.groups), default=1)
        split = chunks(track.started.plan, rounds * modes * builds, self.nodes)
        for group, number in sorted({(g, s) for (g, s, _), _ in left}, key=lambda key: key[::-1]):
            lacked = {name for (g, s, name), _ in left if (g, s) == (group, number)}
            for place, chunk in enumerate(split):
                entries = tuple(entry for entry in chunk if entry.comparison in lacked)
                if entries:
                    self.waiting.append(Job(number, entries, (group, place)))
        self._add_readings()

    def _add_readings(self) -> None:
        """Jobs of other instruments, build by build, come after all sessions."""
        track, settings = self.stored, self.opened.settings
        others = tuple(name for name in settings.instruments if name != WALL_TIME)
        plan, wanted = track.started.plan, replace(settings, instruments=others)
        for build in track.environments if others else ():
            done = [r.reading for r in track.readings if r.environment == build]
            for i in range(0, len(plan), READ_TOGETHER):
                entries = tuple(plan[i : i + READ_TOGETHER])
                if missing(entries, wanted, done):
                    self.waiting.append(Job(READINGS, entries, (0, i), build))

    @property
    def stored(self) -> Track:
        return self.opened.stored

    @property
    def done(self) -> int:
        return len(self.stored.done())

    def after_first_only(self, job: Job) -> bool:
        return job.session < self._sessions

    def spared(self, job: Job) -> Job:
        if job.session < self._sessions:
            return job

        def wanted(entry: Entry) -> bool:
            name = entry.comparison
            modes = self._lacks[job.chunk[0], name].modes
            return not all((name, *key) in self.settled for key in modes)

        return replace(job, entries=tuple(filter(wanted, job.entries)))

    def text(self, job: Job) -> str:
        track, opened = self.stored, self.opened
        names = {entry.comparison for entry in job.entries}
        resting: set[tuple[Comparison, str]] = set()
        for name in names if job.session >= tracking.SLOW_SESSIONS else ():
            resting |= tracking.resting(track, name)
        return encode(
            TrackShare(
                session=job.session,
                group=job.chunk[0],
                members=[job.build] if job.build else list(track.started.groups[job.chunk[0]]),
                entries=list(job.entries),
                # As a log has them: JSON has no infinity.
                settings=msgspec.convert(storable(asdict(opened.settings)), Settings),
                capability=str(track.started.settings.get("cpu_capability", "")),
                builds={name: own.identity for name, own in track.environments.items()},
                files=self.digests,
                suite=list(opened.worker.files),
                opt_in=sorted(opened.discovery.opt_in),
                settled=[(*key, own) for key, own in self.settled.items() if key[0] in names],
                resting=sorted(resting, key=str),
                done=[
                    own.reading
                    for own in track.readings
                    if own.environment == job.build and own.reading.comparison in names
                ],
                quiet=self.quiet,
            )
        )

    def store(self, job: Job, lines: Sequence[str]) -> None:
        track, log = self.stored, self.opened.log
        names = {entry.comparison for entry in job.entries}
        for said in lines:
            if said.startswith('{"kind":"worker"'):
                # Which process read an instrument is not part of a track.
                continue
            record = KIND.decode(said.encode().rstrip(b"\n"), track.started)
            if not _fits(record, job, names):
                raise ValueError("it is not what was asked for")
            key = record.unique_key()
            if key in self._stored:
                continue
            self._stored.add(key)
            log.append(record)
            track.take([record])
            if isinstance(record, PartMeasured):
                tracking.settle(self.settled, record)

    def end(self, finished: bool, elapsed: float) -> None:
        ended = Ended(now(), finished and not self.given_up, round(elapsed, 1))
        self.opened.log.append(ended)
        self.stored.take([ended])


def _fits(record: object, job: Job, names: set[Comparison]) -> bool:
    if isinstance(record, ReadingMade):
        return record.environment == job.build and record.reading.comparison in names
    return (
        isinstance(record, PartMeasured)
        and (record.session, record.group) == (job.session, job.chunk[0])
        and record.comparison in names
    )
