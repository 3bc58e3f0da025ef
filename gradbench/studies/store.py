"""Study files: append-only JSON lines under results/studies, written as run logs are.

The first line says what was asked for and where; every comparison or session of one follows as a
line of its own as soon as it is measured. All figures are computed on reading.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gradbench.store.log import RunLog, StoreError, hold, new_run_id, now

SCHEMA = 1
SUFFIX = ".jsonl"


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

_decoder = msgspec.json.Decoder(Line)


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


class StudyLog(RunLog):
    """A study file open for appending. Only one process at a time holds it."""

    @classmethod
    def begin(
        cls,
        results: Path,
        study: str,
        settings: dict[str, Any],
        machine: dict[str, Any],
        environment: dict[str, Any],
        command: list[str],
    ) -> tuple[StudyLog, Study]:
        """A new file with its first line. Raises StoreError where it cannot be written."""
        name = f"{study}-{new_run_id()}"
        header = StudyStarted(SCHEMA, study, name, now(), settings, machine, environment, command)
        path = folder(results) / f"{name}{SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = hold(path)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write to {path.parent}: {error.strerror}") from error
        log = cls(path, lock, descriptor)
        log.go_on = f"gradbench study {study} --resume"
        log.append(header)
        return log, Study(path, header)

    @classmethod
    def go_on_with(cls, study: Study) -> StudyLog:
        """An unfinished file, its torn last line cut off. Raises StoreError where it is in use."""
        if study.finished:
            raise StoreError(f"{study.started.name} is finished: there is nothing to resume")
        try:
            lock = hold(study.path)
            descriptor = os.open(study.path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise StoreError(f"cannot write to {study.path}: {error.strerror}") from error
        log = cls(study.path, lock, descriptor)
        log.go_on = f"gradbench study {study.started.study} --resume"
        data = study.path.read_bytes()
        os.ftruncate(descriptor, data.rfind(b"\n") + 1)
        log.append(StudyResumed(now()))
        return log


def read(path: Path) -> Study:
    """A study file with every line that can be read. Raises StoreError where it is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"{path.name}: {error.strerror}") from error
    torn = lines.pop()
    try:
        header = _decoder.decode(lines[0] if lines else b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        header = None
    if not isinstance(header, StudyStarted):
        raise StoreError(f"{path.name}: not a study, or its first line is damaged")
    if header.schema > SCHEMA:
        raise StoreError(f"{path.name}: written by a newer gradbench (schema {header.schema})")
    study = Study(path, header)
    for number, line in enumerate(lines[1:], start=2):
        try:
            record = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            study.problems.append(f"{path.name}, line {number}: damaged, skipped")
            continue
        if isinstance(record, Trial):
            study.trials.append(record)
        elif isinstance(record, StudyEnded):
            study.ends.append(record)
    if torn:
        study.problems.append(f"{path.name}: its last line is cut off, skipped")
    return study


def paths(results: Path) -> list[Path]:
    """The study files, oldest first."""
    found = folder(results).glob(f"*{SUFFIX}") if folder(results).is_dir() else ()
    return sorted(found, key=lambda path: path.stem.partition("-")[2])


def read_all(results: Path) -> tuple[list[Study], list[str]]:
    """Every readable study, oldest first, and what was wrong with the others."""
    studies, problems = [], []
    for path in paths(results):
        try:
            studies.append(read(path))
        except StoreError as error:
            problems.append(f"{error}, skipped")
    return studies, problems


def find(results: Path, name: str, study: str) -> Study:
    """The study of a name or of the beginning of one, or the latest of its kind."""
    known = [path for path in paths(results) if path.stem.startswith(f"{study}-")]
    hits = known[-1:] if name == "latest" else [p for p in known if p.stem.startswith(name)]
    if len(hits) == 1:
        return read(hits[0])
    if hits:
        raise StoreError(f"{name!r} fits {len(hits)} studies: {', '.join(p.stem for p in hits)}")
    raise StoreError(f"there is no {study} study named {name!r} in {folder(results)}")
