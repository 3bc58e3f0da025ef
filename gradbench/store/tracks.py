"""Tracks: what was measured of several torch builds in turns, in one file of JSON lines each.

The first line is the plan. Every environment that takes part has a line with its whole identity;
every comparison has one for each session, written as soon as it is measured. docs/releases.md
documents the fields.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.core.releases import Release, build
from gradbench.store import lines
from gradbench.store.fields import (
    Amount,
    Bytes,
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
    check_environment,
    check_machine,
    require_once,
)
from gradbench.store.lines import SUFFIX, Kind, LineLog, locate, now, read_each
from gradbench.store.runs import (
    Entrant,
    PlanEntry,
    Reading,
    check_plan,
    check_reading,
    check_samples,
    minima,
)

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""


class TrackStarted(msgspec.Struct, tag_field="kind", tag="track", frozen=True):
    """What was asked for, on what machine."""

    schema: Schema
    track: FileName
    started: Label
    settings: dict[str, Any]
    machine: dict[str, Any]
    plan: list[PlanEntry]
    baseline: Name
    groups: list[Names]
    """Environments that are measured together, by name; each group has the baseline first."""
    command: Texts = []
    files: Texts = []
    digests: dict[Text, Digest] = {}
    """The SHA-256 of each of `files` when the track began."""


class EnvironmentUsed(msgspec.Struct, tag_field="kind", tag="environment", frozen=True):
    """A build that takes part: `identity` is all that its worker tells of itself."""

    name: Name
    what: Text
    date: Day
    identity: dict[str, Any]
    arguments: Texts = []

    @property
    def torch(self) -> str:
        return str(self.identity["torch"])

    @property
    def release(self) -> Release:
        import datetime

        return build(self.torch, datetime.date.fromisoformat(self.date))


class NotInstalled(msgspec.Struct, tag_field="kind", tag="failure", frozen=True):
    """An environment that was asked for and could not be made."""

    name: Name
    what: Text
    reason: Text
    when: Label


class Side(msgspec.Struct, frozen=True):
    """One build's part in one case: the record of its contestant, by environment."""

    environment: Name
    entrant: Entrant

    @property
    def minima(self) -> list[float]:
        return minima(self.entrant.number, self.entrant.samples)


class CaseMeasured(msgspec.Struct, frozen=True):
    """One case in one session: a side per environment; their rounds are the same ones."""

    mode: Name
    sides: list[Side]
    stopped: Label


class PartMeasured(msgspec.Struct, tag_field="kind", tag="part", frozen=True):
    """One comparison of one group in one session: the unit that is stored whole or not at all."""

    comparison: Label
    session: Index
    group: Index
    cases: list[CaseMeasured]
    visiting: Amount
    elapsed: Amount
    load: Amount


class ReadingMade(msgspec.Struct, tag_field="kind", tag="reading", frozen=True):
    """What an instrument other than the clock read in one environment."""

    environment: Name
    reading: Reading


class TrackResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: Label
    cut: Bytes = 0


class TrackEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    ended: Label
    finished: bool
    elapsed: Amount


Line = (
    TrackStarted
    | EnvironmentUsed
    | NotInstalled
    | PartMeasured
    | ReadingMade
    | TrackResumed
    | TrackEnded
)


def check(record: Line, header: TrackStarted) -> None:
    """Raises ValueError where the fields of a record do not fit each other or the plan."""
    match record:
        case PartMeasured():
            _check_part(record, header)
        case ReadingMade():
            _require_known(record.environment, header)
            Comparison.parse(record.reading.comparison)
            check_reading(record.reading)
        case EnvironmentUsed():
            _require_known(record.name, header)
            check_environment(record.identity)
            if not record.identity.get("torch"):
                raise ValueError("identity: it does not say which torch")
            # Raises where the version or the date is none.
            str(record.release)
        case TrackStarted():
            check_machine(record.machine)
            check_plan(record.plan)
            for group in record.groups:
                require_once("environment", group)
                if record.baseline not in group:
                    raise ValueError(f"groups: one is without the baseline {record.baseline}")


def _check_part(part: PartMeasured, header: TrackStarted) -> None:
    Comparison.parse(part.comparison)
    if part.group >= len(header.groups):
        raise ValueError(f"group {part.group}: there are {len(header.groups)}, counted from 0")
    require_once("mode", [case.mode for case in part.cases])
    for case in part.cases:
        names = [side.environment for side in case.sides]
        require_once(f"{case.mode}: environment", names)
        if not set(names) <= set(header.groups[part.group]):
            raise ValueError(f"{case.mode}: an environment is not one of group {part.group}")
        check_samples([side.entrant for side in case.sides])


def _require_known(environment: str, header: TrackStarted) -> None:
    if not any(environment in group for group in header.groups):
        raise ValueError(f"environment {environment!r} is in no group")


def key(record: Line) -> tuple[Hashable, ...] | None:
    """What no track has twice."""
    match record:
        case PartMeasured():
            return ("part", record.comparison, record.session, record.group)
        case EnvironmentUsed():
            return ("environment", record.name)
        case NotInstalled():
            return ("failure", record.name)
        case ReadingMade():
            made = record.reading
            return (
                *("reading", record.environment),
                *(made.comparison, made.session, made.instrument),
            )
        case TrackEnded():
            return ("end", record.ended, record.finished, record.elapsed)
    return None


_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
KIND = Kind(
    "track of releases", TrackStarted, _decoder, SCHEMA, check, key, lambda header: header.track
)


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
        """An existing file, its torn last line cut off.

        Raises StoreError where it is in use, or was finished meanwhile.
        """
        log, cut = cls.opened(track.path, new=False)
        with log.closed_on_error():
            if not track.finished:
                # Another process may have finished it before it was locked.
                lines.require_unfinished(read(track.path))
            log.append(TrackResumed(now(), cut))
        return log


def read(path: Path) -> Track:
    """A track with every line that can be read. Raises StoreError where it is none."""
    header, records, problems = KIND.read(path)
    track = Track(path, header, problems=problems)
    track.take(records)
    return track


def paths(results: Path) -> list[Path]:
    """All that should be tracks, oldest first. Raises StoreError for an unreadable folder."""
    return lines.listed(folder(results))


def read_all(results: Path) -> tuple[list[Track], list[str]]:
    """Every readable track, oldest first, and what was wrong with the others."""
    return read_each(paths(results), read, KIND.what)


def find(results: Path, name: str) -> Track:
    """The track of a name, of the beginning of one, of a path, or the 'latest'.

    Raises StoreError where there is none, or more than one.
    """
    hint = "'gradbench releases track' makes one"
    return read(locate(paths(results), name, "track", folder(results), hint, _header))


def _header(path: Path) -> None:
    """Raises StoreError where a file is no track."""
    with KIND.opened(path):
        pass
