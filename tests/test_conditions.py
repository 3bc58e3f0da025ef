"""What devices can do at most, what their drivers tell, and what is said of both."""

from types import SimpleNamespace

import pytest
import torch

from gradbench.analysis import conditions
from gradbench.analysis.readings import with_limits
from gradbench.analysis.table import Row
from gradbench.core.cases import Comparison, Entry
from gradbench.runner import doctor
from gradbench.runner.nvml import Nvml
from gradbench.store.runs import DeviceState, Limits, Run, RunStarted, SessionMeasured
from gradbench.worker import limits

CASE = Comparison.parse("gradient/affine_mse/m=4096,n=4096/float32/cuda:0/1")


def run_of(*sessions, limits=()):
    plan = [Entry(CASE, ("grad",))]
    header = RunStarted(1, "made-up", "2026-01-01T00:00:00Z", {}, {}, plan)
    return Run(None, header, sessions=list(sessions), limits=list(limits))


def session_of(*states, number=0, moved=(0, 0)):
    return SessionMeasured(
        comparison=CASE,
        session=number,
        process=1,
        baseline="grad",
        entrants=[],
        order=[],
        stopped="rounds",
        visiting=1.0,
        elapsed=1.0,
        load=0.0,
        argument_bytes=moved[0],
        result_bytes=moved[1],
        states=list(states),
    )


KNOWN = Limits(1, "cuda:0", 1, bandwidth=2e12, rates={"float32": 5e13}, cache=50 << 20)


def test_large_cases_are_stated_as_shares_of_what_the_device_can_do():
    run = run_of(session_of(moved=(60 << 20, 40 << 20)), limits=[KNOWN])
    row = Row(comparison=CASE, mode="grad", status="ok", seconds=1e-3, readings={"flops": 2e10})
    (found,) = with_limits([row], run)
    assert found.of_bandwidth == pytest.approx((100 << 20) / 2e12 / 1e-3)
    assert found.of_rate == pytest.approx(2e10 / 5e13 / 1e-3)


@pytest.mark.parametrize(
    ("case", "row", "moved", "known"),
    [
        ("fits the cache", {}, (20 << 20, 10 << 20), KNOWN),
        ("the products are short", {"readings": {"flops": 4e9}}, (0, 0), KNOWN),
        ("no derivative", {"mode": "forward"}, (60 << 20, 40 << 20), KNOWN),
        ("not timed", {"seconds": None}, (60 << 20, 40 << 20), KNOWN),
        ("copied over the bus", {"comparison": CASE.on("cuda:0+transfer")},
         (60 << 20, 40 << 20), KNOWN),
        ("nothing known", {}, (60 << 20, 40 << 20), Limits(1, "cpu", 1, 1e10, {}, 1 << 20)),
    ],
)  # fmt: skip
def test_others_are_not(case, row, moved, known):
    told = {"comparison": CASE, "mode": "grad", "status": "ok", "seconds": 1e-3, **row}
    (found,) = with_limits([Row(**told)], run_of(session_of(moved=moved), limits=[known]))
    assert found.of_bandwidth is None, case
    assert found.of_rate is None, case


class Ticking:
    """A clock that goes on by the same time whenever it is read."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def test_limits_are_bytes_and_operations_over_the_fastest_time(monkeypatch):
    monkeypatch.setattr(limits, "largest_cache", lambda device: 1 << 20)
    threads = torch.get_num_threads()
    found = limits.measure(torch.device("cpu"), threads, ["float32", "float64"], Ticking(0.01))
    assert found["bandwidth"] == pytest.approx(2 * limits.LEAST_COPIED / 0.01)
    # A first product of 10 ms leaves no time for one that is eight times as long.
    assert found["rates"]["float32"] == pytest.approx(2 * limits.SMALLEST**3 / 0.01)
    assert found["cache"] == 1 << 20


def test_a_dtype_that_cannot_be_multiplied_is_left_out(monkeypatch):
    def refuses(dtype):
        raise RuntimeError(f"no products of {dtype}")

    monkeypatch.setattr(limits, "torch_dtype", refuses)
    found = limits.measure(torch.device("cpu"), 1, ["float16"], Ticking(0.01))
    assert found["rates"] == {}
    assert found["bandwidth"] > 0


class Library:
    """NVML as its Python package has it, for one device of a uuid."""

    def __init__(self, **answers):
        self.answers = answers

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return b"570.1"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1234":
            raise ValueError(uuid)
        return "handle"

    def __getattr__(self, name):
        if not name.startswith("nvml") or name not in self.answers:
            raise AttributeError(name)

        def ask(handle, *arguments):
            assert handle == "handle"
            answer = self.answers[name]
            answer = answer[arguments[0]] if isinstance(answer, dict) else answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def test_a_device_tells_its_clocks_its_heat_and_why_it_was_slowed_down():
    library = Library(
        nvmlDeviceGetClockInfo={1: 1980, 2: 3201},
        nvmlDeviceGetTemperature=61,
        nvmlDeviceGetPowerUsage=655_000,
        nvmlDeviceGetEnforcedPowerLimit=700_000,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x4 | 0x1,
        nvmlDeviceGetViolationStatus={0: SimpleNamespace(violationTime=5_000_000), 1: ValueError()},
    )
    assert Nvml(library).state("warm", "1234") == DeviceState(
        when="warm",
        sm_clock=1980,
        memory_clock=3201,
        temperature=61,
        power=655.0,
        power_limit=700.0,
        slowed=["power cap"],
        slowed_by_power=0.005,
        slowed_by_heat=None,
    )
    assert Nvml(library).driver() == "570.1"


def test_where_nothing_answers_nothing_is_told():
    class Broken(Library):
        def nvmlInit(self):
            raise OSError("no library")

    assert Nvml(Broken()).state("warm", "1234") is None
    assert Nvml(Broken()).driver() is None
    assert Nvml(Library()).state("warm", "5678") is None, "a device that it does not know"
    assert Nvml(Library()).state("warm", "") is None, "a processor"
    assert Nvml(Library()).state("warm", "1234") == DeviceState("warm"), "nothing is supported"


COOL = DeviceState("warm", 1980, 3201, 45, 100.0, 700.0, slowed_by_power=1.0, slowed_by_heat=0.0)


def test_a_device_that_was_slowed_down_is_said():
    capped = DeviceState("timed", 1500, 3201, 70, 699.0, 700.0, ["power cap"], 2.5, 0.0)
    hot = DeviceState(
        "timed", 1400, 3201, 90, 300.0, 700.0, slowed_by_power=1.0, slowed_by_heat=3.0
    )
    fine = DeviceState("timed", 1980, 3201, 50, 300.0, 700.0, slowed_by_power=1.0001)
    sessions = [session_of(COOL, after, number=i) for i, after in enumerate((capped, hot, fine))]
    (said,) = conditions.cautions(run_of(*sessions))
    assert said.startswith("cuda:0 was throttled in 2 of 3 sessions")
    assert "by power cap, temperature:" in said
    assert conditions.cautions(run_of(sessions[2])) == []
    assert conditions.cautions(run_of(session_of())) == []


def test_limits_and_states_are_a_line_each():
    after = DeviceState("timed", 1500, 3201, 70, 699.0, 700.0)
    run = run_of(
        session_of(COOL, after),
        session_of(COOL, COOL, number=1),
        limits=[KNOWN, Limits(1, "cpu", 2, 3e10, {"float32": 2e11}, 32 << 20)],
    )
    assert conditions.lines(run) == [
        "limits of cuda:0: copies 1.82 TiB/s; matmul float32 50 TFLOP/s; last-level cache 50 MiB",
        "limits of cpu (2 threads): copies 27.9 GiB/s; matmul float32 200 GFLOP/s; "
        "last-level cache 32 MiB",
        "state of cuda:0 after its rounds: clock 1500 to 1980 MHz, memory clock 3201 MHz, "
        "45 to 70 °C, 100 to 699 W, limit 700 W",
    ]


def test_the_doctor_looks_at_each_gpu():
    class Driver:
        def state(self, when, uuid):
            return {"a": COOL, "b": DeviceState("now", 1200, slowed=["power cap"])}.get(uuid)

    devices = {"cuda:0": "a", "cuda:1": "b", "cuda:2": "c"}
    good, poor, note = doctor.gpus({"device_uuids": devices}, Driver())
    assert (good.grade, poor.grade, note.grade) == ("good", "poor", "note")
    assert good.found == "clock 1980 MHz, memory clock 3201 MHz, 45 °C, 100 W, limit 700 W"
    assert poor.found == "clock 1200 MHz; slowed down now: power cap"
    assert "nvidia-ml-py" in note.advice
    assert list(doctor.gpus({}, Driver())) == [], "no device, no line"


@pytest.mark.parametrize(
    ("sessions", "said"),
    [
        ([], ""),
        (["", ""], ""),
        (["b", "a", "a"], "sessions by node: a 2, b 1"),
        (["a", "", ""], "sessions by node: this machine 2, a 1"),
        ([*"aabbcdefghijk"], "sessions by node: a 2, b 2, c 1, d 1, e 1, f 1, g 1, h 1, 3 more 3"),
    ],
)
def test_the_sessions_of_each_node(sessions, said):
    assert conditions.nodes(sessions) == said
