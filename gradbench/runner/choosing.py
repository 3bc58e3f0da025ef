"""From a selection and the options of a command to a plan: comparisons, modes and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from gradbench.core.cases import Entry, Offer, Place, Selection, SelectionError, expand
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.core.suggest import hint
from gradbench.runner.plan import require_here, resume, settings_of
from gradbench.runner.settings import Profile, Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery
from gradbench.store.executed import executed
from gradbench.store.lines import LineLog
from gradbench.store.runs import KIND, Run, find

Say = Callable[[str], None]


@dataclass(frozen=True)
class Suite:
    """What is selected, and the user's files that declare some of it."""

    selection: Selection
    files: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    """Files that these load in turn."""
    own: str = ""
    """The name of the user's own function that is selected."""


@dataclass(frozen=True)
class Measuring:
    """How much is measured, and how closely, as the user asked for it; None: as in the profile."""

    profile: str
    sessions: int | None
    budget: float | None
    instruments: tuple[str, ...]
    seed: int
    timeout: float
    memory_limit: int
    baseline: str | None = None
    """The mode of which a control is measured."""

    def settings(self, profile: Settings, instruments: tuple[str, ...]) -> Settings:
        stopping = profile.stopping
        return replace(
            profile,
            sessions=profile.sessions if self.sessions is None else self.sessions,
            stopping=stopping if self.budget is None else replace(stopping, budget=self.budget),
            instruments=instruments,
            baseline=self.baseline or "",
            seed=self.seed,
            timeout=self.timeout,
            memory_limit=self.memory_limit,
        )


def plan(
    discovery: Discovery, selection: Selection, measuring: Measuring, profile: Profile, say: Say
) -> tuple[list[Entry], Settings]:
    """What is measured and how. Raises SelectionError where nothing is, or where something that
    was asked for is not there."""
    require_devices(selection.devices, discovery.environment)
    instruments = measuring.instruments or usual(selection.devices)
    require_instruments(instruments, discovery)
    selection = profile.swept(selection)
    entries = planned(discovery.offers, selection, say)
    _require_baseline(measuring.baseline, entries)
    require_devices_of(instruments, entries)
    return entries, measuring.settings(profile.settings, instruments)


def planned(offers: list[Offer], selection: Selection, say: Say) -> list[Entry]:
    """The comparisons that are selected. `say` is told of functions that have none of the sizes
    asked for; raises SelectionError where nothing is left."""
    entries = expand(offers, selection)
    if selection.sizes and selection.functions:
        there = {entry.comparison.function for entry in entries}
        others = expand(offers, replace(selection, sizes=()))
        names = [n for n in dict.fromkeys(e.comparison.function for e in others) if n not in there]
        if names:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            say(
                f"Left out, without a size {' or '.join(selection.sizes)}: {listed} "
                "('gradbench list' shows the sizes of each function)"
            )
    return entries


def require_devices(devices: Iterable[str], environment: Mapping[str, Any]) -> None:
    """Raises SelectionError where a device asked for is not there."""
    there = environment["devices"]
    for device in devices:
        if Place.parse(device).device not in there:
            raise SelectionError(
                f"device {device!r}: not available here with torch {environment['torch']} "
                f"(available: {', '.join(there)})"
            )


def usual(devices: Iterable[str]) -> tuple[str, ...]:
    """What is measured on these devices where nothing is asked for: beside the time on the clock
    that on the device shows which calls wait for their launches."""
    on_cuda = not all(Place.parse(device).on_cpu for device in devices)
    return (WALL_TIME, *(name for name, made in INSTRUMENTS.items() if on_cuda and made.cuda))


def require_instruments(names: Iterable[str], discovery: Discovery) -> None:
    """Raises SelectionError where an instrument asked for cannot be used."""
    for name in names:
        reason = discovery.unavailable.get(name)
        if reason is not None:
            raise SelectionError(f"--instrument {name}: {reason}")


def require_devices_of(names: Iterable[str], entries: Iterable[Entry]) -> None:
    """Raises SelectionError where an instrument of CUDA devices has none to read."""
    on_cuda = not all(entry.comparison.place.on_cpu for entry in entries)
    for name in names:
        if name in INSTRUMENTS and INSTRUMENTS[name].cuda and not on_cuda:
            raise SelectionError(
                f"--instrument {name} needs a CUDA device: add --device cuda, or remove it"
            )


def _require_baseline(baseline: str | None, entries: Iterable[Entry]) -> None:
    modes = [mode for entry in entries for mode in entry.modes]
    if baseline and baseline not in modes:
        near = hint(baseline, modes)
        raise SelectionError(
            f"--baseline {baseline!r} is not a selected mode" + (f"; {near}" if near else "")
        )


L = TypeVar("L")


@dataclass(frozen=True)
class Opened(Generic[L]):
    """A run or a track that is about to be measured."""

    log: LineLog
    stored: L
    settings: Settings
    worker: WorkerOptions
    discovery: Discovery


def reopen(
    results: Path,
    name: str,
    files: tuple[str, ...],
    discover: Callable[[WorkerOptions], Discovery],
    say: Say,
) -> Opened[Run]:
    """An interrupted run, as it goes on. Raises StoreError where it cannot."""
    old = find(results, name)
    require_here(old)
    settings = settings_of(old)
    files = executed(KIND, old, results, old.started.files, files, say)
    worker = WorkerOptions(files=files, memory_limit=settings.memory_limit)
    discovery = discover(worker)
    require_instruments(settings.instruments, discovery)
    log, run, settings = resume(old)
    return Opened(log, run, settings, worker, discovery)
