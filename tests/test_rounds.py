"""The order of visits for a seed: of a run, of its careful replay, of a track and of a study."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gradbench.core.cases import Comparison, Entry
from gradbench.releases.part import Part
from gradbench.runner.session import Measurement
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerDied, WorkerRefused
from gradbench.statistics import Stopping
from gradbench.studies import pairs

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
