"""Starts a run's log with its plan, or reopens one with what it still lacks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.instruments import WALL_TIME
from gradbench.runner import machine
from gradbench.runner.session import slow
from gradbench.runner.settings import Settings
from gradbench.runner.workers import Discovery
from gradbench.store.executed import digests
from gradbench.store.fields import reason
from gradbench.store.lines import LineLog, StoreError, new_id, now
from gradbench.store.runs import (
    KIND,
    RETRIED,
    SCHEMA,
    Run,
    RunStarted,
    folder,
    read,
)

if TYPE_CHECKING:
    from gradbench.store.tracks import Track


ON_NODES = "on_nodes"
"""The setting that marks what a cluster's nodes measure."""


def of_nodes(facts: Mapping[str, Any] | None) -> dict[str, bool]:
    """The setting, where `facts` are those of a node's machine."""
    return {} if facts is None else {ON_NODES: True}


def require_here(stored: Run | Track) -> None:
    """Raises StoreError where a run or a track was begun on the nodes of a cluster."""
    if stored.started.settings.get(ON_NODES):
        raise StoreError(
            f"{stored.name} was begun on nodes of a cluster: resume it with --on ADDRESS, so that "
            "unlike machines are not mixed"
        )


def start(
    results: Path,
    entries: Sequence[Entry],
    settings: Settings,
    discovery: Discovery,
    files: Sequence[str] = (),
    command: Sequence[str] = (),
    loaded: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> tuple[LineLog, Run]:
    """Starts a log with the plan. `loaded` are files that the user's `files` load in turn; `facts`
    are those of the machine that measures, by default of this one.

    Raises StoreError where the log cannot be written, or a file cannot be read.
    """
    header = RunStarted(
        schema=SCHEMA,
        run=new_id(),
        started=now(),
        settings={**asdict(settings), **of_nodes(facts)},
        machine=machine.facts() if facts is None else dict(facts),
        plan=list(entries),
        command=list(command),
        files=list(files),
        by_hand=discovery.by_hand,
        digests=digests([*files, *loaded]),
        families=discovery.families(entries),
    )
    log = KIND.create(folder(results), header)
    return log, Run(log.path, header)


def resume(run: Run) -> tuple[LineLog, Run, Settings]:
    """Reopens an interrupted run, or a finished one in which modes crashed: its log, its content
    and its settings.

    Raises StoreError where nothing is left to measure, the log is in use, or no readable line of it
    names the build of its sessions.
    """
    settings = settings_of(run)
    if run.sessions and not run.workers:
        raise StoreError(
            f"{run.name} cannot be resumed: its build of torch is unknown, as the "
            "lines of its processes are damaged or missing; start a new run"
        )
    log = KIND.reopen(run)
    # Another process may have added to it before it was locked.
    return log, read(run.path), settings


def settings_of(run: Run) -> Settings:
    """The settings to resume a run with.

    Raises StoreError where nothing is left to measure, or the settings are damaged.
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
            f"{stored.name} cannot be resumed: its settings are damaged ({reason(error)})"
        ) from error


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Lack(Generic[K]):
    """The modes with too few sessions of a comparison, as they crashed in some."""

    modes: frozenset[K]
    sessions: range
    """The numbers of the further sessions until each mode has as many as planned."""


def lack_of(
    planned: int, statuses: Mapping[int, Mapping[K, str]], resting: Collection[K]
) -> Lack[K] | None:
    """What a comparison with these statuses by session lacks; None if it is complete.

    The remaining sessions of the plan try every mode anyway. Modes that are wrong, or rest because
    they are slow, would not be timed again.
    """
    left = planned - sum(number < planned for number in statuses)
    good: dict[K, int] = {}
    lost: set[K] = set()
    settled: set[K] = set()
    for session in statuses.values():
        for mode, status in session.items():
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


def lacking(run: Run, settings: Settings) -> dict[Comparison, Lack[str]]:
    """The comparisons in which modes crashed, or ran out of memory, and can be tried again.

    A run with a limit in time makes no sessions beyond its plan.
    """
    if settings.total or WALL_TIME not in settings.instruments:
        return {}
    lacks = {}
    for name, sessions in run.by_comparison().items():
        resting = {m for s in sessions if s.session == 0 for m in slow(s, settings)}
        statuses = {
            s.session: {e.mode: e.status for e in s.entrants if not e.control} for s in sessions
        }
        lack = lack_of(settings.sessions, statuses, resting)
        if lack is not None:
            lacks[name] = lack
    return lacks
