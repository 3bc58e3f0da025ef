"""What a run or a track still lacks, as jobs: those that wait, and those that nodes have.

A job is a share of the whole: some comparisons in one session, in one process of one node, so that
all that is compared is measured together. Each session of a comparison is a job of its own, so they
spread over like nodes and over time. What a job measured is stored as soon as it comes home.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gradbench.core.cases import Entry
from gradbench.core.text import line
from gradbench.fleet.jobs import Answer, decode
from gradbench.fleet.machines import Kind
from gradbench.store.lines import DAMAGE
from gradbench.store.logs import Log

SHARE = 30.0
"""Seconds that a job should take about: what a lost node costs at most. Starting its process takes
two or three."""

PREPARING = 0.03
"""Seconds that preparing a mode takes, about, beside its warm-up."""

READ_TOGETHER = 40
"""Comparisons in one job of other instruments: the same on every fleet, as counts of instructions
depend on what else its process does."""


@dataclass(frozen=True, eq=False)
class Job:
    """Comparisons that are measured in one process: see `jobs.Share`.

    `chunk` is the part of the plan that it belongs to, `build` the build of a track that is read.
    """

    session: int
    entries: tuple[Entry, ...]
    chunk: tuple[int, int]
    build: str = ""


def chunks(entries: Sequence[Entry], settings_seconds: float, nodes: int) -> list[list[Entry]]:
    """Splits a plan into parts of about `SHARE` seconds each, at least one for each node.

    `settings_seconds` are those that one comparison's visits take at most.
    """
    if not entries:
        return []
    modes = sum(len(entry.modes) for entry in entries) / len(entries)
    each = settings_seconds + PREPARING * modes
    most = max(1, int(SHARE / each))
    count = max(math.ceil(len(entries) / most), min(nodes, len(entries)))
    size = math.ceil(len(entries) / count)
    return [list(entries[i : i + size]) for i in range(0, len(entries), size)]


@dataclass
class Shares(ABC):
    """What one run or track lacks. Its nodes are of one kind, and only `quiet` ones measure.

    `nodes` are as many as there are when it begins.
    """

    kind: Kind
    name: str
    nodes: int
    quiet: bool
    waiting: list[Job] = field(default_factory=list, init=False)
    flying: dict[str, tuple[Job, frozenset[str]]] = field(default_factory=dict, init=False)
    """The jobs that were given to the engine, with the nodes that may do them, by handle."""
    given_up: list[str] = field(default_factory=list, init=False)
    """Why jobs were not measured."""
    idle_since: float | None = field(default=None, init=False)
    """Since when no node of its kind is there."""
    steps: int = field(default=0, init=False)
    """All sessions of all comparisons, also those done."""
    skipped: int = field(default=0, init=False)
    """Those done in earlier stretches."""

    what = "share"
    """What a node is asked to do: see `node.execute`."""

    @property
    @abstractmethod
    def stored(self) -> Log[Any]:
        """The log in memory."""

    @property
    @abstractmethod
    def done(self) -> int:
        """How many of the steps are done."""

    @abstractmethod
    def spared(self, job: Job) -> Job:
        """A job without the comparisons that need no such session any more."""

    @abstractmethod
    def after_first_only(self, job: Job) -> bool:
        """Whether a later session waits for the first one of its comparisons alone, not for all
        before it."""

    @abstractmethod
    def text(self, job: Job) -> str:
        """What a node is asked for."""

    @abstractmethod
    def store(self, job: Job, lines: Sequence[str]) -> None:
        """Appends what a job measured. Raises one of `DAMAGE` for a line that does not fit, and
        StoreError where the disk is full."""

    @abstractmethod
    def end(self, finished: bool, elapsed: float) -> None:
        """Writes the log's last line."""

    @property
    def over(self) -> bool:
        return not (self.waiting or self.flying)

    def next(self) -> Job | None:
        """The next job that need not wait for another: later sessions know from the first what
        cannot be measured."""
        flying = [job for job, _ in self.flying.values()]
        for job in list(self.waiting):
            before = [own for own in [*self.waiting, *flying] if _before(own, job)]
            if job.session > 0 and self.after_first_only(job):
                before = [own for own in before if own.session == 0]
            if before:
                continue
            self.waiting.remove(job)
            job = self.spared(job)
            if job.entries:
                return job
        return None

    def back(self, handle: str) -> None:
        """A job that no node does any more waits again."""
        self.waiting.insert(0, self.flying.pop(handle)[0])

    def take(self, handle: str, answer: str | None, reason: str) -> Answer:
        """Stores what a job measured. Raises StoreError where the disk is full."""
        job, _ = self.flying[handle]
        if answer is None:
            if not reason:
                self.back(handle)
                return Answer()
            made = Answer(refused=reason)
        else:
            try:
                made = decode(answer, Answer)
            except ValueError as error:
                made = Answer(refused=f"malformed: {line(str(error), 200)}")
        try:
            self.store(job, made.lines)
        except DAMAGE as error:
            made = msgspec.structs.replace(made, refused=f"malformed: {line(str(error), 200)}")
        if made.busy:
            self.back(handle)
            return made
        del self.flying[handle]
        if made.refused:
            self.given_up.append(line(made.refused, 300))
        return made


def _before(one: Job, other: Job) -> bool:
    """Whether a job must be over before another begins."""
    if other.session < 0:
        return one.session >= 0
    return one is not other and one.chunk == other.chunk and 0 <= one.session < other.session
