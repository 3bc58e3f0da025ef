"""From a selection and the options of `releases track` to a plan, new or resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.core.cases import Entry, Selection, SelectionError
from gradbench.releases import builds, environments
from gradbench.releases import track as tracking
from gradbench.releases.environments import Failure, Request
from gradbench.runner.choosing import Measuring, Opened, Say, plan
from gradbench.runner.machine import lacks
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery
from gradbench.store import tracks as log
from gradbench.store.executed import executed
from gradbench.store.tracks import Track

Discover = Callable[[WorkerOptions], Discovery]


@dataclass(frozen=True)
class Planned:
    """A track that is not begun yet."""

    entries: list[Entry]
    settings: Settings
    those: builds.Builds
    worker: WorkerOptions
    discovery: Discovery
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
        )
        return Opened(opened, track, self.settings, self.worker, self.discovery)


@dataclass(frozen=True)
class Asked:
    """The builds of a track, as the user asked for them."""

    names: Sequence[str]
    baseline: str
    dates: Sequence[str]
    cpu_capability: str


def planned(
    asked: Asked,
    selection: Selection,
    measuring: Measuring,
    results: Path,
    files: tuple[str, ...],
    install: Callable[[Sequence[Request]], list[Failure]],
    discover: Discover,
    say: Say,
) -> Planned:
    """A new track's plan, with its builds installed.

    Raises ReleaseError for builds that are not there, SelectionError where nothing is selected.
    """
    held = asked.cpu_capability
    if held and lacks(held):
        raise SelectionError(f"--cpu-capability {held}: this processor does not have it")
    worker = WorkerOptions(files=files, memory_limit=measuring.memory_limit)
    worker = builds.held_to(worker, held)
    those = builds.gather(asked.names, asked.baseline, asked.dates, results, worker, install)
    discovery = discover(environments.find(those.baseline).worker(worker))
    profile = tracking.PROFILES[measuring.profile]
    entries, settings = plan(discovery, selection, measuring, profile, say)
    return Planned(entries, settings, those, worker, discovery, held)


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
