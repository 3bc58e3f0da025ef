"""The settings of the user's project: ``[tool.gradbench]`` in the nearest pyproject.toml.

As with ruff and black, a pyproject.toml without that table is passed over, and the search goes on
in the folder above.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradbench.core.text import line

FILE = "pyproject.toml"
TABLE = "tool.gradbench"

LARGEST = 1 << 22
"""Bytes of a file that is read."""


class ProjectError(ValueError):
    """A mistake in a project's settings, in one line that names the file and the key."""


@dataclass(frozen=True)
class Project:
    """A pyproject.toml with settings of gradbench, and these as they stand there."""

    path: Path
    table: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.path.parent

    def mistake(self, key: str, what: str) -> ProjectError:
        """The error to raise for a key, by its dotted name in the table."""
        return ProjectError(f"{self.path}: {TABLE}{'.' if key else ''}{key}: {what}")


def find(start: Path | None = None) -> Project | None:
    """The settings for a folder, the current one by default; None where there are none.

    Raises ProjectError for a file that has some and is no TOML.
    """
    try:
        folder = (start or Path.cwd()).resolve()
    except OSError:
        return None
    for place in (folder, *folder.parents):
        project = _read(place / FILE)
        if project is not None:
            return project
    return None


def _read(path: Path) -> Project | None:
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    # Parsing takes longer than reading, and few files have anything for gradbench.
    if b"gradbench" not in content:
        return None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        parsed = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        if f"[{TABLE}".encode() not in content:
            # Whoever reads this file for its own sake says what is wrong with it.
            return None
        raise ProjectError(f"{path}: not valid TOML: {line(str(error))}") from None
    tools = parsed.get("tool")
    table = tools.get("gradbench") if isinstance(tools, dict) else None
    if table is None:
        return None
    project = Project(path, table if isinstance(table, dict) else {})
    if not isinstance(table, dict):
        raise project.mistake("", "should be a table")
    return project
