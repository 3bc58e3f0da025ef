"""Measures the cases of a plan with workers of several torch builds that take turns.

In each session every environment of a group has one fresh worker. Comparison by comparison and
mode by mode, each worker builds and gates the mode, then all visit it in rounds: once each, in a
fresh random order, so that what drifts on the machine hits all builds alike. The interval of a
ratio comes from between sessions (docs/measuring.md).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import msgspec

from gradbench.core.cases import Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.core.releases import ReleaseError, build
from gradbench.releases import environments
from gradbench.releases.builds import Builds
from gradbench.releases.environments import Environment
from gradbench.releases.part import Part, Settled, Team
from gradbench.runner import machine
from gradbench.runner.plan import Lack, converted_settings, lack_of
from gradbench.runner.progress import Progress, Report, silent, stretch
from gradbench.runner.readings import Readings, missing
from gradbench.runner.settings import PROFILES as RUN
from gradbench.runner.settings import Settings
from gradbench.runner.wire import Worker, WorkerOptions
from gradbench.runner.workers import Discovery, Workers, require_same
from gradbench.statistics import Stopping
from gradbench.store import lines
from gradbench.store.lines import LineLog, StoreError, digests, new_id, now
from gradbench.store.runs import RETRIED, Entrant, PlanEntry, Reading
from gradbench.store.tracks import (
    SCHEMA,
    EnvironmentUsed,
    NotInstalled,
    PartMeasured,
    ReadingMade,
    Track,
    TrackEnded,
    TrackLog,
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
    log = TrackLog.create(place, header)
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
    return TrackLog.reopen(track), settings


def settings_of(track: Track) -> Settings:
    """The settings that a track goes on with.

    Raises StoreError where there is nothing left to make, or where they are damaged.
    """
    settings = converted_settings(track)
    if not lacking(track, _sessions(settings)):
        lines.require_unfinished(track)
    return settings


def measure(
    log: LineLog,
    track: Track,
    settings: Settings,
    base: WorkerOptions,
    discovery: Discovery,
    report: Report = silent,
) -> Track:
    """Makes every part of the plan that the file lacks, storing each as soon as it is made.

    Sessions are outermost, so those of one case lie far apart in time. Whatever stops it, Ctrl-C
    included, the file holds all that was measured. Raises WorkerError where a worker cannot be
    started, StoreError where the disk is full or a build has changed.
    """
    began = time.perf_counter()
    made = {name: environments.find(name) for name in track.environments}
    done = track.done()
    steps = list(_steps(track, settings))
    skipped = sum(key in done for key, _ in steps)
    settled = _settled(track)
    sessions = _sessions(settings)
    lacks = lacking(track, sessions)
    current = (-1, -1)

    def end(finished: bool, elapsed: float) -> None:
        ended = TrackEnded(now(), finished, round(elapsed, 1))
        log.append(ended)
        track.take([ended])

    with stretch(log, end), Team({name: e.worker(base) for name, e in made.items()}) as team:
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
            members = track.started.groups[group]
            if (group, session) != current:
                # A session is a process of its own in every environment.
                team.end_all()
                current = (group, session)
                team.start(members)
                for member in members:
                    before = track.environments[member].identity
                    require_same(f"{member}: this track", before, team.worker(member).environment)
            part = Part(
                entry,
                session,
                group,
                members,
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
    report(Progress(len(steps), len(steps), "", time.perf_counter() - began))
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
        done = [r.reading for r in track.readings if r.environment == name]
        settled: dict[str, dict[str, Entrant]] = {}
        for (comparison, mode, where), entrant in known.items():
            if where == name:
                settled.setdefault(comparison, {})[mode] = entrant
        began = time.perf_counter()

        def told(done: int, total: int, label: str, name: str = name, began: float = began) -> None:
            elapsed = time.perf_counter() - began
            report(Progress(done, total, f"{name}: {label}", elapsed))

        with Workers(environment.worker(base)) as workers:

            def start(workers: Workers = workers) -> tuple[Worker, int]:
                return workers.current()[0], 0

            readings = Readings(
                missing(track.entries(), wanted, done),
                wanted,
                workers.options,
                start,
                workers.end,
                discovery.opt_in,
                settled,
                told,
            )
            with contextlib.closing(readings.records()) as records:
                for record in records:
                    if isinstance(record, Reading):
                        read = ReadingMade(name, record)
                        log.append(read)
                        track.take([read])
