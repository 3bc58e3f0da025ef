"""Run logs: one append-only file of JSON lines per run. docs/results.md documents every field."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.cases import Comparison, Entry
from gradbench.nvml import DeviceState
from gradbench.store import lines
from gradbench.store.lines import SUFFIX, Kind, LineLog, read_each
from gradbench.store.lines import StoreError as StoreError
from gradbench.store.lines import now as now

SCHEMA = 1

BUILD = ("torch", "torch_git", "torch_cuda", "cpu_capability", "python", "numpy")
"""What tells one build of torch and its surroundings from another, in a worker's environment."""


class PlanEntry(msgspec.Struct, frozen=True):
    """One comparison that the run is to make, with its contestants."""

    comparison: str
    modes: list[str]


class RunStarted(msgspec.Struct, tag_field="kind", tag="run", frozen=True):
    """The first line of a log: what was asked for, on what machine."""

    schema: int
    run: str
    started: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[PlanEntry]
    command: list[str] = []
    files: list[str] = []
    """The user's files that took part."""
    by_hand: list[str] = []
    """Modes that need a derivative written by hand: yardsticks, never called the fastest."""

    def entries(self) -> list[Entry]:
        return [Entry(Comparison.parse(p.comparison), tuple(p.modes)) for p in self.plan]


class WorkerStarted(msgspec.Struct, tag_field="kind", tag="worker", frozen=True):
    """A measuring process and all that its times may depend on."""

    process: int
    environment: dict[str, Any]
    started: str


class Entrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contestant of one session: a mode and what became of it.

    `status` is ok, unsupported, wrong, failed, crashed, timed out, out of memory or
    refused. `error` is the
    worst error as a share of the allowed, `ulps` in units in the last place; `number` calls make
    a sub-block. `samples` are nanoseconds per sub-block, a list per round, empty in rounds that
    the contestant sat out. `note` says what it changed in its process, which was put back.
    """

    mode: str
    status: str
    reason: str = ""
    where: str = ""
    error: float = 0.0
    ulps: float = 0.0
    number: int = 0
    untimed: int = 0
    control: bool = False
    samples: list[list[int]] = []
    note: str = ""


def minima(number: int, samples: list[list[int]]) -> list[float]:
    """Seconds per call of each visit's fastest sub-block; NaN where it sat out a round."""
    return [min(blocks) / number * 1e-9 if blocks else math.nan for blocks in samples]


class SessionMeasured(msgspec.Struct, tag_field="kind", tag="session", frozen=True):
    """One process's share of one comparison: the unit that is stored whole or not at all."""

    comparison: str
    session: int
    process: int
    baseline: str
    entrants: list[Entrant]
    order: list[list[int]]
    """Positions in `entrants` in the order of their visits, a list per round."""
    stopped: str
    """Why the rounds ended: precise, rounds, budget, or nothing to time."""
    visiting: float
    """Seconds inside visits."""
    elapsed: float
    """Seconds from opening the comparison to closing it."""
    load: float
    """The machine's one-minute load average."""
    result_bytes: int = 0
    argument_bytes: int = 0
    """One set of the arguments: what a call cannot but read."""
    states: list[DeviceState] = []
    """Of the device, before the rounds and after them; empty where nothing told."""


class SessionTimed(SessionMeasured, frozen=True, kw_only=True):
    """A session as it is judged: each visit's minimum in place of the samples. Never stored.

    It takes a small part of the memory, so a run with a million cases and sessions can be judged.
    """

    minima: array[float]
    """Seconds per call, as many as `entrants` times `rounds`, a contestant's rounds in a row; NaN
    where it sat out a round or was not timed."""
    rounds: int


def condensing() -> Callable[[SessionMeasured], SessionTimed]:
    """A function from sessions to sessions without samples; those it makes share equal parts."""
    known: dict[Any, Any] = {}
    kept = [name for name in Entrant.__struct_fields__ if name not in ("untimed", "samples")]

    def condense(session: SessionMeasured) -> SessionTimed:
        if isinstance(session, SessionTimed):
            return session
        rounds = max((len(entrant.samples) for entrant in session.entrants), default=0)
        times, entrants = array("d"), []
        for entrant in session.entrants:
            own = minima(entrant.number, entrant.samples)
            times.extend(own)
            times.extend([math.nan] * (rounds - len(own)))
            key = tuple(getattr(entrant, name) for name in kept)
            if key not in known:
                known[key] = msgspec.structs.replace(entrant, untimed=0, samples=[])
            entrants.append(known[key])
        fields = {name: getattr(session, name) for name in SessionMeasured.__struct_fields__}
        name = session.comparison
        fields |= {"comparison": known.setdefault(name, name), "entrants": entrants, "order": []}
        return SessionTimed(**fields, minima=times, rounds=rounds)

    return condense


class Limits(msgspec.Struct, tag_field="kind", tag="limits", frozen=True):
    """What a device could do at most when the run was made: see `gradbench.limits`."""

    process: int
    device: str
    threads: int
    bandwidth: float
    """Bytes per second, read and written together."""
    rates: dict[str, float]
    """Floating-point operations per second of a product of matrices, by dtype."""
    cache: int
    """Bytes of the last-level cache."""


class Reading(msgspec.Struct, tag_field="kind", tag="reading", frozen=True):
    """What an instrument other than the clock read for one comparison in one session.

    `values` are readings per call by mode, one or several; `reasons` say of each other mode why
    it was not read, beginning with its status as in `Entrant`.
    """

    comparison: str
    session: int
    process: int
    instrument: str
    unit: str
    values: dict[str, list[float]]
    reasons: dict[str, str] = {}


class RunResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: str
    cut: int = 0
    """Bytes of a torn last line that were cut off."""


class RunEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    """The last line of a stretch of measuring: finished, or interrupted by the user."""

    ended: str
    finished: bool
    elapsed: float
    visiting: float


Record = RunStarted | WorkerStarted | SessionMeasured | Reading | Limits | RunResumed | RunEnded

_decoder = msgspec.json.Decoder(Record)
KIND = Kind("run log", RunStarted, _decoder, SCHEMA)


@dataclass
class Run:
    """One log as it was read."""

    path: Path
    started: RunStarted
    workers: list[WorkerStarted] = field(default_factory=list)
    sessions: list[SessionMeasured] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    ends: list[RunEnded] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.started.run

    @property
    def finished(self) -> bool:
        return any(end.finished for end in self.ends)

    def environment(self, process: int) -> dict[str, Any]:
        for worker in self.workers:
            if worker.process == process:
                return worker.environment
        return {}

    def by_comparison(self) -> dict[str, list[SessionMeasured]]:
        """The sessions of each comparison, in the plan's order."""
        found: dict[str, list[SessionMeasured]] = {p.comparison: [] for p in self.started.plan}
        for session in self.sessions:
            found.setdefault(session.comparison, []).append(session)
        return found

    def done(self) -> set[tuple[str, int]]:
        """The comparisons and sessions that need no repeating."""
        return {(record.comparison, record.session) for record in self.sessions}


def folder(results: Path) -> Path:
    return results / "runs"


class RunLog(LineLog):
    """A run's log open for appending."""

    go_on = "gradbench run --resume"

    @classmethod
    def create(cls, results: Path, header: RunStarted) -> LineLog:
        """A new log with its first line. Raises StoreError where it cannot be written."""
        log, _ = cls.opened(folder(results) / f"{header.run}{SUFFIX}", new=True)
        log.append(header)
        return log

    @classmethod
    def reopen(cls, run: Run) -> LineLog:
        """An existing log, its torn last line cut off. Raises StoreError where it is in use."""
        log, cut = cls.opened(run.path, new=False)
        log.append(RunResumed(now(), cut))
        return log


def read(path: Path, *, condensed: bool = False) -> Run:
    """A log with every line that can be read; the others are named in `problems`.

    `condensed`: without the raw samples, see `SessionTimed`. Raises StoreError where the file is
    no run log at all.
    """
    condense = condensing()

    def keep(record: Record) -> Record:
        return condense(record) if condensed and isinstance(record, SessionMeasured) else record

    header, records, problems = KIND.read(path, keep)
    run = Run(path, header, problems=problems)
    for record in records:
        match record:
            case SessionMeasured():
                run.sessions.append(record)
            case WorkerStarted():
                run.workers.append(record)
            case Reading():
                run.readings.append(record)
            case Limits():
                run.limits.append(record)
            case RunEnded():
                run.ends.append(record)
    return run


def paths(results: Path) -> list[Path]:
    """All files that should be run logs, oldest first."""
    place = folder(results)
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_file())


def read_all(results: Path) -> tuple[list[Run], list[str]]:
    """Every run of a results folder, oldest first, and the files that had to be skipped."""
    return read_each(paths(results), read, KIND.what)


def locate(results: Path, name: str) -> Path:
    """The log of a run's name, of the beginning of one, of 'latest', or of a path.

    Raises StoreError where there is none, or more than one.
    """
    known = [path for path in paths(results) if path.suffix == SUFFIX]
    if name == "latest":
        known = [path for path in known[::-1] if _readable(path)][:1]
    hint = "'gradbench run' makes one, 'gradbench show --runs' lists them"
    return lines.locate(known, name, "run", folder(results), hint)


def _readable(path: Path) -> bool:
    try:
        read_header(path)
    except StoreError:
        return False
    return True


def find(results: Path, name: str) -> Run:
    """The run of a name, read whole; arguments and errors as for `locate`."""
    return read(locate(results, name))


@dataclass(frozen=True)
class Header:
    """What the ends of a log tell without reading all of it."""

    path: Path
    started: RunStarted
    environment: dict[str, Any]
    """Of the first measuring process; empty where there was none."""
    finished: bool

    @property
    def torch(self) -> str:
        return str(self.environment.get("torch", ""))


def read_headers(results: Path) -> tuple[list[Header], list[str]]:
    """Every run's header, oldest first, and the files that had to be skipped."""
    return read_each(paths(results), read_header, KIND.what)


def read_header(path: Path) -> Header:
    """A run's header. Raises StoreError where the file is no run log."""
    with path.open("rb") as file:
        started = KIND.decode_header(path, file.readline())
        second = file.readline()
        file.seek(max(0, path.stat().st_size - 4096))
        last = file.read().splitlines()[-1]
    environment: dict[str, Any] = {}
    finished = False
    with contextlib.suppress(msgspec.MsgspecError):
        worker = _decoder.decode(second)
        if isinstance(worker, WorkerStarted):
            environment = worker.environment
        end = _decoder.decode(last)
        finished = isinstance(end, RunEnded) and end.finished
    return Header(path, started, environment, finished)
