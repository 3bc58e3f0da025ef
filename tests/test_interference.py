"""Interference: what a visit sees of other processes, which clock judges, and what a row says."""

import math
from itertools import repeat
from types import SimpleNamespace

import msgspec
import pytest

from gradbench.advise import telling
from gradbench.analysis import clocks, frames
from gradbench.analysis.changes import compare
from gradbench.analysis.runs import judge_run
from gradbench.core.cases import Comparison, Entry
from gradbench.core.clocks import Clock, Visits, clock_of
from gradbench.core.verdicts import Verdict
from gradbench.store import runs as log
from gradbench.worker.instruments.wall import SLICE, Visit, WallTime
from gradbench.worker.interference import Look, Processor

MS = 1_000_000


class System(Processor):
    """A system in which time passes as a script says: for each call, its work, the time that
    another process then has the core, and whether the call waited by itself."""

    def __init__(self, *script, others=0):
        self.script, self.usual = list(script), script[-1]
        self.now = self.used = self.voluntary = self.involuntary = self.process = 0
        self.others, self.cost, self.calls, self.last = others, 0, 0, None

    def __call__(self):
        return self.now

    def call(self):
        self.calls += 1
        work, away, waits = self.script.pop(0) if self.script else self.usual
        self.now += work + away
        self.used += work
        self.process += work + self.others
        self.voluntary += waits
        self.involuntary += bool(away) and not waits

    def thread(self):
        return self.used

    def look(self, thread=None):
        return Look(self.process, self.used, self.voluntary, self.involuntary)

    def visit(self, blocks=5, number=1):
        wall = WallTime(self, processor=self)
        return wall.visit(self.call, repeat(()), Visit(number, blocks, 0, 1))


QUIET, PREEMPTED, ASLEEP = (250_000, 0, False), (250_000, 4 * MS, False), (250_000, 4 * MS, True)


def test_a_sub_block_in_which_another_process_had_the_core_is_marked():
    visited = System(QUIET, PREEMPTED, QUIET).visit()
    assert visited.disturbed == [1]
    assert visited.wall == [250_000, 250_000 + 4 * MS, 250_000, 250_000, 250_000]
    assert visited.cpu == [250_000] * 5


def test_short_sub_blocks_share_a_reading_of_the_processor_time():
    """A system call between them would slow what follows."""
    reads = []
    system = System(QUIET)
    used, system.thread = system.thread, lambda: reads.append(1) or used()
    system.visit()
    assert len(reads) == 2
    system = System((2 * MS, 0, False), (2 * MS, MS, False), (2 * MS, 0, False))
    used, system.thread = system.thread, lambda: reads.append(1) or used()
    wall = WallTime(system, processor=system)
    visited = wall.visit(system.call, repeat(()), Visit(1, 3, 0, 2 * MS))
    assert len(reads) == 2 + 4
    assert visited.disturbed == [1]


def test_slow_sub_blocks_are_not_disturbed_where_the_processor_was_never_away():
    """Another guest of the host slows the core, and takes no time of it."""
    slow = (350_000, 0, False)
    visited = System(QUIET, slow, QUIET).visit()
    assert visited.disturbed == []
    assert visited.cpu == [270_000] * 5


def test_steal_without_a_switch_is_a_disturbance():
    system = System(QUIET, (250_000, MS, False), QUIET)
    system.look = lambda thread=None: Look(system.process, system.used, 0, 0)
    assert system.visit().disturbed == [1]


def test_a_call_that_waits_by_itself_is_not_disturbed_and_has_no_processor_time():
    visited = System(ASLEEP).visit()
    assert (visited.disturbed, visited.cpu) == ([], [])


def test_the_processor_time_of_a_thread_says_nothing_where_others_work_too():
    visited = System(QUIET, others=250_000).visit()
    assert (visited.disturbed, visited.cpu) == ([], [])


def test_a_visit_without_an_undisturbed_sub_block_is_made_again():
    system = System(*[PREEMPTED] * 5, QUIET)
    visited = system.visit()
    assert visited.disturbed == [0, 1, 2, 3, 4]
    assert len(visited.wall) == len(visited.cpu) == system.calls == 10


def test_trying_again_has_an_end():
    assert System(PREEMPTED).visit().disturbed == list(range(15))


def test_a_call_that_outlasts_a_time_slice_is_not_tried_again():
    system = System((2 * SLICE, 8 * MS, False))
    assert len(system.visit(blocks=3).wall) == system.calls == 3


def test_visits_are_planned_by_processor_time():
    """The plan of a mode does not depend on the load: one mode, planned twice, would differ."""
    plans = []
    for away in (0, 30 * MS):
        system = System((5 * MS, away, False))
        plans.append(WallTime(system, processor=system).warm(system.call, repeat(()), MS))
    assert plans[0] == plans[1]
    assert plans[0].call == 5 * MS


def test_this_process_has_processor_time_of_its_own():
    processor = Processor()
    wall = WallTime(processor=processor)
    visited = wall.visit(lambda: sum(range(1000)), repeat(()), Visit(10, 3, 1, 1))
    assert len(visited.wall) % 3 == 0
    assert all(used > 0 for used in visited.cpu)


# ── which clock ───────────────────────────────────────────────────────────────────────────────

N = 12


def quiet(seconds):
    block = round(seconds * 1e9)
    return log.Entrant("", "ok", number=1, samples=[[block]] * N, cpu=[[block]] * N)


def busy(seconds, cpu=True):
    """Each call takes ten times as long on the wall, and more or less."""
    block = round(seconds * 1e9)
    samples = [[block * (8 + i % 5)] for i in range(N)]
    used = [[block]] * N if cpu else []
    return log.Entrant("", "ok", number=1, samples=samples, cpu=used, disturbed=[[0]] * N)


def test_undisturbed_sub_blocks_alone_are_samples():
    visits = Visits.of(2, [[400, 900], [500], []], [[390, 300], [], []], [[0], [0], []])
    assert visits.wall[0] == pytest.approx(450e-9)
    assert all(map(math.isnan, visits.wall[1:]))
    assert visits.raw[:2] == pytest.approx([200e-9, 250e-9])
    assert visits.processor[0] == pytest.approx(172.5e-9)
    assert (visits.disturbed, visits.blocks) == (2, 3)


def test_one_contestant_that_is_always_disturbed_changes_the_clock_of_all():
    assert clock_of([quiet(1e-5).visits, quiet(1e-2).visits]) is Clock.WALL
    assert clock_of([quiet(1e-5).visits, busy(1e-2).visits]) is Clock.PROCESSOR
    # Without a processor time to fall back on there is nothing to change to.
    assert clock_of([quiet(1e-5).visits, busy(1e-2, cpu=False).visits]) is Clock.WALL


NAME = Comparison.parse("vjp/exp/documents/float32/cpu/1")


def stored(tmp_path, contestants, sessions=5, run="20260101-000000-aaaaaa"):
    """A run of these contestants, by mode; the first is the baseline."""
    entry = Entry(NAME, tuple(contestants))
    header = log.RunStarted(log.SCHEMA, run, log.now(), {}, {"usable_cores": 2}, [entry])
    entrants = [msgspec.structs.replace(e, mode=mode) for mode, e in contestants.items()]
    with log.KIND.create(log.folder(tmp_path), header) as file:
        file.append(log.WorkerStarted(1, {"torch": "2.13.0"}, log.now()))
        for number in range(sessions):
            order = [list(range(len(entrants)))] * N
            file.append(
                log.SessionMeasured(
                    NAME, number, 1, "", entrants, order, "rounds", 1.0, 2.0, 9.5, steal=1.0
                )
            )
        file.append(log.RunEnded(log.now(), True, 1.0, 1.0))
    return log.read(file.path)


def rows_of(run):
    return {row.mode: row for row in judge_run(run).rows}


def test_a_long_call_on_a_busy_machine_has_the_ratio_of_its_processor_time(tmp_path):
    rows = rows_of(stored(tmp_path, {"grad": quiet(1e-5), "backward": busy(5e-3)}))
    slow = rows["backward"]
    assert slow.to_fastest.value == pytest.approx(500)
    assert slow.verdict is Verdict.SLOWER
    assert {row.clock for row in rows.values()} == {"processor"}
    assert slow.seconds == pytest.approx(5e-3)
    assert slow.processor_seconds == pytest.approx(5e-3)
    assert slow.wall_seconds > 8 * slow.processor_seconds
    assert "processor time: 100% of its sub-blocks disturbed" in slow.interference


def test_what_cannot_be_measured_undisturbed_is_undecided_and_says_why(tmp_path):
    run = stored(tmp_path, {"grad": quiet(1e-5), "backward": busy(5e-3, cpu=False)})
    row = rows_of(run)["backward"]
    assert row.verdict is Verdict.UNDECIDED
    assert row.to_fastest is None
    assert row.interference == "no visit ran undisturbed, and its processor time is not its own"
    assert row.wall_seconds > 3e-2
    judged = judge_run(run)
    assert any("1 too disturbed to decide" in said for said in judged.cautions)


def test_a_run_says_how_busy_the_machine_was(tmp_path):
    said = clocks.line(stored(tmp_path, {"grad": quiet(1e-5), "backward": busy(5e-3)}))
    assert said.startswith("load average 9.5 on 2 cores; 50.0% of 120 sub-blocks disturbed")
    assert "hypervisor took 25% of the processor time" in said


def test_a_quiet_run_says_nothing_of_interference(tmp_path):
    run = stored(tmp_path, {"grad": quiet(1e-5), "backward": quiet(5e-3)})
    judged = judge_run(run)
    assert not any(row.interference for row in judged.rows)
    assert not any("disturbed" in said for said in judged.cautions)
    assert {(row.clock, row.disturbed) for row in judged.rows} == {("wall", 0.0)}


def test_advice_names_what_was_disturbed(tmp_path):
    contestants = {"grad": quiet(1e-5), "backward": busy(5e-3), "jvp": busy(1e-3, cpu=False)}
    rows = judge_run(stored(tmp_path, contestants)).rows
    advice = SimpleNamespace(rows=lambda: rows)
    assert telling.busy(advice).startswith("Other processes disturbed 2 modes")
    (left_out,) = telling.statuses(rows)
    assert left_out.startswith("jvp: undecided: no visit ran undisturbed")
    assert telling.busy(SimpleNamespace(rows=lambda: rows[:1])) == ""


@pytest.mark.parametrize(
    ("low", "high", "sessions", "said"),
    [
        (1.49e-4, 1.51e-4, 3, "150 µs ±1%"),
        (1.3e-4, 1.7e-4, 3, "150 µs ±13%"),
        (1.2e-4, 3.1e-4, 3, "120 µs to 310 µs"),
        (1.4e-4, 8.0e-3, 2, "140 µs to 8 ms"),
        (1.4e-4, 8.0e-3, 1, "150 µs"),
    ],
)
def test_advice_says_how_far_processes_differ_as_a_range_where_that_is_far(
    low, high, sessions, said
):
    row = SimpleNamespace(seconds=1.5e-4, seconds_low=low, seconds_high=high, sessions=sessions)
    assert telling.spread(row) == said


def test_an_older_log_has_the_wall_clock_alone(tmp_path):
    plain = {"grad": log.Entrant("", "ok", number=1, samples=[[10_000]] * N)}
    run = stored(tmp_path, plain)
    (row,) = rows_of(run).values()
    assert (row.clock, row.processor_seconds, row.disturbed) == ("wall", None, None)
    assert (row.wall_seconds, row.seconds) == pytest.approx((1e-5, 1e-5))
    assert frames.load(tmp_path)["disturbed"].isna().all()
    assert clocks.line(run) == ""


def test_both_clocks_are_columns_of_every_frame(tmp_path):
    run = stored(tmp_path, {"grad": quiet(1e-5), "backward": busy(5e-3)})
    cases = frames.load(tmp_path)
    long = cases[cases["mode"] == "backward"]
    assert set(cases["clock"]) == {"processor"}
    assert long["seconds"].tolist() == pytest.approx([5e-3] * 5)
    assert (long["wall_seconds"] > 3e-2).all()
    assert cases["disturbed"].tolist() == [0.0, 1.0] * 5
    raw = frames.samples(tmp_path)
    assert raw["disturbed"].sum() == 5 * N
    assert raw["processor_nanoseconds"].min() == 10_000
    table = frames.verdicts(tmp_path, run.name)
    assert table["clock"].tolist() == ["processor"] * 2


def test_two_runs_are_compared_by_the_same_clock(tmp_path):
    old = stored(tmp_path, {"backward": quiet(5e-3)})
    new = stored(tmp_path, {"backward": busy(5e-3)}, run="20260101-000001-bbbbbb")
    (change,) = compare(old, new).changes
    assert change.estimate.ratio == pytest.approx(1.0)
    assert change.verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cpu": [[1]]}, "1 visits, samples of 12"),
        ({"cpu": [[1, 2]] * N}, "unequal numbers"),
        ({"disturbed": [[5]] * N}, "not there"),
    ],
)
def test_clocks_that_do_not_fit_their_samples_are_damage(fields, said):
    entrant = msgspec.structs.replace(quiet(1e-5), mode="grad", **fields)
    with pytest.raises(ValueError, match=said):
        log.check_samples([entrant])
