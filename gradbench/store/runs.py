"""Run logs: one append-only file of JSON lines per run. docs/results.md documents every field."""

from __future__ import annotations

import contextlib
import math
import os
from array import array
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradbench.core.cases import DTYPES, Comparison, Entry, Place
from gradbench.core.instruments import INSTRUMENTS
from gradbench.store import lines
from gradbench.store.fields import (
    Amount,
    Bytes,
    Calls,
    Digest,
    FileName,
    Index,
    Label,
    Name,
    Names,
    Nanoseconds,
    Positive,
    Schema,
    Status,
    Text,
    Texts,
    check_environment,
    check_machine,
    require_once,
)
from gradbench.store.lines import SUFFIX, Kind, LineLog, read_each
from gradbench.store.lines import StoreError as StoreError
from gradbench.store.lines import now as now

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""

LOST = ("crashed", "timed out", "out of memory")
"""Statuses of a mode that say nothing against what was measured of it in other sessions."""

RETRIED = ("crashed", "out of memory")
"""Statuses that a resumed run tries again. (A mode that timed out would have to be waited for.)"""

BUILD = ("torch", "torch_git", "torch_cuda", "cpu_capability", "python", "numpy")
"""What tells one build of torch and its surroundings from another, in a worker's environment."""


class DeviceState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the driver of a CUDA device told of it. None: it did not tell."""

    when: Label
    """``warm``: before the first round, ``timed``: after the last."""
    sm_clock: Index | None = None
    memory_clock: Index | None = None
    """MHz."""
    temperature: Annotated[int, msgspec.Meta(ge=-300, le=10_000)] | None = None
    """°C."""
    power: Amount | None = None
    power_limit: Amount | None = None
    """W."""
    slowed: list[Label] = []
    """Why its clocks were lower than its settings allow, at that moment."""
    slowed_by_power: Amount | None = None
    slowed_by_heat: Amount | None = None
    """Seconds since the driver was loaded: the difference of two states tells."""


class PlanEntry(msgspec.Struct, frozen=True):
    """One comparison that the run is to make, with its contestants."""

    comparison: Label
    modes: Names


class RunStarted(msgspec.Struct, tag_field="kind", tag="run", frozen=True):
    """The first line of a log: what was asked for, on what machine."""

    schema: Schema
    run: FileName
    started: Label
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[PlanEntry]
    command: Texts = []
    files: Texts = []
    """The user's files that took part."""
    by_hand: Names = []
    """Modes that need a derivative written by hand: yardsticks, never called the fastest."""
    digests: dict[Text, Digest] = {}
    """The SHA-256 of each of `files` when the run began."""

    def entries(self) -> list[Entry]:
        return [Entry(Comparison.parse(p.comparison), tuple(p.modes)) for p in self.plan]


class WorkerStarted(msgspec.Struct, tag_field="kind", tag="worker", frozen=True):
    """A measuring process and all that its times may depend on."""

    process: Index
    environment: dict[str, Any]
    started: Label


class Entrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contestant of one session: a mode and what became of it.

    `status` is ok, unsupported, wrong, failed, crashed, timed out, out of memory or
    refused. `error` is the
    worst error as a share of the allowed, `ulps` in units in the last place; `number` calls make
    a sub-block. `samples` are nanoseconds per sub-block, a list per round, empty in rounds that
    the contestant sat out. `note` says what it changed in its process, which was put back.
    """

    mode: Name
    status: Status
    reason: Text = ""
    where: Text = ""
    error: Amount = 0.0
    ulps: Amount = 0.0
    number: Calls = 0
    untimed: Calls = 0
    control: bool = False
    samples: list[list[Nanoseconds]] = []
    note: Text = ""


def minima(number: int, samples: list[list[int]]) -> list[float]:
    """Seconds per call of each visit's fastest sub-block; NaN where it sat out a round."""
    return [min(blocks) / number * 1e-9 if blocks else math.nan for blocks in samples]


class SessionMeasured(msgspec.Struct, tag_field="kind", tag="session", frozen=True):
    """One process's share of one comparison: the unit that is stored whole or not at all."""

    comparison: Label
    session: Index
    process: Index
    baseline: Label
    entrants: list[Entrant]
    order: list[list[Index]]
    """Positions in `entrants` in the order of their visits, a list per round."""
    stopped: Label
    """Why the rounds ended: precise, rounds, budget, or nothing to time."""
    visiting: Amount
    """Seconds inside visits."""
    elapsed: Amount
    """Seconds from opening the comparison to closing it."""
    load: Amount
    """The machine's one-minute load average."""
    result_bytes: Bytes = 0
    argument_bytes: Bytes = 0
    """One set of the arguments: what a call cannot but read."""
    states: Annotated[list[DeviceState], Meta(max_length=2)] = []
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
    """What a device could do at most when the run was made: see `gradbench.worker.limits`."""

    process: Index
    device: Label
    threads: Annotated[int, Meta(ge=1, le=1 << 16)]
    bandwidth: Positive
    """Bytes per second, read and written together."""
    rates: dict[Label, Amount]
    """Floating-point operations per second of a product of matrices, by dtype."""
    cache: Bytes
    """Bytes of the last-level cache."""


class Reading(msgspec.Struct, tag_field="kind", tag="reading", frozen=True):
    """What an instrument other than the clock read for one comparison in one session.

    `values` are readings per call by mode, one or several; `reasons` say of each other mode why
    it was not read, beginning with its status as in `Entrant`.
    """

    comparison: Label
    session: Index
    process: Index
    instrument: Name
    unit: Label
    values: dict[Name, list[Amount]]
    reasons: dict[Name, Text] = {}


class RunResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: Label
    cut: Bytes = 0
    """Bytes of a torn last line that were cut off."""


class RunEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    """The last line of a stretch of measuring: finished, or interrupted by the user."""

    ended: Label
    finished: bool
    elapsed: Amount
    visiting: Amount


Record = RunStarted | WorkerStarted | SessionMeasured | Reading | Limits | RunResumed | RunEnded


def check(record: Record, header: RunStarted) -> None:
    """Raises ValueError where the fields of a record do not fit each other."""
    match record:
        case SessionMeasured():
            Comparison.parse(record.comparison)
            check_session(record)
        case Reading():
            Comparison.parse(record.comparison)
            check_reading(record)
        case WorkerStarted():
            check_environment(record.environment)
        case Limits():
            if str(Place.parse(record.device)) != record.device:
                raise ValueError(f"device {record.device!r} is not in its canonical form")
            if not record.rates.keys() <= set(DTYPES):
                raise ValueError(f"rates: a dtype is none of {', '.join(DTYPES)}")
        case RunStarted():
            check_machine(record.machine)
            check_plan(record.plan)


def check_plan(plan: list[PlanEntry]) -> None:
    """Raises ValueError where a plan has what cannot be measured, or twice the same."""
    for entry in plan:
        Comparison.parse(entry.comparison)
        require_once(f"{entry.comparison}: mode", entry.modes)
    require_once("comparison", [entry.comparison for entry in plan])


def check_session(record: SessionMeasured) -> None:
    entrants = record.entrants
    if max(chain.from_iterable(record.order), default=-1) >= len(entrants):
        raise ValueError(f"order: there are {len(entrants)} entrants, counted from 0")
    require_once("mode", [e.mode for e in entrants if not e.control])
    if [e.mode for e in entrants if e.control] not in ([], [record.baseline]):
        raise ValueError("the control is not a second instance of the baseline")
    rounds = check_samples(entrants)
    if rounds and record.order and len(record.order) != rounds:
        raise ValueError(f"samples of {rounds} rounds, order of {len(record.order)}")


def check_samples(entrants: list[Entrant]) -> int:
    """The rounds of those that were timed together; 0 where none was. Raises ValueError where
    they are not the same for all, or where it is not known how many calls a sample has."""
    timed = [e for e in entrants if e.samples]
    rounds = {len(e.samples) for e in timed}
    if len(rounds) > 1:
        raise ValueError(f"samples: unequal numbers of rounds ({', '.join(map(str, rounds))})")
    for entrant in timed:
        if not entrant.number:
            raise ValueError(f"{entrant.mode}: samples of 0 calls")
    return rounds.pop() if rounds else 0


def check_reading(record: Reading) -> None:
    known = INSTRUMENTS.get(record.instrument)
    if known is None:
        raise ValueError(f"instrument {record.instrument!r} is none of {', '.join(INSTRUMENTS)}")
    if record.unit != known.unit:
        raise ValueError(f"{record.instrument} reads {known.unit}, not {record.unit!r}")


def key(record: Record) -> tuple[Hashable, ...] | None:
    """What no log has twice."""
    match record:
        case SessionMeasured():
            return ("session", record.comparison, record.session)
        case WorkerStarted():
            return ("worker", record.process)
        case Reading():
            return ("reading", record.comparison, record.session, record.instrument)
        case Limits():
            return ("limits", record.device, record.threads)
        case RunEnded():
            return ("end", record.ended, record.finished, record.elapsed)
    return None


_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
KIND = Kind("run log", RunStarted, _decoder, SCHEMA, check, key, lambda header: header.run)


def loss(entrant: Entrant, session: int, sessions: int) -> str:
    """What a case's note says of a session in which the mode was lost."""
    said = f"{entrant.status} in session {session + 1} of {sessions}"
    return f"{said}: {entrant.reason}" if entrant.reason else said


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
        """An existing log, its torn last line cut off.

        Raises StoreError where it is in use, or was finished meanwhile.
        """
        log, cut = cls.opened(run.path, new=False)
        with log.closed_on_error():
            if not run.finished:
                # Another process may have finished it before it was locked.
                lines.require_unfinished(read(run.path))
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
    """All that should be run logs, oldest first. Raises StoreError for an unreadable folder."""
    return lines.listed(folder(results))


def read_all(results: Path) -> tuple[list[Run], list[str]]:
    """Every run of a results folder, oldest first, and the files that had to be skipped."""
    return read_each(paths(results), read, KIND.what)


def locate(results: Path, name: str) -> Path:
    """The log of a run's name, of the beginning of one, of 'latest', or of a path.

    Raises StoreError where there is none, or more than one.
    """
    hint = "'gradbench run' makes one, 'gradbench show --runs' lists them"
    return lines.locate(paths(results), name, "run", folder(results), hint, read_header)


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
    def name(self) -> str:
        return self.started.run

    @property
    def torch(self) -> str:
        return str(self.environment.get("torch", ""))


def read_headers(results: Path) -> tuple[list[Header], list[str]]:
    """Every run's header, oldest first, and the files that had to be skipped."""
    return read_each(paths(results), read_header, KIND.what)


TAIL = 4096
"""Bytes at the end of a log that hold its last line, where that is an `end`."""


def read_header(path: Path) -> Header:
    """A run's header. Raises StoreError where the file is no run log."""
    with lines.opened(path) as file:
        try:
            started = KIND.decode_header(path, file.readline(lines.LONGEST_LINE))
            second = file.readline(lines.LONGEST_LINE)
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            last = file.read(TAIL)
        except OSError as error:
            raise StoreError(f"{lines.called(path)}: {error.strerror}") from error
    worker = _record(second, started)
    end = _record(b"".join(last.splitlines()[-1:]), started)
    return Header(
        path,
        started,
        worker.environment if isinstance(worker, WorkerStarted) else {},
        isinstance(end, RunEnded) and end.finished,
    )


def _record(line: bytes, header: RunStarted) -> Record | None:
    """A line's record; None where it is damaged, cut off or not there."""
    with contextlib.suppress(*lines.DAMAGE):
        record: Record = KIND.decode(line.rstrip(b"\r\n"), header)
        return record
    return None
