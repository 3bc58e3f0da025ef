"""Study files: append-only JSON lines under results/studies, written as run logs are.

The first line says what was asked for and where; every comparison or session of one follows as a
line of its own as soon as it is measured. All figures are computed on reading.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradbench.core.cases import Comparison
from gradbench.store import lines
from gradbench.store.fields import (
    Amount,
    Digest,
    FileName,
    Finite,
    Index,
    Label,
    Positive,
    Schema,
    Text,
    Texts,
    check_environment,
    check_machine,
)
from gradbench.store.lines import SUFFIX, Kind, LineLog, locate, new_id, now, read_each

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""

Share = Annotated[str, Meta(pattern=r"\A[0-9]+(\.[0-9]+)?\Z")]
Millionths = Annotated[int, Meta(ge=-(10**8), le=10**8)]
"""Of a logarithm: a ratio beyond these is none of two times."""


class StudyStarted(msgspec.Struct, tag_field="kind", tag="study", frozen=True):
    """What is studied, with every setting the plan follows from, and on what machine."""

    schema: Schema
    study: FileName
    name: FileName
    started: Label
    settings: dict[str, Any]
    machine: dict[str, Any]
    environment: dict[str, Any]
    command: Texts
    digests: dict[Text, Digest] = {}
    """The SHA-256 of each of the user's files when the study began."""


class Trial(msgspec.Struct, tag_field="kind", tag="trial", frozen=True, omit_defaults=True):
    """One measurement of one pair.

    `way` is how it was measured: process, session (one fifth of a comparison), between, truth,
    pool, or a peer's name. `group` numbers the comparison that sessions belong to. `share` is the
    slowdown asked for, `injected` the one that calibration made of it. `log_ratios` are
    millionths, one per round, second over first. `reason` says why there is no result.
    """

    key: Label
    way: Label
    case: Label
    process: Index
    group: Index
    share: Finite = 0.0
    injected: Finite = 0.0
    budget: Amount = 0.0
    log_ratios: list[Millionths] = []
    seconds: Amount = 0.0
    stopped: Label = ""
    visiting: Amount = 0.0
    elapsed: Amount = 0.0
    load: Amount = 0.0
    reason: Text = ""
    values: dict[str, Any] = {}


class StudyResumed(msgspec.Struct, tag_field="kind", tag="resumed", frozen=True):
    started: Label


class StudyEnded(msgspec.Struct, tag_field="kind", tag="end", frozen=True):
    ended: Label
    finished: bool
    elapsed: Amount


Line = StudyStarted | Trial | StudyResumed | StudyEnded


CASE_PARTS = len(fields(Comparison)) + 1


def check(record: Line, header: StudyStarted) -> None:
    """Raises ValueError where the fields of a record do not fit each other."""
    match record:
        case Trial():
            if record.case.count("/") < CASE_PARTS - 1:
                raise ValueError(f"{record.case!r} is not a case")
            if not record.reason:
                _check_result(record, header.study)
        case StudyStarted():
            check_machine(record.machine)
            check_environment(record.environment)
            msgspec.convert(record.settings, _Settings)


class _Settings(msgspec.Struct):
    """What is known of the settings of a study; there may be more."""

    neighbour: Annotated[str, Meta(pattern=r"\A(none|other|same|both)\Z")] | None = None
    between: bool | None = None
    seed: int | None = None
    floor: Annotated[float, Meta(ge=0, lt=1)] | None = None
    pairs: Annotated[int, Meta(ge=0, le=10**6)] | None = None
    cases: list[Label] | None = None
    files: Texts | None = None


class _Arm(msgspec.Struct):
    """What another tool said of one side: what it reports, or its samples."""

    median: Positive | None = None
    mean: Positive | None = None
    min: Positive | None = None
    samples: Annotated[list[Positive], Meta(min_length=2)] | None = None
    number: Annotated[int, Meta(ge=1, le=10**12)] | None = None


class _Values(msgspec.Struct):
    """What is known of a trial's values; there may be more."""

    against: Label | None = None
    shares: list[Amount] | None = None
    arms: list[_Arm] | None = None
    log_ratios: dict[Share, Annotated[list[Millionths], Meta(min_length=1)]] | None = None


PEERS_SAY = {
    "timeit": ("min",),
    "pytest-benchmark": ("median", "mean"),
    "asv": ("samples", "number"),
    "pyperf": ("samples",),
}
"""What a tool's rule needs of each arm, where it is not the median."""


def _check_result(trial: Trial, study: str) -> None:
    """Raises ValueError where a trial that says it has a result lacks it."""
    values = msgspec.convert(trial.values, _Values)
    if study == "coverage" and values.against is None:
        raise ValueError("values: it does not say against which mode")
    if study != "peers":
        return
    if trial.way.startswith("gradbench"):
        if not values.log_ratios:
            raise ValueError("values: there are no log_ratios, and no reason")
    else:
        arms = values.arms or []
        if not arms or len(arms) != len(values.shares or []):
            raise ValueError("values: there is not an arm for each share")
        for name in PEERS_SAY.get(trial.way, ("median",)):
            if any(getattr(arm, name) is None for arm in arms):
                raise ValueError(f"values: an arm has no {name}")


def key(record: Line) -> tuple[Hashable, ...] | None:
    """What no study has twice."""
    match record:
        case Trial():
            return ("trial", record.key)
        case StudyEnded():
            return ("end", record.ended, record.finished, record.elapsed)
    return None


_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
KIND = Kind("study", StudyStarted, _decoder, SCHEMA, check, key, lambda header: header.name)


@dataclass
class Study:
    """One study file as it was read."""

    path: Path
    started: StudyStarted
    trials: list[Trial] = field(default_factory=list)
    ends: list[StudyEnded] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.started.name

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
        return [
            t
            for t in self.trials
            if not t.reason
            and (not ways or t.way in ways)
            and (t.log_ratios or t.values.keys() & {"arms", "log_ratios"})
        ]


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
        """A new file with its first line. Raises StoreError where it cannot be written, or a file
        of the user's cannot be read."""
        name = f"{study}-{new_id()}"
        digests = lines.digests(settings.get("files", ()))
        header = StudyStarted(
            SCHEMA, study, name, now(), settings, machine, environment, command, digests
        )
        log, _ = cls.opened(folder(results) / f"{name}{SUFFIX}", new=True)
        log.go_on = f"gradbench study {study} --resume"
        log.append(header)
        return log, Study(log.path, header)

    @classmethod
    def go_on_with(cls, study: Study) -> LineLog:
        """An unfinished file, its torn last line cut off.

        Raises StoreError where it is in use or finished.
        """
        log, _ = cls.opened(study.path, new=False)
        with log.closed_on_error():
            log.go_on = f"gradbench study {study.started.study} --resume"
            # Another process may have finished it before it was locked.
            lines.require_unfinished(read(study.path))
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
    """All that should be studies, oldest first. Raises StoreError for an unreadable folder."""
    return sorted(lines.listed(folder(results)), key=lambda path: path.stem.partition("-")[2])


def read_all(results: Path) -> tuple[list[Study], list[str]]:
    """Every readable study, oldest first, and what was wrong with the others."""
    return read_each(paths(results), read, KIND.what)


def find(results: Path, name: str, study: str) -> Study:
    """The study of a name or of the beginning of one, or the latest of its kind."""
    known = [path for path in paths(results) if path.stem.startswith(f"{study}-")]
    hint = f"'gradbench study {study}' makes one"
    return read(locate(known, name, f"{study} study", folder(results), hint, read))
