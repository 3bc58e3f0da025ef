"""Writes files whole or not at all, and never over files that gradbench did not write."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

LOOKED_AT = 16384
"""Bytes at the beginning of a file in which the mark of its maker stands."""


class NotOurs(OSError):
    """A file is there that gradbench has not made."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of `path` when the block ends without an error.

    Otherwise it is removed and what was there stays. Where `path` is a link, the link stays and
    what it leads to is replaced. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    # Its name is short: beside a file whose name is as long as names can be there is room for it.
    draft = target.with_name(f".draft-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield draft
        os.replace(draft, target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all. Raises OSError."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def require_ours(path: Path, mark: str) -> bool:
    """Whether there is a file that gradbench has made: one that begins with a text with `mark`.

    Raises NotOurs where something else is there, OSError where it cannot be read.
    """
    if path.is_file():
        with path.open("rb") as file:
            if mark.encode() in file.read(LOOKED_AT):
                return True
    if os.path.lexists(path):
        raise NotOurs(0, f"{path} was not made by gradbench, and is left as it is")
    return False


def require_free(path: Path) -> None:
    """Raises NotOurs where anything is in a place that gradbench is about to fill."""
    if os.path.lexists(path):
        raise NotOurs(0, f"{path} was not made by gradbench, and is left as it is")
