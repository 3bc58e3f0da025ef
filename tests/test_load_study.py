"""The study of busy machines: its plan, its counting, and the processes that it starts and ends;
and what the doctor says of a busy machine."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from gradbench.core.cases import Case
from gradbench.runner.doctor import interference
from gradbench.runner.noise import listen, noise
from gradbench.runner.wire import WorkerOptions
from gradbench.store.logs import Ended
from gradbench.store.studies import Study, StudyStarted, Trial
from gradbench.studies import evidence, figures, load, peers
from gradbench.studies.neighbour import load as busy

CASE = Case.parse("vjp/three_x_squared/documents/float32/cpu/1/backward")
SETTINGS = {"loads": [4, 2], "trials": 3, "tool_trials": 1, "budget": 1.0, "seed": 0, "floor": None}


def study(trials):
    header = StudyStarted(
        2,
        "load",
        "load-1",
        "2026-01-01T00:00:00Z",
        SETTINGS,
        {"cpu": "test", "usable_cores": 2},
        {"torch": "2"},
        ["gradbench", "study", "load"],
    )
    return Study(Path("x"), header, trials, ends=[Ended("", True, 1.0)])


def ratio(value, rounds=20):
    return [round(1e6 * math.log(value)) + i for i in range(rounds)]


def gradbench(process, share, found, same=1.0, slower=1.05, group=0):
    ratios = {f"{share:g}": ratio(found), "0": ratio(same), "0.05": ratio(slower)}
    values = {
        "unit": 100,
        "log_ratios": ratios,
        "clocks": dict.fromkeys(ratios, "processor" if process else "wall"),
    }
    key = f"g/{process}/{share}/{group}"
    return Trial(key, "gradbench", CASE, process, group, share, values=values)


def timeit(process, share, *arms):
    values = {"unit": 100, "arms": [{"min": arm} for arm in arms]}
    return Trial(f"t/{process}/{share}", "timeit", CASE, process, 0, share, values=values)


def test_the_quiet_machine_comes_first_and_every_step_has_a_key_of_its_own():
    steps = load.plan(SETTINGS, [CASE])
    assert load.loads(SETTINGS) == [0, 2, 4]
    assert len({step.key for step in steps}) == len(steps)
    assert sorted({step.process for step in steps}) == [0, 1, 2]
    each = [step for step in steps if step.process == 1]
    longest = [step for step in each if step.way == "gradbench" and step.share > 1000]
    shortest = [step for step in each if step.way == "gradbench" and step.share == 0]
    # A trial of long calls takes long.
    assert (len(longest), len(shortest)) == (1, 3)
    assert {step.way for step in each} == {"gradbench", *load.TOOLS}
    assert sum(step.way == "asv" for step in each) == len(load.RATIOS)


def test_beside_more_processes_the_study_expects_to_take_longer():
    steps = load.plan(SETTINGS, [CASE])
    times = [
        load.expected(SETTINGS, [step for step in steps if step.process == p]) for p in (0, 1, 2)
    ]
    assert 0 < times[0] < times[1] < times[2]


def test_ratios_are_held_against_the_quiet_ones_and_false_calls_are_counted():
    trials = [
        gradbench(0, 249.0, 250.0),
        gradbench(1, 249.0, 260.0),
        # Off by a fifth, and the same code called slower.
        gradbench(2, 249.0, 300.0, same=1.2, slower=1.0),
        timeit(1, 249.0, 1.0, 1500.0, 900.0, 950.0),
    ]
    rows = {(row["method"], row["busy"]): row for row in load.rows(study(trials))}
    assert rows["gradbench", 0]["off"] == 0
    assert rows["gradbench", 2]["off"] == pytest.approx(0.04, abs=1e-3)
    assert rows["gradbench", 2]["near"] == 1
    assert (rows["gradbench", 2]["false_alarms"], rows["gradbench", 2]["power_5"]) == (0, 1)
    assert rows["gradbench", 2]["by_processor"] == 1
    last = rows["gradbench", 4]
    assert last["off"] == pytest.approx(0.2, abs=1e-3)
    assert (last["near"], last["false_alarms"], last["power_5"]) == (0, 1, 0)
    # Other tools are held against the same truth.
    other = rows["timeit", 2]
    assert other["off"] == pytest.approx(5, abs=0.01)
    assert (other["false_alarms"], other["power_5"]) == (1, 1)


def test_clocks_are_held_against_processor_time_without_busy_processes():
    def told(process, **logs):
        one = gradbench(process, 249.0, 250.0)
        values = {**one.values, "candidates": logs}
        return msgspec.structs.replace(one, key=f"c/{process}", values=values)

    quiet = told(0, minimum=5.5, undisturbed=5.5, cpu=5.5, disturbed=0.0)
    busy = told(1, minimum=5.5 + math.log(3), cpu=5.5, disturbed=1.0)
    one, two = load.candidates(study([quiet, busy]))
    assert (one["busy"], one["length"], one["by_minimum"]) == (0, "250×", 1)
    assert two["by_minimum"] == pytest.approx(3)
    assert (two["by_undisturbed"], two["by_cpu"], two["disturbed"]) == (None, 1, 1)
    # A terminal and the page show both tables.
    titles = [title for title, _ in evidence.tables_of(study([quiet, busy]))]
    assert titles == ["", "Candidate clocks"]
    assert evidence.cells(two)


def test_an_identical_pair_has_no_ratio_to_hold_against_anything():
    (row,) = load.rows(study([gradbench(0, 0.0, 1.0)]))
    assert (row["off"], row["near"], row["trials"]) == (None, None, 1)
    assert evidence.cells(row)


def test_a_trial_without_its_clocks_is_damage():
    header = study([]).started
    whole = gradbench(0, 249.0, 250.0)
    whole.check(header)
    values = {**whole.values, "clocks": {"0": "wall"}}
    with pytest.raises(ValueError, match="clock"):
        msgspec.structs.replace(whole, values=values).check(header)
    with pytest.raises(ValueError, match="arm"):
        timeit(0, 249.0, 1.0, 2.0).check(header)


def test_busy_processes_end_with_the_load():
    with busy(2) as pids:
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


# ── the doctor ────────────────────────────────────────────────────────────────────────────────


def pieces(away):
    """A thousand pieces of work of 100 µs, a tenth of which another process interrupted so long."""
    cpu = np.full(1000, 1e-4)
    wall = cpu.copy()
    wall[::10] += away
    return wall, cpu


@pytest.mark.parametrize(("away", "grade"), [(1e-6, "good"), (1e-4, "poor"), (4e-3, "bad")])
def test_the_doctor_grades_interruptions(away, grade):
    checks = {c.what: c for c in interference(noise(*pieces(away), switches=30.0, stolen=0.0))}
    assert checks["interruptions"].grade == grade
    assert bool(checks["interruptions"].advice) == (grade != "good")
    assert checks["speed"].grade == "good"


def test_the_doctor_sees_a_core_that_changes_its_speed():
    wall, cpu = pieces(0.0)
    cpu[:500] *= 2
    found = noise(np.maximum(wall, cpu), cpu, switches=0.0, stolen=0.1)
    checks = {c.what: c for c in interference(found)}
    assert checks["speed"].grade == "poor"
    assert "2.00×" in checks["speed"].found
    assert "hypervisor took 10%" in checks["interruptions"].found


def test_listening_takes_as_long_as_it_is_told():
    found = listen(0.05)
    assert 0 <= found.away <= 1
    assert found.spread >= 1
    assert found.longest >= 0


def test_the_rows_are_fields_that_json_can_hold():
    rows = load.rows(study([gradbench(0, 14.0, 15.0), gradbench(1, 14.0, 15.0)]), by_case=True)
    assert json.dumps(rows)
    assert {row["length"] for row in rows} == {"all", "15×"}


def test_the_figure_has_every_method_at_every_load():
    trials = [
        gradbench(0, 249.0, 250.0),
        gradbench(1, 249.0, 251.0),
        timeit(0, 249.0, 1.0, 250.0, 250.0, 262.0),
        timeit(1, 249.0, 1.0, 900.0, 700.0, 950.0),
    ]
    ((kind, figure),) = figures.figures([study(trials)])
    assert kind == "load"
    for axes in figure.axes:
        assert len([line for line in axes.lines if len(line.get_xdata()) == 2]) == 2


@pytest.mark.slow
def test_asv_and_pytest_benchmark_time_each_arm():
    """Their own processes, as the studies start them."""
    pytest.importorskip("asv_runner")
    pytest.importorskip("pytest_benchmark")
    asked = {"comparison": CASE.comparison, "mode": CASE.mode, "seed": 0, "files": []}
    arms = {"turns": [0, 0], "repeats": [1, 20]}
    methods = peers.Methods(None, 0, WorkerOptions())
    try:
        for method, key in (("asv", "samples"), ("pytest-benchmark", "median")):
            found = methods._by_tool({"method": method, **asked, **arms})
            short, long = (np.median(arm[key]) for arm in found["arms"])
            assert long > 3 * short
            assert found["spent"] > 0
    finally:
        methods.end()
