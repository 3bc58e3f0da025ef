"""The instruments other than the clock: that they read what arithmetic says, and say why not."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gradbench.analysis import frames as frame
from gradbench.analysis.runs import judge_run
from gradbench.analysis.table import record
from gradbench.core.cases import Comparison, Entry, SelectionError
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.modes.transforms import chunk
from gradbench.problems import registry
from gradbench.problems.arguments import pose
from gradbench.runner import callgrind
from gradbench.runner.choosing import require_devices_of, usual
from gradbench.runner.readings import missing
from gradbench.runner.settings import Settings
from gradbench.store import runs as log
from gradbench.worker.contestant import Contestant
from gradbench.worker.gate import Gate
from gradbench.worker.instruments import profiles
from gradbench.worker.instruments.callgrind import Callgrind
from gradbench.worker.instruments.device_time import MOST, DeviceTime
from gradbench.worker.instruments.dispatches import Dispatches, count
from gradbench.worker.instruments.flops import Flops
from gradbench.worker.instruments.instructions import Instructions
from gradbench.worker.instruments.instrument import Unreadable
from gradbench.worker.instruments.peak_memory import PeakMemory

registry.load_builtin()

COUNTED = Path(__file__).parent / "suites" / "counted.py"
NO_COUNTS = Instructions().unavailable()
FLOAT32 = 4

needs_callgrind = pytest.mark.skipif(bool(NO_COUNTS), reason=NO_COUNTS or "")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def gradbench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gradbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def contestant(mode, function="exp", n=256, operator="jacobian", device="cpu") -> Contestant:
    problem, timed = pose(registry.FUNCTIONS[function], operator, {"n": n}, "float32", device, 1)
    declared = registry.MODES[operator, mode]
    return Gate(problem, timed, []).enter(mode, declared.build(problem), declared.leaves)


def of(call, *arguments, device="cpu"):
    """Any callable as a contestant."""
    problem = SimpleNamespace(device=torch.device(device), operator="none")
    gate = SimpleNamespace(problem=problem)
    turns = itertools.repeat(arguments)
    return SimpleNamespace(gate=gate, mode="none", call=call, arguments=arguments, turns=turns)


def peak(contestant):
    (found,) = PeakMemory().read(contestant, 0)
    return found


# ── peak memory ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [4, 256, 1000])
def test_peak_of_a_dense_jacobian_is_its_entries_and_the_diagonal_it_is_made_of(n):
    assert peak(contestant("manual", n=n)) == (n * n + n) * FLOAT32


@pytest.mark.parametrize("mode", ["jacrev", "grads_batched", "functional_jacobian_vectorized"])
def test_peak_of_vectorised_rows_is_seeds_and_rows_and_the_value(mode):
    n = 256
    assert peak(contestant(mode, n=n)) == (2 * n * n + n) * FLOAT32


def test_peak_of_a_loop_over_rows_counts_what_is_allocated_inside_the_backward_pass():
    n = 256
    # The rows and their stack are alive together, as is the value; each .grad is made in C++.
    assert peak(contestant("loop_grad", n=n)) == (2 * n * n + n) * FLOAT32


def test_chunks_need_less_where_each_row_costs_more_than_itself():
    n = 256
    whole = contestant("jacrev", "three_x_squared", n)
    chunked = contestant("jacrev_chunked", "three_x_squared", n)
    rows = chunk(chunked.gate.problem)
    # Seeds, 3 v and 6 x v: three matrices at once. Beside them 3 x, x², the value, the number 3.
    assert peak(whole) == pytest.approx((3 * n * n + 3 * n) * FLOAT32, abs=16)
    # All chunks' rows and the matrix they are joined to, a chunk's seeds and x² or 3 x.
    assert peak(chunked) == pytest.approx((2 * n * n + rows * n + n) * FLOAT32, abs=16)
    assert peak(chunked) < 0.75 * peak(whole)


def test_what_the_backward_pass_frees_is_no_longer_counted():
    x = torch.ones(1000, requires_grad=True)

    def chain():
        y = x
        for _ in range(50):
            y = y.exp()
        return torch.autograd.grad(y.sum(), x)

    def four_times():
        for _ in range(4):
            chain()

    assert peak(of(chain)) > 50 * 1000 * FLOAT32
    assert peak(of(four_times)) == peak(of(chain))


def test_peak_repeats_exactly_and_leaves_inputs_out():
    read = {peak(contestant(mode, n=64)) for _ in range(4) for mode in ("loop_backward",)}
    assert len(read) == 1
    big = torch.ones(100_000)
    assert peak(of(lambda x: x.sum(), big)) <= 64
    assert peak(of(lambda x: x, big)) == 0


def test_memory_that_is_freed_before_more_is_allocated_is_not_added_up():
    def in_turn():
        torch.ones(1000)
        torch.ones(3000)
        torch.ones(2000)

    assert peak(of(in_turn)) == 3000 * FLOAT32


class Allocator:
    """A device whose tensors are alive until they are dropped, some of which were before."""

    def __init__(self, held):
        self.now = self.highest = held
        self.waiting = []
        self.asked = []

    def chosen(self, place):
        return contextlib.nullcontext()

    def take(self, size):
        self.now += size
        self.highest = max(self.highest, self.now)

    def synchronize(self):
        self.asked.append("synchronize")
        while self.waiting:
            self.take(self.waiting.pop(0))

    def allocated(self):
        return self.now

    def reset_peak(self):
        self.asked.append("reset")
        self.highest = self.now

    def peak(self):
        self.asked.append("peak")
        return self.highest


def test_peak_on_a_device_is_above_what_was_there_and_of_one_call_alone():
    device = Allocator(held=10_000)

    def call():
        device.take(3000)
        device.take(-2500)
        device.take(700)
        # Freed again by the time the next call begins.
        device.take(-1200)

    device.highest = 1_000_000
    assert PeakMemory(device).read(of(call, device="cuda"), 0) == [3000]
    assert device.asked == ["synchronize", "reset", "synchronize", "peak"]


def test_peak_on_a_device_counts_what_was_queued_and_the_result():
    device = Allocator(held=0)

    def call():
        device.waiting += [512, 1024, -512]
        return "the result's 1024 stay"

    assert PeakMemory(device).read(of(call, device="cuda"), 0) == [1536]


def test_the_memory_of_a_graph_is_not_that_of_its_replay():
    graphed = of(lambda: None, device="cuda")
    graphed.gate.problem.operator, graphed.mode = "vjp", "graphed_grad"
    with pytest.raises(Unreadable, match="keeps its memory after it is recorded"):
        PeakMemory(Allocator(0)).read(graphed, 0)


# ── dispatches ────────────────────────────────────────────────────────────────────────────────


def test_dispatches_are_counted_one_by_one_forward_and_backward():
    x = torch.ones(3)
    assert count(lambda: x.exp(), ()) == 1
    assert count(lambda: (x.exp() * 2).sum(), ()) == 3
    leaf = torch.ones(3, requires_grad=True)
    forward = count(lambda: leaf.exp().sum(), ())
    both = count(lambda: torch.autograd.grad(leaf.exp().sum(), leaf), ())
    # Inside the C++ backward pass: at least a seed, its expansion and a product.
    assert both >= forward + 3


def test_dispatches_grow_by_the_same_number_with_every_row():
    n = [Dispatches().read(contestant("loop_grad", n=n), 0)[0] for n in (8, 16, 24)]
    assert n[1] - n[0] == n[2] - n[1] > 0
    assert Dispatches().read(contestant("jacrev", n=8), 0) == Dispatches().read(
        contestant("jacrev", n=24), 0
    )


def test_operations_of_products_are_counted_forward_and_backward():
    a, b = torch.ones(3, 4, requires_grad=True), torch.ones(4, 5)
    assert Flops().read(of(lambda: a @ b), 0) == [2 * 3 * 4 * 5]
    assert Flops().read(of(lambda: (a @ b).sum().backward()), 0) == [2 * (2 * 3 * 4 * 5)]
    assert Flops().read(of(lambda: a @ torch.ones(4)), 0) == [2 * 3 * 4]
    assert Flops().read(of(lambda: torch.ones(4).dot(torch.ones(4))), 0) == [2 * 4]
    assert Flops().read(of(lambda: torch.ones(9).exp()), 0) == [0]


def test_compiled_code_is_not_counted():
    compiled = of(lambda: None)
    compiled.gate.problem.operator, compiled.mode = "jacobian", "compiled_manual"
    for instrument in (Dispatches(), Flops()):
        with pytest.raises(Unreadable) as refused:
            instrument.read(compiled, 0)
        assert refused.value.status == "unsupported"
    assert "compiling" in callgrind.refusal(1000, True)
    assert callgrind.refusal(1000, False) is None


# ── device time ───────────────────────────────────────────────────────────────────────────────


class FakeDevice:
    """A host that takes `launch` seconds to queue a kernel, and a device that runs them in order.

    `now` is the host's clock and `free` the moment from which the device has nothing to do.
    """

    def __init__(self, launch, kernel):
        self.launch, self.kernel = launch, kernel
        self.now = self.free = 0.0
        self.held = []

    def chosen(self, device):
        return contextlib.nullcontext()

    def call(self):
        self.now += self.launch
        self.free = max(self.free, self.now) + self.kernel

    def waiting_call(self):
        self.call()
        self.synchronize()

    def synchronize(self):
        self.now = max(self.now, self.free)

    def hold(self, seconds):
        self.held.append(seconds)
        self.free = max(self.free, self.now) + seconds

    def event(self):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = max(self.device.free, self.device.now)

    def synchronize(self):
        self.device.now = max(self.device.now, self.at)

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


def device_seconds(device, call, nanoseconds):
    return DeviceTime(device).read(of(call, device="cuda"), nanoseconds)


@pytest.mark.parametrize(
    ("launch", "kernel"),
    [(20e-6, 3e-6), (20e-6, 500e-6), (5e-6, 5e-6)],
    ids=["the host is slower", "the device is slower", "both alike"],
)
def test_device_time_is_the_kernels_whatever_the_host_takes_to_launch(launch, kernel):
    device = FakeDevice(launch, kernel)
    read = device_seconds(device, device.call, int(max(launch, kernel) * 1e9))
    assert read == pytest.approx([kernel] * len(read))
    assert len(read) > 1


def test_device_time_of_a_call_that_waits_is_an_upper_bound():
    device = FakeDevice(20e-6, 3e-6)
    read = device_seconds(device, device.waiting_call, 23_000)
    assert all(3e-6 <= seconds <= 24e-6 for seconds in read)


def test_device_time_does_not_see_what_was_queued_before():
    device = FakeDevice(20e-6, 3e-6)
    device.hold(5.0)
    assert device_seconds(device, device.call, 20_000) == pytest.approx([3e-6] * 5)


def test_device_is_not_held_for_long():
    device = FakeDevice(2.0, 0.1)
    device_seconds(device, device.call, 2_000_000_000)
    assert max(device.held) <= 0.1
    device = FakeDevice(1e-9, 1e-9)
    device_seconds(device, device.call, 1)
    assert max(device.held) <= 1e-6 * MOST


def test_device_time_says_why_there_is_none():
    with pytest.raises(Unreadable, match="no device time"):
        DeviceTime().read(contestant("manual", n=4), 1000)
    if not torch.cuda.is_available():
        assert "no CUDA device" in DeviceTime().unavailable()


@pytest.mark.cuda
@needs_cuda
def test_device_time_of_a_long_kernel_is_seen_though_the_launch_is_short():
    x = torch.ones(4096, 4096, device="cuda")
    read = DeviceTime().read(of(lambda: x @ x, device="cuda"), 1_000_000)
    # 137 Gflop: no device there is does it in 20 µs.
    assert all(20e-6 < seconds < 1 for seconds in read)


@pytest.mark.cuda
@needs_cuda
def test_peak_on_cuda_is_that_of_the_processor_in_blocks():
    n = 256
    exact = (n * n + n) * FLOAT32
    assert exact <= peak(contestant("manual", n=n, device="cuda")) <= exact + 2 * 512


# ── instructions ──────────────────────────────────────────────────────────────────────────────

MODES = ("once", "twice", "loop_grad", "grads_batched")
EXP = Comparison.parse("jacobian/exp/documents/float32/cpu/1")


CHEAP = ("peak_memory", "dispatches")
ARGUMENTS = ("-f", "exp", "-o", "jacobian", "--from", COUNTED)
ARGUMENTS += tuple(word for name in ("instructions", *CHEAP) for word in ("--instrument", name))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The readings of the same cases in two separate invocations, side by side.

    Starting under Valgrind takes a minute of processor time, and each has one process there.
    """
    places = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    modes = [word for mode in MODES for word in ("-m", mode)]
    odd = ["-m", "raises_when_counted", "-m", "slow", "-m", "doubled"]
    commands = [
        [sys.executable, "-m", "gradbench", "run", *ARGUMENTS, *modes, *more, "--results", place]
        for place, more in zip(places, ([], odd))
    ]
    running = [
        subprocess.Popen(list(map(str, c)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for c in commands
    ]
    for process in running:
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said.decode()
    return places


def readings_of(place):
    run = log.read(log.paths(place)[0])
    assert run.finished
    return {reading.instrument: reading for reading in run.readings}


@needs_callgrind
def test_two_invocations_count_the_same_within_one_per_cent(two_runs):
    first, second = (readings_of(place)["instructions"].values for place in two_runs)
    for mode in MODES:
        assert first[mode][0] == pytest.approx(second[mode][0], rel=0.01), mode


@needs_callgrind
def test_a_mode_with_twice_the_work_counts_twice_as_much(two_runs):
    counts = readings_of(two_runs[0])["instructions"].values
    assert counts["twice"][0] / counts["once"][0] == pytest.approx(2, rel=0.03)
    # 20 times diag(exp(x)): thousands of instructions each, and not millions.
    assert 20 * 1000 < counts["once"][0] < 20 * 100_000


@needs_callgrind
def test_what_is_wrong_raises_or_takes_too_long_is_not_counted_and_costs_no_other(two_runs):
    read = readings_of(two_runs[1])
    counts, reasons = read["instructions"].values, read["instructions"].reasons
    assert set(counts) == set(MODES)
    assert reasons["raises_when_counted"] == "failed: ArithmeticError: not [here]"
    assert reasons["slow"].startswith("refused: 2 calls of 12")
    assert reasons["doubled"].startswith("wrong: ")
    for cheap in CHEAP:
        assert set(read[cheap].values) == {*MODES, *reasons} - {"doubled"}
        assert set(read[cheap].reasons) == {"doubled"}


@needs_callgrind
def test_what_dies_when_it_is_counted_costs_no_other(tmp_path):
    """With a stand-in for Valgrind that runs the process as it is, and is ready at once."""
    stand_in = tmp_path / "valgrind"
    stand_in.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    stand_in.chmod(0o755)
    modes = ("-m", "once", "-m", "dies_when_counted", "-m", "twice")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = gradbench("run", *ARGUMENTS, *modes, "--results", tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    read = readings_of(tmp_path)
    reason = read["instructions"].reasons["dies_when_counted"]
    assert re.fullmatch(r"crashed: ended by SIGSEGV \(.*counted.py:\d+\)", reason)
    for mode in ("once", "twice"):
        assert "does not run under Valgrind" in read["instructions"].reasons[mode]
    for cheap in CHEAP:
        assert set(read[cheap].values) == {"once", "twice", "dies_when_counted"}
    shown = gradbench("show", "--all", "--results", tmp_path)
    assert "instructions: crashed: ended by SIGSEGV" in " ".join(shown.stdout.split())


@needs_callgrind
def test_readings_are_shown_and_exported(two_runs):
    shown = gradbench("show", "--all", "--results", two_runs[1], COLUMNS="200")
    assert "peak memory" in shown.stdout
    assert "instructions: failed: ArithmeticError" in " ".join(shown.stdout.split())
    assert "device time" not in shown.stdout
    overview = gradbench("show", "--results", two_runs[0], COLUMNS="200")
    assert "least instructions" in " ".join(overview.stdout.split())
    rows = json.loads(gradbench("show", "--results", two_runs[0], "--format", "json").stdout)
    found = {row["mode"]: row for row in rows}
    assert found["once"]["peak_memory"] == (16 + 16 + 4) * FLOAT32
    assert found["twice"]["dispatches"] == 2 * found["once"]["dispatches"] == 80
    assert found["once"]["device_time"] is None
    assert found["once"]["seconds"] is None
    table = frame.load(two_runs[0]).set_index("mode")
    assert table.loc["once", "instructions"] == found["once"]["instructions"] > 0
    assert table["device_time"].isna().all()


def test_python_functions_are_named_by_their_package():
    counted = profiles.python_calls(lambda: json.dumps({"a": [1]}), ())
    assert any(name.startswith("__init__.py dumps") for name in counted)
    assert not any(name.startswith("/") for name in counted)


def test_the_operations_of_a_call_are_counted_by_name():
    counted = profiles.operations(contestant("grads_batched"))
    assert counted["aten.exp.default"] == 1
    assert sum(counted.values()) == count(*_called(contestant("grads_batched")))


def _called(one):
    return one.call, one.arguments


def test_instructions_are_not_counted_outside_callgrind():
    with pytest.raises(RuntimeError, match="does not run under Valgrind"):
        Callgrind()


def test_without_valgrind_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = Instructions().unavailable()
    assert reason is not None
    assert "\n" not in reason
    done = gradbench(
        *("run", "-f", "exp", "--instrument", "instructions", "--results", tmp_path), PATH=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == (f"gradbench: --instrument instructions: {reason}\n")
    if sys.platform == "linux" and os.uname().machine == "x86_64":
        assert "apt-get install valgrind" in reason


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


def test_times_and_readings_of_one_run_stand_in_one_row_and_resuming_repeats_neither(tmp_path):
    done = gradbench(
        *("run", "-f", "exp", "-f", "square", "-o", "jacobian", "-o", "derivative", "-m", "manual"),
        *("-m", "loop_grad", "-m", "grad", "--sessions", 2, "--instrument", "wall_time"),
        *("--instrument", "peak_memory", "--instrument", "dispatches", "--results", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "Peak memory: read for" in done.stdout
    (path,) = log.paths(tmp_path)
    whole = log.read(path)
    assert len(whole.sessions) == 2 * len(whole.started.plan) == 4
    # What is deterministic is read once.
    assert {r.session for r in whole.readings} == {0}
    assert len(whole.readings) == 2 * len(whole.started.plan)
    (row,) = (r for r in judge_run(whole).rows if (r.comparison, r.mode) == (EXP, "manual"))
    assert row.seconds
    assert row.readings == {"peak_memory": 80.0, "dispatches": 2.0}
    assert [n for n in record(row, judge_run(whole)) if n in INSTRUMENTS] == list(INSTRUMENTS)

    # Cut off just before the last reading, as by a kill.
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"kind":"reading"' in line)
    path.write_bytes(b"".join(lines[:last]))
    done = gradbench("run", "--resume", "latest", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    again = log.read(path)
    assert again.finished
    assert len(again.sessions) == len(whole.sessions)
    assert [r.values for r in again.readings] == [r.values for r in whole.readings]
    assert [(r.comparison, r.instrument) for r in again.readings] == [
        (r.comparison, r.instrument) for r in whole.readings
    ]


def test_scattering_instruments_are_read_in_every_session_and_others_once():
    there, here = EXP.on("cuda:0"), Entry(EXP, ("manual",))
    entry = Entry(there, ("manual",))
    wanted = Settings(sessions=3, instruments=(WALL_TIME, "dispatches", "device_time"))
    assert [t.instruments for t in missing([here], wanted, [])] == [("dispatches",)]
    tasks = missing([entry], wanted, [])
    assert [(t.session, t.instruments) for t in tasks] == [
        (0, ("dispatches", "device_time")),
        (1, ("device_time",)),
        (2, ("device_time",)),
    ]
    read = [
        log.Reading(there, 0, 1, "dispatches", "operations", {"manual": [2.0]}),
        log.Reading(there, 1, 2, "device_time", "seconds", {"manual": [1e-6, 3e-6, 2e-6]}),
    ]
    assert [t.session for t in missing([entry], wanted, read)] == [0, 2]
    assert missing([entry], Settings(), []) == []


def test_rows_of_what_was_read_and_not_timed_have_medians_statuses_and_reasons(tmp_path):
    started = log.RunStarted(
        schema=log.SCHEMA,
        run="x",
        started=log.now(),
        settings={},
        machine={},
        plan=[
            Entry(
                EXP,
                (
                    "manual",
                    "jacrev",
                    "slow",
                ),
            )
        ],
    )
    run = log.Run(tmp_path / "x.jsonl", started)
    for session, values in enumerate(([1.0, 9.0, 2.0], [4.0], [3.0])):
        run.readings.append(
            log.Reading(
                EXP,
                session,
                session + 1,
                "device_time",
                "seconds",
                {"manual": values},
                {"jacrev": "wrong: by x[0]", "slow": "refused: too slow"},
            )
        )
    rows = {row.mode: row for row in judge_run(run).rows}
    assert rows["manual"].readings == {"device_time": 3.0}
    assert (rows["manual"].status, rows["manual"].seconds) == ("ok", None)
    assert (rows["jacrev"].status, rows["jacrev"].reason) == ("wrong", "by x[0]")
    assert (rows["slow"].status, rows["slow"].reason) == ("refused", "too slow")
    assert rows["slow"].unread == {"device_time": "refused: too slow"}


def test_on_cuda_devices_the_time_on_them_is_read_without_being_asked_for():
    assert usual(("cpu", "cpu+cold")) == (WALL_TIME,)
    assert usual(("cpu", "cuda:1+cold")) == (WALL_TIME, "device_time")
    with pytest.raises(SelectionError, match="needs a CUDA device"):
        require_devices_of(("device_time",), [Entry(EXP, ("manual",))])
