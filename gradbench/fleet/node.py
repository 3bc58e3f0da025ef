"""What a node does: it says what it is, and measures shares of a run, one at a time.

It runs in the node's process, and measures as the driver of a run on one machine does. Nothing here
knows the engine, so a test can call it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from gradbench import __version__
from gradbench.core.cases import Comparison
from gradbench.core.deadline import Deadline
from gradbench.core.instruments import WALL_TIME
from gradbench.core.releases import ReleaseError
from gradbench.fleet.jobs import (
    LIMITS,
    READINGS,
    Answer,
    Built,
    Look,
    Seen,
    Share,
    TrackShare,
    decode,
    encode,
)
from gradbench.releases import environments
from gradbench.releases.builds import held, held_to
from gradbench.releases.environments import Environment, Request
from gradbench.releases.part import Part, Team
from gradbench.runner import machine
from gradbench.runner.doctor import BUSY
from gradbench.runner.noise import listen
from gradbench.runner.nvml import Nvml
from gradbench.runner.progress import silent
from gradbench.runner.readings import Readings, missing
from gradbench.runner.run import limits
from gradbench.runner.session import Measurement
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import Workers, discover, require_same
from gradbench.store.lines import StoreError, digest, encoded
from gradbench.store.runs import Entrant, Reading, WorkerStarted
from gradbench.store.tracks import PartMeasured, ReadingMade

LISTENING = 0.5
"""Seconds in which a node hears whether other processes have its cores."""

BEGINNING, PATIENCE = 15.0, 60.0
"""Seconds that a node waits until it is quiet: before it says what it is, and before a share.

Nodes of one machine that start together have its cores at first. A kind all of whose nodes are busy
when a run begins is not measured."""

PAUSE = 5.0


def execute(what: str, job: str, name: str) -> str:
    """The answer of the node of this name to a job: ``look``, ``share`` or ``track``.

    Raises nothing: what went wrong is in the answer, so no error has to be pickled.
    """
    kind, measure, answer = TASKS[what]
    try:
        return encode(measure(decode(job, kind), name))
    except Exception as error:
        return encode(answer(refused=f"{type(error).__name__}: {error}"))


# ── what it is ────────────────────────────────────────────────────────────────────────────────


def look(asked: Look, name: str) -> Seen:
    """What a node is, and why it does not measure if it does not."""
    if asked.gradbench != __version__:
        return Seen(refused=f"it has gradbench {__version__}, the driver has {asked.gradbench}")
    lacks = _lacks(asked.files)
    if lacks:
        return Seen(refused=lacks)
    with alone():
        busy = _busy(BEGINNING) if asked.quiet else ""
        if busy:
            return Seen(refused=busy, busy=True)
        base = WorkerOptions(files=(*asked.suite,), memory_limit=asked.memory_limit)
        try:
            builds = _builds(asked, base)
            if builds:
                base = held_to(builds[asked.baseline].worker(base), asked.capability)
            found = discover(base)
        except (WorkerError, ReleaseError) as error:
            return Seen(refused=str(error))
    return Seen(
        machine=machine.facts(),
        environment=found.environment,
        offers=found.offers,
        modes=found.modes,
        unavailable=dict(found.unavailable),
        broken=[*found.broken],
        builds={name: Built(e.identity, e.arguments) for name, e in builds.items()},
    )


def _builds(asked: Look, base: WorkerOptions) -> dict[str, Environment]:
    """The builds of a track, made here if they are missing. Each is asked what it is: machines of a
    cluster often share a disk, and what was stored there is what another machine found. Raises
    ReleaseError where one cannot be made, or held to the instructions that are asked for."""
    requests = [Request(name, what) for name, what in asked.builds.items()]
    missing_ones = environments.missing(requests)
    if missing_ones and asked.installing is None:
        names = " ".join(request.name for request in missing_ones)
        raise ReleaseError(f"it lacks {names}: 'gradbench releases install {names}' makes them")
    if missing_ones and asked.installing is not None:
        failed = asked.installing.install(
            requests, lambda said: None, lambda what: contextlib.nullcontext(silent)
        )
        for failure in failed:
            raise ReleaseError(f"it could not install {failure.name}: {failure.reason}")
    installed = [environments.find(request.name) for request in requests]
    installed = held(installed, held_to(base, asked.capability))
    return {environment.name: environment for environment in installed}


def _lacks(files: Mapping[str, str]) -> str:
    """Why the user's files are not here as the driver has them; empty where they are."""
    for file, stated in files.items():
        try:
            if digest(Path(file)) != stated:
                return f"its {file} is not the driver's"
        except StoreError:
            return f"it lacks {file}"
    return ""


def _busy(patience: float) -> str:
    """That other processes have the node's cores, still after so many seconds; empty where they do
    not."""
    began = time.monotonic()
    while True:
        away = listen(LISTENING).away
        if away <= BUSY:
            return ""
        if time.monotonic() - began >= patience:
            return f"it is busy: other processes had its core for {away:.0%} of the time"
        time.sleep(PAUSE)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Waits until no other node measures on a core that this one may use.

    Nodes of one machine take turns, unless each is pinned to cores of its own. The locks go with
    the process. They are taken in the order of the cores, so that no two nodes wait for each other.
    """
    place = Path(tempfile.gettempdir(), f"gradbench-cores-{os.getuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as held:
        for core in machine.usable_cores():
            file = os.open(place / str(core), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ── what it measures ──────────────────────────────────────────────────────────────────────────


class _Kept:
    """The lines of a share, as they are stored at home."""

    def __init__(self, name: str) -> None:
        self.lines: list[str] = []
        self._name = name

    def append(self, record: msgspec.Struct) -> None:
        if isinstance(record, WorkerStarted):
            facts = {**record.environment, "node": self._name}
            record = msgspec.structs.replace(record, environment=facts)
        elif isinstance(record, (PartMeasured, ReadingMade)):
            record = msgspec.structs.replace(record, node=self._name)
        self.lines.append(encoded(record).decode())


def share(job: Share, name: str) -> Answer:
    """The lines that a share gives."""
    return _answered(job, name, lambda kept: _measure(job, kept))


def track(job: TrackShare, name: str) -> Answer:
    """As `share`, of a track: its builds take turns."""
    return _answered(job, name, lambda kept: _measure_builds(job, kept))


def _answered(job: Share | TrackShare, name: str, measure: Callable[[_Kept], None]) -> Answer:
    """What is measured, unless the node lacks something or is busy; what was measured before
    something went wrong is kept."""
    lacks = _lacks(job.files)
    if lacks:
        return Answer(refused=lacks, node=name)
    kept = _Kept(name)
    with alone():
        busy = _busy(PATIENCE) if job.quiet and job.session >= 0 else ""
        if busy:
            return Answer(refused=busy, busy=True, node=name)
        try:
            measure(kept)
        except (WorkerError, StoreError, ReleaseError) as error:
            return Answer(kept.lines, str(error), node=name)
    return Answer(kept.lines, node=name)


def _measure(job: Share, kept: _Kept) -> None:
    """Raises WorkerError where no worker can be started, StoreError where the build has changed."""
    settings = job.settings
    options = WorkerOptions(files=(*job.suite,), memory_limit=settings.memory_limit)
    before = [WorkerStarted(0, job.environment, "")] if job.environment else []
    with Workers(options, kept, before) as workers:
        if job.session == LIMITS:
            for found in limits(job.entries, settings, workers):
                kept.append(found)
        elif job.session == READINGS:
            settled = {
                Comparison.parse(name): {e.mode: e for e in entrants}
                for name, entrants in job.settled.items()
            }
            for record in _readings(job, settings, workers, settled):
                kept.append(record)
        else:
            nvml = Nvml()
            for entry in job.entries:
                measurement = Measurement(
                    entry,
                    job.session,
                    workers.current,
                    settings,
                    frozenset(job.opt_in),
                    job.first.get(entry.comparison.operator, ""),
                    {e.mode: e for e in job.settled.get(str(entry.comparison), ())},
                    frozenset(job.resting.get(str(entry.comparison), ())),
                    nvml.state,
                )
                kept.append(measurement.run())


def _readings(
    job: Share | TrackShare,
    settings: Settings,
    workers: Workers,
    settled: Mapping[Comparison, Mapping[str, Entrant]],
) -> Iterator[Reading | WorkerStarted]:
    """What the other instruments read that is not stored yet."""
    others = tuple(name for name in settings.instruments if name != WALL_TIME)
    settings = replace(settings, instruments=others)
    readings = Readings(
        missing(job.entries, settings, job.done),
        settings,
        workers.options,
        workers.current,
        workers.end,
        frozenset(job.opt_in),
        settled,
        lambda done, total, label: None,
        Deadline(),
    )
    with contextlib.closing(readings.records()) as records:
        yield from records


def _measure_builds(job: TrackShare, kept: _Kept) -> None:
    """Raises ReleaseError where a build is gone, StoreError where it has changed, WorkerError where
    its worker cannot be started."""
    settings = job.settings
    base = WorkerOptions(files=(*job.suite,), memory_limit=settings.memory_limit)
    base = held_to(base, job.capability)
    settled = {(about, mode, where): entrant for about, mode, where, entrant in job.settled}
    if job.session == READINGS:
        (member,) = job.members
        here: dict[Comparison, dict[str, Entrant]] = {}
        for (about, mode, where), entrant in settled.items():
            if where == member:
                here.setdefault(about, {})[mode] = entrant
        with Workers(environments.find(member).worker(base)) as workers:
            for record in _readings(job, settings, workers, here):
                if isinstance(record, Reading):
                    kept.append(ReadingMade(member, record))
        return
    lenient = replace(base, lenient=True)
    options = {member: environments.find(member).worker(lenient) for member in job.members}
    with Team(options) as team:
        team.start(job.members)
        for member in job.members:
            require_same(
                f"{member}: this track", job.builds[member], team.worker(member).environment
            )
        for entry in job.entries:
            part = Part(
                *(entry, job.session, job.group, job.members, team, settings),
                *(frozenset(job.opt_in), settled, frozenset(job.resting)),
            )
            kept.append(part.run())


TASKS: dict[str, tuple[Any, Callable[[Any, str], Any], Any]] = {
    "look": (Look, look, Seen),
    "share": (Share, share, Answer),
    "track": (TrackShare, track, Answer),
}
"""What a node can be asked, what does it, and what is answered."""
