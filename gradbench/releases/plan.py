"""From a selection and the options of `releases track` to a plan, new or resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.core.cases import Entry, SelectionError, expand
from gradbench.core.instruments import WALL_TIME
from gradbench.core.releases import ReleaseError
from gradbench.releases import builds, environments
from gradbench.releases import track as tracking
from gradbench.releases.environments import Failure, Request
from gradbench.releases.wanted import require_available
from gradbench.runner.choosing import Measuring, Opened, Say, Suite, plan
from gradbench.runner.machine import capabilities, lacks
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions, WorkerRefused
from gradbench.runner.workers import Discovery
from gradbench.store import tracks as log
from gradbench.store.executed import executed
from gradbench.store.tracks import Track

Discover = Callable[[WorkerOptions], Discovery]


@dataclass(frozen=True)
class Asked:
    """The builds of a track, as the user asked for them."""

    names: Sequence[str]
    baseline: str
    dates: Sequence[str]
    cpu_capability: str


@dataclass(frozen=True)
class Prepared:
    """What a track is to measure, before any build is installed for it."""

    wanted: builds.Requested
    suite: Suite
    entries: list[Entry]
    settings: Settings
    worker: WorkerOptions
    cpu_capability: str
    discovery: Discovery | None
    """What the baseline offers; None where it is not installed."""


@dataclass(frozen=True)
class Planned:
    """A track that is not begun yet."""

    entries: list[Entry]
    settings: Settings
    those: builds.Builds
    worker: WorkerOptions
    discovery: Discovery
    suite: Suite
    cpu_capability: str

    def begin(self, results: Path, command: Sequence[str]) -> Opened[Track]:
        opened, track = tracking.begin(
            log.folder(results),
            self.entries,
            self.settings,
            self.those,
            self.worker.files,
            command,
            self.cpu_capability,
            self.suite.loaded,
        )
        return Opened(opened, track, self.settings, self.worker, self.discovery)


def require_capability(capability: str) -> None:
    """Raises SelectionError where the processor lacks the instructions asked for."""
    if capability and lacks(capability):
        there = ", ".join(name for name in capabilities() if not lacks(name))
        raise SelectionError(
            f"--cpu-capability {capability}: this processor does not have it (it has {there})"
        )


def offered(name: str, worker: WorkerOptions, discover: Discover) -> Discovery:
    """What an installed build offers. Raises ReleaseError where a file of the user's does not load
    in it."""
    try:
        return discover(environments.find(name).worker(worker))
    except WorkerRefused as error:
        raise ReleaseError(f"{name}, which the others are compared with: {error}") from error


def prepared(
    asked: Asked,
    measuring: Measuring,
    results: Path,
    declare: Callable[[], Suite],
    python: str,
    discover: Discover,
    say: Say,
) -> Prepared:
    """Everything that can be seen to be wrong before a release is fetched is seen here.

    `declare` gives what is selected, and the files that declare it. A selection is held against
    what the baseline offers or, where that is not installed, this Python; `python` is the one to
    build environments with. Raises ReleaseError for builds that cannot be had, SelectionError where
    nothing is selected, WorkerError where a file does not load.
    """
    require_capability(asked.cpu_capability)
    if measuring.instruments and WALL_TIME not in measuring.instruments:
        raise SelectionError(
            f"releases are compared by their times: add {WALL_TIME!r} to the instruments"
        )
    wanted = builds.requested(asked.names, asked.baseline, asked.dates, results)
    missing = environments.missing(wanted.requests)
    require_available(missing, python)
    suite = declare()
    worker = WorkerOptions(files=suite.files, memory_limit=measuring.memory_limit)
    worker = builds.held_to(worker, asked.cpu_capability)
    profile = tracking.PROFILES[measuring.profile]
    if wanted.baseline not in {request.name for request in missing}:
        discovery = offered(wanted.baseline, worker, discover)
        entries, settings = plan(discovery, suite.selection, measuring, profile, say)
        return Prepared(wanted, suite, entries, settings, worker, asked.cpu_capability, discovery)
    # Devices and instruments are the baseline's own: they are looked at when it is there.
    here = discover(worker)
    entries = expand(here.offers, profile.swept(suite.selection))
    settings = measuring.settings(profile.settings, measuring.instruments or (WALL_TIME,))
    return Prepared(wanted, suite, entries, settings, worker, asked.cpu_capability, None)


def planned(
    ready: Prepared,
    measuring: Measuring,
    install: Callable[[Sequence[Request]], list[Failure]],
    discover: Discover,
    say: Say,
) -> Planned:
    """A new track's plan, with its builds installed. Raises as `prepared` does."""
    those = builds.made(ready.wanted, ready.worker, install)
    entries, settings, discovery = ready.entries, ready.settings, ready.discovery
    if discovery is None:
        discovery = offered(those.baseline, ready.worker, discover)
        profile = tracking.PROFILES[measuring.profile]
        entries, settings = plan(discovery, ready.suite.selection, measuring, profile, say)
    held = ready.cpu_capability
    return Planned(entries, settings, those, ready.worker, discovery, ready.suite, held)


def reopen(
    results: Path, name: str, files: tuple[str, ...], discover: Discover, say: Say
) -> Opened[Track]:
    """An interrupted track, as it goes on. Raises StoreError where it cannot."""
    track = log.find(results, name)
    settings = tracking.settings_of(track)
    started = track.started
    files = executed(log.KIND, track, results, started.files, files, say)
    worker = WorkerOptions(files=files, memory_limit=settings.memory_limit)
    worker = builds.held_to(worker, started.settings.get("cpu_capability", ""))
    opened, settings = tracking.resume(track)
    with opened.closed_on_error():
        track = log.read(track.path)
        discovery = discover(environments.find(track.baseline).worker(worker))
    return Opened(opened, track, settings, worker, discovery)
