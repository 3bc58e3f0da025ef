"""Append-only files of JSON lines: what run logs, studies and tracked releases have in common.

A line is written whole or not at all, and reaches the disk before the work goes on; so a kill or
a full disk costs at most the line in flight. Each line carries a checksum. Files are not trusted:
a line that is damaged, out of range or there twice is named and left out, and costs only itself.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import shlex
import stat
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import msgspec

from gradbench.core import suggest, text
from gradbench.core.units import counted
from gradbench.store.fields import reason

SUFFIX = ".jsonl"

LONGEST_LINE = 64 << 20
"""Bytes of a line at most; the plan of 10⁵ comparisons has a quarter of it."""

LONGEST_FILE = 256 << 20
"""Bytes that `content` reads at most."""

MOST_PROBLEMS = 20
"""Damaged lines of one file that are named one by one."""

CHECKED = 2
"""From this schema on every line carries a checksum."""

NOT_FINITE = 1e308
"""Stands for infinity and for what is not a number: JSON has neither."""

_encoder = msgspec.json.Encoder()


class StoreError(Exception):
    """Something about the results folder that the user can mend; the message says what."""


class StoreWarning(UserWarning):
    """Something stored that was left out; the message says what and why."""


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id() -> str:
    """A name that sorts by time and that no other file has."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(3)}"


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def opened(path: Path) -> BinaryIO:
    """A regular file, open for reading. Never blocks.

    Raises StoreError, in one line, for anything else: a directory, a FIFO, a dead link.
    """
    try:
        _require_regular(path, os.stat(path))
        # Should the file become a FIFO just now, opening that must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise StoreError(_why(path, error)) from error
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(path, os.fstat(descriptor))
    except StoreError:
        file.close()
        raise
    return file


def _require_regular(path: Path, state: os.stat_result) -> None:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISREG, ""),
    )
    what = next((name for test, name in kinds if test(state.st_mode)), "a device")
    if what:
        raise StoreError(f"{called(path)} is {what}, not a file")


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"{called(path)} is a link to a file that does not exist"
    why = error.strerror if isinstance(error, OSError) else None
    return f"{called(path)}: {why or error}"


def called(path: Path) -> str:
    """A file's name as messages show it."""
    return text.line(path.name)


def content(path: Path, longest: int = LONGEST_FILE) -> bytes:
    """All bytes of a regular file. Raises StoreError as `opened` does, and for a huge file."""
    with opened(path) as file:
        try:
            data = file.read(longest + 1)
        except OSError as error:
            raise StoreError(_why(path, error)) from error
    if len(data) > longest:
        raise StoreError(f"{called(path)} has more than {longest >> 20} MiB")
    return data


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises StoreError where it cannot be read."""
    return hashlib.sha256(content(path)).hexdigest()


def listed(folder: Path) -> list[Path]:
    """All that lies in a folder of logs, in the order of names: each should be a log.

    Hidden files and folders are gradbench's own, and so are folders that are not called like a
    log. Empty where there is no folder; raises StoreError where it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.name.endswith(SUFFIX) or not entry.is_dir())
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror}") from error
    return sorted(found)


# ── writing ───────────────────────────────────────────────────────────────────────────────────


def storable(value: Any) -> Any:
    """A value of builtins with nothing in it that JSON cannot hold.

    Strings become `text.storable`, numbers that are not finite `NOT_FINITE`.
    """
    match value:
        case str():
            return text.storable(value, LONGEST_STRING)
        case float():
            return value if math.isfinite(value) else NOT_FINITE
        case dict():
            return {storable(str(k)): storable(v) for k, v in value.items()}
        case list() | tuple():
            # Samples are most of a log.
            return value if all(type(v) is int for v in value) else [storable(v) for v in value]
    return value


LONGEST_STRING = 20_000


def encoded(record: msgspec.Struct, number: int = 0) -> bytes:
    """A record as a line with its checksum and, unless it is 0, its number in the file."""
    made = _encoder.encode(storable(msgspec.to_builtins(record, enc_hook=repr)))
    if number:
        made = made[:-1] + b',"line":%d}' % number
    return sealed(made) + b"\n"


def sealed(line: bytes) -> bytes:
    """A JSON object with its checksum as the last field."""
    body = line[:-1]
    return body + _seal(body)


_SEAL = b',"crc32":"%08x"}'
_SEAL_LENGTH = len(_SEAL % 0)


_NUMBERED = re.compile(rb',"line":(\d{1,15}),"crc32":"[0-9a-f]{8}"}\s*$')


def _stated_number(line: bytes) -> int:
    """The number that a line says it has in its file, 0 where it does not say: old ones do not."""
    found = _NUMBERED.search(line, max(0, len(line) - 60))
    return int(found[1]) if found else 0


def _seal(body: bytes | memoryview) -> bytes:
    """The last field of a line, and its end: the CRC-32 of all that stands before it."""
    return _SEAL % zlib.crc32(body)


def _verify(line: bytes, schema: int) -> None:
    """Raises ValueError where a line's checksum does not fit, or is missing though it should be
    there. Lines of old files have none; those that are appended to such a file have."""
    stated = line[-_SEAL_LENGTH:]
    if stated == _seal(memoryview(line)[:-_SEAL_LENGTH]):
        return
    if b'"crc32"' in stated:
        raise ValueError("its checksum does not fit")
    if schema >= CHECKED:
        raise ValueError("it has no checksum")


class LineLog:
    """A file open for appending. Only one process at a time holds it.

    The lock is one of the file itself, so there is no other file whose removal could undo it. The
    system frees it when its holder dies.
    """

    go_on = ""
    """The command that goes on with an interrupted file, less its name."""

    def __init__(self, path: Path, descriptor: int, lines: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._lines = lines
        """Lines that the file has."""

    @classmethod
    def opened(cls, path: Path, *, new: bool) -> tuple[LineLog, int]:
        """A new file, or an existing one with its torn last line cut off, and the bytes cut.

        Raises StoreError where it is in use or cannot be written.
        """
        try:
            if new:
                path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            else:
                _require_regular(path, os.stat(path))
                flags = os.O_RDWR | os.O_NONBLOCK
            descriptor = os.open(path, flags | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            where = path.parent if new else path
            raise StoreError(f"cannot write to {where}: {error.strerror}") from error
        try:
            _lock(path, descriptor)
            cut = _cut_torn_line(path, descriptor)
            return cls(path, descriptor, 0 if new else _count_lines(path)), cut
        except BaseException:
            os.close(descriptor)
            raise

    def append(self, record: msgspec.Struct) -> None:
        """Writes one line whole. Raises StoreError, leaving the file as it was."""
        line = encoded(record, self._lines + 1)
        size = os.fstat(self._descriptor).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut(size)
            raise StoreError(
                f"cannot write to {self.path}: {error.strerror}; {self.hint}"
            ) from error
        except BaseException:
            # Ctrl-C between two pieces would leave half a line, and the next one behind it.
            if rest:
                self._cut(size)
            else:
                self._lines += 1
            raise
        self._lines += 1

    def _cut(self, size: int) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)

    @property
    def hint(self) -> str:
        """What an error that ends the measuring says last."""
        return f"all before it is kept, and '{self.go_on} {self.path.stem}' goes on from there"

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Closes the file where what is done meanwhile raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise StoreError(f"{path.stem} is being written by another process") from None
        raise StoreError(
            f"cannot lock {path}: {error.strerror}; '--results FOLDER' names a folder on another "
            "file system"
        ) from error


def _cut_torn_line(path: Path, descriptor: int) -> int:
    """Cuts off what follows the last whole line, and gives its bytes."""
    size = os.fstat(descriptor).st_size
    if not size:
        return 0
    whole, end, step = 0, size, 1 << 16
    while end and not whole:
        start = max(0, end - step)
        whole = os.pread(descriptor, end - start, start).rfind(b"\n") + 1
        whole += start if whole else 0
        end = start
    if not whole:
        raise StoreError(
            f"{called(path)}: its first line is cut off; there is nothing to resume: delete it"
        )
    try:
        os.ftruncate(descriptor, whole)
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror}") from error
    return size - whole


def _count_lines(path: Path) -> int:
    with opened(path) as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


# ── reading ───────────────────────────────────────────────────────────────────────────────────

H = TypeVar("H")
R = TypeVar("R", bound="Stored")


class Stored(Protocol):
    """What is made of one file: it has a path, and the name that its first line gives."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str: ...


class Resumable(Stored, Protocol):
    """What can be resumed until it is finished."""

    @property
    def finished(self) -> bool: ...


def require_unfinished(stored: Resumable) -> None:
    """Raises StoreError where a run, a track or a study is finished."""
    if stored.finished:
        raise StoreError(f"{stored.name} is finished: there is nothing to resume")


class _Peek(msgspec.Struct):
    """What any version's first line has."""

    kind: str
    schema: int


DAMAGE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What decoding and checking a line may raise."""


@dataclass(frozen=True)
class Kind(Generic[H]):
    """One kind of file: what its first line is, what its lines are, and up to which schema it is
    read. `what` names it in messages.

    `check` raises ValueError where the fields of a record do not fit each other or the file's first
    line; `key` tells what no file has twice, as words and what they are about, or is None.
    """

    what: str
    header: type[H]
    decoder: msgspec.json.Decoder[Any]
    schema: int
    check: Callable[[Any, H], None]
    key: Callable[[Any], tuple[Hashable, ...] | None]
    name: Callable[[H], str]

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Lines[H]]:
        """A file whose records can be gone through one by one, without holding them all.

        Raises StoreError where it is not of this kind.
        """
        with opened(path) as file:
            yield Lines(self, path, file)

    def read(
        self, path: Path, keep: Callable[[Any], Any] = lambda record: record
    ) -> tuple[H, list[Any], list[str]]:
        """The first line, every other line that can be read, and what was wrong with the others.

        `keep` says what is kept of a line's record. The file is read line by line, so it may be
        larger than the memory if little of it is kept. Raises StoreError where the file is of
        another kind.
        """
        with self.opened(path) as lines:
            records = [keep(record) for record in lines]
            return lines.header, records, lines.problems

    def decode(self, line: bytes, header: H | None) -> Any:
        """A line's record. Raises one of `DAMAGE` where it is damaged or out of range.

        Without a header it is the first line.
        """
        schema = header.schema if header is not None else _peeked(line).schema  # type: ignore[attr-defined]
        _verify(line, schema)
        record = self.decoder.decode(line)
        if header is not None or isinstance(record, self.header):
            self.check(record, record if header is None else header)
        return record

    def require_readable(self, records: Sequence[msgspec.Struct]) -> None:
        """Raises one of `DAMAGE` where a file of these records, the first line first, would not be
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
    """The records of an open file, one by one; what was wrong with the others is in `problems`."""

    def __init__(self, kind: Kind[H], path: Path, file: BinaryIO) -> None:
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
        self.header = kind.decode_header(path, self._line() or b"")

    def _line(self) -> bytes | None:
        """The next line with its end; None where it is too long; empty at the end of the file."""
        try:
            line = self._file.readline(LONGEST_LINE + 1)
            if len(line) <= LONGEST_LINE or line.endswith(b"\n"):
                return line
            while line and not line.endswith(b"\n"):
                line = self._file.readline(1 << 20)
            return None
        except OSError as error:
            raise StoreError(_why(self.path, error)) from error

    def __iter__(self) -> Iterator[Any]:
        number = 1
        while True:
            number += 1
            line = self._line()
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
            self._require_all_before(number, _stated_number(line))
            if isinstance(record, self.kind.header):
                name = self.kind.name(record)
                if name != self.kind.name(self.header):
                    self.problems.append(
                        f"{called(self.path)}, line {number}: another {self.kind.what} begins here "
                        f"({name}); it is skipped, and all after it: put it in a file of its own"
                    )
                    break
                self._skip(number, f"a first line, as line 1 ({name})")
                continue
            key = self.kind.key(record)
            first = self._seen.setdefault(key, number) if key is not None else number
            if key is not None and first != number:
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


# ── several files ─────────────────────────────────────────────────────────────────────────────


def locate(
    known: Sequence[Path],
    name: str,
    what: str,
    place: Path,
    hint: str,
    readable: Callable[[Path], object],
) -> Path:
    """The file of a name or of the beginning of one, 'latest', or a path that ends in `SUFFIX`.

    `known` are the files, oldest first; `what` names one and `place` their folder in the
    message, `hint` says how to make or list them. The latest is the newest that `readable` takes:
    it raises StoreError for the others. Raises StoreError where there is none, or more than one.
    """
    if name.endswith(SUFFIX) and os.path.lexists(name):
        return Path(name)
    known = [path for path in known if path.suffix == SUFFIX]
    if name == "latest":
        for path in reversed(known):
            with contextlib.suppress(StoreError):
                readable(path)
                return path
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
    """What a reader makes of every file, and the files that had to be skipped.

    A file that was copied counts once.
    """
    found, problems = [], []
    for path in paths:
        if path.suffix != SUFFIX:
            problems.append(f"{called(path)}: not a {what}, skipped")
            continue
        try:
            found.append(reader(path))
        except StoreError as error:
            problems.append(f"{error}, skipped")
    kept, copies = once(found, what)
    return kept, problems + copies


def once(stored: Sequence[R], what: str) -> tuple[list[R], list[str]]:
    """Each run, track or study once, though several files hold it; and the files left out.

    Of several files the one with its name counts, else the first.
    """
    chosen: dict[str, R] = {}
    for one in stored:
        old = chosen.setdefault(one.name, one)
        if old.path.stem != one.name and one.path.stem == one.name:
            chosen[one.name] = one
    problems = []
    for one in stored:
        counted = chosen[one.name]
        if one.path != counted.path:
            problems.append(
                f"{called(one.path)}: the same {what} as {called(counted.path)}, skipped"
            )
    return [one for one in stored if chosen[one.name] is one], problems


# ── files that are executed ───────────────────────────────────────────────────────────────────


def digests(files: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each of the user's files, for a first line."""
    return {file: digest(Path(file)) for file in files}


def executed(
    log: Path,
    place: Path,
    named: Sequence[str],
    stated: Mapping[str, str],
    given: Sequence[str],
    command: str,
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """The user's files that resuming a log executes; `say` is told of each.

    `named` are the files that the log names, `stated` the digests that it has of them and of what
    they load. Files `given` on the command line are executed in their place. Without any, those
    that the log names are, if the log lies in `place`, belongs to the user, and every file is
    unchanged since it began. Raises StoreError with what to type where not; `command` resumes.
    """
    if given:
        for file in given:
            if file in stated and digest(Path(file)) != stated[file]:
                say(
                    f"note: {file} has changed since {log.stem} began; "
                    "what is measured from now on is of the changed file"
                )
        return tuple(given)
    if not named:
        return ()
    words = [*command.split(), log.stem, *(f"--from={file}" for file in named)]
    if place.parent != Path("results"):
        words.append(f"--results={place.parent}")
    again = shlex.join(words)
    look = f"look at what would be executed, then type: {again}"
    if log.parent.resolve() != place.resolve() or log.stat().st_uid != os.getuid():
        raise StoreError(
            f"{log} names files to execute, and is not one of your own logs in {place}; {look}"
        )
    for file in dict.fromkeys([*named, *stated]):
        if file not in stated:
            raise StoreError(f"{log.stem} does not say what was in {file} when it began; {look}")
        try:
            changed = digest(Path(file)) != stated[file]
        except StoreError as error:
            raise StoreError(f"{log.stem} needs {file}: {error}; restore it, or {look}") from error
        if changed:
            raise StoreError(f"{file} has changed since {log.stem} began; restore it, or {look}")
    for file in named:
        say(f"Executing {file}, unchanged since {log.stem} began")
    return tuple(named)
