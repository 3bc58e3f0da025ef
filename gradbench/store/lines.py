"""Append-only files of JSON lines, with a number and a checksum on each line.

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
import importlib
import io
import math
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from gradbench.core import text

SUFFIX = ".jsonl"

PACKED = (".gz", ".xz")
"""What follows the suffix of a file that was compressed: such a file is only read."""

LONGEST_LINE = 64 << 20
"""Bytes of a line at most; the plan of 10⁵ comparisons has a quarter of it."""

LONGEST_FILE = 256 << 20
"""Bytes that `content` reads at most."""

CHECKED = 2
"""From this schema on every line carries a checksum."""

DAMAGE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What decoding and checking a line may raise."""

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


def is_log(path: Path) -> bool:
    """Whether a file is called like a log, compressed or not."""
    return path.name.removesuffix(_packing(path)).endswith(SUFFIX)


def stem(path: Path) -> str:
    """A log's name without its suffixes."""
    return path.name.removesuffix(_packing(path)).removesuffix(SUFFIX)


def _packing(path: Path) -> str:
    """How a file says it was compressed; empty if it was not."""
    return path.suffix if path.suffix in PACKED and path.stem.endswith(SUFFIX) else ""


def opened(path: Path) -> BinaryIO:
    """A regular file, open for reading, decompressed if its name says it is compressed. Never
    blocks.

    Raises StoreError, in one line, for anything else: a directory, a FIFO, a dead link.
    """
    file = regular(path)
    packing = _packing(path)
    if not packing:
        return file
    with contextlib.ExitStack() as unless_wrapped:
        unless_wrapped.callback(file.close)
        try:
            unpacking = importlib.import_module({".gz": "gzip", ".xz": "lzma"}[packing])
            wrapped = io.BufferedReader(_Unpacked(unpacking.open(file, "rb"), file), 1 << 16)
        except ImportError as error:
            raise StoreError(f"{called(path)}: this Python cannot decompress it: {error}") from None
        unless_wrapped.pop_all()
    return wrapped


class _Unpacked(io.RawIOBase):
    """A compressed file, read. Each error of its format becomes an OSError with a reason."""

    def __init__(self, unpacked: Any, file: BinaryIO) -> None:
        self._unpacked, self._file = unpacked, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._unpacked.read1(len(buffer))
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                raise
            cut = isinstance(error, EOFError)
            why = "its compressed data are " + ("cut off" if cut else "damaged")
            raise OSError(errno.EIO, why) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._file.close()
        super().close()


def regular(path: Path) -> BinaryIO:
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


def read_line(file: BinaryIO, path: Path) -> bytes | None:
    """The next line with its end; None where it is too long; empty at the end of the file."""
    try:
        line = file.readline(LONGEST_LINE + 1)
        if len(line) <= LONGEST_LINE or line.endswith(b"\n"):
            return line
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        return None
    except OSError as error:
        raise StoreError(_why(path, error)) from error


def tail(file: BinaryIO, path: Path, size: int) -> bytes:
    """The last bytes of an open file; of a compressed one that is damaged, of what can be read."""
    if not _packing(path):
        try:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
        except OSError as error:
            raise StoreError(_why(path, error)) from error
    last = b""
    with contextlib.suppress(OSError):
        while piece := file.read(1 << 16):
            last = (last + piece)[-size:]
    return last


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
                and (is_log(Path(entry.name)) or not entry.is_dir())
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
    made = _encoder.encode(storable(msgspec.to_builtins(record, enc_hook=str)))
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


def stated_number(line: bytes) -> int:
    """The number that a line says it has in its file, 0 where it does not say: old ones do not."""
    found = _NUMBERED.search(line, max(0, len(line) - 60))
    return int(found[1]) if found else 0


def _seal(body: bytes | memoryview) -> bytes:
    """The last field of a line, and its end: the CRC-32 of all that stands before it."""
    return _SEAL % zlib.crc32(body)


def verify(line: bytes, schema: int) -> None:
    """Raises ValueError where a line's checksum does not fit, or is missing though it should be
    there. Lines of old files have none; those that are appended to such a file have."""
    stated = line[-_SEAL_LENGTH:]
    if stated == _seal(memoryview(line)[:-_SEAL_LENGTH]):
        return
    if b'"crc32"' in stated:
        raise ValueError("its checksum does not fit")
    if schema >= CHECKED:
        raise ValueError("it has no checksum")


class Appending(Protocol):
    """Takes records: a log, or a list of them on its way to one."""

    def append(self, record: msgspec.Struct) -> None: ...


class LineLog:
    """A file open for appending. Only one process at a time holds it.

    The lock is one of the file itself, so there is no other file whose removal could undo it. The
    system frees it when its holder dies.
    """

    def __init__(self, path: Path, descriptor: int, lines: int, go_on: str) -> None:
        self.path = path
        self.go_on = go_on
        """The command that resumes an interrupted file, less its name."""
        self._descriptor = descriptor
        self._lines = lines
        """Lines that the file has."""

    @classmethod
    def opened(cls, path: Path, *, new: bool, go_on: str = "") -> tuple[LineLog, int]:
        """A new file, or an existing one with its torn last line cut off, and the bytes cut.

        Raises StoreError where it is in use, compressed, or cannot be written.
        """
        if _packing(path):
            raise StoreError(f"{called(path)} is compressed; decompress it to go on with it")
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
            return cls(path, descriptor, 0 if new else _count_lines(path), go_on), cut
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
        return f"everything before it is kept; '{self.go_on} {stem(self.path)}' resumes"

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
            raise StoreError(f"{stem(path)} is being written by another process") from None
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
