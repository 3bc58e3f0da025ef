"""The kinds of values that options and arguments take, and what each refuses.

Every parameter of every command has one of these kinds, so that no command meets an empty name, a
number that is none or a path that cannot be (`tests/test_inputs.py` walks all of them).
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import click

from gradbench.core.suggest import hint
from gradbench.core.text import line

STANDARD = "-"
"""Standard output, where a file is asked for."""

LONGEST_TEXT = 4096
LONGEST_FILE_NAME = 255
"""Bytes that the name of a file may have on the usual file systems."""

MOST_SECONDS = 1e7
"""Longer spans are no limit: 116 days."""
MOST_GIB = float(1 << 20)
MOST_SEED = 2**32 - 1
MOST_THREADS = 1024


class Real(click.FloatRange):
    """A finite number in a range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            self.fail(f"{line(str(value), 60)!r} is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{line(str(value), 60)!r} is not a finite number", param, ctx)
        return super().convert(number, param, ctx)


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        # Python refuses to read, or to show, integers of thousands of digits.
        if isinstance(value, str) and (len(value) > 30 or not re.fullmatch(r"[+-]?\d+", value)):
            self.fail(f"{line(value, 60)!r} is not a whole number in the allowed range", param, ctx)
        return super().convert(value, param, ctx)


class Width(Real):
    """The width of a figure in inches, or the name of one."""

    NAMED: ClassVar = {"column": 3.5, "wide": 5.5, "page": 7.2}
    """A column of two, the only column of a page, a page of two columns."""

    def __init__(self) -> None:
        super().__init__(2, 40)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        inches = self.NAMED.get(value, value)
        try:
            float(inches)
        except (TypeError, ValueError, OverflowError):
            near = hint(str(value), self.NAMED)
            self.fail(
                f"{line(str(value), 60)!r} is neither inches nor one of {', '.join(self.NAMED)}"
                + (f"; {near}" if near else ""),
                param,
                ctx,
            )
        return super().convert(inches, param, ctx)


def seconds() -> Real:
    """A span of time that can be waited for."""
    return Real(0, MOST_SECONDS, min_open=True)


def gib() -> Real:
    return Real(0, MOST_GIB, min_open=True)


def share() -> Real:
    """A threshold, as a share of a time."""
    return Real(0, 1, max_open=True)


def percent() -> Real:
    return Real(0, 1e6)


def seed() -> Whole:
    return Whole(0, MOST_SEED)


class Text(click.ParamType):  # type: ignore[type-arg]
    """A name, a glob or an expression: not empty, without characters that no name has."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip():
            self.fail("must not be empty", param, ctx)
        if len(text) > LONGEST_TEXT:
            self.fail(f"has {len(text)} characters; at most {LONGEST_TEXT} are allowed", param, ctx)
        # The same characters that `text.line` writes out, but for what it takes for spaces.
        if "\0" in text or line(text, LONGEST_TEXT) != " ".join(text.split()):
            self.fail(f"{line(text)!r} contains characters that names must not contain", param, ctx)
        return text


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of some words; a message about another suggests the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            near = hint(str(value), self.choices)
            listed = ", ".join(self.choices)
            self.fail(
                f"{line(str(value), 60)!r} is not one of {listed}" + (f"; {near}" if near else ""),
                param,
                ctx,
            )
        return str(value)


class Location(click.ParamType):  # type: ignore[type-arg]
    """A path that can exist."""

    name = "path"

    def checked(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, os.stat_result | None]:
        """The path, and what is there. Fails where nothing can be."""
        text = os.fspath(value)
        if not text.strip():
            self.fail("must not be empty", param, ctx)
        if "\0" in text:
            self.fail(f"{line(text)!r} contains a NUL character", param, ctx)
        path = Path(text)
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        if longest > LONGEST_FILE_NAME:
            self.fail(
                f"{line(text, 60)!r}: a file name has at most {LONGEST_FILE_NAME} bytes",
                param,
                ctx,
            )
        try:
            return path, os.stat(path)
        except FileNotFoundError:
            return path, None
        except NotADirectoryError:
            return self.fail(f"{line(text)!r} is inside a file, not a folder", param, ctx)
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            return self.fail(f"{line(text)!r}: {said}", param, ctx)

    def require_writable(
        self, folder: Path, param: click.Parameter | None, ctx: click.Context | None
    ) -> None:
        """Fails where nothing can be written to a folder, before there is anything to write."""
        if not os.access(folder, os.W_OK | os.X_OK):
            self.fail(f"folder {line(str(folder))!r} cannot be written to", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Folder(Location):
    """A folder that is there or that can be made."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path, there = self.checked(value, param, ctx)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            self.fail(f"{line(str(path))!r} is a file", param, ctx)
        if there is None and path.is_symlink():
            self.fail(f"{line(str(path))!r} is a broken symbolic link", param, ctx)
        return path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


class NewFolder(Folder):
    """A folder to write to, that is there or that can be made. ``-`` is standard output."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if str(path) != STANDARD:
            there = next(p for p in (path, *path.absolute().parents) if p.exists())
            self.require_writable(there, param, ctx)
        return path


class ReadableFile(Location):
    """An ordinary file that is there and can be read. `Regular` ones only: reading a pipe or a
    device could wait for ever."""

    name = "file"
    envvar_list_splitter = os.path.pathsep

    def __init__(self, endings: Sequence[str] = ()) -> None:
        self.endings = tuple(endings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path, there = self.checked(value, param, ctx)
        said = line(str(path))
        if there is None:
            self.fail(f"file {said!r} does not exist", param, ctx)
        if stat.S_ISDIR(there.st_mode):
            self.fail(f"{said!r} is a folder, not a file", param, ctx)
        if not stat.S_ISREG(there.st_mode):
            self.fail(f"{said!r} is not a regular file", param, ctx)
        if self.endings and path.suffix not in self.endings:
            self.fail(f"{said!r} does not end in {' or '.join(self.endings)}", param, ctx)
        if not os.access(path, os.R_OK):
            self.fail(f"{said!r} cannot be read", param, ctx)
        return path.resolve()


class NewFile(Location):
    """A file to write or to replace: its suffix sets the format, its folder is there. ``-`` is
    standard output."""

    name = "file"

    def __init__(self, endings: Sequence[str]) -> None:
        self.endings = tuple(endings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value) == STANDARD:
            return Path(STANDARD)
        path, there = self.checked(value, param, ctx)
        said = line(str(path))
        if there is not None and not stat.S_ISREG(there.st_mode):
            what = "a folder" if stat.S_ISDIR(there.st_mode) else "not a regular file"
            self.fail(f"{said!r} is {what}", param, ctx)
        if path.suffix.lower() not in self.endings:
            near = hint(path.suffix, self.endings)
            self.fail(
                f"{said!r}: the suffix must be one of {', '.join(self.endings)}"
                + (f"; {near}" if near else ""),
                param,
                ctx,
            )
        if not path.parent.is_dir():
            self.fail(f"{said!r}: folder {line(str(path.parent))!r} does not exist", param, ctx)
        self.require_writable(path.parent, param, ctx)
        return path
