"""Modes that change the state of their process: others do not notice, and they are named."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradbench import state
from gradbench.analysis import conditions
from gradbench.analysis.runs import judge_run
from gradbench.core.cases import Comparison, Entry
from gradbench.problems import registry
from gradbench.runner.plan import start
from gradbench.runner.run import measure
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import discover
from gradbench.statistics import Stopping
from gradbench.worker.session import Refused, Session

SUITE = Path(__file__).parent / "suites" / "meddling.py"
NAME = str(Comparison("gradient", "mse", "documents", "float32"))


@pytest.fixture(scope="module")
def suite():
    if not registry.FUNCTIONS:
        registry.load_builtin()
    functions, modes = dict(registry.FUNCTIONS), dict(registry.MODES)
    registry.load_file(str(SUITE))
    yield sys.modules["gradbench_from_meddling"]
    for kept, now in ((functions, registry.FUNCTIONS), (modes, registry.MODES)):
        now.clear()
        now.update(kept)


class InPytest(Session):
    """pytest changes the process between two tests: warnings filters, the environment."""

    def _refresh_snapshot(self):
        self.gate.snapshot = state.snapshot()
        return self.gate.snapshot


@pytest.fixture(scope="module")
def session(suite):
    session = InPytest(memory_limit=1 << 30)
    session.open(NAME, 0, [1, 2])
    return session


def names(kind):
    """The changes of a kind, read without running the suite."""
    text = SUITE.read_text().partition(f"{kind} = {{")[2].partition("\n}")[0]
    return [line.split('"')[1] for line in text.splitlines() if line.startswith('    "')]


@pytest.mark.parametrize("name", names("MEASURED") + names("OTHER"))
def test_what_a_build_changes_is_put_back_and_noted(session, name):
    before = state.snapshot()
    answer = session.prepare(f"build_{name}", 0, 1_000_000, [0])
    assert not state.restore(before)
    assert answer["status"] == "ok"
    assert "its build changes" in answer["note"]
    other = session.prepare("grad", 1, 1_000_000, [0])
    assert other["status"] == "ok"
    assert "note" not in other


@pytest.mark.parametrize("name", names("MEASURED"))
def test_a_call_that_leaves_what_times_depend_on_fails(session, name):
    before = state.snapshot()
    answer = session.prepare(f"call_{name}", 0, 1_000_000, [0])
    assert not state.restore(before)
    assert answer["status"] == "failed"
    assert answer["reason"].startswith("changes ")
    assert answer["reason"].endswith("and does not put it back")
    assert session.prepare("grad", 1, 1_000_000, [0])["status"] == "ok"


@pytest.mark.parametrize("name", names("OTHER"))
def test_a_call_that_leaves_anything_else_is_noted(session, name):
    before = state.snapshot()
    answer = session.prepare(f"call_{name}", 0, 1_000_000, [0])
    assert not state.restore(before)
    assert answer["status"] == "ok"
    assert "its calls change" in answer["note"]
    assert "note" not in session.prepare("grad", 1, 1_000_000, [0])


@pytest.mark.parametrize("name", names("MEASURED") + names("OTHER"))
def test_what_is_changed_while_timed_is_put_back_before_the_next_visit(session, name):
    before = state.snapshot()
    seen = []

    def looking(inputs):
        if not seen:
            seen.append(state.restore(before[: len(state.QUICK)]))
        return torch.autograd.grad(session.gate.problem.forward(*inputs), inputs[:1])

    assert session.prepare("grad", 1, 1_000_000, [0])["status"] == "ok"
    session.contestants[1][0].call = looking
    # Not warmed, so that the change is made while it is visited.
    assert session.prepare(f"late_{name}", 0, 1, [0])["status"] == "ok"
    # The change comes amidst a visit, however many calls were planned for one.
    contestant, how = session.contestants[0]
    session.contestants[0] = contestant, dataclasses.replace(how, untimed=20)
    if name in ("no_grad", "inference_mode", "grad_level"):
        with pytest.raises(Refused, match=r"changes .*, and then raises RuntimeError"):
            session.visit([0, 0, 0])
    else:
        session.visit([0, 0, 0])
    session.visit([1])
    assert not seen[0].harmful or name in THOROUGH
    assert not state.restore(before)
    late = session.check(0, [1])
    if name in names("MEASURED"):
        assert late["status"] == "failed"
        assert late["reason"].startswith("after timing: changes ")
    else:
        assert late["status"] == "ok"
        assert "its calls change" in late["note"]


THOROUGH = {"child", "patched_json", "patched_gate", "shadowed_method"}
"""What takes too long to look at around each visit."""


def test_a_call_that_puts_back_what_it_changes_is_as_good_as_any(session):
    answer = session.prepare("tidy", 0, 1_000_000, [0])
    assert answer["status"] == "ok"
    assert "note" not in answer


def test_a_mode_that_relies_on_what_its_build_has_set_is_called_without_it(session):
    answer = session.prepare("relies_on_its_build", 0, 1_000_000, [0])
    assert answer["status"] == "failed"
    assert "the default dtype is not float64" in answer["reason"]
    assert "its build changes the default dtype (torch.float32 → torch.float64)" in answer["note"]


def test_what_is_left_by_a_call_that_raises_is_put_back_too(session):
    answer = session.prepare("raises_and_leaves", 0, 1_000_000, [0])
    assert answer["status"] == "failed"
    assert "no more" in answer["reason"]
    assert "grad mode" in answer["note"]
    assert torch.is_grad_enabled()


def test_several_changes_are_named_and_many_are_counted():
    assert state.summarize(["a"]) == "a"
    assert state.summarize(["a", "b"]) == "a and b"
    assert state.summarize(["a", "b", "c", "d"]) == "a, b, c and d"
    assert state.summarize(list("abcdef")) == "a, b, c and 3 more"


@pytest.mark.parametrize("name", ["busy_thread", "kernel"])
@pytest.mark.parametrize("when", ["build", "call", "late"])
def test_what_cannot_be_put_back_ends_the_process_and_says_why(name, when):
    code = f"""
import json, sys
from gradbench.problems import registry
from gradbench.core.process import STATE_LOST
from gradbench.worker.session import Session
registry.load_builtin()
registry.load_file({str(SUITE)!r})
session = Session(1 << 30)
session.open({NAME!r}, 0, [1, 2])
try:
    print(session.prepare("{when}_{name}", 0, 1_000_000, [0]))
    session.visit([0, 0])
except BaseException as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "StateLost changes" in done.stdout
    assert "which cannot be put back" in done.stdout


def test_a_run_with_such_modes_measures_the_others(tmp_path):
    """Notes in the log and in the rows, a process that had to end, and the others as ever."""
    modes = ["grad", "call_anomaly", "call_folder", "build_threads", "call_kernel"]
    entry = Entry(Comparison.parse(NAME), tuple(modes))
    settings = Settings(
        sessions=1, stopping=Stopping(min_rounds=4, max_rounds=4, every=4), warm=0.001
    )
    options = WorkerOptions(files=(str(SUITE),))
    log, run = start(tmp_path, [entry], settings, discover(options))
    try:
        run = measure(log, run, settings, options, discover(options))
    finally:
        log.close()
    found = {e.mode: e for e in run.sessions[0].entrants if not e.control}
    assert {mode: e.status for mode, e in found.items()} == {
        "grad": "ok",
        "build_threads": "ok",
        "call_folder": "ok",
        "call_anomaly": "failed",
        "call_kernel": "failed",
    }
    assert "cannot be put back" in found["call_kernel"].reason
    assert "changes anomaly detection" in found["call_anomaly"].reason
    assert "its build changes the number of threads (1 → 3)" in found["build_threads"].note
    assert "its calls change the working directory" in found["call_folder"].note
    assert not found["grad"].note
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["call_folder"].note == found["call_folder"].note
    (caution,) = conditions.cautions(run)
    assert caution.startswith("2 modes changed the state of the measuring process")


def test_a_file_that_changes_the_process_while_it_is_loaded_is_named(suite, tmp_path):
    file = tmp_path / "loud.py"
    file.write_text(
        "import os, sys, torch\n"
        "from gradbench.problems import registry\n"
        "torch.set_default_dtype(torch.float64)\n"
        "os.environ['LOUD'] = '1'\n"
        "sys.path.append('/nowhere/else')\n"
        "@registry.mode('gradient', name='loud')\n"
        "def loud(problem):\n"
        "    return None\n"
    )
    try:
        (line,) = registry.load_file(str(file))
        assert "the default dtype (torch.float32 → torch.float64)" in line
        assert "the environment (LOUD)" in line
        assert torch.get_default_dtype() == torch.float32
        assert "/nowhere/else" in sys.path
    finally:
        sys.path.remove("/nowhere/else")
