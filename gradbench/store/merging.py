"""Puts results folders together: each log once, and each record of it.

A log is told by the name in its first line. Of a log that lies in several folders, one copy may go
on where another ends, as one was copied before it was finished: the longer one stays. Copies that
were both gone on with are joined, record by record. Logs of one name that began differently are
kept side by side. Files are written whole or not at all, so a merge that was stopped is repeated.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gradbench.core.units import counted
from gradbench.store import explanations, runs, studies, tracks
from gradbench.store.files import replacing
from gradbench.store.lines import (
    PACKED,
    SUFFIX,
    LineLog,
    StoreError,
    called,
    content,
    encoded,
    is_log,
    opened,
    read_line,
    regular,
    stem,
)
from gradbench.store.logs import Kind, Record

NAMED: dict[Kind[Any, Any], str] = {
    runs.KIND: "run",
    tracks.KIND: "track",
    studies.KIND: "name",
    explanations.KIND: "explanation",
}
"""The field of the first line that names a log of each kind."""

BESIDE = ("own", "advise", "asv")
"""Folders of files that are no logs."""

DATES = "releases.json"
DIGITS = 8
LONGEST_NAME = 180


class What(Enum):
    """What became of a file."""

    ADDED = "added"
    COMPLETED = "completed"
    JOINED = "joined"
    RENAMED = "renamed"
    THERE = "there already"


@dataclass
class Merged:
    """What became of each file, as pairs of its kind (``run``) and the outcome, and what a reader
    should know: a line for each file that was left out or has another name now."""

    outcomes: list[tuple[str, What]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def merge(folders: Sequence[Path], into: Path) -> Merged:
    """Merges results folders into one, which may exist.

    Raises StoreError, before anything is written, where one of them is no results folder or is
    `into` itself; and where `into` cannot be written: what was merged by then is whole, and the
    same merge can be repeated.
    """
    for folder in folders:
        require_results(folder)
        if into.exists() and os.path.samefile(folder, into):
            raise StoreError(f"{folder} is the folder to merge into: name the others only")
    merged = Merged()
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _held(into):
            for kind in NAMED:
                logs = _Logs(kind, into, merged)
                for folder in folders:
                    logs.merge(folder)
            for folder in folders:
                _merge_dates(folder, into, merged)
                for name in BESIDE:
                    _merge_files(folder, into, name, merged)
    except OSError as error:
        raise StoreError(
            f"cannot write to {error.filename or into}: {error.strerror or error}; all that was "
            "merged so far is whole, and the same command goes on from there"
        ) from error
    return merged


def require_results(folder: Path) -> None:
    """Raises StoreError where a folder is no results folder."""
    places = [kind.place for kind in NAMED]
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder")
    if not any((folder / place).is_dir() for place in places):
        inside = folder.resolve().name in places
        raise StoreError(
            f"{folder} is not a results folder: it has none of {', '.join(places)}"
            + (f"; did you mean {folder.parent}?" if inside else "")
        )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Raises StoreError where another process merges into the same folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreError(f"another process merges into {folder}") from None
    finally:
        os.close(descriptor)


# ── logs ──────────────────────────────────────────────────────────────────────────────────────


class _Logs:
    """The logs of one kind in the folder to merge into, by the names in their first lines."""

    def __init__(self, kind: Kind[Any, Any], into: Path, merged: Merged) -> None:
        self.kind, self.merged = kind, merged
        self.folder = kind.folder(into)
        self.known: dict[str, Path] = {}
        for path in filter(is_log, kind.paths(into)):
            with contextlib.suppress(StoreError):
                name = self._header(path).name
                if name not in self.known or stem(path) == name:
                    self.known[name] = path

    def merge(self, folder: Path) -> None:
        """Merges those of another results folder."""
        for path in self.kind.paths(folder):
            try:
                if not is_log(path):
                    raise StoreError(f"{called(path)}: not a {self.kind.what}")
                self.merged.outcomes.append((self.kind.noun, self._merge(path)))
            except StoreError as error:
                self.merged.left_out.append(f"{path.parent}: {error}, left out")

    def _header(self, path: Path) -> Any:
        with self.kind.opened(path) as lines:
            return lines.header

    def _merge(self, path: Path) -> What:
        """Raises StoreError where a log, or the one to merge it with, cannot be read, or another
        process writes that one."""
        header = self._header(path)
        name = header.name
        if name not in self.known:
            self.known[name] = _copied(path, _free(self.folder, name, path))
            return What.ADDED
        if self._header(self.known[name]) == header:
            return self._with_copy(name, path)
        # Another log of the same name: it gets one of its own, the same in each merge.
        began = hashlib.sha256(msgspec.json.encode(header, enc_hook=str)).hexdigest()[:DIGITS]
        other = f"{name[:LONGEST_NAME]}-{began}"
        if other in self.known:
            return self._with_copy(other, path)
        renamed = msgspec.structs.replace(header, **{NAMED[self.kind]: other})
        self.known[other] = target = _free(self.folder, other, Path(SUFFIX))
        with _writing(target) as file:
            file.write(encoded(renamed, 1))
            file.writelines(itertools.islice(_whole_lines(path), 1, None))
        self.merged.notes.append(
            f"{path}: {self.folder} has another {self.kind.noun} named {name}; stored as {other}"
        )
        return What.RENAMED

    def _with_copy(self, name: str, path: Path) -> What:
        """Merges a copy of the log that has a name here."""
        there = self.known[name]
        ours_longer, theirs_longer = _longer(there, path)
        if not theirs_longer:
            return What.THERE
        if ours_longer or self._header(path).name != name:
            return self._join(name, path)
        self._replace(name, lambda file: _copy(path, file), _suffixes(path))
        return What.COMPLETED

    def _join(self, name: str, path: Path) -> What:
        """Adds the records that the log here lacks of a copy, and notes those that it cannot."""
        there = self.known[name]
        with self.kind.opened(there) as ours, self.kind.opened(path) as theirs:
            joining = Joining(list(ours))
            added = [record for r in theirs if (record := joining.added(r)) is not None]
        self.merged.notes += theirs.problems
        if joining.twice:
            records = counted(joining.twice, "record")
            self.merged.notes.append(f"{path}: {records} differ from those in {there}, which stay")
        if not added:
            return What.THERE

        def write(file: BinaryIO) -> None:
            kept = 0
            for line in _whole_lines(there):
                file.write(line)
                kept += 1
            for number, record in enumerate(added, kept + 1):
                file.write(encoded(record, number))

        self._replace(name, write, SUFFIX)
        return What.JOINED

    def _replace(self, name: str, write: Callable[[BinaryIO], object], suffixes: str) -> None:
        """Puts what `write` writes in the place of the log of a name."""
        there = self.known[name]
        target = there.with_name(stem(there) + suffixes)
        with _locked(there):
            if target != there and os.path.lexists(target):
                target = _free(self.folder, stem(there), target)
            with _writing(target) as file:
                write(file)
            if target != there:
                there.unlink()
        self.known[name] = target


def _longer(one: Path, other: Path) -> tuple[bool, bool]:
    """Whether each of two logs has whole lines that the other lacks, but for their first."""
    pairs = zip_longest(_whole_lines(one), _whole_lines(other))
    next(pairs)
    for mine, theirs in pairs:
        if mine != theirs:
            return mine is not None, theirs is not None
    return False, False


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a log that have an end. Raises StoreError where it cannot be read."""
    with opened(path) as file:
        while True:
            line = read_line(file, path)
            if line is None:
                raise StoreError(f"{called(path)} has a line that is too long to be read")
            if not line.endswith(b"\n"):
                return
            yield line


MEASURED = (runs.SessionMeasured, tracks.PartMeasured)
BY_PROCESS = (runs.WorkerStarted, runs.SessionMeasured, runs.Reading, runs.Limits)


class Joining:
    """Fits records of one copy of a log into another copy.

    A process of the other copy gets a number that is free here, and so does a session that both
    have measured: neither is lost. Of other records that both have, the first stays.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.twice = 0
        """The records that were left out though they differ."""
        self._all: set[bytes] = set()
        self._keys: set[Any] = set()
        self._processes: dict[int, int] = {}
        self._started: dict[bytes, int] = {}
        self._last = 0
        for record in records:
            self._keep(record)

    def _keep(self, record: Record) -> None:
        self._all.add(_told(record))
        self._keys.add(record.unique_key())
        if isinstance(record, runs.WorkerStarted):
            self._last = max(self._last, record.process)
            self._started[_told(record)] = record.process

    def added(self, record: Any) -> Record | None:
        """The record as it is to be appended; None where it is not."""
        told = _told(record)
        if isinstance(record, runs.WorkerStarted):
            own = self._started.get(told)
            if own is None:
                taken = record.unique_key() in self._keys
                own = self._last + 1 if taken else record.process
            self._processes[record.process] = own
        record = self._numbered(record)
        key = record.unique_key()
        if key is None or key in self._keys:
            if told in self._all:
                return None
            if key is not None and not isinstance(record, MEASURED):
                self.twice += 1
                return None
            while key is not None and record.unique_key() in self._keys:
                record = msgspec.structs.replace(record, session=record.session + 1)
        self._keep(record)
        kept: Record = record
        return kept

    def _numbered(self, record: Any) -> Any:
        """A record with the number that its process has here."""
        if isinstance(record, BY_PROCESS):
            own = self._processes.get(record.process, record.process)
            return msgspec.structs.replace(record, process=own)
        return record


def _told(record: Record) -> bytes:
    """What a record says, but for numbers that differ from copy to copy."""
    fields = msgspec.to_builtins(record, enc_hook=str)
    if isinstance(record, BY_PROCESS):
        del fields["process"]
    if isinstance(record, MEASURED):
        del fields["session"]
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).digest()


# ── other files ───────────────────────────────────────────────────────────────────────────────


def _merge_files(folder: Path, into: Path, name: str, merged: Merged) -> None:
    """Copies the files of a folder that are not there.

    Of asv's files of one name that differ the one that is there stays: asv knows one value for each
    case. Others are kept beside it under a name of their own. Links are left out: what they lead to
    is no part of the results.
    """
    for path in sorted((folder / name).rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        try:
            if path.is_symlink():
                raise StoreError(f"{called(path)} is a link")
            _merge_file(path, into / inside, name == "asv", merged)
        except StoreError as error:
            merged.left_out.append(f"{path.parent}: {error}, left out")


def _merge_file(path: Path, target: Path, only_one: bool, merged: Merged) -> None:
    made = content(path)
    if not os.path.lexists(target):
        merged.outcomes.append(("file", What.ADDED))
    elif content(target) == made:
        return
    elif only_one:
        merged.notes.append(f"{path}: {target} differs, and stays")
        return
    else:
        own = hashlib.sha256(made).hexdigest()[:DIGITS]
        target = target.with_name(f"{target.stem}-{own}{target.suffix}")
        if os.path.lexists(target):
            return
        merged.outcomes.append(("file", What.RENAMED))
        merged.notes.append(f"{path}: another one is there; stored as {target.name}")
    with _writing(target) as file:
        file.write(made)


def _merge_dates(folder: Path, into: Path, merged: Merged) -> None:
    """Adds the dates of builds that are no releases."""
    source, target = folder / DATES, into / DATES
    if not source.is_file():
        return
    try:
        theirs = msgspec.json.decode(content(source), type=dict[str, str])
        ours: dict[str, str] = {}
        if target.exists():
            ours = msgspec.json.decode(content(target), type=dict[str, str])
    except (StoreError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        merged.left_out.append(f"{source} or {target}: {error}; left out")
        return
    merged.notes += [
        f"{source}: the date of {build} is {day} there and {ours[build]} here, which stays"
        for build, day in theirs.items()
        if ours.get(build, day) != day
    ]
    if theirs.keys() - ours.keys():
        with _writing(target) as file:
            file.write((json.dumps(theirs | ours, indent=4, sort_keys=True) + "\n").encode())


# ── writing ───────────────────────────────────────────────────────────────────────────────────


def _free(folder: Path, name: str, like: Path) -> Path:
    """A file for a log of a name, compressed as another one; if something else has that name, one
    with a number."""
    suffixes = _suffixes(like)
    path, number = folder / f"{name}{suffixes}", 1
    while os.path.lexists(path):
        number += 1
        path = folder / f"{name}-{number}{suffixes}"
    return path


def _suffixes(path: Path) -> str:
    """``.jsonl``, or that and how it was compressed."""
    return path.name.removeprefix(stem(path))


def _copied(source: Path, target: Path) -> Path:
    with _writing(target) as file:
        _copy(source, file)
    return target


def _copy(source: Path, file: BinaryIO) -> None:
    with regular(source) as opened_source:
        shutil.copyfileobj(opened_source, file, 1 << 20)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[BinaryIO]:
    """A file that is there once it is written whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft, draft.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises StoreError where another process writes a log. A compressed one is never written."""
    if path.suffix in PACKED:
        yield
        return
    log, _ = LineLog.opened(path, new=False)
    with log:
        yield
