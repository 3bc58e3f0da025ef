"""Whole runs with real worker processes: crashes, hangs, kills, resuming, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradbench.analysis import conditions
from gradbench.analysis.runs import judge_run
from gradbench.core.cases import Comparison, Entry
from gradbench.runner.plan import resume, start
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES, Settings
from gradbench.runner.verify import verify
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.statistics import Stopping
from gradbench.store import runs as log
from gradbench.store.lines import sealed
from gradbench.store.runs import DeviceState

FAULTS = str(Path(__file__).parent / "suites" / "faults.py")
OPTIONS = WorkerOptions(files=(FAULTS,))
SHORT = Settings(
    sessions=2,
    warm=0.001,
    timeout=60,
    stopping=Stopping(min_rounds=2, max_rounds=2, every=2, budget=1),
)
SQUARE = Comparison("derivative", "square", "documents", "float32")
EXP = Comparison("vjp", "exp", "documents", "float32")


@pytest.fixture(scope="module")
def discovery() -> Discovery:
    return discover(OPTIONS)


class Told:
    """Stands for the driver of a device."""

    def state(self, when, uuid):
        return DeviceState(when, sm_clock=1980, slowed=["power cap"])

    def driver(self):
        return "570.1"


def run_of(tmp_path, discovery, *entries, settings=SHORT, options=OPTIONS):
    opened, run = start(tmp_path, entries, settings, discovery, [FAULTS])
    with opened:
        return measure(opened, run, settings, options, discovery)


def test_a_run_keeps_what_devices_can_do_and_how_they_fared(tmp_path, discovery, monkeypatch):
    monkeypatch.setattr("gradbench.runner.run.Nvml", Told)
    run_of(tmp_path, discovery, Entry(EXP, ("backward", "grad")))
    run = log.read(log.paths(tmp_path)[0])
    (limits,) = run.limits
    assert (limits.device, limits.threads) == ("cpu", 1)
    assert limits.bandwidth > 0
    assert limits.rates["float32"] > 0
    assert limits.process not in {session.process for session in run.sessions}
    for session in run.sessions:
        assert [state.when for state in session.states] == ["warm", "timed"]
        assert session.argument_bytes > 0
    (said,) = conditions.cautions(run)
    assert "throttled in 2 of 2 sessions" in said


def test_a_run_is_stored_whole_and_judged(tmp_path, discovery):
    run_of(tmp_path, discovery, Entry(EXP, ("forward", "manual", "backward", "grad")))
    run = log.read(log.paths(tmp_path)[0])
    assert run.finished
    assert [s.session for s in run.sessions] == [0, 1]
    # A session is a process of its own, with all that its times depend on.
    assert len({s.process for s in run.sessions}) == 2
    for fact in ("torch", "cpu_capability", "numpy", "python"):
        assert run.environment(run.sessions[0].process)[fact]
    for session in run.sessions:
        control = [e for e in session.entrants if e.control]
        assert [e.mode for e in control] == ["backward"] == [session.baseline]
        assert all(sorted(order) == [0, 1, 2, 3, 4] for order in session.order)
        assert all(len(e.samples) == 2 for e in session.entrants)
    judged = judge_run(run)
    rows = {row.mode: row for row in judged.rows}
    assert rows["forward"].verdict == ""
    assert {rows["backward"].verdict, rows["grad"].verdict} >= {"fastest"}
    assert rows["manual"].verdict != "fastest"
    assert rows["manual"].seconds > 0
    assert rows["grad"].to_forward.low <= rows["grad"].to_forward.value


def test_a_crash_and_a_hang_cost_only_themselves(tmp_path, discovery):
    comparison = Comparison("vjp", "wide_map", "documents", "float64")
    modes = ("forward", "dies", "hangs", "prints", "dies_later", "backward")
    settings = Settings(sessions=1, warm=0.001, timeout=15, stopping=Stopping(2, 8, 2, budget=0.2))
    run = run_of(tmp_path, discovery, Entry(comparison, modes), settings=settings)
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["dies"].status == "crashed"
    assert "SIGSEGV" in rows["dies"].reason
    assert rows["dies_later"].status == "crashed"
    assert "exit code 3" in rows["dies_later"].reason
    assert rows["hangs"].status == "timed out"
    # What prints on standard output does not break the wire.
    assert rows["prints"].status == rows["backward"].status == "ok"
    assert rows["backward"].seconds


def test_want_of_memory_and_a_broken_device_are_named_and_the_rest_goes_on(tmp_path, discovery):
    comparison = Comparison("vjp", "wide_map", "documents", "float64")
    modes = ("forward", "asks_for_much", "breaks_device", "backward")
    settings = Settings(sessions=1, warm=0.001, stopping=Stopping(2, 8, 2, budget=0.2))
    run = run_of(tmp_path, discovery, Entry(comparison, modes), settings=settings)
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["asks_for_much"].status == "out of memory"
    said = "asked for 1.05e+06 GiB on the processor, more than was left of the limit of "
    assert said in rows["asks_for_much"].reason
    assert rows["breaks_device"].status == "crashed"
    assert "exit code 70" in rows["breaks_device"].reason
    assert "illegal memory access" in rows["breaks_device"].reason
    assert rows["backward"].status == "ok"
    assert rows["backward"].seconds


def test_a_limited_run_ends_in_time_with_as_many_sessions_as_fit(tmp_path, discovery):
    comparison = Comparison("vjp", "wide_map", "documents", "float64")
    stopping = Stopping(2, 8, 2, budget=60.0)
    settings = Settings(sessions=50, warm=0.001, stopping=stopping, total=8.0)
    run = run_of(tmp_path, discovery, Entry(comparison, ("forward", "backward")), settings=settings)
    assert run.finished
    # A very busy machine may need most of the time to start.
    assert 1 <= len(run.sessions) < 50


def test_a_mode_whose_call_takes_too_long_is_refused(tmp_path, discovery):
    comparison = Comparison("vjp", "wide_map", "documents", "float64")
    settings = Settings(
        sessions=1, warm=0.001, stopping=Stopping(2, 8, 2, budget=0.2), patience=1e-9
    )
    run = run_of(tmp_path, discovery, Entry(comparison, ("forward", "prints")), settings=settings)
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["prints"].status == "refused"
    assert "too long for this budget" in rows["prints"].reason


def test_a_mode_found_wrong_after_timing_is_never_judged(tmp_path, discovery):
    comparison = Comparison("gradient", "square_chain", "documents", "float64")
    entry = Entry(comparison, ("late_liar", "backward"))
    run = run_of(tmp_path, discovery, entry)
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["late_liar"].status == "wrong"
    assert rows["late_liar"].verdict == ""
    assert rows["backward"].verdict == "fastest"
    # Once wrong, it is not timed again.
    assert sum(e.mode == "late_liar" for s in run.sessions for e in s.entrants) == 2
    assert not next(e for e in run.sessions[1].entrants if e.mode == "late_liar").samples


def test_resuming_makes_only_what_is_missing(tmp_path, discovery):
    entries = [Entry(SQUARE, ("manual", "backward")), Entry(EXP, ("manual", "backward"))]
    run_of(tmp_path, discovery, *entries)
    path = log.paths(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    sessions = [i for i, line in enumerate(lines) if b'"kind":"session"' in line]
    # As after a kill in the third session: its line is half written, no more follows.
    path.write_bytes(b"".join(lines[: sessions[2]]) + lines[sessions[2]][:50])
    before = log.read(path).sessions
    opened, run, settings = resume(log.read(path))
    assert settings == SHORT
    with opened:
        measure(opened, run, settings, OPTIONS, discovery)
    again = log.read(path)
    assert again.finished
    assert not again.problems
    assert again.sessions[:2] == before
    assert len(again.sessions) == 4
    with pytest.raises(log.StoreError, match="nothing to resume"):
        resume(again)


def test_another_build_cannot_go_on_with_a_run(tmp_path, discovery):
    run_of(tmp_path, discovery, Entry(SQUARE, ("manual",)))
    path = log.paths(tmp_path)[0]
    first, worker = path.read_bytes().splitlines()[:2]
    # With a checksum that fits, or the line would be no line.
    body = worker.replace(b'"torch":"', b'"torch":"0.').rpartition(b',"crc32"')[0]
    path.write_bytes(first + b"\n" + sealed(body + b"}") + b"\n")
    opened, run, settings = resume(log.read(path))
    with opened, pytest.raises(log.StoreError, match=r"begun with torch 0\."):
        measure(opened, run, settings, OPTIONS, discovery)


def test_a_run_of_an_unknown_build_does_not_go_on(tmp_path, discovery):
    """The line that tells the build is damaged: unlike builds could be mixed without a word."""
    run_of(tmp_path, discovery, Entry(SQUARE, ("manual",)))
    path = log.paths(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)[:3]
    lines[1] = lines[1].replace(b'"torch":"', b'"torch":"0.')
    path.write_bytes(b"".join(lines))
    with pytest.raises(log.StoreError, match="build of torch is unknown"):
        resume(log.read(path))


def test_a_worker_that_cannot_start_is_one_clear_line(tmp_path):
    with pytest.raises(WorkerError, match="cannot start"):
        discover(WorkerOptions(python=str(tmp_path / "nothing")))
    broken = tmp_path / "broken.py"
    broken.write_text("import nonexistent_module\n")
    with pytest.raises(WorkerError, match="nonexistent_module"):
        discover(WorkerOptions(files=(str(broken),)))


def test_verify_counts_and_goes_on_after_a_crash(discovery):
    vjp = Comparison("vjp", "wide_map", "documents", "float64")
    gradient = Comparison("gradient", "square_chain", "documents", "float64")
    entries = [
        Entry(vjp, ("dies", "backward")),
        Entry(gradient, ("wrong_transpose", "raises", "backward", "manual_materialised")),
    ]
    result = verify(entries, Settings(timeout=60), OPTIONS, discovery)
    assert result.counts() == {
        "crashed": 1,
        "failed": 1,
        "ok": 2,
        "unsupported": 1,
        "wrong": 1,
    }
    assert not result.passed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_catalogue_is_right_at_the_documents_inputs(discovery, dtype):
    """Every function, operator and mode that needs no compiling."""
    from gradbench.core.cases import Selection, expand

    mine = [o for o in discovery.offers if o.document != "X"]
    entries = expand(mine, Selection(dtypes=(dtype,)))
    known = {(m["operator"], m["mode"]) for m in discovery.modes if "faults" in m["source"]}
    assert not known
    planted = {"wrong_transpose", "unreset_grad", "late_liar", "late_raiser", "remembers"}
    planted |= {"mutates"}
    planted |= {"wrong_dtype", "not_a_number", "raises", "zero_column", "transposed"}
    planted |= {"dies", "dies_later", "hangs", "prints", "huge", "asks_for_much", "breaks_device"}
    entries = [Entry(e.comparison, tuple(m for m in e.modes if m not in planted)) for e in entries]
    result = verify(entries, Settings(), OPTIONS, discovery)
    bad = [
        (str(entry.comparison.case(found.mode)), found.status, found.reason)
        for entry, found in result.records
        if found.status not in ("ok", "unsupported")
    ]
    assert not bad
    assert result.counts()["ok"] > 1000


def command(tmp_path, *more):
    return [
        *(sys.executable, "-m", "gradbench", "run", "-f", "exp", "-f", "square"),
        *("-m", "manual", "-m", "backward", "-m", "grad", "-m", "jacrev"),
        *("--results", str(tmp_path), *more),
    ]


def sessions_stored(tmp_path):
    return [
        sum(b'"kind":"session"' in line for line in path.read_bytes().splitlines())
        for path in log.paths(tmp_path)
    ]


def wait_for_sessions(process, tmp_path, count):
    deadline = time.monotonic() + 60
    while sum(sessions_stored(tmp_path)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_keeps_what_it_stored_and_resumes(tmp_path, how):
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True)
    wait_for_sessions(process, tmp_path, 3)
    worker = json.loads(log.paths(tmp_path)[0].read_bytes().splitlines()[1])["environment"]["pid"]
    os.kill(process.pid, how)
    _, said = process.communicate(timeout=30)
    stored = sessions_stored(tmp_path)[0]
    assert stored >= 3
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in said
    # The worker does not outlive its driver.
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}/status").exists() and time.monotonic() < deadline:
        if "zombie" in Path(f"/proc/{worker}/status").read_text():
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{worker}").exists()
    again = subprocess.run(
        [sys.executable, "-m", "gradbench", "run", "--resume", "latest", "--results", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    run = log.read(log.paths(tmp_path)[0])
    assert run.finished
    keys = [(s.comparison, s.session) for s in run.sessions]
    assert len(keys) == len(set(keys)) == len(run.started.plan) * 5


def test_a_killed_worker_costs_one_comparison_at_most(tmp_path):
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL)
    wait_for_sessions(process, tmp_path, 2)
    worker = json.loads(log.paths(tmp_path)[0].read_bytes().splitlines()[1])["environment"]["pid"]
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    run = log.read(log.paths(tmp_path)[0])
    assert run.finished
    assert len(run.done()) == len(run.started.plan) * 5
    lost = [e for s in run.sessions for e in s.entrants if e.status not in ("ok", "unsupported")]
    assert len({e.mode for e in lost}) <= 1


def test_two_runs_at_once_lose_nothing(tmp_path):
    both = [
        subprocess.Popen(command(tmp_path, "--sessions", "1"), stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    runs, problems = log.read_all(tmp_path)
    assert len(runs) == 2
    assert not problems
    assert all(len(run.sessions) == len(run.started.plan) for run in runs)


def test_profiles_grow():
    quick, standard, full = (PROFILES[name].settings for name in ("quick", "standard", "full"))
    assert quick.stopping.budget < standard.stopping.budget <= full.stopping.budget
    assert quick.sessions >= 5
    assert full.sessions > standard.sessions
