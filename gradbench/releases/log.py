"""Tracks: what was measured of several torch builds in turns, in one file of JSON lines each.

The first line is the plan. Every environment that takes part has a line with its whole identity;
every comparison has one for each session, written as soon as it is measured. docs/releases.md
documents the fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.cases import Comparison, Entry
from gradbench.releases.known import Release, build
from gradbench.store.lines import SUFFIX, Kind, LineLog, locate, now, read_each
from gradbench.store.log import Entrant, PlanEntry, Reading, minima

SCHEMA = 1


class TrackStarted(msgspec.Struct, tag_field="kind", tag="track", frozen=True):
    """What was asked for, on what machine."""

    schema: int
    track: str
    started: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[PlanEntry]
    baseline: str
    groups: list[list[str]]
    """Environments that are measured together, by name; each group has the baseline first."""
    command: list[str] = []
    files: list[str] = []


class EnvironmentUsed(msgspec.Struct, tag_field="kind", tag="environment", frozen=True):
    """A build that takes part: `identity` is all that its worker tells of itself."""

    name: str
    what: str
    date: str
    identity: dict[str, Any]
    arguments: list[str] = []

    @property
    def torch(self) -> str:
        return str(self.identity["torch"])

    @property
    def release(self) -> Release:
        import datetime

        return build(self.torch, datetime.date.fromisoformat(self.date))


class NotInstalled(msgspec.Struct, tag_field="kind", tag="failure", frozen=True):
    """An environment that was asked for and could not be made."""

    name: str
    what: str
    reason: str
    when: str


class Side(msgspec.Struct, frozen=True):
    """One build's part in one case: the record of its contestant, by environment."""

    environment: str
    entrant: Entrant

    @property
    def minima(self) -> list[float]:
        return minima(self.entrant.number, self.entrant.samples)


class CaseMeasured(msgspec.Struct, frozen=True):
    """One case in one session: a side per environment; their rounds are the same ones."""

    mode: str
    sides: list[Side]
    stopped: str


class PartMeasured(msgspec.Struct, tag_field="kind", tag="part", frozen=True):
    """One comparison of one group in one session: the unit that is stored whole or not at all."""

    comparison: str
    session: int
    group: int
    cases: list[CaseMeasured]
    visiting: float
    elapsed: float
    load: float


class ReadingMade(msgspec.Struct, tag_field="kind", tag="reading", frozen=True):
    """What an instrument other than the clock read in one environment."""

    environment: str
    reading: Reading


class TrackResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: str
    cut: int = 0


class TrackEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    ended: str
    finished: bool
    elapsed: float


Line = (
    TrackStarted
    | EnvironmentUsed
    | NotInstalled
    | PartMeasured
    | ReadingMade
    | TrackResumed
    | TrackEnded
)
KIND = Kind("track of releases", TrackStarted, msgspec.json.Decoder(Line), SCHEMA)


@dataclass
class Track:
    """One track as it was read."""

    path: Path
    started: TrackStarted
    environments: dict[str, EnvironmentUsed] = field(default_factory=dict)
    failures: list[NotInstalled] = field(default_factory=list)
    parts: list[PartMeasured] = field(default_factory=list)
    readings: list[ReadingMade] = field(default_factory=list)
    ends: list[TrackEnded] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.started.track

    @property
    def baseline(self) -> str:
        return self.started.baseline

    @property
    def finished(self) -> bool:
        return any(end.finished for end in self.ends)

    @property
    def elapsed(self) -> float:
        return sum(end.elapsed for end in self.ends)

    def entries(self) -> list[Entry]:
        return [Entry(Comparison.parse(p.comparison), tuple(p.modes)) for p in self.started.plan]

    def done(self) -> set[tuple[int, int, str]]:
        """The groups, sessions and comparisons that need no repeating."""
        return {(part.group, part.session, part.comparison) for part in self.parts}

    def take(self, records: Iterable[Any]) -> None:
        """Adds records to what is known."""
        for record in records:
            match record:
                case EnvironmentUsed():
                    self.environments[record.name] = record
                case NotInstalled():
                    self.failures.append(record)
                case PartMeasured():
                    self.parts.append(record)
                case ReadingMade():
                    self.readings.append(record)
                case TrackEnded():
                    self.ends.append(record)


def folder(results: Path) -> Path:
    return results / "releases"


class TrackLog(LineLog):
    """A track open for appending."""

    go_on = "gradbench releases track --resume"

    @classmethod
    def create(cls, place: Path, header: TrackStarted) -> LineLog:
        """A new file in a folder. Raises StoreError where it cannot be written."""
        log, _ = cls.opened(place / f"{header.track}{SUFFIX}", new=True)
        log.append(header)
        return log

    @classmethod
    def reopen(cls, track: Track) -> LineLog:
        """An existing file, its torn last line cut off. Raises StoreError where it is in use."""
        log, cut = cls.opened(track.path, new=False)
        log.append(TrackResumed(now(), cut))
        return log


def read(path: Path) -> Track:
    """A track with every line that can be read. Raises StoreError where it is none."""
    header, records, problems = KIND.read(path)
    track = Track(path, header, problems=problems)
    track.take(records)
    return track


def paths(results: Path) -> list[Path]:
    """The files of all tracks, oldest first."""
    found = folder(results).glob(f"*{SUFFIX}") if folder(results).is_dir() else ()
    return sorted(found)


def read_all(results: Path) -> tuple[list[Track], list[str]]:
    """Every readable track, oldest first, and what was wrong with the others."""
    return read_each(paths(results), read, KIND.what)


def find(results: Path, name: str) -> Track:
    """The track of a name, of the beginning of one, of a path, or the 'latest'.

    Raises StoreError where there is none, or more than one.
    """
    hint = "'gradbench releases track' makes one"
    return read(locate(paths(results), name, "track", folder(results), hint))
