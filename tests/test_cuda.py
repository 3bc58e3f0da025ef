"""What only a CUDA device can show; skipped where there is none. `make gpu-check` runs these."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradbench.analysis.runs import judge_run
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.mode import Unsupported
from gradbench.runner.nvml import Nvml
from gradbench.store import runs as log
from gradbench.worker import limits
from gradbench.worker.devices import Cuda, audit, synchronizer
from gradbench.worker.environment import environment
from gradbench.worker.gate import Gate
from gradbench.worker.instruments.device_time import DeviceTime
from gradbench.worker.instruments.wall import WallTime
from gradbench.worker.session import Session

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

SUITE = Path(__file__).parent / "suites" / "device_faults.py"
CUDA = torch.device("cuda:0")

registry.load_builtin()


def entered(operator, function, mode, size, dtype="float32", transfer=False):
    problem, timed = pose(registry.FUNCTIONS[function], operator, size, dtype, "cuda:0", 0)
    gate = Gate(problem, timed, [draw(problem, size, seed) for seed in (1, 2)], transfer)
    declared = registry.MODES[operator, mode]
    return gate.enter(mode, declared.build(problem), declared.leaves)


def test_the_clock_sees_a_long_kernel_that_is_launched_in_no_time():
    x = torch.ones(8192, 8192, device=CUDA)
    contestant = entered("vjp", "exp", "manual", {"n": 4})
    contestant.call, contestant.sets = (lambda: x @ x), ((),)
    contestant.turns = iter(lambda: (), None)
    wall = WallTime(synchronize=synchronizer(CUDA))
    plan = wall.warm(contestant.call, contestant.turns, 50_000_000)
    on_clock = min(wall.visit(contestant.call, contestant.turns, plan).wall) / plan.number * 1e-9
    on_device = min(DeviceTime().read(contestant, plan.call))
    assert on_clock == pytest.approx(on_device, rel=0.5)
    assert audit(Cuda(), CUDA, synchronizer(CUDA), wall.clock, contestant.call, ()) == ""
    assert "the clock stopped" in audit(Cuda(), CUDA, None, wall.clock, contestant.call, ())


@pytest.mark.parametrize("mode", [m.name for m in registry.modes_of("vjp") if m.cuda])
def test_a_graph_gives_the_derivative_of_new_inputs(mode):
    assert entered("vjp", "exp", mode, {"n": 1000}).check([0, 1]).passed


def test_a_branch_cannot_be_recorded_and_the_device_goes_on():
    with pytest.raises(Unsupported, match="a CUDA graph cannot hold it"):
        entered("vjp", "norm_doubling_vector", "graphed_grad", {"n": 3}).check([0])
    assert entered("vjp", "exp", "graphed_grad", {"n": 1000}).check([0]).passed


def test_a_transferred_call_ends_on_the_processor():
    contestant = entered("vjp", "exp", "grad", {"n": 1000}, transfer=True)
    assert contestant.check([0, 1]).passed
    (result,) = contestant.call(*contestant.arguments)
    assert result.device.type == "cpu"


def test_tf32_is_on_for_its_own_cases_and_off_for_all_others():
    session = Session(1 << 34)
    found = {}
    for dtype in ("float32", "tf32", "float32"):
        session.open(f"gradient/affine_mse/m=512,n=512/{dtype}/cuda:0/1", 0, [1])
        found[dtype] = session.prepare("grad", 0, 0, [0])
        assert found[dtype]["status"] == "ok"
        assert torch.backends.cudnn.allow_tf32 == (dtype == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 == (dtype == "tf32")


def test_what_the_device_can_do_is_more_than_a_processor_does():
    found = limits.measure(CUDA, 1, ["float32", "float16"])
    assert found["bandwidth"] > 5e10
    assert found["rates"]["float16"] > 1e12
    assert found["cache"] >= 1 << 20


def test_the_driver_tells_of_the_device_that_torch_means():
    pytest.importorskip("pynvml")
    facts = environment()
    state = Nvml().state("warm", facts["device_uuids"]["cuda:0"])
    assert state is not None
    assert state.sm_clock > 0
    assert math.isfinite(state.power_limit)


def test_a_run_survives_want_of_memory_and_a_broken_device(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gradbench", "run", "-f", "exp", "-o", "vjp"),
            *("-m", "asks_the_device_for_much", "-m", "breaks_the_device", "-m", "grad"),
            *("-m", "backward", "--from", SUITE, "--device", "cuda", "--sessions", "2"),
            *("--results", tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_LAUNCH_BLOCKING": "0"},
    )
    (path,) = log.paths(tmp_path)
    rows = {row.mode: row for row in judge_run(log.read(path)).rows}
    assert rows["asks_the_device_for_much"].status == "out of memory", done.stderr
    assert "asked for" in rows["asks_the_device_for_much"].reason
    assert rows["breaks_the_device"].status == "crashed"
    assert "exit code 70" in rows["breaks_the_device"].reason
    assert {rows["grad"].status, rows["backward"].status} == {"ok"}
    assert log.read(path).limits[0].device == "cuda:0"
