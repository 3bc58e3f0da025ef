"""Run logs: one append-only file of JSON lines per run. docs/results.md documents every field."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradbench.core.cases import DTYPES, Comparison, Entry, Place, is_name
from gradbench.core.clocks import Clock, Visits, clock_of
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.verdicts import Status
from gradbench.store.environment import WorkerEnvironment
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
    Text,
    Texts,
    check_clocks,
    check_machine,
    require_once,
)
from gradbench.store.lines import DAMAGE, opened, read_line, tail
from gradbench.store.lines import StoreError as StoreError
from gradbench.store.lines import now as now
from gradbench.store.logs import Ended, Kind, Log, Record, Resumed

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""

LOST = (Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY)
"""Statuses of a mode that say nothing against what was measured of it in other sessions."""

RETRIED = (Status.CRASHED, Status.OUT_OF_MEMORY)
"""Statuses that a resumed run tries again. (A mode that timed out would have to be waited for.)"""


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


class RunStarted(Record, tag="run", frozen=True):
    """The first line of a log: what was requested, on what machine."""

    schema: Schema
    run: FileName
    started: Label
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[Entry]
    command: Texts = []
    files: Texts = []
    """The user's files that took part."""
    by_hand: Names = []
    """Modes that need a derivative written by hand: yardsticks, never called the fastest."""
    digests: dict[Text, Digest] = {}
    """The SHA-256 of each of `files` when the run began."""
    families: dict[Name, Name] = {}
    """The family of each planned function that is not of the source notebooks."""

    @property
    def name(self) -> str:
        return self.run

    def check(self, header: Any) -> None:
        check_machine(self.machine)
        check_plan(self.plan)


class WorkerStarted(Record, tag="worker", frozen=True):
    """A measuring process and all that its times may depend on."""

    process: Index
    environment: dict[str, Any]
    started: Label

    def check(self, header: Any) -> None:
        WorkerEnvironment.of(self.environment)

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("worker", self.process)


class Entrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contestant of one session: a mode and its state.

    `error` is the worst error as a share of the allowed, `ulps` in units in the last place;
    `number` calls make a sub-block. `samples` are nanoseconds per sub-block, a list per round,
    empty in rounds that the contestant sat out. `takes` are seconds that a call takes at least, of
    a mode that was refused for it. `cpu` is the thread's processor time in each of
    them, empty where it is not known; `disturbed` are the positions of those in which another
    process had the core. `note` names what it changed in its process, which was restored.
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
    cpu: list[list[Nanoseconds]] = []
    disturbed: list[list[Index]] = []
    takes: Amount = 0.0

    @property
    def visits(self) -> Visits:
        """Its visits by both clocks."""
        return Visits.of(self.number, self.samples, self.cpu, self.disturbed)


class SessionMeasured(Record, tag="session", frozen=True):
    """One process's share of one comparison: the unit that is stored whole or not at all."""

    comparison: Comparison
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
    """Of the device, before the rounds and after them; empty where they are not known."""
    steal: Amount = 0.0
    """Seconds of processor time that the hypervisor took from the machine's cores meanwhile."""

    def check(self, header: Any) -> None:
        entrants = self.entrants
        if max(chain.from_iterable(self.order), default=-1) >= len(entrants):
            raise ValueError(f"order: there are {len(entrants)} entrants, counted from 0")
        require_once("mode", [e.mode for e in entrants if not e.control])
        if [e.mode for e in entrants if e.control] not in ([], [self.baseline]):
            raise ValueError("the control is not a second instance of the baseline")
        rounds = check_samples(entrants)
        if rounds and self.order and len(self.order) != rounds:
            raise ValueError(f"samples of {rounds} rounds, order of {len(self.order)}")

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("session", self.comparison, self.session)


class SessionTimed(SessionMeasured, frozen=True, kw_only=True):
    """A session as it is judged: each visit's time in place of the samples. Never stored.

    It takes a small part of the memory, so a run with a million cases and sessions can be judged.
    The arrays of times have seconds per call, as many as `entrants` times `rounds`, a contestant's
    rounds in a row; NaN where it sat out a round or was not timed.
    """

    rounds: int
    clock: Clock
    """The clock that compares the contestants: see `core.clocks`."""
    minima: array[float]
    """By that clock."""
    wall: array[float]
    """The fastest sub-blocks on the wall clock; empty where `minima` has them."""
    processor: array[float]
    """The mean processor times; empty where none is known."""
    disturbed: array[int]
    blocks: array[int]
    """How many sub-blocks of each contestant were disturbed, and of how many."""


def condensing() -> Callable[[SessionMeasured], SessionTimed]:
    """A function from sessions to sessions without samples; those it makes share equal parts."""
    known: dict[Any, Any] = {}
    left_out = ("untimed", "samples", "cpu", "disturbed")
    kept = [name for name in Entrant.__struct_fields__ if name not in left_out]

    def condense(session: SessionMeasured) -> SessionTimed:
        if isinstance(session, SessionTimed):
            return session
        timed = [entrant.visits for entrant in session.entrants]
        rounds = max((len(own.raw) for own in timed), default=0)
        clock = clock_of(timed)

        def joined(lists: Iterable[Sequence[float]]) -> array[float]:
            made = array("d")
            for own in lists:
                made.extend(own)
                made.extend([math.nan] * (rounds - len(own)))
            return made

        entrants = []
        for entrant in session.entrants:
            key = tuple(getattr(entrant, name) for name in kept)
            if key not in known:
                bare = {"untimed": 0, "samples": [], "cpu": [], "disturbed": []}
                known[key] = msgspec.structs.replace(entrant, **bare)
            entrants.append(known[key])
        fields = {name: getattr(session, name) for name in SessionMeasured.__struct_fields__}
        fields |= {"entrants": entrants, "order": []}
        minima = joined(own.by(clock) for own in timed)
        same = clock is Clock.WALL and not any(own.disturbed for own in timed)
        return SessionTimed(
            **fields,
            rounds=rounds,
            clock=clock,
            minima=minima,
            wall=array("d") if same else joined(own.raw for own in timed),
            processor=joined(own.processor for own in timed)
            if any(own.processor for own in timed)
            else array("d"),
            disturbed=array("q", [own.disturbed for own in timed]),
            blocks=array("q", [own.blocks for own in timed]),
        )

    return condense


class Limits(Record, tag="limits", frozen=True):
    """What a device could do at most during the run: see `gradbench.worker.limits`."""

    process: Index
    device: Label
    threads: Annotated[int, Meta(ge=1, le=1 << 16)]
    bandwidth: Positive
    """Bytes per second, read and written together."""
    rates: dict[Label, Amount]
    """Floating-point operations per second of a matmul, by dtype."""
    cache: Bytes
    """Bytes of the last-level cache."""

    def check(self, header: Any) -> None:
        if str(Place.parse(self.device)) != self.device:
            raise ValueError(f"device {self.device!r} is not in its canonical form")
        if not self.rates.keys() <= set(DTYPES):
            raise ValueError(f"rates: a dtype is none of {', '.join(DTYPES)}")

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("limits", self.device, self.threads)


class Reading(Record, tag="reading", frozen=True):
    """What an instrument other than the clock read for one comparison in one session.

    `values` are readings per call by mode, one or several; `reasons` say of each other mode why
    it was not read, beginning with its status as in `Entrant`.
    """

    comparison: Comparison
    session: Index
    process: Index
    instrument: Name
    unit: Label
    values: dict[Name, list[Amount]]
    reasons: dict[Name, Text] = {}

    def check(self, header: Any) -> None:
        known = INSTRUMENTS.get(self.instrument)
        if known is None:
            raise ValueError(f"instrument {self.instrument!r} is none of {', '.join(INSTRUMENTS)}")
        if self.unit != known.unit:
            raise ValueError(f"{self.instrument} reads {known.unit}, not {self.unit!r}")

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("reading", self.comparison, self.session, self.instrument)


class RunEnded(Ended, frozen=True):
    visiting: Amount


def check_plan(plan: list[Entry]) -> None:
    """Raises ValueError where a plan has what cannot be measured, or twice the same."""
    for entry in plan:
        for mode in entry.modes:
            if not is_name(mode):
                raise ValueError(f"{entry.comparison}: {mode!r} is not a name")
        require_once(f"{entry.comparison}: mode", entry.modes)
    require_once("comparison", [entry.comparison for entry in plan])


def check_samples(entrants: list[Entrant]) -> int:
    """The rounds of those that were timed together; 0 without any. Raises ValueError where they
    differ, or where the number of calls of a sample is not known."""
    timed = [e for e in entrants if e.samples]
    rounds = {len(e.samples) for e in timed}
    if len(rounds) > 1:
        raise ValueError(f"samples: unequal numbers of rounds ({', '.join(map(str, rounds))})")
    for entrant in timed:
        if not entrant.number:
            raise ValueError(f"{entrant.mode}: samples of 0 calls")
        check_clocks(entrant.samples, entrant.cpu, entrant.disturbed)
    return rounds.pop() if rounds else 0


def loss(entrant: Entrant, session: int, sessions: int) -> str:
    """What a case's note says of a session in which the mode was lost."""
    said = f"{entrant.status} in session {session + 1} of {sessions}"
    return f"{said}: {entrant.reason}" if entrant.reason else said


@dataclass
class Run(Log[RunStarted]):
    """The log of a run in memory."""

    workers: list[WorkerStarted] = field(default_factory=list)
    sessions: list[SessionMeasured] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)

    LISTS = {
        WorkerStarted: "workers",
        SessionMeasured: "sessions",
        SessionTimed: "sessions",
        Reading: "readings",
        Limits: "limits",
    }

    def environment(self, process: int) -> dict[str, Any]:
        for worker in self.workers:
            if worker.process == process:
                return worker.environment
        return {}

    @property
    def first_environment(self) -> dict[str, Any]:
        """Of the first measuring process; empty without any."""
        return self.workers[0].environment if self.workers else {}

    def by_comparison(self) -> dict[Comparison, list[SessionMeasured]]:
        """The sessions of each comparison, in the plan's order."""
        found: dict[Comparison, list[SessionMeasured]] = {
            entry.comparison: [] for entry in self.started.plan
        }
        for session in self.sessions:
            found.setdefault(session.comparison, []).append(session)
        return found

    def done(self) -> set[tuple[Comparison, int]]:
        """The comparisons and sessions that need no repeating."""
        return {(record.comparison, record.session) for record in self.sessions}


KIND = Kind(
    log=Run,
    header=RunStarted,
    record=RunStarted | WorkerStarted | SessionMeasured | Reading | Limits | Resumed | RunEnded,
    schema=SCHEMA,
    what="run log",
    noun="run",
    place="runs",
    hint="'gradbench run' makes one, 'gradbench show --runs' lists them",
    resume=lambda header: "gradbench run --resume",
)
folder, paths, locate = KIND.folder, KIND.paths, KIND.locate
find, read_all = KIND.find, KIND.read_all


def read(path: Path, *, condensed: bool = False) -> Run:
    """A run's log; `condensed`: without the raw samples, see `SessionTimed`.

    Errors as for `Kind.read`.
    """
    condense = condensing()

    def keep(record: Record) -> Record:
        return condense(record) if condensed and isinstance(record, SessionMeasured) else record

    return KIND.read(path, keep)


@dataclass(frozen=True)
class Header:
    """What the first and the last lines of a log tell, without reading all of it."""

    path: Path
    started: RunStarted
    environment: dict[str, Any]
    """Of the first measuring process; empty without any."""
    finished: bool

    @property
    def name(self) -> str:
        return self.started.run

    @property
    def torch(self) -> str:
        return str(self.environment.get("torch", ""))


def read_headers(results: Path) -> tuple[list[Header], list[str]]:
    """Every run's header, oldest first, and the files that had to be skipped."""
    return KIND.read_each(paths(results), read_header)


TAIL = 4096
"""Bytes at the end of a log that hold its last line, where that is an `end`."""


def read_header(path: Path) -> Header:
    """A run's header. Raises StoreError where the file is no run log."""
    with opened(path) as file:
        started = KIND.decode_header(path, read_line(file, path) or b"")
        second = read_line(file, path) or b""
        last = tail(file, path, TAIL)
    worker = _record(second, started)
    end = _record(b"".join(last.splitlines()[-1:]), started)
    return Header(
        path,
        started,
        worker.environment if isinstance(worker, WorkerStarted) else {},
        isinstance(end, RunEnded) and end.finished,
    )


def _record(line: bytes, header: RunStarted) -> Any:
    """A line's record; None where it is damaged, cut off or not there."""
    with contextlib.suppress(*DAMAGE):
        return KIND.decode(line.rstrip(b"\r\n"), header)
    return None
