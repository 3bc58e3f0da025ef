"""Tracks: what was measured of several torch builds in turns, in one file of JSON lines each.

The first line is the plan. Every environment that takes part has a line with its whole identity;
every comparison has one for each session, written as soon as it is measured. docs/releases.md
documents the fields.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.clocks import Visits, clock_of
from gradbench.core.releases import Release, build
from gradbench.store.environment import WorkerEnvironment
from gradbench.store.fields import (
    Amount,
    Day,
    Digest,
    FileName,
    Index,
    Label,
    Name,
    Names,
    Schema,
    Text,
    Texts,
    check_machine,
    require_once,
)
from gradbench.store.logs import Ended, Kind, Log, Record, Resumed
from gradbench.store.runs import Entrant, Reading, check_plan, check_samples

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""


class TrackStarted(Record, tag="track", frozen=True):
    """The first line of a track: what was requested, on what machine."""

    schema: Schema
    track: FileName
    started: Label
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[Entry]
    baseline: Name
    groups: list[Names]
    """Environments that are measured together, by name; each group has the baseline first."""
    command: Texts = []
    files: Texts = []
    digests: dict[Text, Digest] = {}
    """The SHA-256 of each of `files`, and of what they load, when the track began."""
    search: bool = False
    """Whether it is a step of a search for one change: it is no baseline and never the latest."""

    @property
    def name(self) -> str:
        return self.track

    def check(self, header: Any) -> None:
        check_machine(self.machine)
        check_plan(self.plan)
        for group in self.groups:
            require_once("environment", group)
            if self.baseline not in group:
                raise ValueError(f"groups: one is without the baseline {self.baseline}")

    def require_known(self, environment: str) -> None:
        """Raises ValueError where an environment takes no part."""
        if not any(environment in group for group in self.groups):
            raise ValueError(f"environment {environment!r} is in no group")


class EnvironmentUsed(Record, tag="environment", frozen=True):
    """A build that takes part: `identity` is all that its worker states about itself."""

    name: Name
    what: Text
    date: Day
    identity: dict[str, Any]
    arguments: Texts = []

    @property
    def facts(self) -> WorkerEnvironment:
        return WorkerEnvironment.of(self.identity)

    @property
    def torch(self) -> str:
        return str(self.identity["torch"])

    @property
    def release(self) -> Release:
        import datetime

        return build(self.torch, datetime.date.fromisoformat(self.date))

    def check(self, header: TrackStarted) -> None:
        header.require_known(self.name)
        if not self.facts.torch:
            raise ValueError("identity: it does not say which torch")
        # Raises where the version or the date is none.
        str(self.release)

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("environment", self.name)


class NotInstalled(Record, tag="failure", frozen=True):
    """An environment that was requested and could not be made."""

    name: Name
    what: Text
    reason: Text
    when: Label

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("failure", self.name)


class Side(msgspec.Struct, frozen=True):
    """One build's part in one case: the record of its contestant, by environment."""

    environment: Name
    entrant: Entrant


class CaseMeasured(msgspec.Struct, frozen=True):
    """One case in one session: a side per environment; their rounds are the same ones."""

    mode: Name
    sides: list[Side]
    stopped: Label

    def visits(self) -> dict[str, Visits]:
        """The visits by environment, where it is ok."""
        return {s.environment: s.entrant.visits for s in self.sides if s.entrant.status == "ok"}

    def times(self) -> dict[str, Sequence[float]]:
        """Seconds per call of each visit by environment, where it is ok: by one clock for all."""
        timed = self.visits()
        clock = clock_of(timed.values())
        return {name: own.by(clock) for name, own in timed.items()}


class PartMeasured(Record, tag="part", frozen=True):
    """One comparison of one group in one session: the unit that is stored whole or not at all."""

    comparison: Comparison
    session: Index
    group: Index
    cases: list[CaseMeasured]
    visiting: Amount
    elapsed: Amount
    load: Amount
    node: Label = ""
    """The node of a cluster that measured it; empty: this machine."""

    def check(self, header: TrackStarted) -> None:
        if self.group >= len(header.groups):
            raise ValueError(f"group {self.group}: there are {len(header.groups)}, counted from 0")
        require_once("mode", [case.mode for case in self.cases])
        for case in self.cases:
            names = [side.environment for side in case.sides]
            require_once(f"{case.mode}: environment", names)
            if not set(names) <= set(header.groups[self.group]):
                raise ValueError(f"{case.mode}: an environment is not one of group {self.group}")
            check_samples([side.entrant for side in case.sides])

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("part", self.comparison, self.session, self.group)


class ReadingMade(Record, tag="reading", frozen=True):
    """What an instrument other than the clock read in one environment."""

    environment: Name
    reading: Reading
    node: Label = ""

    def check(self, header: TrackStarted) -> None:
        header.require_known(self.environment)
        self.reading.check(header)

    def unique_key(self) -> tuple[Hashable, ...]:
        kind, *about = self.reading.unique_key()
        return (kind, self.environment, *about)


@dataclass
class Track(Log[TrackStarted]):
    """The log of a track in memory."""

    environments: dict[str, EnvironmentUsed] = field(default_factory=dict)
    failures: list[NotInstalled] = field(default_factory=list)
    parts: list[PartMeasured] = field(default_factory=list)
    readings: list[ReadingMade] = field(default_factory=list)

    LISTS = {
        NotInstalled: "failures",
        PartMeasured: "parts",
        ReadingMade: "readings",
    }

    def add(self, record: Any) -> None:
        if isinstance(record, EnvironmentUsed):
            self.environments[record.name] = record
        super().add(record)

    @property
    def baseline(self) -> str:
        return self.started.baseline

    def done(self) -> set[tuple[int, int, Comparison]]:
        """The groups, sessions and comparisons that need no repeating."""
        return {(part.group, part.session, part.comparison) for part in self.parts}


KIND = Kind(
    log=Track,
    header=TrackStarted,
    record=TrackStarted
    | EnvironmentUsed
    | NotInstalled
    | PartMeasured
    | ReadingMade
    | Resumed
    | Ended,
    schema=SCHEMA,
    what="track of releases",
    noun="track",
    place="releases",
    hint="'gradbench releases track' makes one",
    resume=lambda header: "gradbench releases track --resume",
    aside=lambda header: header.search,
)
folder, paths = KIND.folder, KIND.paths
read, read_all, find = KIND.read, KIND.read_all, KIND.find


def latest(results: Path) -> TrackStarted:
    """The first line of the newest track that is no step of a search.

    Raises StoreError where there is none.
    """
    with KIND.opened(KIND.locate(results, "latest")) as lines:
        return lines.header
