"""Append-only files of JSON lines: what run logs, studies and tracked releases have in common.

A line is written whole or not at all, and reaches the disk before the work goes on; so a kill or
a full disk costs at most the line in flight. A file that was cut off is read up to its last whole
line, and one damaged line costs that line.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import filelock
import msgspec

from gradbench import suggest

SUFFIX = ".jsonl"

_encoder = msgspec.json.Encoder()


class StoreError(Exception):
    """Something about the results folder that the user can mend; the message says what."""


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id() -> str:
    """A name that sorts by time and that no other file has."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(3)}"


def hold(path: Path) -> filelock.FileLock:
    """The lock of a file, held by whoever writes it; the system frees it when that one dies."""
    place = path.parent / ".locks"
    place.mkdir(exist_ok=True)
    lock = filelock.FileLock(place / f"{path.stem}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(f"{path.stem} is being written by another process") from None
    return lock


class LineLog:
    """A file open for appending. Only one process at a time holds it."""

    go_on = ""
    """The command that goes on with an interrupted file, less its name."""

    def __init__(self, path: Path, lock: filelock.FileLock, descriptor: int) -> None:
        self.path = path
        self._lock = lock
        self._descriptor = descriptor

    @classmethod
    def opened(cls, path: Path, *, new: bool) -> tuple[LineLog, int]:
        """A new file, or an existing one with its torn last line cut off, and the bytes cut.

        Raises StoreError where it is in use or cannot be written.
        """
        try:
            if new:
                path.parent.mkdir(parents=True, exist_ok=True)
            lock = hold(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL if new else os.O_RDWR
            descriptor = os.open(path, flags | os.O_APPEND, 0o644)
        except OSError as error:
            where = path.parent if new else path
            raise StoreError(f"cannot write to {where}: {error.strerror}") from error
        log = cls(path, lock, descriptor)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        return log, len(data) - whole

    def append(self, record: msgspec.Struct) -> None:
        """Writes one line whole. Raises StoreError, leaving the file as it was."""
        line = _encoder.encode(record) + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except BaseException as error:
            # Ctrl-C between two pieces would leave half a line, and the next one behind it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            if not isinstance(error, OSError):
                raise
            raise StoreError(
                f"cannot write to {self.path}: {error.strerror}; all before it is kept, and "
                f"'{self.go_on} {self.path.stem}' goes on from there"
            ) from error

    def close(self) -> None:
        os.close(self._descriptor)
        self._lock.release()
        with contextlib.suppress(OSError):
            os.unlink(self._lock.lock_file)

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


H = TypeVar("H")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind(Generic[H]):
    """One kind of file: what its first line is, what its lines are, and up to which schema it is
    read. `what` names it in messages."""

    what: str
    header: type[H]
    decoder: msgspec.json.Decoder[Any]
    schema: int

    def read(
        self, path: Path, keep: Callable[[Any], Any] = lambda record: record
    ) -> tuple[H, list[Any], list[str]]:
        """The first line, every other line that can be read, and what was wrong with the others.

        `keep` says what is kept of a line's record. The file is read line by line, so it may be
        larger than the memory if little of it is kept. Raises StoreError where the file is of
        another kind.
        """
        records, problems = [], []
        try:
            with path.open("rb") as file:
                line = file.readline()
                header = self.decode_header(path, line.removesuffix(b"\n"))
                for number, line in enumerate(file, start=2):
                    if line.endswith(b"\n"):
                        try:
                            records.append(keep(self.decoder.decode(line)))
                        except (msgspec.MsgspecError, UnicodeDecodeError):
                            problems.append(f"{path.name}, line {number}: damaged, skipped")
        except OSError as error:
            raise StoreError(f"{path.name}: {error.strerror}") from error
        if not line.endswith(b"\n"):
            problems.append(f"{path.name}: its last line is cut off, skipped")
        return header, records, problems

    def decode_header(self, path: Path, line: bytes) -> H:
        """A first line. Raises StoreError where it is none, or of a newer schema."""
        try:
            header = self.decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            header = None
        if not isinstance(header, self.header):
            what = f"not a {self.what}, or its first line is damaged" if line else "empty"
            raise StoreError(f"{path.name}: {what}")
        schema: int = header.schema  # type: ignore[attr-defined]
        if schema > self.schema:
            raise StoreError(
                f"{path.name}: written by a newer gradbench (schema {schema}; "
                f"this one reads up to {self.schema})"
            )
        return header


def locate(known: Sequence[Path], name: str, what: str, place: Path, hint: str) -> Path:
    """The file of a name or of the beginning of one, 'latest', or a path that ends in `SUFFIX`.

    `known` are the files, oldest first; `what` names one and `place` their folder in the
    message, `hint` says how to make or list them. Raises StoreError where there is none, or more
    than one.
    """
    if name.endswith(SUFFIX) and os.path.isfile(name):
        return Path(name)
    if name == "latest":
        if known:
            return known[-1]
        raise StoreError(f"there are no {what}s in {place}; {hint}")
    hits = [path for path in known if path.stem.startswith(name)]
    hits = [path for path in hits if path.stem == name] or hits
    if len(hits) == 1:
        return hits[0]
    if hits:
        names = ", ".join(path.stem for path in hits)
        raise StoreError(f"{name!r} fits {len(hits)} {what}s: {names}")
    near = suggest.hint(name, (path.stem for path in known[::-1]))
    raise StoreError(f"no {what} named {name!r} in {place}; {near or hint}")


def read_each(
    paths: Iterable[Path], reader: Callable[[Path], R], what: str
) -> tuple[list[R], list[str]]:
    """What a reader makes of every file, and the files that had to be skipped."""
    found, problems = [], []
    for path in paths:
        if path.suffix != SUFFIX:
            problems.append(f"{path.name}: not a {what}, skipped")
            continue
        try:
            found.append(reader(path))
        except StoreError as error:
            problems.append(f"{error}, skipped")
    return found, problems
