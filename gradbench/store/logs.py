"""Logs: what the files of runs, tracks and studies share. They differ only in their records.

The first line is the header: what was asked for, on what machine. Each further line is a record,
written as soon as it was measured; the last line of a stretch of measuring says how it ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, TypeVar

import msgspec

from gradbench.core import arguments, suggest, text
from gradbench.core.units import counted, plural
from gradbench.store.fields import Amount, Bytes, Label, parsed, reason
from gradbench.store.lines import (
    DAMAGE,
    LONGEST_LINE,
    SUFFIX,
    LineLog,
    StoreError,
    called,
    encoded,
    is_log,
    listed,
    now,
    opened,
    read_line,
    stated_number,
    stem,
    verify,
)

RESULTS = "results"
"""The default folder of results."""

MOST_PROBLEMS = 20
"""Damaged lines of one file that are named one by one."""


# ── records ───────────────────────────────────────────────────────────────────────────────────


class Record(msgspec.Struct, tag_field="kind", frozen=True):
    """A line of a log."""

    def check(self, header: Any) -> None:
        """Raises ValueError where its fields do not fit each other or the log's header."""

    def unique_key(self) -> tuple[Hashable, ...] | None:
        """The key that no two lines of a log share; None where lines may repeat."""
        return None


class Resumed(Record, tag="resumed", frozen=True):
    started: Label
    cut: Bytes = 0
    """Bytes of a torn last line that were cut off."""


class Ended(Record, tag="end", frozen=True):
    """The last line of a stretch of measuring: finished, or interrupted by the user."""

    ended: Label
    finished: bool
    elapsed: Amount

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("end", self.ended, self.finished, self.elapsed)


class Header(Protocol):
    """The first line of a log."""

    @property
    def schema(self) -> int: ...

    @property
    def name(self) -> str: ...


class Named(Protocol):
    """What is read from one file: it has a path, and the name that the header states."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str: ...


H = TypeVar("H", bound=Header)
L = TypeVar("L", bound="Log[Any]")
N = TypeVar("N", bound=Named)


@dataclass
class Log(Generic[H]):
    """A log in memory: its header, and its records in a list for each kind."""

    path: Path
    started: H
    ends: list[Any] = field(default_factory=list, kw_only=True)
    problems: list[str] = field(default_factory=list, kw_only=True)

    LISTS: ClassVar[dict[type[Record], str]] = {}
    """The list that takes each kind of record, besides `ends`."""

    @property
    def name(self) -> str:
        return self.started.name

    @property
    def finished(self) -> bool:
        return any(end.finished for end in self.ends)

    @property
    def elapsed(self) -> float:
        seconds: float = sum(end.elapsed for end in self.ends)
        return seconds

    def take(self, records: Iterable[Any]) -> None:
        """Adds records to the lists of their kinds."""
        for record in records:
            self.add(record)

    def add(self, record: Any) -> None:
        name = "ends" if isinstance(record, Ended) else self.LISTS.get(type(record))
        if name is not None:
            getattr(self, name).append(record)

    def require_unfinished(self) -> None:
        """Raises StoreError where there is nothing to resume."""
        if self.finished:
            raise StoreError(f"{self.name} is finished: there is nothing to resume")


# ── a kind of log ─────────────────────────────────────────────────────────────────────────────


class _Peek(msgspec.Struct):
    """The fields that a header has in every version."""

    kind: str
    schema: int


@dataclass(frozen=True)
class Kind(Generic[H, L]):
    """One kind of log: its records, its folder, and the words for it in messages."""

    log: type[L]
    header: type[H]
    record: Any
    """The union of its records."""
    schema: int
    """The newest schema that is read."""
    what: str
    """A file of this kind, as ``run log``."""
    noun: str
    """What it is a log of, as ``run``."""
    place: str
    """Its folder in the results folder."""
    hint: str
    """How to make or list them; ``{}`` stands for the kind of a study."""
    resume: Callable[[H], str]
    """The command that resumes one, less its name."""
    order: Callable[[Path], str] = lambda path: path.name
    """The key by which files are sorted, oldest first."""
    aside: Callable[[H], bool] = lambda header: False
    """Whether one is found by its name only, and is never the latest."""
    resumed: Callable[[str, int], Record] = Resumed

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self.record, dec_hook=parsed)

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def folder(self, results: Path) -> Path:
        return results / self.place

    def results(self, value: Any, argument: str) -> Path:
        """The results folder that the caller of a function names.

        Raises TypeError and ValueError for another kind of thing; and StoreError for a log or the
        name of one, which `argument` takes.
        """
        name = os.fsdecode(value) if isinstance(value, (str, os.PathLike)) else ""
        # Nobody typed the default, and a longer path was meant as one.
        is_word = Path(name).name == name != RESULTS and not os.path.exists(name)
        if name.strip() and (is_word or os.path.isfile(name)):
            raise StoreError(
                f"results should be the folder of stored results, and {name!r} is "
                f"{'not there' if is_word else 'a file'}; for a {self.noun}: {argument}={name!r}"
            )
        return arguments.folder("results", value)

    def paths(self, results: Path) -> list[Path]:
        """All files that should be logs, oldest first. Raises StoreError for an unreadable
        folder."""
        return sorted(listed(self.folder(results)), key=self.order)

    def locate(self, results: Path, name: str, only: str = "") -> Path:
        """The file of a name or of the beginning of one, of 'latest', or of a path.

        The latest is the newest whose header can be read, less those that are `aside`. `only`: of
        this kind of study. Raises StoreError where there is none, or more than one.
        """
        if is_log(Path(name)) and os.path.lexists(name):
            return Path(name)
        known = [path for path in self.paths(results) if is_log(path)]
        known = [path for path in known if stem(path).startswith(f"{only}-" if only else "")]
        what, place = f"{only} {self.noun}".strip(), self.folder(results)
        hint = self.hint.format(only)
        if name == "latest":
            damaged = ""
            for path in reversed(known):
                try:
                    with self.opened(path) as lines:
                        if not self.aside(lines.header):
                            return path
                except StoreError as error:
                    damaged = damaged or f" ({error})"
            raise StoreError(f"there are no {plural(what)} in {place}; {hint}{damaged}")
        hits = [path for path in known if stem(path).startswith(name)]
        hits = [path for path in hits if stem(path) == name] or hits
        if len({stem(path) for path in hits}) == 1:
            # Of one that lies there compressed too, the one that can be gone on with.
            return hits[0]
        if hits:
            names = ", ".join(map(stem, hits))
            raise StoreError(f"{name!r} matches {counted(len(hits), what)}: {names}")
        near = suggest.hint(name, ["latest", *map(stem, known[::-1])])
        raise StoreError(f"no {what} named {name!r} in {place}; {near or hint}")

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def create(self, folder: Path, header: H) -> LineLog:
        """A new file with its header. Raises StoreError where it cannot be written."""
        path = folder / f"{header.name}{SUFFIX}"
        log, _ = LineLog.opened(path, new=True, go_on=self.resume(header))
        log.append(header)  # type: ignore[arg-type]
        return log

    def reopen(self, log: L) -> LineLog:
        """An existing file, its torn last line cut off.

        Raises StoreError where it is in use, or was finished meanwhile.
        """
        file, cut = LineLog.opened(log.path, new=False, go_on=self.resume(log.started))
        with file.closed_on_error():
            if not log.finished:
                # Another process may have finished it before it was locked.
                self.read(log.path).require_unfinished()
            file.append(self.resumed(now(), cut))
        return file

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Lines[H]]:
        """A file whose records can be gone through one by one.

        Raises StoreError where it is not of this kind.
        """
        with opened(path) as file:
            yield Lines(self, path, file)

    def read(self, path: Path, keep: Callable[[Any], Any] = lambda record: record) -> L:
        """A log with every record that can be read; the others are named in its `problems`.

        `keep` replaces a record as soon as it is read, so a file may be larger than the memory if
        little of it is kept. Raises StoreError where the file is of another kind.
        """
        with self.opened(path) as lines:
            log = self.log(path, lines.header, problems=lines.problems)
            log.take(map(keep, lines))
            return log

    def read_all(self, results: Path) -> tuple[list[L], list[str]]:
        """Every log of a results folder, oldest first, and the files that had to be skipped."""
        return self.read_each(self.paths(results), self.read)

    def find(self, results: Path, name: str, only: str = "") -> L:
        """The log of a name; arguments and errors as for `locate`."""
        return self.read(self.locate(results, name, only))

    def read_each(
        self, paths: Iterable[Path], reader: Callable[[Path], N]
    ) -> tuple[list[N], list[str]]:
        """What a reader makes of every file, and the files that had to be skipped.

        A file that was copied counts once.
        """
        logs, problems = [], []
        for path in paths:
            if not is_log(path):
                problems.append(f"{called(path)}: not a {self.what}, skipped")
                continue
            try:
                logs.append(reader(path))
            except StoreError as error:
                problems.append(f"{error}, skipped")
        kept, copies = self.once(logs)
        return kept, problems + copies

    def once(self, logs: Sequence[N]) -> tuple[list[N], list[str]]:
        """Each log once, though several files have it; and the files left out.

        Of several files the one with its name counts, else the first.
        """
        chosen: dict[str, N] = {}
        for log in logs:
            first = chosen.setdefault(log.name, log)
            if stem(first.path) != log.name and stem(log.path) == log.name:
                chosen[log.name] = log
        problems = [
            f"{called(log.path)}: the same {self.what} as {called(chosen[log.name].path)}, skipped"
            for log in logs
            if log.path != chosen[log.name].path
        ]
        return [log for log in logs if chosen[log.name] is log], problems

    # ── a line ────────────────────────────────────────────────────────────────────────────────

    def decode(self, line: bytes, header: H | None) -> Any:
        """A line's record. Raises one of `DAMAGE` where it is damaged or out of range.

        Without a header it is the first line.
        """
        verify(line, header.schema if header is not None else _peeked(line).schema)
        record = self._decoder.decode(line)
        if header is not None or isinstance(record, self.header):
            record.check(record if header is None else header)
        return record

    def require_readable(self, records: Sequence[Record]) -> None:
        """Raises one of `DAMAGE` where a file of these records, the header first, would not be
        read as a whole."""
        header: H | None = None
        for record in records:
            made = self.decode(encoded(record).rstrip(b"\n"), header)
            header = header or made

    def decode_header(self, path: Path, line: bytes) -> H:
        """A first line. Raises StoreError where it is none, or of a newer schema."""
        line = line.rstrip(b"\r\n")
        if not line:
            raise StoreError(f"{called(path)}: empty")
        try:
            self._require_readable(path, _peeked(line))
            header = self.decode(line, None)
        except DAMAGE as error:
            raise StoreError(
                f"{called(path)}: not a {self.what}, or its first line is damaged ({reason(error)})"
            ) from error
        if not isinstance(header, self.header):
            raise StoreError(f"{called(path)}: not a {self.what}, or its first line is damaged")
        return header

    def _require_readable(self, path: Path, peek: _Peek) -> None:
        """Raises StoreError where a first line is of this kind, and of a newer schema."""
        tag = self.header.__struct_config__.tag  # type: ignore[attr-defined]
        if peek.kind == tag and peek.schema > self.schema:
            raise StoreError(
                f"{called(path)}: written by a newer gradbench (schema {peek.schema}; "
                f"this one reads up to {self.schema})"
            )


def _peeked(line: bytes) -> _Peek:
    return msgspec.json.decode(line, type=_Peek)


class Lines(Generic[H]):
    """The records of an open file, one by one; the lines that cannot be read are in `problems`."""

    def __init__(self, kind: Kind[H, Any], path: Path, file: BinaryIO) -> None:
        self.kind = kind
        self.path = path
        self.problems: list[str] = []
        self._file = file
        self._more = 0
        self._stated = 1
        """The largest number that a line has stated so far."""
        self._unstated = 0
        """Lines since then that could not be read, or stated none."""
        self._seen: dict[tuple[Hashable, ...], int] = {}
        self.header = kind.decode_header(path, read_line(file, path) or b"")

    def __iter__(self) -> Iterator[Any]:
        number = 1
        while True:
            number += 1
            try:
                line = read_line(self._file, self.path)
            except StoreError as error:
                self.problems.append(f"{error} from line {number} on: skipped from there")
                break
            if line == b"":
                break
            if line is None:
                self._skip(number, f"more than {LONGEST_LINE >> 20} MiB long")
                self._unstated += 1
                continue
            if not line.endswith(b"\n"):
                self.problems.append(f"{called(self.path)}: its last line is cut off, skipped")
                break
            try:
                record = self.kind.decode(line.rstrip(b"\r\n"), self.header)
            except DAMAGE as error:
                self._skip(number, f"damaged ({reason(error)})")
                self._unstated += 1
                continue
            self._require_all_before(number, stated_number(line))
            if isinstance(record, self.kind.header):
                if record.name != self.header.name:
                    self.problems.append(
                        f"{called(self.path)}, line {number}: another {self.kind.what} begins here "
                        f"({record.name}); it is skipped, and all after it: put it in a "
                        "file of its own"
                    )
                    break
                self._skip(number, f"a first line, as line 1 ({record.name})")
                continue
            key = record.unique_key()
            first = number if key is None else self._seen.setdefault(key, number)
            if first != number:
                about = ", ".join(map(str, key))
                self._skip(number, f"the same as line {first} ({text.line(about)}), counted once")
                continue
            yield record
        if self._more:
            self.problems.append(
                f"{called(self.path)}: {self._more} more lines like these, skipped"
            )

    def _require_all_before(self, number: int, stated: int) -> None:
        """Names lines that were taken out of the file before this one, as the numbers tell."""
        if stated <= self._stated:
            # One that states an earlier number is a copy.
            self._unstated += not stated
            return
        gone = stated - self._stated - 1 - self._unstated
        if gone > 0:
            self._name(
                f"{called(self.path)}, before line {number}: {counted(gone, 'line')} missing"
            )
        self._stated, self._unstated = stated, 0

    def _skip(self, number: int, why: str) -> None:
        self._name(f"{called(self.path)}, line {number}: {why}, skipped")

    def _name(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
        else:
            self._more += 1
