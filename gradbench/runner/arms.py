"""An arm: a mode in a worker, from the opening of its comparison to the check after its visits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gradbench.core.cases import Comparison
from gradbench.core.clocks import Visits
from gradbench.core.deadline import Deadline
from gradbench.core.verdicts import Status
from gradbench.runner.settings import Settings
from gradbench.runner.wire import (
    Worker,
    WorkerError,
    WorkerRefused,
    WorkerSpoiled,
    WorkerTimeout,
)
from gradbench.store.runs import Entrant

Visited = tuple[list[int], list[int], list[int]]
"""A visit's sub-blocks in nanoseconds, their processor times, and the positions of the disturbed
ones."""

UNCHECKED = "not checked after timing: the time was up"


@dataclass(eq=False)
class Arm:
    """A mode that a worker has built and gated, with the plan of its visits."""

    worker: Worker
    handle: int
    entrant: Entrant
    plan: dict[str, Any]
    """How it is visited: `number` of calls a sub-block, sub-`blocks` and `untimed` calls a visit,
    and the nanoseconds of a `call`."""
    quota: float = math.inf
    """The rounds that it takes part in, counted from the first."""
    samples: list[list[int]] = field(default_factory=list)
    """Nanoseconds of each sub-block, a list per round; empty in rounds that it sat out."""
    cpu: list[list[int]] = field(default_factory=list)
    disturbed: list[list[int]] = field(default_factory=list)
    """Their processor times and the positions of the disturbed ones: see `Entrant`."""
    checked: bool = False
    """Whether it was checked after timing."""

    @property
    def mode(self) -> str:
        return self.entrant.mode

    @property
    def cost(self) -> float:
        """Expected seconds of one visit."""
        calls = self.plan["untimed"] + self.plan["blocks"] * self.plan["number"]
        return float(calls * self.plan["call"]) * 1e-9

    @property
    def visits(self) -> Visits:
        """What its visits took by both clocks."""
        return Visits.of(self.plan["number"], self.samples, self.cpu, self.disturbed)

    def sit_out(self, rounds: int) -> None:
        """Adds rounds in which it has no visit yet."""
        for kept in (self.samples, self.cpu, self.disturbed):
            kept += [[] for _ in range(rounds)]

    def take(self, number: int, visited: Visited) -> None:
        """Keeps the visit of a round."""
        self.samples[number], self.cpu[number], self.disturbed[number] = visited

    def seconds(self, blocks: list[int]) -> float:
        """Seconds of a visit with these sub-blocks, untimed calls included."""
        timed = len(blocks) * self.plan["number"]
        return float(sum(blocks) * (1 + self.plan["untimed"] / timed) * 1e-9)

    def check(self, timeout: float) -> None:
        """Has the worker check it after timing, on its inputs and on others.

        Its record gets the status, the worst error so far and the note on all that it changed.
        """
        try:
            answer = self.worker.request("check", timeout, handle=self.handle, fresh=[1])
        except WorkerRefused as error:
            place = error.places.get(self.mode, "")
            named = f" ({place})" if place else ""
            answer = {"status": error.status, "reason": f"after timing: {error}{named}"}
        self.checked = True
        self.entrant = msgspec.structs.replace(
            self.entrant,
            status=Status(answer["status"]),
            reason=answer.get("reason", ""),
            error=max(self.entrant.error, _finite(answer.get("error", 0.0))),
            ulps=max(self.entrant.ulps, _finite(answer.get("ulps", 0.0))),
            note=answer.get("note", "") or self.entrant.note,
        )

    def leave_unchecked(self) -> None:
        """Notes that it was not checked after timing, unless it was."""
        if self.checked:
            return
        note = "; ".join(filter(None, (self.entrant.note, UNCHECKED)))
        self.entrant = msgspec.structs.replace(self.entrant, note=note)

    def record(self) -> Entrant:
        """The record to store."""
        return msgspec.structs.replace(
            self.entrant,
            number=self.plan["number"],
            untimed=self.plan["untimed"],
            samples=self.samples,
            cpu=self.cpu if any(self.cpu) else [],
            disturbed=self.disturbed if any(self.disturbed) else [],
        )

    def shortened(self) -> Entrant:
        """The record with one sub-block of each visit: the fastest undisturbed one, or the fastest,
        and the mean processor time."""
        record = self.record()
        marks = record.disturbed or [[] for _ in self.samples]
        samples, disturbed = [], []
        for blocks, own in zip(record.samples, marks):
            left = [block for place, block in enumerate(blocks) if place not in own]
            samples.append([min(left or blocks)] if blocks else [])
            disturbed.append([0] if blocks and not left else [])
        return msgspec.structs.replace(
            record,
            samples=samples,
            cpu=[[round(sum(own) / len(own))] if own else [] for own in record.cpu],
            disturbed=disturbed if any(disturbed) else [],
        )


def open_comparison(
    worker: Worker,
    comparison: Comparison,
    settings: Settings,
    session: int = 0,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Has a worker pose a comparison; its answer.

    Fresh inputs differ from session to session, so that each adds to the evidence. `timeout` is by
    default that of the settings.
    """
    return worker.request(
        "open",
        settings.timeout if timeout is None else timeout,
        comparison=comparison,
        salt=settings.seed,
        fresh=[1 + 2 * session, 2 + 2 * session],
    )


def prepare(
    worker: Worker,
    mode: str,
    timeout: float,
    *,
    handle: int,
    warm: float,
    fresh: Sequence[int] = (0,),
    patience: float = 0.0,
    limit: float = 0.0,
) -> Arm | Entrant:
    """Has a worker build, gate and warm one mode of the open comparison.

    Returns the record alone where the mode is not to be timed: it did not pass, or `warm` is 0.
    `patience` is that of the settings; `limit` are the seconds after which its checks end by
    themselves, 0 for none. Raises WorkerDied or WorkerTimeout.
    """
    try:
        answer = worker.request(
            "prepare",
            timeout,
            mode=mode,
            handle=handle,
            warm=int(warm * 1e9),
            fresh=list(fresh),
            patience=int(patience * 1e9),
            limit=int(limit * 1e9),
        )
    except WorkerRefused as error:
        return failure(mode, error)
    visit = answer.get("visit")
    if answer["status"] == "ok" and warm and not visit:
        raise worker.garbled("no visits are planned")
    entrant = Entrant(
        mode=mode,
        status=Status(answer["status"]),
        reason=answer.get("reason", ""),
        where=answer.get("where", ""),
        error=_finite(answer.get("error", 0.0)),
        ulps=_finite(answer.get("ulps", 0.0)),
        note=answer.get("note", ""),
        takes=answer.get("takes", 0.0),
    )
    return Arm(worker, handle, entrant, visit) if visit else entrant


def estimate(arms: Sequence[Arm], rounds: int, timeout: float, deadline: Deadline) -> None:
    """Has a worker estimate the calls of arms of its own anew, by rounds of visits that do not
    count. Arguments and errors are those of `visit`."""
    worker = arms[0].worker
    limit = deadline.within(timeout + 20 * rounds * sum(arm.cost for arm in arms))
    calls = _timed("estimate", arms, limit, rounds=rounds)["calls"]
    if len(calls) != len(arms):
        raise worker.garbled("not an estimate for each mode")
    for arm, call in zip(arms, calls):
        arm.plan = arm.plan | {"call": call}


def plan_alike(arms: Sequence[Arm], call: float, timeout: float) -> None:
    """Has a worker plan the visits of arms of its own alike, for calls of so many nanoseconds.

    Raises WorkerRefused, WorkerDied or WorkerTimeout.
    """
    handles = [arm.handle for arm in arms]
    answer = arms[0].worker.request("plan", timeout, handles=handles, call=round(call))
    for arm in arms:
        arm.plan = answer["visit"] | {"call": arm.plan["call"]}


def visit(arms: Sequence[Arm], timeout: float, deadline: Deadline) -> tuple[list[Visited], float]:
    """Visits arms of one worker in this order, by one request.

    Returns what every visit measured, and the seconds of all visits. `timeout` is for the answer,
    beside what the visits are expected to take; it ends at the deadline. Raises WorkerRefused,
    WorkerDied or WorkerTimeout.
    """
    worker = arms[0].worker
    limit = deadline.within(timeout + 20 * sum(arm.cost for arm in arms))
    answer = _timed("visit", arms, limit)
    blocks: list[list[int]] = answer["blocks"]
    planned = [arm.plan["blocks"] for arm in arms]
    if len(blocks) != len(planned) or any(
        # A disturbed visit is made again.
        not own or len(own) % count
        for own, count in zip(blocks, planned)
    ):
        raise worker.garbled("not the sub-blocks that were planned")
    return list(zip(blocks, answer["cpu"], answer["disturbed"])), answer["spent"] * 1e-9


def _timed(op: str, arms: Sequence[Arm], limit: float, **fields: int) -> dict[str, Any]:
    """The answer to a request that calls arms; a refusal says when."""
    try:
        return arms[0].worker.request(op, limit, handles=[arm.handle for arm in arms], **fields)
    except WorkerRefused as error:
        refused = WorkerRefused(f"while timed: {error}", error.where, error.status)
        refused.places = error.places
        raise refused from error


def failure(mode: str, error: WorkerError, when: str = "") -> Entrant:
    """The record of a mode over which a request failed; `when` goes before the reason.

    Without it the mode is to blame, and is named with its file and line if it is not gradbench's.
    """
    where = ""
    if isinstance(error, WorkerRefused):
        status, where = error.status, error.where
    elif isinstance(error, WorkerSpoiled):
        status = Status.FAILED
    else:
        status = Status.TIMED_OUT if isinstance(error, WorkerTimeout) else Status.CRASHED
    place = "" if when else error.places.get(mode, "")
    return Entrant(mode, status, f"{when}{error}" + (f" ({place})" if place else ""), where)


def _finite(number: float) -> float:
    """JSON has no infinity; a hopeless error is the largest number there is."""
    return number if math.isfinite(number) else 1e308
