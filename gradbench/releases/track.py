"""Measures the cases of a plan with workers of several torch builds that take turns.

In each session every environment of a group has one fresh worker. Comparison by comparison and
mode by mode, each worker builds and gates the mode, then all visit it in rounds: once each, in a
fresh random order, so that what drifts on the machine hits all builds alike. The interval of a
ratio comes from between sessions (docs/measuring.md).
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gradbench.core.cases import Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.core.releases import ReleaseError, build
from gradbench.releases import environments
from gradbench.releases.builds import Builds
from gradbench.releases.environments import Environment
from gradbench.runner import machine
from gradbench.runner.readings import Readings, missing
from gradbench.runner.run import PROFILES as RUN
from gradbench.runner.run import (
    Discovery,
    Lack,
    Progress,
    Report,
    converted_settings,
    lack_of,
    require_same,
)
from gradbench.runner.session import Settings, checked, lost, prepare, visits
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.statistics import Stopping, enough
from gradbench.store.executed import digests
from gradbench.store.lines import LineLog, StoreError, new_id, now
from gradbench.store.logs import Ended
from gradbench.store.runs import RETRIED, Entrant, PlanEntry, Reading, minima
from gradbench.store.tracks import (
    KIND,
    SCHEMA,
    CaseMeasured,
    EnvironmentUsed,
    NotInstalled,
    PartMeasured,
    ReadingMade,
    Side,
    Track,
    TrackStarted,
)

PROFILES = {
    "quick": replace(RUN["quick"], summary="the documents' inputs, 4 rounds in 5 sessions"),
    "standard": replace(
        RUN["quick"],
        summary="the documents' inputs, 5 rounds in 10 sessions",
        settings=replace(
            RUN["quick"].settings,
            sessions=10,
            stopping=Stopping(min_rounds=5, max_rounds=5, every=5, half_width=0.005, budget=0.5),
        ),
    ),
    "full": replace(
        RUN["standard"],
        summary="sizes beyond the documents' too, 16 to 100 rounds in 10 sessions",
        settings=replace(RUN["standard"].settings, sessions=10),
    ),
}

SLOW_CALL = 0.02
SLOW_SESSIONS = 5
"""A mode of which a call takes so many seconds takes part in the first sessions only."""

TOGETHER = 12
WORKER_MEMORY = 1 << 30
"""Environments measured together, at most; fewer where memory is short."""


def groups(baseline: str, names: Sequence[str], together: int = TOGETHER) -> list[list[str]]:
    """Who is measured with whom: the baseline first in each group, all others in their order."""
    others = [name for name in names if name != baseline]
    each = max(1, together - 1)
    return [[baseline, *others[i : i + each]] for i in range(0, len(others), each)] or [[baseline]]


def room() -> int:
    """How many workers the memory of this machine has room for, two at least."""
    import psutil

    return max(2, min(TOGETHER, psutil.virtual_memory().available // WORKER_MEMORY))


def begin(
    place: Path,
    entries: Sequence[Entry],
    settings: Settings,
    those: Builds,
    files: Sequence[str] = (),
    command: Sequence[str] = (),
    cpu_capability: str = "",
) -> tuple[LineLog, Track]:
    """A new track's file in a folder, with its plan, its environments, and what could not be
    installed.

    Builds that are no known releases and have no date get the day of today. `cpu_capability` is
    what all are held to. Raises StoreError where it cannot be written.
    """
    header = TrackStarted(
        schema=SCHEMA,
        track=new_id(),
        started=now(),
        settings={**asdict(settings), "cpu_capability": cpu_capability},
        machine=machine.facts(),
        plan=[PlanEntry(str(entry.comparison), list(entry.modes)) for entry in entries],
        baseline=those.baseline,
        groups=groups(those.baseline, [e.name for e in those.made], room()),
        command=list(command),
        files=list(files),
        digests=digests(files),
    )
    log = KIND.create(place, header)
    track = Track(log.path, header)
    records: list[msgspec.Struct] = [
        EnvironmentUsed(e.name, e.what, _date(e, those.dates), e.identity, e.arguments)
        for e in those.made
    ]
    records += [NotInstalled(f.name, f.what, f.reason, f.when) for f in those.failed]
    for record in records:
        log.append(record)
    track.take(records)
    return log, track


def _date(environment: Environment, dates: Mapping[str, str]) -> str:
    return dates.get(environment.name) or str(build(environment.torch).date)


def resume(track: Track) -> tuple[LineLog, Settings]:
    """An interrupted track's file and its settings; a finished one's too where modes crashed, for
    they get another chance. What it holds has to be read again: another process may have added to
    it. Raises StoreError where there is nothing left to make, the file is in use, or an environment
    is gone; `measure` sees whether one is not what it was."""
    settings = settings_of(track)
    for name in track.environments:
        try:
            environments.find(name)
        except ReleaseError as error:
            raise StoreError(f"{track.name} cannot go on: {error}") from error
    return KIND.reopen(track), settings


def settings_of(track: Track) -> Settings:
    """The settings that a track goes on with.

    Raises StoreError where there is nothing left to make, or where they are damaged.
    """
    settings = converted_settings(track)
    if not lacking(track, _sessions(settings)):
        track.require_unfinished()
    return settings


class Team:
    """One worker for each environment of a group, each started when it is first needed."""

    def __init__(self, options: Mapping[str, WorkerOptions]) -> None:
        self.options = options
        self.workers: dict[str, Worker] = {}

    def worker(self, name: str) -> Worker:
        """The running worker of an environment; a fresh one where the last has ended."""
        found = self.workers.get(name)
        if found is not None and not found.lost:
            return found
        self.end(name)
        self.workers[name] = Worker(self.options[name])
        return self.workers[name]

    def start(self, names: Sequence[str]) -> None:
        """Starts the workers of these at once: importing torch is what takes long."""
        for name in names:
            self.workers[name] = Worker(self.options[name], greet=False)
        for name in names:
            self.workers[name].greet()

    def end(self, name: str) -> None:
        if name in self.workers:
            self.workers.pop(name).__exit__()

    def end_all(self) -> None:
        for name in list(self.workers):
            self.end(name)


@dataclass
class _Player:
    """An environment's contestant in the case that is being measured."""

    name: str
    worker: Worker
    entrant: Entrant
    visit: dict[str, Any]
    samples: list[list[int]] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        return minima(self.visit["number"], self.samples)

    def side(self) -> Side:
        return Side(
            self.name,
            msgspec.structs.replace(
                self.entrant,
                number=self.visit["number"],
                untimed=self.visit["untimed"],
                samples=self.samples,
            ),
        )


Settled = dict[tuple[str, str, str], Entrant]
"""What is known not to be measurable: comparison, mode and environment, with the record."""


class _Again(Exception):
    """A worker has died over a case for the first time: the case is measured once more."""


class Part:
    """Measures one comparison of one group in one session.

    A worker that dies over a case may have been killed from outside: the case starts over, all
    environments together, since their times are compared round by round.
    """

    def __init__(
        self,
        entry: Entry,
        session: int,
        group: int,
        names: Sequence[str],
        team: Team,
        settings: Settings,
        opt_in: frozenset[str],
        settled: Settled,
        resting: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.entry = entry
        self.session = session
        self.group = group
        self.names = names
        self.team = team
        self.settings = settings
        self.opt_in = opt_in
        self.settled = settled
        self.resting = resting
        self.name = str(entry.comparison)
        self.random = random.Random(f"{settings.seed}/{self.name}/{session}/{group}")
        self.visiting = 0.0
        self.opened: dict[str, Worker] = {}

    def run(self) -> PartMeasured:
        """The record. Raises WorkerError where a worker cannot be started at all."""
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
            worker.request(
                "open",
                self.settings.timeout,
                comparison=self.name,
                salt=self.settings.seed,
                fresh=[1 + 2 * self.session, 2 + 2 * self.session],
            )
            self.opened[name] = worker
        return worker

    def _case(self, mode: str) -> CaseMeasured:
        self.deaths: set[str] = set()
        while True:
            with contextlib.suppress(_Again):
                return self._tried(mode)

    def _lost(self, name: str, mode: str, error: WorkerDied | WorkerTimeout) -> Entrant:
        """The record of a mode over which an environment's worker was lost. Raises _Again where it
        died for the first time."""
        if isinstance(error, WorkerDied) and name not in self.deaths:
            self.deaths.add(name)
            raise _Again from error
        return lost(mode, error)

    def _tried(self, mode: str) -> CaseMeasured:
        players: list[_Player] = []
        out: list[Side] = []
        for name in self.names:
            found = self.settled.get((self.name, mode, name)) or self._enter(name, mode)
            if isinstance(found, Entrant):
                out.append(Side(name, found))
            else:
                players.append(found)
        stopped = self._rounds(mode, players, out)
        for player in list(players):
            found = self._check(player, mode)
            if found.status != "ok":
                players.remove(player)
                out.append(Side(player.name, found))
            else:
                player.entrant = found
        return CaseMeasured(mode, [*(player.side() for player in players), *out], stopped)

    def _enter(self, name: str, mode: str) -> _Player | Entrant:
        settings = self.settings
        limit = settings.compile_timeout if mode in self.opt_in else settings.timeout
        try:
            worker = self._open(name)
            # One handle for all modes: the last one's contestant makes room.
            entrant, visit = prepare(worker, mode, limit, handle=0, warm=settings.warm, fresh=(0,))
        except WorkerRefused as error:
            # A release may not know what another one offers: that is its answer, no failure.
            return Entrant(mode, error.status, str(error), error.where)
        except (WorkerDied, WorkerTimeout) as error:
            return self._lost(name, mode, error)
        return entrant if visit is None else _Player(name, worker, entrant, visit)

    def _rounds(self, mode: str, players: list[_Player], out: list[Side]) -> str:
        """Rounds until the stopping rule says so; who is lost on the way moves to `out`."""
        stopping = self.settings.stopping
        spent = 0.0
        rounds = 0
        while players:
            order = self.random.sample(players, len(players))
            for player in order:
                cost = player.visit["call"] * 1e-9 * player.visit["blocks"] * player.visit["number"]
                try:
                    (blocks,), seconds = visits(
                        player.worker, self.settings.timeout + 20 * cost, [0], [player.visit]
                    )
                except WorkerRefused as error:
                    self._drop(player, players, out, Entrant(mode, error.status, f"timed: {error}"))
                    continue
                except (WorkerDied, WorkerTimeout) as error:
                    self._drop(player, players, out, self._lost(player.name, mode, error))
                    continue
                # The visit's value alone: with all sub-blocks of all builds a track would take
                # five times the room, and no estimator asks for the others.
                player.samples.append([min(blocks)])
                spent += seconds
            rounds += 1
            times = np.array([player.times for player in players]).T
            why = enough(times, spent, stopping) if players else "nothing to time"
            if why is not None:
                self.visiting += spent
                return why
        self.visiting += spent
        return "nothing to time"

    def _drop(
        self, player: _Player, players: list[_Player], out: list[Side], entrant: Entrant
    ) -> None:
        players.remove(player)
        out.append(Side(player.name, entrant))

    def _check(self, player: _Player, mode: str) -> Entrant:
        try:
            answer = player.worker.request("check", self.settings.timeout, handle=0, fresh=[1])
        except WorkerRefused as error:
            return Entrant(mode, error.status, f"after timing: {error}")
        except (WorkerDied, WorkerTimeout) as error:
            return self._lost(player.name, mode, error)
        return checked(player.entrant, answer)


def worker_options(
    made: Mapping[str, Environment], base: WorkerOptions
) -> dict[str, WorkerOptions]:
    """How the worker of each environment is started."""
    return {name: e.worker(base) for name, e in made.items()}


def measure(
    log: LineLog,
    track: Track,
    settings: Settings,
    base: WorkerOptions,
    discovery: Discovery,
    report: Report = lambda progress: None,
) -> Track:
    """Makes every part of the plan that the file lacks, storing each as soon as it is made.

    Sessions are outermost, so those of one case lie far apart in time. Whatever stops it, Ctrl-C
    included, the file holds all that was measured. Raises WorkerError where a worker cannot be
    started, StoreError where the disk is full or a build has changed.
    """
    began = time.perf_counter()
    made = {name: environments.find(name) for name in track.environments}
    team = Team(worker_options(made, base))
    done = track.done()
    steps = list(_steps(track, settings))
    skipped = sum(key in done for key, _ in steps)
    settled = _settled(track)
    sessions = _sessions(settings)
    lacks = lacking(track, sessions)
    finished = False
    current = (-1, -1)
    try:
        for position, ((group, session, name), entry) in enumerate(steps):
            if (group, session, name) in done:
                continue
            if session >= sessions and all(
                (name, *key) in settled for key in lacks[group, name].modes
            ):
                # They had their other chance.
                continue
            elapsed = time.perf_counter() - began
            report(Progress(position, len(steps), name, elapsed, skipped))
            if (group, session) != current:
                # A session is a process of its own in every environment.
                team.end_all()
                current = (group, session)
                team.start(track.started.groups[group])
                for member in track.started.groups[group]:
                    known = track.environments[member].identity
                    require_same(f"{member}: this track", known, team.worker(member).environment)
            part = Part(
                entry,
                session,
                group,
                track.started.groups[group],
                team,
                settings,
                discovery.opt_in,
                settled,
                _resting(track, name) if session >= SLOW_SESSIONS else frozenset(),
            ).run()
            log.append(part)
            track.take([part])
            _settle(settled, part)
        team.end_all()
        _read(log, track, settings, base, made, discovery, settled, report)
        finished = True
        report(Progress(len(steps), len(steps), "", time.perf_counter() - began))
    except WorkerError as error:
        raise WorkerError(f"{error}; {log.hint}") from error
    finally:
        team.end_all()
        end = Ended(now(), finished, round(time.perf_counter() - began, 1))
        # Where the disk is full the first error is the one to show.
        if finished or not isinstance(sys.exc_info()[1], StoreError):
            log.append(end)
            track.take([end])
    return track


def _steps(track: Track, settings: Settings) -> list[tuple[tuple[int, int, str], Entry]]:
    sessions = _sessions(settings)
    steps = [
        ((group, session, str(entry.comparison)), entry)
        for session in range(sessions)
        for group in range(len(track.started.groups))
        for entry in track.entries()
    ]
    return steps + _further(track, sessions)


def _sessions(settings: Settings) -> int:
    return settings.sessions if WALL_TIME in settings.instruments else 0


def lacking(track: Track, sessions: int) -> dict[tuple[int, str], Lack[tuple[str, str]]]:
    """The groups and comparisons in which a mode crashed, or ran out of memory, in an environment
    and could be tried again, as in `run.lacking`."""
    statuses: dict[tuple[int, str], dict[int, dict[tuple[str, str], str]]] = {}
    for part in track.parts:
        statuses.setdefault((part.group, part.comparison), {})[part.session] = {
            (case.mode, side.environment): side.entrant.status
            for case in part.cases
            for side in case.sides
        }
    found = {}
    for (group, name), own in statuses.items():
        resting = {mode for _, mode in _resting(track, name)}
        lack = lack_of(
            sessions, own, {key for told in own.values() for key in told if key[0] in resting}
        )
        if lack is not None:
            found[group, name] = lack
    return found


def _further(track: Track, sessions: int) -> list[tuple[tuple[int, int, str], Entry]]:
    """Sessions beyond the plan's for what is lacking."""
    entries = {str(entry.comparison): entry for entry in track.entries()}
    steps = [
        ((group, session, name), entries[name])
        for (group, name), lack in lacking(track, sessions).items()
        for session in lack.sessions
        if name in entries
    ]
    return sorted(steps, key=lambda step: (step[0][1], step[0][0]))


def _settled(track: Track) -> Settled:
    """What the track holds that a resumed one does not try again."""
    settled: Settled = {}
    for part in track.parts:
        _settle(settled, part, but=RETRIED)
    return settled


def _settle(settled: Settled, part: PartMeasured, but: Sequence[str] = ()) -> None:
    """What one session showed not to be measurable is not tried in the next; `but` are the
    statuses that say nothing for this."""
    for case in part.cases:
        for side in case.sides:
            if side.entrant.status not in ("ok", *but):
                bare = msgspec.structs.replace(side.entrant, samples=[])
                settled[part.comparison, case.mode, side.environment] = bare


def _resting(track: Track, name: str) -> frozenset[tuple[str, str]]:
    """The modes of a comparison that are too slow to take part in every session."""
    found = set()
    for part in track.parts:
        if part.comparison == name and part.session == 0:
            for case in part.cases:
                times = [min(side.minima) for side in case.sides if side.entrant.samples]
                if times and min(times) > SLOW_CALL:
                    found.add((name, case.mode))
    return frozenset(found)


def _read(
    log: LineLog,
    track: Track,
    settings: Settings,
    base: WorkerOptions,
    made: Mapping[str, Environment],
    discovery: Discovery,
    known: Settled,
    report: Report,
) -> None:
    """Makes the readings that the file lacks, of all instruments but the clock."""
    others = tuple(name for name in settings.instruments if name != WALL_TIME)
    if not others:
        return
    wanted = replace(settings, instruments=others)
    for name, environment in made.items():
        team = Team(worker_options({name: environment}, base))
        done = [r.reading for r in track.readings if r.environment == name]
        settled: dict[str, dict[str, Entrant]] = {}
        for (comparison, mode, where), entrant in known.items():
            if where == name:
                settled.setdefault(comparison, {})[mode] = entrant
        began = time.perf_counter()

        def told(done: int, total: int, label: str, name: str = name, began: float = began) -> None:
            elapsed = time.perf_counter() - began
            report(Progress(done, total, f"{name}: {label}", elapsed))

        def start(name: str = name, team: Team = team) -> tuple[Worker, int]:
            return team.worker(name), 0

        readings = Readings(
            missing(track.entries(), wanted, done),
            wanted,
            team.options[name],
            start,
            team.end_all,
            discovery.opt_in,
            settled,
            told,
        )
        try:
            with contextlib.closing(readings.records()) as records:
                for record in records:
                    if isinstance(record, Reading):
                        read = ReadingMade(name, record)
                        log.append(read)
                        track.take([read])
        finally:
            team.end_all()
