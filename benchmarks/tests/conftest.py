"""The catalogue for pytest-benchmark: options that select, the gate, and what goes into its JSON.

A case is selected as everywhere in gradbench, built and checked by the same worker code, here
within pytest's own process, and timed by pytest-benchmark.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import torch

from gradbench import state
from gradbench.cli.options import require_devices, selection
from gradbench.core import cases
from gradbench.core.cases import DTYPES, Case, Offer, Selection
from gradbench.integrations.pytest_json import SCHEMA
from gradbench.problems import registry
from gradbench.runner import machine
from gradbench.worker.gate import Contestant
from gradbench.worker.instruments.wall import Visit
from gradbench.worker.server import Refused, Session, environment

MEMORY_LIMIT = 4 << 30
SEED = 0
WARM = 3_000_000

FIELDS = {
    "function": "functions",
    "operator": "operators",
    "mode": "modes",
    "document": "documents",
    "size": "sizes",
    "dtype": "dtypes",
    "device": "devices",
}
NAMES = {"dtype": "NAME", "device": "NAME"}
"""What is no glob."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradbench", "which cases of gradbench's catalogue are measured")
    for what in FIELDS:
        group.addoption(
            f"--gradbench-{what}",
            action="append",
            choices=DTYPES if what == "dtype" else None,
            metavar=NAMES.get(what, "GLOB"),
            help=f"Only cases of this {what}; may be repeated.",
        )
    group.addoption(
        "--gradbench-sweep",
        choices=Selection.SWEEPS,
        default="documents",
        help="Which sizes: the documents' own (default), the standard or the full sweep.",
    )
    group.addoption("--gradbench-compiled", action="store_true", help="Add the modes that compile.")
    group.addoption(
        "--gradbench-from",
        action="append",
        metavar="FILE",
        default=[],
        help="A Python file whose own functions and modes take part.",
    )
    group.addoption(
        "--gradbench-seconds",
        type=float,
        default=0.02,
        metavar="S",
        help="Seconds of timing a case (default 0.02). A call that takes longer is timed once.",
    )


def pytest_configure(config: pytest.Config) -> None:
    # torch's own code calls what it calls deprecated; the reader of the table cannot mend it.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch")


class Engine:
    """The open comparison, its contestants, and what was left out of the timing and why."""

    def __init__(self, config: pytest.Config) -> None:
        torch.set_num_interop_threads(1)
        for line in registry.load():
            warnings.warn(line, stacklevel=1)
        for path in config.getoption("--gradbench-from"):
            try:
                for line in registry.load_file(path):
                    warnings.warn(line, stacklevel=1)
            except Exception as error:
                raise pytest.UsageError(f"--gradbench-from {path}: {error}") from error
        self.seconds = config.getoption("--gradbench-seconds")
        if not self.seconds > 0:
            raise pytest.UsageError("--gradbench-seconds must be more than 0")
        self.session = Session(MEMORY_LIMIT)
        found = self.session.discover()
        self.offers = [Offer(**offer) for offer in found["offers"]]
        self.by_hand = sorted({mode["mode"] for mode in found["modes"] if mode["by_hand"]})
        given = {
            field: tuple(config.getoption(f"--gradbench-{what}") or ())
            for what, field in FIELDS.items()
        }
        given["devices"] = given["devices"] or ("cpu",)
        try:
            chosen = selection(
                config.getoption("--gradbench-sweep"),
                compiled=config.getoption("--gradbench-compiled"),
                **given,
            )
            require_devices(chosen.devices, environment())
            entries = cases.expand(self.offers, chosen)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        self.cases = [entry.comparison.case(mode) for entry in entries for mode in entry.modes]
        self.opened: cases.Comparison | None = None
        self.snapshot: state.Snapshot = ()
        self.left_out: list[dict[str, Any]] = []

    def enter(self, case: Case) -> tuple[Contestant, Visit, dict[str, Any]]:
        """A contestant that passed the gate, how it is visited, and what the gate found.

        Skips the test where the case is not supported or would need too much memory, fails it
        where the mode is wrong.
        """
        try:
            if self.opened != case.comparison:
                self.session.open(str(case.comparison), SEED, [1, 2])
                self.opened = case.comparison
            found = self.session.prepare(case.mode, 0, WARM, [0])
        except Refused as error:
            found = {"status": "unsupported", "reason": str(error)}
        if found["status"] != "ok":
            self.leave_out(case, found)
        self.snapshot = state.snapshot()
        return (*self.session.contestants[0], found)

    def check(self, case: Case) -> str:
        """Why what was timed is wrong now; empty where it is right."""
        contestant, _ = self.session.contestants[0]
        contestant.changes.add(state.restore(self.snapshot))
        found = self.session.check(0, [1])
        if found["status"] != "ok":
            self.note(case, found)
        return str(found["reason"])

    def note(self, case: Case, found: dict[str, Any]) -> None:
        told = {key: found[key] for key in ("status", "reason")}
        self.left_out.append({"case": str(case), **told})

    def leave_out(self, case: Case, found: dict[str, Any]) -> None:
        self.note(case, found)
        reason = f"{found['status']}: {found['reason']}"
        if found["status"] in ("unsupported", "refused"):
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)


KEY = pytest.StashKey[Engine]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[KEY] = Engine(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.config.stash[KEY].cases, ids=str)


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Engine:
    return pytestconfig.stash[KEY]


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    # pytest-benchmark warns where two files that are compared differ in it.
    machine_info["torch"] = str(torch.__version__)


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """What `gradbench import` needs to know besides the times."""
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
