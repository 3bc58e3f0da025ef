"""Explanations: what two sides of a case execute, function by function, in one file each.

The first line says what was asked for and where. A side, a release or a mode, is a line of its own.
What differs between them is computed on reading. docs/explain.md documents the fields.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    Calls,
    Digest,
    FileName,
    Label,
    Name,
    Schema,
    Text,
    Texts,
    check_machine,
    require_once,
)
from gradbench.store.lines import new_id, now
from gradbench.store.logs import Ended, Kind, Log, Record

SCHEMA = 1

Sides = Annotated[list[Label], Meta(min_length=1, max_length=2)]


class ExplanationStarted(Record, tag="explanation", frozen=True):
    """What was asked for: a case in two releases, or one mode or two of a comparison."""

    schema: Schema
    explanation: FileName
    started: Label
    of: Annotated[str, Meta(pattern=r"\A(releases|modes)\Z")]
    """What the sides are."""
    sides: Sides
    """Their names, the older or the slower one first."""
    machine: dict[str, Any]
    command: Texts = []
    files: Texts = []
    digests: dict[Text, Digest] = {}

    @property
    def name(self) -> str:
        return self.explanation

    def check(self, header: Any) -> None:
        check_machine(self.machine)
        require_once("side", self.sides)


class FunctionCost(msgspec.Struct, frozen=True, array_like=True):
    """The instructions of a function in one call of the case."""

    library: Label
    name: Label
    group: Label
    own: Amount
    inclusive: Amount | None
    """With all that it calls; None where functions call each other in a circle."""


class SideProfiled(Record, tag="side", frozen=True):
    """One side: what one call executes."""

    side: Label
    case: Case
    environment: dict[str, Any]
    """Of the ordinary process; `capability` is what torch used under Callgrind."""
    capability: Label
    call: Amount
    """Seconds of a call in the ordinary process, roughly."""
    calls: Calls
    """Of each profile."""
    repeats: Annotated[list[Amount], Meta(min_length=1, max_length=1000)]
    """The instructions per call of each profile."""
    groups: dict[Label, Amount]
    """Instructions by group of functions; together, all."""
    functions: list[FunctionCost]
    """Those with a share worth keeping."""
    operations: dict[Name, Calls]
    python_calls: dict[Name, Calls]

    def check(self, header: ExplanationStarted) -> None:
        WorkerEnvironment.of(self.environment)
        if self.side not in header.sides:
            raise ValueError(f"side {self.side!r} is none of {', '.join(header.sides)}")

    def unique_key(self) -> tuple[Hashable, ...]:
        return ("side", self.side)

    @property
    def total(self) -> float:
        """Instructions of one call."""
        return sum(self.groups.values())


@dataclass
class Explanation(Log[ExplanationStarted]):
    """The log of an explanation in memory."""

    sides: list[SideProfiled] = field(default_factory=list)

    LISTS = {SideProfiled: "sides"}


KIND = Kind(
    log=Explanation,
    header=ExplanationStarted,
    record=ExplanationStarted | SideProfiled | Ended,
    schema=SCHEMA,
    what="explanation",
    noun="explanation",
    place="explain",
    hint="'gradbench explain' or 'gradbench releases explain' makes one",
    resume=lambda header: "gradbench show",
)
folder, paths = KIND.folder, KIND.paths
read, read_all, find = KIND.read, KIND.read_all, KIND.find


def write(
    results: Path,
    of: str,
    sides: Sequence[SideProfiled],
    machine: dict[str, Any],
    command: Sequence[str],
    files: Sequence[str],
    elapsed: float,
) -> Explanation:
    """Stores an explanation whole. Raises StoreError where it cannot be written."""
    header = ExplanationStarted(
        schema=SCHEMA,
        explanation=new_id(),
        started=now(),
        of=of,
        sides=[side.side for side in sides],
        machine=machine,
        command=list(command),
        files=list(files),
        digests=digests(files),
    )
    with KIND.create(folder(results), header) as log:
        records = [*sides, Ended(now(), True, round(elapsed, 1))]
        for record in records:
            log.append(record)
    made = Explanation(log.path, header)
    made.take(records)
    return made
