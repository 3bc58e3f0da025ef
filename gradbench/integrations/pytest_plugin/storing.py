"""The measurements of a session's tests as one run, which every command reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gradbench.core.cases import Comparison, Entry
from gradbench.store.lines import new_id
from gradbench.store.runs import (
    KIND,
    SCHEMA,
    Run,
    RunEnded,
    RunStarted,
    WorkerStarted,
    folder,
    read,
)


@dataclass(frozen=True)
class Part:
    """What was measured for one derivative of a test."""

    run: Run
    function: str
    """The name of the test, which takes the place of the function's."""

    @property
    def comparison(self) -> Comparison:
        return renamed(self.run.started.plan[0].comparison, self.function)


def renamed(c: Comparison, function: str) -> Comparison:
    return Comparison(c.operator, function, c.size, c.dtype, c.device, c.threads)


def store(results: Path, parts: Sequence[Part], command: Sequence[str]) -> Run:
    """Writes the parts as one finished run. Of a test that was repeated the last part counts.

    Raises StoreError where it cannot be written.
    """
    parts = list({part.comparison: part for part in parts}.values())
    first = parts[0].run.started
    header = RunStarted(
        schema=SCHEMA,
        run=new_id(),
        started=first.started,
        settings=first.settings,
        machine=first.machine,
        plan=[
            Entry(renamed(entry.comparison, part.function), entry.modes)
            for part in parts
            for entry in part.run.started.plan
        ],
        command=list(command),
        by_hand=sorted({mode for part in parts for mode in part.run.started.by_hand}),
    )
    ends = [end for part in parts for end in part.run.ends]
    with KIND.create(folder(results), header) as log:
        before = 0
        for part in parts:
            for record in _records(part, before):
                log.append(record)
            before += max((worker.process for worker in part.run.workers), default=0)
        log.append(
            RunEnded(
                ends[-1].ended if ends else first.started,
                True,
                sum(end.elapsed for end in ends),
                sum(end.visiting for end in ends),
            )
        )
    return read(log.path)


def _records(part: Part, before: int) -> list[Any]:
    """The lines of a part, with the numbers of its processes after those `before`."""
    lines: list[Any] = []
    for worker in part.run.workers:
        lines.append(WorkerStarted(before + worker.process, worker.environment, worker.started))
    measured: list[Any] = [*part.run.sessions, *part.run.readings]
    for record in measured:
        lines.append(
            msgspec.structs.replace(
                record,
                comparison=renamed(record.comparison, part.function),
                process=before + record.process,
            )
        )
    return lines
