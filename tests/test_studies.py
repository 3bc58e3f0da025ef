"""The studies: counting, injecting, the neighbour, and a small one from end to end."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from itertools import accumulate, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from gradbench.cli import cli
from gradbench.core.cases import Case
from gradbench.core.units import duration
from gradbench.runner import progress
from gradbench.runner.progress import Progress, Report
from gradbench.runner.wire import WorkerOptions
from gradbench.store.lines import LineLog
from gradbench.store.logs import Ended
from gradbench.store.studies import KIND, Study, StudyStarted, Trial, begin, find, read
from gradbench.studies import aa, coverage, engine, evidence, peers, power, rules, tally
from gradbench.studies.conducting import Opened
from gradbench.studies.neighbour import NoPinning, neighbours, pin, places
from gradbench.worker import injection
from gradbench.worker.instruments.wall import Visit, WallTime

CASE = Case.parse("vjp/three_x_squared/documents/float32/cpu/1/backward")


class FakeClock:
    """Time passes only where work is done."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


# ── rules and counting ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("count", "trials", "low", "high"),
    # Clopper and Pearson's limits, from R's binom.test.
    [(0, 1000, 0.0, 0.003682084), (5, 100, 0.01643189, 0.11283491), (10, 10, 0.6915029, 1.0)],
)
def test_clopper_pearson(count: int, trials: int, low: float, high: float) -> None:
    found = rules.rate(count, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_rate_of_nothing_and_of_nonsense() -> None:
    nothing = rules.rate(0, 0)
    assert (nothing.low, nothing.high) == (0, 1)
    assert math.isnan(nothing.value)
    with pytest.raises(ValueError, match="3 of 2"):
        rules.rate(3, 2)


@pytest.mark.parametrize(
    ("log", "said"),
    [(0.03, "slower"), (-0.03, "faster"), (0.0, "same"), (0.01, "undecided")],
)
def test_verdict_within_a_process(log: float, said: str) -> None:
    chance = np.random.default_rng(1)
    assert rules.within_process(log + 0.002 * chance.standard_normal(100), 0.01) == said


def test_too_few_rounds_decide_nothing() -> None:
    assert rules.within_process([0.5] * 5, 0.01) == "undecided"


def test_stored_ratios_come_back() -> None:
    kept = rules.logs(rules.stored([1.02, 0.0, 1.0], [1.0, 1.0, 1.0]))
    assert kept == pytest.approx([math.log(1.02), 0.0], abs=1e-5)


def trial(way: str, log: float, process: int = 0, group: int = 0, share: float = 0.0) -> Trial:
    chance = random.Random(f"{way}{log}{process}{group}")
    ratios = [round((log + chance.gauss(0, 0.001)) / rules.MICRO) for _ in range(40)]
    key = f"{way}/{process}/{group}/{share}"
    return Trial(
        key, way, CASE, process, group, share, share, 0.1, ratios, 1e-5, "precise", 0.1, 0.2
    )


def study(kind: str, trials: list[Trial], **settings: object) -> Study:
    header = StudyStarted(
        1,
        kind,
        f"{kind}-1",
        "2026-01-01T00:00:00Z",
        {"neighbour": "none", "between": False, "seed": 0, "floor": None, **settings},
        {"cpu": "test", "usable_cores": 2},
        {"torch": "2"},
        ["gradbench", "study", kind],
    )
    return Study(Path("x"), header, trials, ends=[Ended("", True, 1.0)])


def test_false_alarms_are_counted_by_rule() -> None:
    trials = [trial("process", 0.05 if g == 3 else 0.0, group=g) for g in range(10)]
    trials += [trial("session", 0.0, process=p, group=0) for p in range(5)]
    # An unfinished comparison does not count.
    trials += [trial("session", 0.5, process=p, group=1) for p in range(3)]
    one, protocol = tally.false_alarms(study("aa", trials))
    assert (one["trials"], one["false_alarms"], one["same"]) == (10, 1, 9)
    assert one["rate_low"] < 0.1 < one["rate_high"]
    assert (protocol["trials"], protocol["false_alarms"]) == (1, 0)
    assert protocol["seconds_measuring"] == pytest.approx(0.5)
    assert "one process" in one["rule"]
    assert "5 processes" in protocol["rule"]


def test_failed_trials_do_not_count() -> None:
    failed = Trial("k", "process", CASE, 0, 0, reason="the measuring process was lost")
    (row,) = tally.false_alarms(study("aa", [trial("process", 0.0), failed]))
    assert row["trials"] == 1


def test_power_by_slowdown_with_the_long_run_beside_it() -> None:
    trials = [
        trial("process", math.log1p(s), group=g, share=s) for s in (0.02, 0.05) for g in (0, 1)
    ]
    trials += [trial("truth", math.log1p(0.021), share=0.02)]
    two, five = tally.power(study("power", trials))
    assert (two["slowdown"], two["found"], five["found"]) == (0.02, 2, 2)
    assert two["long_run"] == pytest.approx(0.021, abs=0.001)
    assert five["long_run"] is None


def test_coverage_leaves_the_group_out_of_the_truth() -> None:
    chance = random.Random(3)
    trials = [trial("pool", 0.3 + chance.gauss(0, 0.01), process=p) for p in range(60)]
    for number, one in enumerate(trials):
        trials[number] = Trial(**{**_fields(one), "values": {"against": "grad"}})
    group, _, one = coverage.rows(study("coverage", trials, sessions=60))
    assert (group["trials"], one["trials"]) == (12, 60)
    assert group["coverage"] > one["coverage"]


def _fields(one: Trial) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_peers_compare_neighbouring_arms() -> None:
    medians = {0.05: 1.05, 0.0: 1.0, 0.02: 1.01}
    shares = [0.02, 0.0, 0.0, 0.05]
    values = {"shares": shares, "arms": [{"median": medians[s]} for s in shares]}
    one = Trial("k", "blocked", CASE, 0, 0, visiting=1.0, elapsed=2.0, values=values)
    rule = next(r for way, _, _, r in peers.RULES if way == "blocked")
    found = {c.share: c.called for c in peers.comparisons([one], rule)}
    assert found == {0.02: "", 0.0: "", 0.05: "slower"}


def test_asv_and_pyperf_rules() -> None:
    by_name = {said: r for _, _, said, r in peers.RULES}
    chance = random.Random(0)
    a = {"samples": [1 + 0.001 * chance.random() for _ in range(10)], "number": 1}
    b = {"samples": [1.2 + 0.001 * chance.random() for _ in range(10)], "number": 1}
    assert by_name["default: factor 1.1 and Mann–Whitney"](a, b)[1] == "slower"
    assert by_name["default: factor 1.1 and Mann–Whitney"](a, a)[1] == ""
    assert by_name["default: t-test"](b, a)[1] == "faster"


# ── plans ─────────────────────────────────────────────────────────────────────────────────────


def test_plans_have_unique_keys_and_follow_from_the_settings() -> None:
    cases = ["a", "b", "c"]
    given = {"trials": 30, "comparisons": 4, "budget": 0.5, "between": False, "seed": 1}
    steps = aa.plan(given, cases)
    assert len({s.key for s in steps}) == len(steps) == 30 + 4 * 5
    assert steps == aa.plan(given, cases)
    assert {s.budget for s in steps if s.way == "session"} == {0.1}
    given |= {"slowdowns": [2.0, 5.0], "budgets": [0.3, 1.0]}
    steps = power.plan(given, cases)
    assert len({s.key for s in steps}) == len(steps)
    assert sum(s.way == "process" for s in steps) == 30 * 2 * 2


def test_between_gives_each_comparison_its_pairs_of_processes() -> None:
    given = {"trials": 6, "budget": 2.5, "between": True, "seed": 0, "comparisons": 0, "pairs": 5}
    steps = aa.plan(given, ["a", "b", "c"])
    groups: dict[int, set[int]] = {}
    for step in steps:
        groups.setdefault(step.group, set()).add(step.process)
    assert {len(processes) for processes in groups.values()} == {5}


# ── injection ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call_ns", [10_000, 400_000])
def test_injection_is_proportional(monkeypatch: pytest.MonkeyPatch, call_ns: int) -> None:
    """With turns of 10 ns and a call of known length, the dose is what was asked for."""
    clock = FakeClock()

    def work() -> None:
        clock.now += call_ns

    def counted(_: None, turns: int) -> list[None]:
        clock.now += 10 * turns
        return []

    monkeypatch.setattr(injection, "repeat", counted)
    how = Visit(max(1, 250_000 // call_ns), 5, 4, call_ns)
    for share in (0.01, 0.05, 0.1):
        dose = injection.calibrate(WallTime(clock), work, repeat(()), how, share, 1_000_000)
        own = call_ns + 10 * injection.FEW
        assert dose.share == pytest.approx(share, abs=10 / own)
        spent = []
        for turns in (0, dose.turns):
            start = clock.now
            injection.slowed(work, turns)()
            spent.append(clock.now - start)
        assert spent[1] / spent[0] == pytest.approx(1 + share, abs=10 / own)


def test_a_busy_moment_of_the_calibration_makes_no_huge_slowdown(monkeypatch) -> None:
    """The reference's first visits are slowed tenfold, so that the loop seems to cost nothing."""
    clock = FakeClock()
    began = clock.now

    def work() -> None:
        clock.now += 100_000 if clock.now - began < 20_000_000 and not looping else 10_000

    looping: list[int] = []

    def counted(_: None, turns: int) -> list[None]:
        looping[:] = [turns] if turns > injection.FEW else []
        clock.now += 10 * turns
        return []

    monkeypatch.setattr(injection, "repeat", counted)
    how = Visit(10, 5, 4, 10_000)
    dose = injection.calibrate(WallTime(clock), work, repeat(()), how, 0.05, 1_000_000)
    own = 10_000 + 10 * injection.FEW
    assert 10 * dose.turns / own == pytest.approx(0.05, rel=0.1)


def test_a_slowed_call_gives_the_call_s_result() -> None:
    assert injection.slowed(lambda a, b: a - b, 100)(5, 3) == 2


# ── the neighbour ─────────────────────────────────────────────────────────────────────────────


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_neighbours_start_and_end_whatever_happens() -> None:
    core = places("same")[0]
    assert core is not None
    seen: list[int] = []

    def fail() -> None:
        with neighbours([core]) as pids:
            seen.extend(pids)
            assert psutil.Process(pids[0]).cpu_affinity() == [core]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _gone(seen[0])


def test_a_neighbour_ends_with_its_driver() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gradbench.studies.neighbour", "1"], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0


def test_pinning_that_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradbench.studies.neighbour.usable_cores", lambda: [0])
    with pytest.raises(NoPinning, match="two cores"):
        places("other")
    with pytest.raises(NoPinning):
        pin(0x7FFFFFF, 0)
    assert places("none") == (None, [])


# ── the store and the command ─────────────────────────────────────────────────────────────────


def test_an_interrupted_study_resumes_where_it_was(tmp_path: Path) -> None:
    settings = {"neighbour": "none", "seed": 0}
    log, kept = begin(tmp_path, "aa", settings, {}, {}, [])
    steps = [engine.Step("process", CASE, 0, i, 0.1) for i in range(4)]

    def stop(step: engine.Step) -> Trial:
        if step.group == 2:
            raise KeyboardInterrupt
        return Trial(step.key, step.way, step.case, 0, step.group)

    with log, pytest.raises(KeyboardInterrupt):
        engine.loop(log, kept, steps, lambda _: None, stop)
    with kept.path.open("a") as file:
        file.write('{"kind": "tri')
    again = find(tmp_path, "latest", "aa")
    assert [t.group for t in again.trials] == [0, 1]
    assert not again.finished
    assert again.problems
    made: list[int] = []

    def go_on(step: engine.Step) -> Trial:
        made.append(step.group)
        return Trial(step.key, step.way, step.case, 0, step.group)

    with KIND.reopen(again) as more:
        engine.loop(more, again, steps, lambda _: None, go_on)
    whole = read(kept.path)
    assert made == [2, 3]
    assert whole.finished
    assert not whole.problems
    assert [t.group for t in whole.trials] == [0, 1, 2, 3]


def test_the_time_left_knows_that_one_tool_takes_longer(tmp_path: Path) -> None:
    """pyperf comes first here, and takes a hundred times as long as the others."""
    settings: dict[str, Any] = {"trials": 2, "pyperf_trials": 1, "neighbour": "none", "seed": 0}
    settings["cases"] = [str(CASE)]
    steps = sorted(peers.plan(settings, [CASE]), key=lambda step: step.way != "pyperf")
    assert [step.way for step in steps].index("pyperf") == 0
    log, study = begin(tmp_path, "peers", settings, {}, {}, [])
    seen: list[Progress] = []
    clock = iter(accumulate([0.0, *(peers.expected({}, [step]) for step in steps)]))

    def carry_out(log: LineLog, study: Study, steps: Any, report: Report, worker: object) -> Study:
        for number in range(len(steps) + 1):
            report(Progress(number, len(steps), "", next(clock), 0, unit="trials"))
        return study

    module = SimpleNamespace(plan=lambda *_: steps, expected=peers.expected, carry_out=carry_out)
    with log:
        Opened(cast("Any", module), log, study, WorkerOptions()).carry_out(seen.append)
    rest = peers.expected({}, steps[1:])
    assert progress.left(seen[0]) == ""
    assert progress.left(seen[1]) == f", about {duration(rest)} left"
    assert progress.left(seen[-1]) == ""


def test_a_small_study_from_end_to_end(tmp_path: Path) -> None:
    started = time.time()
    arguments = ["study", "aa", "--trials", "4", "--comparisons", "0", "--budget", "0.05"]
    arguments += ["-c", "vjp/three_x_squared/backward", "-c", "gradient/mlp_mse/grad"]
    arguments += ["--results", str(tmp_path), "--format", "json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert rows[0]["trials"] == 4
    assert rows[0]["case"] == "all 2"
    assert 0 < rows[0]["seconds_measuring"] < time.time() - started
    docs = tmp_path / "docs"
    CliRunner().invoke(
        cli,
        ["study", "report", "--results", str(tmp_path), "--docs", str(docs)],
        catch_exceptions=False,
    )
    page = (docs / "evidence.md").read_text()
    assert "false positives" in page
    assert (docs / "figures" / "aa.png").stat().st_size > 1000
    assert (docs / "figures" / "aa.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aa", "-c", "vjp/nothing/backward"], "no function matches"),
        (["aa", "-c", "vjp"], "is not operator/function/mode"),
        (["aa", "--resume", "none-such"], "no aa study named 'none-such'"),
        (["report"], "no studies with measurements"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradbench", "study", *arguments, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_report_takes_the_newest_of_each_condition() -> None:
    first, second = study("aa", [trial("process", 0.0)]), study("aa", [trial("process", 0.0)])
    other = study("aa", [trial("process", 0.0)], neighbour="same")
    assert evidence.newest([first, second, other]) == [second, other]


def test_an_interrupted_study_is_shown_where_none_is_finished() -> None:
    whole, begun = (study("aa", [trial("process", 0.0)]) for _ in range(2))
    begun.ends.clear()
    assert evidence.newest([whole, begun]) == [whole]
    assert evidence.newest([begun]) == [begun]
    assert evidence.ended(begun) == "interrupted after 1 measurement"
