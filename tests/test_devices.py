"""The harness on devices that work while the host goes on: clocks, caches, copies and memory.

The device is made up: it has a clock of its own, and work that is queued on it is done only when
somebody waits for it.
"""

import contextlib
from itertools import repeat
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradbench.core.cases import Comparison, Place
from gradbench.modes.capability import device_lost, out_of_memory
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.worker import devices
from gradbench.worker.gate import Gate, transferred
from gradbench.worker.instruments.wall import Visit, WallTime
from gradbench.worker.session import Refused, Session

LAUNCH, WORK = 10_000, 5_000_000
"""Nanoseconds of the host and of the device for one call."""


class Queue:
    """A host's clock and a device behind it, both in nanoseconds."""

    def __init__(self):
        self.now = 0
        self.done = 0
        self.calls = 0
        self.flushed = []

    def clock(self):
        return self.now

    def launch(self, work=WORK):
        self.now += LAUNCH
        self.done = max(self.done, self.now) + work

    def call(self):
        self.calls += 1
        self.launch()

    def synchronize(self):
        self.now = max(self.now, self.done)

    def flush(self):
        self.flushed.append(self.calls)
        self.launch(3 * WORK)

    def chosen(self, device):
        return contextlib.nullcontext()

    def hold(self, seconds):
        self.done = max(self.done, self.now) + int(seconds * 1e9)

    def event(self):
        return Event(self)


class Event:
    def __init__(self, queue):
        self.queue = queue

    def record(self):
        self.at = max(self.queue.done, self.queue.now)

    def synchronize(self):
        self.queue.now = max(self.queue.now, self.at)

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e-6


def test_work_that_outlasts_its_launch_is_timed_whole():
    queue = Queue()
    wall = WallTime(queue.clock, queue.synchronize)
    plan = wall.warm(queue.call, repeat(()), 1)
    assert plan.call == pytest.approx(WORK + LAUNCH)
    assert all(
        b == pytest.approx(WORK + LAUNCH) for b in wall.visit(queue.call, repeat(()), plan).wall
    )


def audited(queue, synchronize):
    made = (queue.call, ())
    return devices.audit(queue, torch.device("cuda"), synchronize, queue.clock, *made)


def test_a_missing_synchronisation_is_caught():
    queue = Queue()
    assert audited(queue, queue.synchronize) == ""
    for missing in (None, lambda: None):
        said = audited(queue, missing)
        assert "the clock stopped before the device did: 10 µs on the clock" in said
        assert "5.01e+03 µs on the device" in said


def test_first_calls_that_load_and_try_kernels_are_over_before_timing():
    queue = Queue()

    def call():
        queue.calls += 1
        # Kernels are loaded in the first call, a library tries out others until the sixth.
        queue.launch(100 * WORK if queue.calls == 1 else 10 * WORK if queue.calls < 6 else WORK)

    plan = WallTime(queue.clock, queue.synchronize).warm(call, repeat(()), 1)
    assert plan.call == pytest.approx(WORK + LAUNCH)
    assert queue.calls < 60


def test_settling_ends_where_times_never_settle():
    queue = Queue()

    def call():
        queue.calls += 1
        queue.launch(int(WORK * 0.5**queue.calls) + 1)

    WallTime(queue.clock, queue.synchronize).warm(call, repeat(()), 1)
    assert queue.calls < 60


def test_cold_calls_are_flushed_one_by_one_and_the_flush_is_not_timed():
    queue = Queue()
    wall = WallTime(queue.clock, queue.synchronize, queue.flush)
    plan = wall.warm(queue.call, repeat(()), 1)
    assert plan.number == 1
    before = queue.calls
    queue.flushed.clear()
    blocks = wall.visit(queue.call, repeat(()), plan).wall
    assert all(b == pytest.approx(WORK + LAUNCH) for b in blocks)
    assert len(queue.flushed) == len(blocks) == queue.calls - before - plan.untimed
    assert len(set(queue.flushed)) == len(blocks)


def test_flushing_the_processor_writes_more_than_its_largest_cache(tmp_path):
    (tmp_path / "index3").mkdir()
    (tmp_path / "index3" / "size").write_text("32768K\n")
    assert devices.last_level_cache(tmp_path) == 32 << 20
    assert devices.last_level_cache(tmp_path / "none") == devices.LARGEST_CACHE
    devices.flusher(torch.device("cpu"))()


@pytest.mark.parametrize(
    ("label", "means"),
    [
        ("cpu", Place("cpu")),
        ("cuda", Place("cuda:0")),
        ("cuda:1+cold", Place("cuda:1", cold=True)),
        ("cuda+transfer+cold", Place("cuda:0", True, True)),
        ("cpu+8sets", Place("cpu", sets=8)),
        ("cuda:1+3sets+cold", Place("cuda:1", cold=True, sets=3)),
    ],
)
def test_a_place_says_its_conditions(label, means):
    assert Place.parse(label) == means
    assert Place.parse(str(means)) == means


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("tpu", "is not cpu, cuda"),
        ("cuda:x", "is not cpu, cuda"),
        ("cpu+warm", "is not cold, transfer or 8sets"),
        ("cpu+transfer", "nothing is transferred"),
        ("cpu+1sets", "sets go from 2 to 1000"),
        ("cpu+sets", "is not cold, transfer or 8sets"),
    ],
)
def test_what_is_no_place_is_said(label, said):
    with pytest.raises(ValueError, match=said):
        Place.parse(label)


def posed(transfer):
    registry.load_builtin()
    function = registry.FUNCTIONS["exp"]
    problem, timed = pose(function, "vjp", {"n": 5}, "float64", "cpu", 0)
    return problem, Gate(problem, timed, [draw(problem, {"n": 5}, 1)], transfer)


@pytest.mark.parametrize("mode", ["backward", "grad", "func_vjp", "manual"])
def test_a_transferred_call_passes_the_gate_and_leaves_its_inputs_alone(mode):
    problem, gate = posed(True)
    declared = registry.MODES["vjp", mode]
    contestant = gate.enter(mode, declared.build(problem), declared.leaves)
    assert contestant.check([0]).passed
    given = contestant.arguments[0][0]
    assert given.grad is None
    assert given.device.type == "cpu"


def several(wrong_on=None, changes=None):
    """A contestant over three sets of inputs, whose calls tell what they got; wrong or meddling on
    the set of a number."""
    registry.load_builtin()
    function = registry.FUNCTIONS["exp"]
    problem, timed = pose(function, "vjp", {"n": 5}, "float64", "cpu", 0)
    fresh, *more = (draw(problem, {"n": 5}, seed) for seed in (1, 2, 3))
    gate = Gate(problem, timed, [fresh], more=more)
    inputs = [given.inputs[0] for given in gate.timed]
    got = []

    def call(inputs_given, v):
        (x,) = inputs_given
        number = next((i for i, known in enumerate(inputs) if torch.equal(x, known)), -1)
        got.append(number)
        result = x.exp() * v * (1 + (number == wrong_on))
        if number == changes and got.count(number) > 1:
            x += 1
        return (result,)

    return gate.enter("mine", call, False), got


def test_calls_go_through_all_sets_of_inputs_in_turn_whatever_the_length_of_a_block():
    contestant, got = several()
    assert contestant.check([0]).passed
    assert set(got) == {-1, 0, 1, 2}, "all timed sets and the fresh one are checked"
    got.clear()
    wall = WallTime()
    wall.visit(contestant.call, contestant.turns, Visit(number=2, blocks=5, untimed=1, call=1))
    assert got == [0, 1, 2] * 3 + [0, 1]


def test_what_is_wrong_on_one_set_of_inputs_alone_is_found():
    contestant, _ = several(wrong_on=2)
    assert "times the error allowed" in contestant.check([0]).reason
    contestant, _ = several(changes=1)
    assert contestant.check([], again=False).passed
    assert contestant.check([], again=False).reason == "changes x in place"


def test_devices_are_compared_under_like_conditions():
    one, other = Place.parse("cpu+8sets+cold"), Place.parse("cuda+transfer+cold+8sets")
    assert one.conditions == other.conditions != Place.parse("cuda+cold").conditions


class Tf32(TorchDispatchMode):
    """Rounds the factors of every matrix product to ten bits, as a device's tensor cores do."""

    FACTORS: ClassVar = {
        **dict.fromkeys(("mm", "bmm", "mv", "dot"), (0, 1)),
        **dict.fromkeys(("addmm", "baddbmm", "addmv", "addbmm"), (1, 2)),
    }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        factors = self.FACTORS.get(func.overloadpacket.__name__, ())
        args = [self.rounded(a) if i in factors else a for i, a in enumerate(args)]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(x):
        if x._is_zerotensor():
            return x
        return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def on_tensor_cores(call):
    def rounded(*arguments):
        with Tf32():
            return call(*arguments)

    return rounded


@pytest.mark.parametrize("function", ["affine_mse", "affine_softmax_mse", "linear_layer_sum"])
def test_products_rounded_to_tf32_pass_as_tf32_and_not_as_float32(function):
    registry.load_builtin()
    declared = registry.FUNCTIONS[function]
    found = {"float32": [], "tf32": []}
    for operator in declared.derivatives:
        for dtype, findings in found.items():
            problem, timed = pose(declared, operator, declared.sizes[0], dtype, "cpu", 0)
            gate = Gate(problem, timed, [])
            for mode in ("grad", "backward", "loop_grad", "func_vjp", "func_jvp", "manual"):
                made = registry.MODES.get((operator, mode))
                if made is not None:
                    call = on_tensor_cores(made.build(problem))
                    findings.append(gate.enter(mode, call, made.leaves).check([]))
    assert len(found["tf32"]) > 3
    assert all(finding.passed for finding in found["tf32"])
    assert not all(finding.passed for finding in found["float32"])


def test_tf32_is_switched_for_cuda_devices_and_never_touched_for_the_processor():
    flags = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        for tf32 in (True, False):
            devices.set_tf32(torch.device("cuda"), tf32)
            devices.set_tf32(torch.device("cpu"), not tf32)
            assert torch.backends.cudnn.allow_tf32 is tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    finally:
        torch.backends.cudnn.allow_tf32 = flags[0]
        torch.set_float32_matmul_precision(flags[1])


def test_tf32_is_refused_on_the_processor():
    session = Session(1 << 30)
    with pytest.raises(Refused, match="the processor has no tf32"):
        session.open("vjp/exp/documents/tf32/cpu/1", 0, [])


def test_a_transferred_call_moves_all_and_brings_the_result_back():
    problem, _ = posed(True)
    seen = []

    def call(inputs, seed):
        seen.append((inputs[0].requires_grad, inputs[0].grad_fn, seed))
        return inputs

    x, v = torch.ones(5, dtype=torch.float64, requires_grad=True), torch.ones(5)
    result = transferred(call, problem, leaves=True)((x,), v)
    assert seen[0][:2] == (True, None)
    assert isinstance(result, tuple)


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


class AcceleratorError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79"
            ),
            "asked for 20.00 GiB on the device",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 4398046511104 bytes. Error code 12"
            ),
            "asked for 4.1e+03 GiB on the processor",
        ),
        (MemoryError(), "on the processor, and it does not say how much"),
        (RuntimeError("shapes do not match"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_want_of_memory_is_told_with_the_size_asked_for(error, said):
    assert out_of_memory(error) == said


def test_an_error_that_breaks_the_device_is_told_from_others():
    assert device_lost(AcceleratorError("CUDA error: device-side assert triggered"))
    assert device_lost(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not device_lost(OutOfMemoryError("CUDA out of memory."))
    assert not device_lost(RuntimeError("no CUDA error: at all"))


def test_a_comparison_keeps_the_conditions_of_its_place():
    name = "vjp/exp/documents/float32/cuda:0+cold/1"
    assert str(Comparison.parse(name)) == name
