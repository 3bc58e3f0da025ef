"""Measures the cases of a plan in several torch builds, whose workers take turns.

In each session every environment of a group has one fresh worker. Comparison by comparison and
mode by mode, each worker builds and gates the mode, then all are visited in rounds. The interval of
a ratio comes from between sessions (docs/measuring.md).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.core.releases import ReleaseError, build
from gradbench.releases import environments
from gradbench.releases.builds import Builds
from gradbench.releases.environments import Environment
from gradbench.releases.part import Part, Settled, Team
from gradbench.runner import machine
from gradbench.runner.plan import Lack, converted_settings, lack_of, of_nodes, require_here
from gradbench.runner.progress import Progress, Report, silent, stretch
from gradbench.runner.readings import Readings, missing
from gradbench.runner.settings import PROFILES as RUN
from gradbench.runner.settings import Settings
from gradbench.runner.wire import Worker, WorkerOptions
from gradbench.runner.workers import Discovery, Workers, require_same
from gradbench.statistics import Stopping
from gradbench.store.executed import digests
from gradbench.store.lines import LineLog, StoreError, new_id, now
from gradbench.store.logs import Ended
from gradbench.store.runs import RETRIED, Entrant, Reading
from gradbench.store.tracks import (
    KIND,
    SCHEMA,
    EnvironmentUsed,
    NotInstalled,
    PartMeasured,
    ReadingMade,
    Track,
    TrackStarted,
)

PROFILES = {
    "quick": replace(
        RUN["quick"],
        summary="small example inputs, 4 rounds in 5 sessions",
        settings=replace(RUN["quick"].settings, stopping=Stopping(4, 4, budget=0.25)),
    ),
    "standard": replace(
        RUN["quick"],
        summary="small example inputs, 5 rounds in 10 sessions",
        settings=replace(
            RUN["quick"].settings,
            sessions=10,
            stopping=Stopping(min_rounds=5, max_rounds=5, every=5, half_width=0.005, budget=0.5),
        ),
    ),
    "gate": replace(
        RUN["quick"],
        summary="small example inputs, 8 to 40 rounds in 20 sessions, for a gate in CI",
        settings=replace(
            RUN["quick"].settings,
            sessions=20,
            stopping=Stopping(min_rounds=8, max_rounds=40, every=4, half_width=0.02, budget=1.5),
        ),
    ),
    "full": replace(
        RUN["standard"],
        summary="example inputs and larger ones, 16 to 100 rounds in 10 sessions",
        settings=replace(
            RUN["standard"].settings,
            sessions=10,
            # Processes differ by more than rounds do: see docs/measuring.md.
            stopping=Stopping(max_rounds=100, half_width=0.005, budget=1.0),
        ),
    ),
}

SLOW_CALL = 0.02
SLOW_SESSIONS = 5
"""A mode whose call takes SLOW_CALL seconds takes part in the first sessions only."""

TOGETHER = 12
WORKER_MEMORY = 1 << 30
"""At most TOGETHER environments are measured in turns, fewer if memory is short."""


def groups(baseline: str, names: Sequence[str], together: int = TOGETHER) -> list[list[str]]:
    """The environments measured in turns: each group starts with the baseline."""
    others = [name for name in names if name != baseline]
    each = max(1, together - 1)
    return [[baseline, *others[i : i + each]] for i in range(0, len(others), each)] or [[baseline]]


def room(memory: int | None = None) -> int:
    """How many workers fit into so many bytes, by default this machine's free memory, two at
    least."""
    import psutil

    if memory is None:
        memory = psutil.virtual_memory().available
    return max(2, min(TOGETHER, memory // WORKER_MEMORY))


def begin(
    place: Path,
    entries: Sequence[Entry],
    settings: Settings,
    those: Builds,
    files: Sequence[str] = (),
    command: Sequence[str] = (),
    cpu_capability: str = "",
    loaded: Sequence[str] = (),
    search: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> tuple[LineLog, Track]:
    """Starts a track's log in a folder, with its plan, its environments and failed installations.

    Builds that are no known release and have no date get today's. All workers are held to
    `cpu_capability`. `loaded` are files that the user's `files` load in turn; `search` marks a step
    of a bisection. `facts` are those of the nodes that measure, by default of this machine. Raises
    StoreError where the log cannot be written.
    """
    header = TrackStarted(
        schema=SCHEMA,
        track=new_id(),
        started=now(),
        settings={
            **asdict(settings),
            "cpu_capability": cpu_capability,
            **of_nodes(facts),
        },
        machine=machine.facts() if facts is None else dict(facts),
        plan=list(entries),
        baseline=those.baseline,
        groups=groups(
            those.baseline,
            [e.name for e in those.installed],
            room(None if facts is None else int(facts.get("memory") or 0) // 2),
        ),
        command=list(command),
        files=list(files),
        digests=digests([*files, *loaded]),
        search=search,
    )
    log = KIND.create(place, header)
    track = Track(log.path, header)
    records: list[msgspec.Struct] = [
        EnvironmentUsed(e.name, e.what, _date(e, those.dates), e.identity, e.arguments)
        for e in those.installed
    ]
    records += [NotInstalled(f.name, f.what, f.reason, f.when) for f in those.failed]
    for record in records:
        log.append(record)
    track.take(records)
    return log, track


def _date(environment: Environment, dates: Mapping[str, str]) -> str:
    return dates.get(environment.name) or str(build(environment.torch).date)


STARTING, PREPARING, VISIT = 2.5, 0.025, 0.0035
"""Seconds of processor time that a worker takes to start, a case to be built and checked in one,
and a visit: of the history in docs/history.md, small inputs."""


def foreseen_seconds(entries: Sequence[Entry], settings: Settings, number: int) -> float:
    """Seconds that measuring small inputs in a number of builds takes, about."""
    cases = sum(len(entry.modes) for entry in entries)
    visits = settings.stopping.max_rounds * VISIT
    return planned_sessions(settings) * number * (STARTING + cases * (PREPARING + visits))


def resume(track: Track) -> tuple[LineLog, Settings]:
    """Reopens an interrupted track, or a finished one in which modes crashed: its log and settings.

    Read it again afterwards: another process may have added to it. Raises StoreError where nothing
    is left to measure, the log is in use, or an environment is gone; `measure` checks that none has
    changed.
    """
    settings = settings_of(track)
    require_here(track)
    for name in track.environments:
        try:
            environments.find(name)
        except ReleaseError as error:
            raise StoreError(f"{track.name} cannot be resumed: {error}") from error
    return KIND.reopen(track), settings


def settings_of(track: Track) -> Settings:
    """The settings to resume a track with.

    Raises StoreError where nothing is left to measure, or the settings are damaged.
    """
    settings = converted_settings(track)
    if not lacking(track, planned_sessions(settings)):
        track.require_unfinished()
    return settings


def measure(
    log: LineLog,
    track: Track,
    settings: Settings,
    base: WorkerOptions,
    discovery: Discovery,
    report: Report = silent,
    note: Callable[[str], None] = lambda said: None,
) -> Track:
    """Measures every part of the plan that the log lacks, and stores each at once.

    Sessions are outermost, so those of one case lie far apart in time. `note` is told of files of
    the user's that do not load in a build: what they declare is unsupported there. Whatever stops
    it, Ctrl-C included, the log holds all that was measured. Raises WorkerError where a worker
    cannot be started, StoreError where the disk is full or a build has changed.
    """
    began = time.perf_counter()
    installed = {name: environments.find(name) for name in track.environments}
    done = track.done()
    steps = steps_of(track, settings)
    skipped = sum(key in done for key, _ in steps)
    settled = settled_so_far(track)
    sessions = planned_sessions(settings)
    lacks = lacking(track, sessions)
    current = (-1, -1)

    def end(finished: bool, elapsed: float) -> None:
        ended = Ended(now(), finished, round(elapsed, 1))
        log.append(ended)
        track.take([ended])

    lenient = replace(base, lenient=True)
    told: set[str] = set()
    workers = {name: e.worker(lenient) for name, e in installed.items()}
    with stretch(log, end), Team(workers) as team:
        for position, ((group, session, name), entry) in enumerate(steps):
            if (group, session, name) in done:
                continue
            if session >= sessions and all(
                (name, *key) in settled for key in lacks[group, name].modes
            ):
                # These modes have had their second chance.
                continue
            elapsed = time.perf_counter() - began
            report(Progress(position, len(steps), name, elapsed, skipped, unit="sessions"))
            members = track.started.groups[group]
            if (group, session) != current:
                # A session is a process of its own in every environment.
                team.end_all()
                current = (group, session)
                team.start(members)
                for member in members:
                    before = track.environments[member].identity
                    worker = team.worker(member)
                    require_same(f"{member}: this track", before, worker.environment)
                    for said in worker.failed if member not in told else ():
                        note(f"{member}: what this declares is not measured there: {said}")
                    told.add(member)
            part = Part(
                entry,
                session,
                group,
                members,
                team,
                settings,
                discovery.opt_in,
                settled,
                resting(track, name) if session >= SLOW_SESSIONS else frozenset(),
            ).run()
            log.append(part)
            track.take([part])
            settle(settled, part)
        team.end_all()
        _read(log, track, settings, base, installed, discovery, settled, report)
    report(Progress(len(steps), len(steps), "", time.perf_counter() - began, unit="sessions"))
    return track


def steps_of(track: Track, settings: Settings) -> list[tuple[tuple[int, int, Comparison], Entry]]:
    """The group, session and comparison of each part of a track with what it measures, and after
    them the further ones of modes that crashed; also those that are done."""
    sessions = planned_sessions(settings)
    entries = {entry.comparison: entry for entry in track.started.plan}
    steps = [
        ((group, session, name), entry)
        for session in range(sessions)
        for group in range(len(track.started.groups))
        for name, entry in entries.items()
    ]
    # Sessions beyond the plan, for modes that crashed.
    further = [
        ((group, session, name), entries[name])
        for (group, name), lack in lacking(track, sessions).items()
        for session in lack.sessions
        if name in entries
    ]
    return steps + sorted(further, key=lambda step: (step[0][1], step[0][0]))


def planned_sessions(settings: Settings) -> int:
    """The sessions of each group and comparison; none where the clock is not asked for."""
    return settings.sessions if WALL_TIME in settings.instruments else 0


def lacking(track: Track, sessions: int) -> dict[tuple[int, Comparison], Lack[tuple[str, str]]]:
    """The groups and comparisons in which a mode crashed, or ran out of memory, in an environment
    and can be tried again, as in `plan.lacking`."""
    statuses: dict[tuple[int, Comparison], dict[int, dict[tuple[str, str], str]]] = {}
    for part in track.parts:
        statuses.setdefault((part.group, part.comparison), {})[part.session] = {
            (case.mode, side.environment): side.entrant.status
            for case in part.cases
            for side in case.sides
        }
    lacks = {}
    for (group, name), by_session in statuses.items():
        slow = {mode for _, mode in resting(track, name)}
        keys = {key for session in by_session.values() for key in session}
        lack = lack_of(sessions, by_session, {key for key in keys if key[0] in slow})
        if lack is not None:
            lacks[group, name] = lack
    return lacks


def settled_so_far(track: Track) -> Settled:
    """The records that a resumed track does not try again."""
    settled: Settled = {}
    for part in track.parts:
        settle(settled, part, but=RETRIED)
    return settled


def settle(settled: Settled, part: PartMeasured, but: Sequence[str] = ()) -> None:
    """Keeps what a session found not to be measurable: the next does not try it.

    Modes with a status of `but` are tried again.
    """
    for case in part.cases:
        for side in case.sides:
            if side.entrant.status not in ("ok", *but):
                bare = msgspec.structs.replace(side.entrant, samples=[])
                settled[part.comparison, case.mode, side.environment] = bare


def resting(track: Track, name: Comparison) -> frozenset[tuple[Comparison, str]]:
    """The modes of a comparison that are too slow to take part in every session."""
    slow = set()
    for part in track.parts:
        if part.comparison == name and part.session == 0:
            for case in part.cases:
                timed = [side.entrant.visits for side in case.sides if side.entrant.samples]
                if timed and min(own.least for own in timed) > SLOW_CALL:
                    slow.add((name, case.mode))
    return frozenset(slow)


def _read(
    log: LineLog,
    track: Track,
    settings: Settings,
    base: WorkerOptions,
    installed: Mapping[str, Environment],
    discovery: Discovery,
    settled: Settled,
    report: Report,
) -> None:
    """Reads what the log lacks, of all instruments but the clock."""
    others = tuple(name for name in settings.instruments if name != WALL_TIME)
    if not others:
        return
    wanted = replace(settings, instruments=others)
    for name, environment in installed.items():
        done = [r.reading for r in track.readings if r.environment == name]
        here: dict[Comparison, dict[str, Entrant]] = {}
        for (comparison, mode, where), entrant in settled.items():
            if where == name:
                here.setdefault(comparison, {})[mode] = entrant
        began = time.perf_counter()

        def progress(
            done: int, total: int, label: str, name: str = name, began: float = began
        ) -> None:
            elapsed = time.perf_counter() - began
            report(Progress(done, total, f"{name}: {label}", elapsed, unit="readings"))

        with Workers(environment.worker(base)) as workers:

            def start(workers: Workers = workers) -> tuple[Worker, int]:
                return workers.current()[0], 0

            readings = Readings(
                missing(track.started.plan, wanted, done),
                wanted,
                workers.options,
                start,
                workers.end,
                discovery.opt_in,
                here,
                progress,
            )
            with contextlib.closing(readings.records()) as records:
                for record in records:
                    if isinstance(record, Reading):
                        read = ReadingMade(name, record)
                        log.append(read)
                        track.take([read])
