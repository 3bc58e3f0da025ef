"""Study files: append-only JSON lines under results/studies, written as run logs are.

The first line says what was asked for and where; every comparison or session of one follows as a
line of its own as soon as it is measured. All figures are computed on reading.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradbench.core.cases import Case
from gradbench.store.environment import WorkerEnvironment
from gradbench.store.executed import digests
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
    check_machine,
)
from gradbench.store.lines import LineLog, new_id, now, stem
from gradbench.store.logs import Ended, Kind, Log, Record

SCHEMA = 2
"""1: lines had no checksums, and the first one no digests."""

Share = Annotated[str, Meta(pattern=r"\A[0-9]+(\.[0-9]+)?\Z")]
Millionths = Annotated[int, Meta(ge=-(10**8), le=10**8)]
"""Of a logarithm: a ratio beyond these is none of two times."""


class StudyStarted(Record, tag="study", frozen=True):
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

    def check(self, header: Any) -> None:
        check_machine(self.machine)
        WorkerEnvironment.of(self.environment)
        msgspec.convert(self.settings, _Settings)


class Trial(Record, tag="trial", frozen=True, omit_defaults=True):
    """One measurement of one pair.

    `way` is how it was measured: process, session (one fifth of a comparison), between, truth,
    pool, or a peer's name. `group` numbers the comparison that sessions belong to. `share` is the
    slowdown asked for, `injected` the one that calibration made of it. `log_ratios` are
    millionths, one per round, second over first. `reason` says why there is no result.
    """

    key: Label
    way: Label
    case: Case
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

    def check(self, header: StudyStarted) -> None:
        if not self.reason:
            _check_result(self, header.study)

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("trial", self.key)


class StudyResumed(Record, tag="resumed", frozen=True):
    started: Label


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
    clocks: dict[Share, Label] | None = None
    unit: Annotated[int, Meta(ge=0, le=10**12)] | None = None


LOAD_ARMS = 4
"""The short call, the long one twice, and the slower one."""

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
    if study == "load" and trial.way == "gradbench":
        if (
            values.log_ratios is None
            or not values.log_ratios.keys() <= (values.clocks or {}).keys()
        ):
            raise ValueError("values: there is not a clock for each of the log_ratios")
        return
    if study not in ("peers", "load"):
        return
    if trial.way.startswith("gradbench"):
        if not values.log_ratios:
            raise ValueError("values: there are no log_ratios, and no reason")
    else:
        arms = values.arms or []
        planned = LOAD_ARMS if study == "load" else len(values.shares or [])
        if not arms or len(arms) != planned:
            raise ValueError("values: there is not an arm for each share")
        for name in PEERS_SAY.get(trial.way, ("median",)):
            if any(getattr(arm, name) is None for arm in arms):
                raise ValueError(f"values: an arm has no {name}")


@dataclass
class Study(Log[StudyStarted]):
    """The log of a study in memory."""

    trials: list[Trial] = field(default_factory=list)

    LISTS = {Trial: "trials"}

    @property
    def settings(self) -> dict[str, Any]:
        return self.started.settings

    def good(self, *ways: str) -> list[Trial]:
        """The trials of these ways that have a result."""
        return [
            t
            for t in self.trials
            if not t.reason
            and (not ways or t.way in ways)
            and (t.log_ratios or t.values.keys() & {"arms", "log_ratios"})
        ]


KIND = Kind(
    log=Study,
    header=StudyStarted,
    record=StudyStarted | Trial | StudyResumed | Ended,
    schema=SCHEMA,
    what="study",
    noun="study",
    place="studies",
    hint="'gradbench study {}' makes one",
    resume=lambda header: f"gradbench study {header.study} --resume",
    order=lambda path: stem(path).partition("-")[2],
    resumed=lambda started, cut: StudyResumed(started),
)
folder, paths = KIND.folder, KIND.paths
read, read_all, find = KIND.read, KIND.read_all, KIND.find


def begin(
    results: Path,
    study: str,
    settings: dict[str, Any],
    machine: dict[str, Any],
    environment: dict[str, Any],
    command: list[str],
) -> tuple[LineLog, Study]:
    """A new file with its first line. Raises StoreError where it cannot be written, or a file of
    the user's cannot be read."""
    name = f"{study}-{new_id()}"
    made = digests(settings.get("files", ()))
    header = StudyStarted(SCHEMA, study, name, now(), settings, machine, environment, command, made)
    log = KIND.create(folder(results), header)
    return log, Study(log.path, header)
