"""The catalogue for pytest-benchmark: options to select cases, the gate, and additions to its JSON.

A plugin of its own, since few suites want its options: a suite with a test of the fixture
`gradbench_case` loads it (`-p` and this module's name), as `benchmarks/` does. Cases are selected,
built and checked by the same code as in gradbench, but in pytest's process, and timed by
pytest-benchmark.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from gradbench import state
from gradbench.advise.yours import Yours
from gradbench.core import cases
from gradbench.core.cases import DTYPES, Case, Offer, Place, Selection
from gradbench.integrations.pytest_json import SCHEMA
from gradbench.problems import registry
from gradbench.runner import machine
from gradbench.runner.choosing import Measuring, require_devices
from gradbench.worker.contestant import Contestant
from gradbench.worker.environment import environment
from gradbench.worker.failures import failure
from gradbench.worker.instruments.wall import Visit
from gradbench.worker.session import Refused, Session

MEMORY_LIMIT = 4 << 30
SEED = 0
WARM = 3_000_000
MEASURING = Measuring("", None, None, (), SEED, 60.0, MEMORY_LIMIT)

MOST_ROUNDS = 1000

OPTIONS = ("function", "family", "operator", "mode", "document", "size", "dtype", "device")
PLURALS = {"family": "families"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradbench", "cases of gradbench's catalogue")
    for option in OPTIONS:
        group.addoption(
            f"--gradbench-{option}",
            action="append",
            choices=DTYPES if option == "dtype" else None,
            metavar="NAME" if option in ("family", "dtype", "device") else "GLOB",
            help=f"Only cases of this {option}; may be repeated.",
        )
    group.addoption(
        "--gradbench-sweep",
        choices=Selection.SWEEPS,
        default="documents",
        help="Sizes: the example inputs (documents, default), the standard or the full sweep.",
    )
    group.addoption("--gradbench-compiled", action="store_true", help="Add the modes that compile.")
    group.addoption(
        "--gradbench-from",
        action="append",
        metavar="FILE",
        default=[],
        help="A Python file with more functions and modes.",
    )
    own = (
        ("input", "append", "NAME=EXPR", "Input of a function of your own, named by -function."),
        ("inputs", "store", "MODULE:FUNCTION", "Function that returns its inputs."),
        ("wrt", "append", "NAME", "Differentiate it with respect to this input only."),
        ("also", "append", "MODULE:FUNCTION", "Derivative of your own to measure too."),
        ("name", "store", "NAME", "Its name in the results."),
    )
    for option, action, metavar, said in own:
        group.addoption(f"--gradbench-{option}", action=action, metavar=metavar, help=said)
    group.addoption(
        "--gradbench-seconds",
        type=float,
        default=0.02,
        metavar="S",
        help="Seconds of timing per case (default 0.02). A longer call is timed once.",
    )


def pytest_configure(config: pytest.Config) -> None:
    # torch itself calls functions that it deprecates, and users cannot fix that.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch")


class Engine:
    """The selected cases, the worker's session, and the cases that were not timed."""

    def __init__(self, config: pytest.Config) -> None:
        torch.set_num_interop_threads(1)
        for line in registry.load():
            warnings.warn(line, stacklevel=1)
        self.files: list[str] = list(config.getoption("--gradbench-from"))
        self.place = tempfile.TemporaryDirectory(prefix="gradbench-")
        for path in self.files:
            self.load(path)
        self.seconds = config.getoption("--gradbench-seconds")
        if not self.seconds > 0:
            raise pytest.UsageError("--gradbench-seconds must be more than 0")
        self.session = Session(MEMORY_LIMIT)
        patterns = {
            PLURALS.get(option, f"{option}s"): tuple(
                config.getoption(f"--gradbench-{option}") or ()
            )
            for option in OPTIONS
        }
        patterns["devices"] = patterns["devices"] or ("cpu",)
        try:
            places = (str(Place.parse(device)) for device in patterns["devices"])
            patterns["devices"] = tuple(dict.fromkeys(places))
            selected = Selection(
                sweep=config.getoption("--gradbench-sweep"),
                compiled=config.getoption("--gradbench-compiled"),
                **patterns,
            )
            require_devices(selected.devices, environment())
            suite = self.own(config).suite(
                selected, (), MEASURING, Path(self.place.name), lambda said: None
            )
            for path in suite.files:
                self.load(path)
            discovered = self.session.discover()
            self.offers = [Offer(**offer) for offer in discovered["offers"]]
            self.by_hand = sorted({m["mode"] for m in discovered["modes"] if m["by_hand"]})
            selected = suite.selection
            entries = cases.expand(self.offers, selected)
        except (ValueError, click.UsageError) as error:
            raise pytest.UsageError(str(error)) from error
        self.cases = [entry.comparison.case(mode) for entry in entries for mode in entry.modes]
        self.opened: cases.Comparison | None = None
        self.snapshot: state.Snapshot = ()
        self.left_out: list[dict[str, Any]] = []

    @staticmethod
    def load(path: str) -> None:
        """Loads a file of the user's."""
        try:
            for line in registry.load_file(path):
                warnings.warn(line, stacklevel=1)
        except Exception as error:
            raise pytest.UsageError(f"--gradbench-from {path}: {error}") from error

    @staticmethod
    def own(config: pytest.Config) -> Yours:
        """What is said of a function of the user's own."""

        def given(name: str) -> Any:
            return config.getoption(f"--gradbench-{name}")

        return Yours(
            tuple(given("input") or ()),
            given("inputs"),
            tuple(given("also") or ()),
            tuple(given("wrt") or ()),
            "differences",
            given("name"),
        )

    def enter(self, case: Case) -> tuple[Contestant, Visit, dict[str, Any]]:
        """A contestant that passed the gate, the plan of its visits, and the gate's answer.

        Skips the test if the case is not supported or needs too much memory, and fails it if the
        mode is wrong.
        """
        __tracebackhide__ = True
        try:
            if self.opened != case.comparison:
                self.session.open(str(case.comparison), SEED, [1, 2])
                self.opened = case.comparison
            answer = self.session.prepare(case.mode, 0, WARM, [0])
        except Refused as error:
            answer = {"status": "unsupported", "reason": str(error)}
        if answer["status"] != "ok":
            self.leave_out(case, answer)
            reason = f"{answer['status']}: {answer['reason']}"
            if answer["status"] in ("unsupported", "refused"):
                pytest.skip(reason)
            pytest.fail(reason, pytrace=False)
        self.snapshot = state.snapshot()
        return (*self.session.contestants[0], answer)

    def check(self, case: Case) -> dict[str, Any]:
        """The gate's answer after timing."""
        contestant, _ = self.session.contestants[0]
        contestant.changes.add(state.restore(self.snapshot))
        answer = self.session.check(0, [1])
        if answer["status"] != "ok":
            self.leave_out(case, answer)
        return answer

    def measure(self, case: Case, benchmark: Any) -> None:
        """Gates a case, has pytest-benchmark time it, and gates it again.

        Fails or skips the test as `enter` does; fails it where the mode is wrong after timing.
        """
        __tracebackhide__ = True
        benchmark.group = str(case.comparison)
        benchmark.name = case.mode
        contestant, visit, answer = self.enter(case)
        block = visit.number * visit.call * 1e-9
        benchmark.extra_info.update(
            case=str(case), untimed=visit.number, error=answer["error"], ulps=answer["ulps"]
        )
        wall = self.session.wall
        waits[:] = [wall.synchronize] if wall.synchronize else []
        call, arguments = contestant.call, contestant.arguments
        if len(contestant.sets) > 1:
            call, arguments = lambda: contestant.call(*next(contestant.turns)), ()
        try:
            benchmark.pedantic(
                call,
                args=arguments,
                setup=wall.flush,
                iterations=visit.number,
                rounds=max(visit.blocks, min(MOST_ROUNDS, int(self.seconds / block))),
                warmup_rounds=1,
            )
        except Exception as error:
            answer = failure(error)
            answer["reason"] = f"while timed: {answer['reason']}"
            self.leave_out(case, answer)
            contestant.changes.add(state.restore(self.snapshot))
        else:
            answer = self.check(case)
        if answer["status"] != "ok":
            _drop(benchmark)
            pytest.fail(f"{answer['status']}: {answer['reason']}", pytrace=False)

    def leave_out(self, case: Case, answer: dict[str, Any]) -> None:
        status_and_reason = {key: answer[key] for key in ("status", "reason")}
        self.left_out.append({"case": str(case), **status_and_reason})


def _drop(benchmark: Any) -> None:
    """Keeps the times of a mode that went wrong while it was timed out of the file, and out of the
    table, which would show those of the calls before."""
    benchmark.has_error = True
    if benchmark.stats is not None:
        benchmark.stats.stats.data.clear()


KEY = pytest.StashKey[Engine]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[KEY] = Engine(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.config.stash[KEY].cases, ids=str)


waits: list[Callable[[], None]] = []
"""Synchronizes the device of the case that is timed; empty on the CPU."""


def clock() -> float:
    """Seconds, after the device has finished its queue."""
    for wait in waits:
        wait()
    return time.perf_counter()


def pytest_itemcollected(item: pytest.Item) -> None:
    if "gradbench_case" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.benchmark(disable_gc=True, timer=clock))


@pytest.fixture
def gradbench_case(case: Case, benchmark: Any, pytestconfig: pytest.Config) -> Callable[[], None]:
    """Checks a case of the catalogue, times it with pytest-benchmark, and checks it again."""
    engine = pytestconfig.stash[KEY]

    def measure() -> None:
        __tracebackhide__ = True
        engine.measure(case, benchmark)

    return measure


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    # pytest-benchmark warns if two compared files differ in it.
    machine_info["torch"] = str(torch.__version__)


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Adds what `gradbench import` needs besides the times."""
    engine = config.stash[KEY]
    output_json["gradbench"] = {
        "schema": SCHEMA,
        "environment": environment(),
        "machine": machine.facts(),
        "by_hand": engine.by_hand,
        "first": {offer.operator: offer.first for offer in engine.offers},
        "files": list(config.getoption("--gradbench-from")),
        "load": os.getloadavg()[0],
        "left_out": engine.left_out,
    }
