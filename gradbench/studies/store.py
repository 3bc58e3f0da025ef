"""Study files: append-only JSON lines under results/studies, written as run logs are.

The first line says what was asked for and where; every comparison or session of one follows as a
line of its own as soon as it is measured. All figures are computed on reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.store.lines import SUFFIX, Kind, LineLog, StoreError, locate, new_id, now, read_each

SCHEMA = 1


class StudyStarted(msgspec.Struct, tag_field="kind", tag="study", frozen=True):
    """What is studied, with every setting the plan follows from, and on what machine."""

    schema: int
    study: str
    name: str
    started: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    environment: dict[str, Any]
    command: list[str]


class Trial(msgspec.Struct, tag_field="kind", tag="trial", frozen=True, omit_defaults=True):
    """One measurement of one pair.

    `way` is how it was measured: process, session (one fifth of a comparison), between, truth,
    pool, or a peer's name. `group` numbers the comparison that sessions belong to. `share` is the
    slowdown asked for, `injected` the one that calibration made of it. `log_ratios` are
    millionths, one per round, second over first. `reason` says why there is no result.
    """

    key: str
    way: str
    case: str
    process: int
    group: int
    share: float = 0.0
    injected: float = 0.0
    budget: float = 0.0
    log_ratios: list[int] = []
    seconds: float = 0.0
    stopped: str = ""
    visiting: float = 0.0
    elapsed: float = 0.0
    load: float = 0.0
    reason: str = ""
    values: dict[str, Any] = {}


class StudyResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: str


class StudyEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    ended: str
    finished: bool
    elapsed: float


Line = StudyStarted | Trial | StudyResumed | StudyEnded

KIND = Kind("study", StudyStarted, msgspec.json.Decoder(Line), SCHEMA)


@dataclass
class Study:
    """One study file as it was read."""

    path: Path
    started: StudyStarted
    trials: list[Trial] = field(default_factory=list)
    ends: list[StudyEnded] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return self.started.settings

    @property
    def finished(self) -> bool:
        return any(end.finished for end in self.ends)

    @property
    def elapsed(self) -> float:
        return sum(end.elapsed for end in self.ends)

    def good(self, *ways: str) -> list[Trial]:
        """The trials of these ways that have a result."""
        return [t for t in self.trials if not t.reason and (not ways or t.way in ways)]


def folder(results: Path) -> Path:
    return results / "studies"


class StudyLog(LineLog):
    """A study file open for appending."""

    @classmethod
    def begin(
        cls,
        results: Path,
        study: str,
        settings: dict[str, Any],
        machine: dict[str, Any],
        environment: dict[str, Any],
        command: list[str],
    ) -> tuple[LineLog, Study]:
        """A new file with its first line. Raises StoreError where it cannot be written."""
        name = f"{study}-{new_id()}"
        header = StudyStarted(SCHEMA, study, name, now(), settings, machine, environment, command)
        log, _ = cls.opened(folder(results) / f"{name}{SUFFIX}", new=True)
        log.go_on = f"gradbench study {study} --resume"
        log.append(header)
        return log, Study(log.path, header)

    @classmethod
    def go_on_with(cls, study: Study) -> LineLog:
        """An unfinished file, its torn last line cut off. Raises StoreError where it is in use."""
        if study.finished:
            raise StoreError(f"{study.started.name} is finished: there is nothing to resume")
        log, _ = cls.opened(study.path, new=False)
        log.go_on = f"gradbench study {study.started.study} --resume"
        log.append(StudyResumed(now()))
        return log


def read(path: Path) -> Study:
    """A study file with every line that can be read. Raises StoreError where it is none."""
    header, records, problems = KIND.read(path)
    study = Study(path, header, problems=problems)
    for record in records:
        if isinstance(record, Trial):
            study.trials.append(record)
        elif isinstance(record, StudyEnded):
            study.ends.append(record)
    return study


def paths(results: Path) -> list[Path]:
    """The study files, oldest first."""
    found = folder(results).glob(f"*{SUFFIX}") if folder(results).is_dir() else ()
    return sorted(found, key=lambda path: path.stem.partition("-")[2])


def read_all(results: Path) -> tuple[list[Study], list[str]]:
    """Every readable study, oldest first, and what was wrong with the others."""
    return read_each(paths(results), read, KIND.what)


def find(results: Path, name: str, study: str) -> Study:
    """The study of a name or of the beginning of one, or the latest of its kind."""
    known = [path for path in paths(results) if path.stem.startswith(f"{study}-")]
    hint = f"'gradbench study {study}' makes one"
    return read(locate(known, name, f"{study} study", folder(results), hint))
