"""Caches results computed from a log in the user's cache folder, until log or code changes.

An entry's name is a digest of all that its content follows from, so an entry never needs to be
told that it is out of date. It carries a checksum, so a damaged one is computed again. It lies in
the user's cache folder and not beside the log, because results folders are passed around: a
checksum can be forged together with what it protects, the place cannot. Entries of a folder that
others can write to are not read. Whatever is wrong with the cache, the answer is computed instead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from pathlib import Path

import gradbench

MAGIC = b"gradbench verdicts 1\n"
LIMIT = 512 << 20
"""Bytes of all entries together; the least recently used go first."""

AGE = 90 * 86_400
"""Seconds after which an entry that nobody used is removed."""

_DIGEST = 32
_ENTRY = re.compile(r"[0-9a-f]{64}\.verdicts")
_DRAFT = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.draft")
_CHUNK = 1 << 20


def folder() -> Path | None:
    """The folder of the entries, whether it exists or not; None where there is no home."""
    place = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(place):
        return Path(place, "gradbench", "verdicts")
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "gradbench" / "verdicts"
    return None


def key(path: Path, *parameters: object) -> str | None:
    """The name for what this code computes from a file with these parameters.

    None where the file or the code cannot be read: then nothing is kept.
    """
    content = _file_digest(path)
    code = _code_digest()
    if content is None or code is None:
        return None
    # Notes about a log name its file.
    what = (path.name, content, code, *parameters)
    return hashlib.blake2b(repr(what).encode(errors="replace"), digest_size=_DIGEST).hexdigest()


def load(name: str) -> bytes | None:
    """The content of an entry; None where there is none, or none that can be trusted."""
    place = _trusted()
    if place is None:
        return None
    path = place / f"{name}.verdicts"
    try:
        # Without O_NONBLOCK a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK"))
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or not _ours(state):
                return None
            data = file.read()
    except OSError:
        return None
    head = len(MAGIC) + _DIGEST
    content = data[head:]
    if data[:head] != MAGIC + _checksum(name, content):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return content


def save(name: str, content: bytes) -> None:
    """Keeps an entry, quietly without success where the folder cannot be used."""
    place = folder()
    if place is None or len(content) > LIMIT:
        return
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _trusted() is None:
            return
        draft = place / f"{name}.{secrets.token_hex(8)}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_NOFOLLOW")
        try:
            with open(os.open(draft, flags, 0o600), "wb") as file:
                file.write(MAGIC + _checksum(name, content))
                file.write(content)
            os.replace(draft, place / f"{name}.verdicts")
        finally:
            draft.unlink(missing_ok=True)
        _prune(place)


def _prune(place: Path) -> None:
    """Removes old entries and forgotten drafts; files with other names are not ours."""
    entries = []
    now = time.time()
    for item in os.scandir(place):
        with contextlib.suppress(OSError):
            state = item.stat(follow_symlinks=False)
            if not stat.S_ISREG(state.st_mode):
                continue
            if _ENTRY.fullmatch(item.name):
                entries.append((state.st_mtime, state.st_size, item.path))
            elif _DRAFT.fullmatch(item.name) and now - state.st_mtime > 3600:
                os.unlink(item.path)
    total = 0
    for used, size, path in sorted(entries, reverse=True):
        total += size
        if total > LIMIT or now - used > AGE:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _checksum(name: str, content: bytes) -> bytes:
    """Of the content under its name: an entry that was renamed is not believed either."""
    made = hashlib.blake2b(name.encode(), digest_size=_DIGEST)
    made.update(content)
    return made.digest()


def _trusted() -> Path | None:
    """The folder, where it is ours and nobody else can write to it."""
    place = folder()
    if place is None:
        return None
    try:
        state = os.lstat(place)
    except OSError:
        return None
    return place if stat.S_ISDIR(state.st_mode) and _ours(state) else None


def _ours(state: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows keeps a user's folders apart by itself.
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _flag(name: str) -> int:
    """A flag of `os.open`; 0 where the system has none of that name."""
    return int(getattr(os, name, 0))


def _file_digest(path: Path) -> str | None:
    made = hashlib.blake2b(digest_size=_DIGEST)
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with open(os.open(path, os.O_RDONLY | _flag("O_NONBLOCK")), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            while size := file.readinto(buffer):
                made.update(buffer[:size])
    except OSError:
        return None
    return made.hexdigest()


@functools.cache
def _code_digest() -> str | None:
    """A digest of gradbench's source and of the libraries that the numbers come from.

    All of the source: a list of the modules that matter would be forgotten in the next change.
    """
    from importlib import metadata

    made = hashlib.blake2b(digest_size=_DIGEST)
    root = Path(gradbench.__file__).parent
    try:
        sources = sorted(root.rglob("*.py"))
        for source in sources:
            content = source.read_bytes()
            made.update(f"{source.relative_to(root).as_posix()} {len(content)}\n".encode())
            made.update(content)
        libraries = [(name, metadata.version(name)) for name in ("numpy", "scipy", "msgspec")]
    except (OSError, metadata.PackageNotFoundError):
        return None
    made.update(repr((sys.version, libraries)).encode())
    return made.hexdigest() if sources else None
