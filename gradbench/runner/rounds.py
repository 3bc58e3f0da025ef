"""Arms are visited in rounds, until the stopping rule says so.

In each round every arm is visited once, in an order of its own: what drifts on the machine affects
all arms alike, and ratios are formed inside a round. The arms of a run are modes in one worker, so
their visits travel together, several rounds in one request. The arms of a track are one mode in
the workers of several builds, which take turns, one request for each visit. The two arms of a study
share a worker or take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import numpy as np

from gradbench.core.clocks import clock_of
from gradbench.core.deadline import Deadline
from gradbench.runner.arms import Arm, estimate, plan_alike, visit
from gradbench.runner.wire import WorkerError
from gradbench.statistics import Stop, Stopping, enough

ALIKE = 2.0
"""Arms whose calls take up to so many times as long as others' are visited alike."""

SHORT = 2_000_000
"""Nanoseconds of a call up to which it is estimated again before the first round."""

PASSES, ESTIMATED = 2, 10
"""Workers take so many turns at that, each with so many visits of all arms together, at least one
of each."""

Order = Callable[[list[Arm]], list[Arm]]
"""Puts the arms of one round into the order of their visits."""

Failed = Callable[[Sequence[Arm], WorkerError], None]
"""Called with the arms of a request that failed: raises, or removes them from the arms."""


@dataclass(frozen=True)
class Rounds:
    """The handles in the order of each round, why the rounds ended, and seconds inside visits."""

    orders: list[list[int]]
    stopped: str
    seconds: float


def _raise(arms: Sequence[Arm], error: WorkerError) -> NoReturn:
    raise error


def visit_in_rounds(
    arms: list[Arm],
    order: Order,
    stopping: Stopping,
    timeout: float,
    *,
    careful: bool = False,
    failed: Failed = _raise,
    deadline: Deadline | None = None,
) -> Rounds:
    """Visits arms until the stopping rule says so; each keeps its own samples.

    If `careful`, each visit is a request of its own, so that `failed` is called with the one arm
    that failed, and the stopping rule is asked after each round. `timeout` is as for `visit`. No
    request is sent after the `deadline`, nor waited for.
    """
    deadline = deadline or Deadline()
    _agree(arms, timeout, deadline, failed, careful)
    orders: list[list[int]] = []
    seconds = in_slow = 0.0
    while arms:
        rounds = min(1 if careful else stopping.every, stopping.max_rounds - len(orders))
        batch = _batch(arms, order, range(len(orders), len(orders) + rounds))
        if not batch or deadline.over:
            return Rounds(orders, "budget", seconds)
        for arm in arms:
            arm.sit_out(len(batch))
        visits = [(number, arm) for number, own in enumerate(batch, len(orders)) for arm in own]
        together = not careful and all(arm.worker is arms[0].worker for arm in arms)
        for request in [visits] if together else [[one] for one in visits]:
            asked = [arm for _, arm in request]
            try:
                answers, spent = visit(asked, timeout, deadline)
            except WorkerError as error:
                failed(asked, error)
                continue
            seconds += spent
            for (number, arm), visited in zip(request, answers):
                arm.take(number, visited)
                if arm.quota < math.inf:
                    in_slow += arm.seconds(visited[0])
        orders += [[arm.handle for arm in own] for own in batch]
        stopped = _enough(arms, seconds - in_slow, stopping) if arms else None
        if stopped is not None:
            return Rounds(orders, stopped, seconds)
    return Rounds(orders, "nothing to time", seconds)


def _agree(
    arms: Sequence[Arm], timeout: float, deadline: Deadline, failed: Failed, careful: bool
) -> None:
    """Has arms whose calls take about as long visited alike.

    A sub-block costs a microsecond or more beside its calls, on a slow machine up to 4. Arms with
    the same number of calls have it in the same share: of 50 µs, two and three calls in a sub-block
    differ by 1 %. So that the groups do not hang on a slow moment, short calls are estimated again.
    """
    known = list(arms)
    short = [arm for arm in known if arm.plan["call"] <= SHORT]
    rounds = max(1, ESTIMATED // max(1, len(short)))
    for _ in range(PASSES):
        for own in [[arm] for arm in short] if careful else _by_worker(short):
            if deadline.over:
                return
            if own[0] not in arms:
                continue
            try:
                estimate(own, rounds, timeout, deadline)
            except WorkerError as error:
                failed(own, error)
    for group in alike([arm.plan["call"] for arm in known]):
        chosen = [known[place] for place in group if known[place] in arms]
        plans = [arm.plan | {"call": 0} for arm in chosen]
        if all(plan == plans[0] for plan in plans) or deadline.over:
            continue
        call = math.sqrt(chosen[0].plan["call"] * chosen[-1].plan["call"])
        for own in _by_worker(chosen):
            try:
                plan_alike(own, call, deadline.within(timeout))
            except WorkerError as error:
                failed(own, error)


def _by_worker(arms: Sequence[Arm]) -> list[list[Arm]]:
    return [[a for a in arms if a.worker is w] for w in dict.fromkeys(a.worker for a in arms)]


def alike(calls: Sequence[float]) -> list[list[int]]:
    """The places of calls that take about as long, each group in order.

    Cut at the widest gaps until no group spans more than ALIKE.
    """
    left, groups = [sorted(range(len(calls)), key=calls.__getitem__)], []
    while left:
        group = left.pop()
        if not group or calls[group[-1]] <= ALIKE * calls[group[0]]:
            groups.append(group)
            continue
        gaps = [calls[b] / calls[a] for a, b in pairwise(group)]
        cut = 1 + gaps.index(max(gaps))
        left += [group[:cut], group[cut:]]
    return groups


def _batch(arms: list[Arm], order: Order, rounds: range) -> list[list[Arm]]:
    """The order of each of these rounds, as far as there are arms to take part."""
    taking_part = [[arm for arm in arms if number < arm.quota] for number in rounds]
    return [order(own) for own in taking_part if own]


def _enough(arms: list[Arm], seconds: float, stopping: Stopping) -> Stop | None:
    """Why to stop now. Precision is asked only of the arms that take part in every round.

    Ratios are to the mode of the control, or to the first arm where there is none.
    """
    baseline = next((arm.mode for arm in arms if arm.entrant.control), None)
    every_round = [arm for arm in arms if arm.quota == math.inf]
    index = next((i for i, arm in enumerate(every_round) if arm.mode == baseline), None)
    if index is None:
        every_round, index = arms, 0
    return enough(np.array(times_of(every_round)).T, seconds, stopping, index)


def times_of(arms: Sequence[Arm]) -> list[Sequence[float]]:
    """Seconds per call of each arm in each round, by the clock that compares them; NaN where an arm
    sat out, or the clock does not tell."""
    timed = [arm.visits for arm in arms]
    clock = clock_of(timed)
    return [own.by(clock) for own in timed]
