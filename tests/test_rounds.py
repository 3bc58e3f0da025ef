"""The order of visits for a seed: of a run, of its careful replay, of a track and of a study."""

import random
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradbench.core.cases import Comparison, Entry
from gradbench.core.deadline import Deadline
from gradbench.releases.part import Part
from gradbench.runner.rounds import ALIKE, alike
from gradbench.runner.session import Measurement
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerDied, WorkerRefused
from gradbench.statistics import Stopping
from gradbench.studies import pairs
from gradbench.worker.instruments import wall

COMPARISON = Comparison.parse("vjp/exp/documents/float32/cpu/1")
STOPPING = Stopping(min_rounds=4, max_rounds=8, every=4, half_width=1e-9, budget=1.0)
SETTINGS = Settings(sessions=1, seed=7, stopping=STOPPING)


@dataclass
class Plan:
    """Calls of a visit: 2 sub-blocks of 5 calls, and an untimed one."""

    call: int

    def __call__(self) -> dict[str, int]:
        return {"number": 5, "blocks": 2, "untimed": 1, "call": self.call}


@dataclass(eq=False)
class FakeWorker:
    """Answers like a worker; `visited` holds the modes of each request to visit, in order."""

    visited: list[str]
    name: str = ""
    calls: dict[str, int] = field(default_factory=dict)
    """Nanoseconds of a mode's call; 1 000 unless it is named."""
    fails: dict[int, Exception] = field(default_factory=dict)
    """What the visit of this number raises."""
    environment: dict[str, Any] = field(default_factory=dict)
    lost: bool = False

    def __post_init__(self) -> None:
        self.modes: dict[int, str] = {}
        self.count = 0

    def request(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        if op == "prepare":
            mode = self.modes[arguments["handle"]] = arguments["mode"]
            return {"status": "ok", "visit": Plan(self.calls.get(mode, 1000))()}
        if op == "check":
            return {"status": "ok"}
        if op == "estimate":
            return {"calls": [self.calls.get(self.modes[h], 1000) for h in arguments["handles"]]}
        return self.visit(arguments["handles"]) if op == "visit" else {}

    def visit(self, handles: list[int]) -> dict[str, Any]:
        if self.name:
            self.visited.append(self.name)
        else:
            self.visited.append(" ".join(str(handle) for handle in handles))
        blocks = []
        for handle in handles:
            self.count += 1
            error = self.fails.pop(self.count, None)
            if error is not None:
                self.lost = isinstance(error, WorkerDied)
                raise error
            call = self.calls.get(self.modes[handle], 1000)
            blocks.append([5 * call + self.count % 7, 5 * call + self.count % 5])
        none: list[list[int]] = [[] for _ in blocks]
        return {"blocks": blocks, "cpu": none, "disturbed": none, "spent": sum(map(sum, blocks))}


class Workers:
    """Gives a fresh worker where the last was lost, as those of a run and of a track do."""

    def __init__(self, *workers: FakeWorker) -> None:
        self.left = list(workers)

    def current(self) -> tuple[Any, int]:
        if self.left[0].lost:
            self.left.pop(0)
        return self.left[0], 1


def run(settings: Settings, *workers: FakeWorker) -> Any:
    entry = Entry(COMPARISON, ("grad", "backward", "func_vjp", "slow"))
    start = Workers(*workers).current
    return Measurement(entry, 0, start, settings, frozenset(), "backward", {}).run()


def test_a_run_visits_in_the_order_of_its_seed():
    visited: list[str] = []
    # Its budget allows three visits of `slow`.
    measured = run(SETTINGS, FakeWorker(visited, calls={"slow": 25_000_000}))
    first = [[3, 1, 4, 2, 0], [1, 0, 3, 4, 2], [4, 3, 0, 1, 2], [0, 4, 1, 2]]
    second = [[0, 1, 2, 4], [0, 1, 4, 2], [1, 2, 0, 4], [2, 4, 1, 0]]
    assert visited == ["3 1 4 2 0 1 0 3 4 2 4 3 0 1 2 0 4 1 2", "0 1 2 4 0 1 4 2 1 2 0 4 2 4 1 0"]
    assert measured.order == first + second
    assert measured.stopped == "rounds"


def test_a_run_whose_worker_dies_is_replayed_one_visit_at_a_time():
    visited: list[str] = []
    workers = [
        FakeWorker(visited, fails={6: WorkerDied("gone")}),
        FakeWorker(visited, fails={3: WorkerRefused("cannot")}),
    ]
    settings = replace(SETTINGS, stopping=replace(STOPPING, max_rounds=4))
    measured = run(settings, *workers)
    batch = "3 1 4 2 0 1 0 3 4 2 4 3 0 1 2 0 1 3 4 2"
    # The mode of handle 1 fails in the replay, and the session starts over without it.
    assert visited == [batch, *"041", *"1203", *"2310", *"1320", *"1032"]
    statuses = {"grad": "ok", "func_vjp": "ok", "slow": "ok", "backward": "failed"}
    assert {e.mode: e.status for e in measured.entrants} == statuses


def test_a_mode_that_no_time_is_left_to_check_after_timing_has_a_note():
    now = [0.0]

    class Slow(FakeWorker):
        def request(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
            # The time is up while the second mode is checked.
            now[0] += 60.0 * (op == "check")
            return super().request(op, timeout, **arguments)

    entry = Entry(COMPARISON, ("grad", "backward", "func_vjp"))
    start, deadline = Workers(Slow([])).current, Deadline(100.0, lambda: now[0])
    measurement = Measurement(
        entry, 0, start, SETTINGS, frozenset(), "backward", {}, deadline=deadline
    )
    notes = [entrant.note for entrant in measurement.run().entrants]
    assert notes == ["", ""] + ["not checked after timing: the time was up"] * 2


class Team(Workers):
    """The workers of a track's environments, by name."""

    def __init__(self, **workers: list[FakeWorker]) -> None:
        self.workers = workers

    def worker(self, name: str) -> Any:
        if self.workers[name][0].lost:
            self.workers[name].pop(0)
        return self.workers[name][0]


def test_the_builds_of_a_track_take_turns_in_the_order_of_its_seed():
    visited: list[str] = []
    team = Team(
        old=[FakeWorker(visited, "old")],
        mid=[
            FakeWorker(visited, "mid", fails={2: WorkerDied("gone")}),
            FakeWorker(visited, "mid"),
        ],
        new=[FakeWorker(visited, "new", fails={8: WorkerRefused("cannot")})],
    )
    entry = Entry(COMPARISON, ("grad", "backward"))
    names = ["old", "mid", "new"]
    part = Part(entry, 0, 0, names, team, SETTINGS, frozenset(), {}).run()  # type: ignore
    # In the first case "mid" dies in the second round: the case starts over. "new" is dropped in
    # the sixth round that follows.
    first = """
        mid new old old new mid
        mid old new old new mid old mid new new mid old new mid old mid new old mid old mid old
    """
    second = """
        old mid new new old mid mid new old mid new old new old mid new old mid mid old new mid
        new old
    """
    assert visited == (first + second).split()
    statuses = [[(s.environment, s.entrant.status) for s in case.sides] for case in part.cases]
    assert statuses == [
        [("old", "ok"), ("mid", "ok"), ("new", "failed")],
        [("old", "ok"), ("mid", "ok"), ("new", "ok")],
    ]


@pytest.mark.parametrize("two", [False, True])
def test_a_pair_of_a_study_is_visited_in_the_order_of_its_seed(two):
    visited: list[str] = []
    workers: list[Any] = [FakeWorker(visited, "a"), FakeWorker(visited, "b")]
    if not two:
        workers = [FakeWorker(visited)] * 2
    sides = [pairs.prepare(workers[i], "grad", i, 0.0, 1.0) for i in (0, 1)]
    chance = random.Random("7/pair")
    measured = pairs.measure(sides[0], sides[1], STOPPING, chance, 1.0)
    order = ["1 0 0 1 0 1 1 0", "0 1 0 1 0 1 1 0"]
    if two:
        assert visited == ["ab"[int(handle)] for batch in order for handle in batch.split()]
    else:
        assert visited == order
        assert measured.log_ratios == [-200, 200, 200, -200, -400, 200, -600, -200]
    assert measured.stopped == "rounds"


@dataclass(eq=False)
class PlanningWorker(FakeWorker):
    """Plans a visit by the time of a call, as a worker does; `plans` are those in force."""

    plans: dict[str, int] = field(default_factory=dict)

    def request(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        if op == "prepare":
            answer = super().request(op, timeout, **arguments)
            planned = wall.plan(self.calls[arguments["mode"]])
            self.plans[arguments["mode"]] = planned.number
            return answer | {"visit": asdict(planned)}
        if op == "plan":
            planned = wall.plan(arguments["call"])
            self.plans |= {self.modes[h]: planned.number for h in arguments["handles"]}
            return {"visit": asdict(planned)}
        return super().request(op, timeout, **arguments)

    def visit(self, handles: list[int]) -> dict[str, Any]:
        answer = super().visit(handles)
        return answer | {"blocks": [blocks * 5 for blocks in answer["blocks"]]}


def test_what_takes_about_as_long_is_visited_alike():
    # By themselves sub-blocks of 66 µs calls have two, of 67 and 95 µs one, of 20 µs five.
    calls = {"grad": 66_000, "backward": 67_000, "func_vjp": 95_000, "slow": 20_000}
    worker = PlanningWorker([], calls=calls)
    measured = run(SETTINGS, worker)
    assert worker.plans["grad"] == worker.plans["backward"] == worker.plans["func_vjp"] == 1
    assert worker.plans["slow"] == 5
    # What is stored says how it was measured.
    assert {e.mode: e.number for e in measured.entrants} == worker.plans


def test_builds_of_a_track_are_visited_alike_each_by_its_worker():
    workers = {
        "old": PlanningWorker([], "old", calls={"grad": 66_000}),
        "new": PlanningWorker([], "new", calls={"grad": 68_000}),
    }
    team = Team(**{name: [worker] for name, worker in workers.items()})
    entry = Entry(COMPARISON, ("grad",))
    part = Part(entry, 0, 0, list(workers), team, SETTINGS, frozenset(), {}).run()  # type: ignore
    assert [s.entrant.status for s in part.cases[0].sides] == ["ok", "ok"]
    assert workers["old"].plans == workers["new"].plans


def test_a_worker_that_dies_while_its_visits_are_planned_is_replaced():
    class Dying(PlanningWorker):
        def request(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
            if op == "plan":
                self.lost = True
                raise WorkerDied("gone")
            return super().request(op, timeout, **arguments)

    calls = {"grad": 66_000, "backward": 67_000, "func_vjp": 95_000, "slow": 20_000}
    measured = run(SETTINGS, Dying([], calls=calls), PlanningWorker([], calls=calls))
    assert {e.status for e in measured.entrants} == {"ok"}


@given(st.lists(st.floats(1e3, 1e9), max_size=30))
def test_groups_of_calls_are_narrow_and_cut_at_the_widest_gaps(calls):
    groups = alike(calls)
    assert sorted(place for group in groups for place in group) == list(range(len(calls)))
    spans = sorted((calls[g[0]], calls[g[-1]]) for g in groups if g)
    assert all(last <= ALIKE * first for first, last in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


def test_instances_of_one_mode_stay_together_among_many_modes():
    calls = [20e3 * 1.2**k for k in range(20)]
    again = [1.03 * call for call in calls]
    group_of = {place: i for i, g in enumerate(alike(calls + again)) for place in g}
    assert all(group_of[k] == group_of[k + len(calls)] for k in range(len(calls)))
