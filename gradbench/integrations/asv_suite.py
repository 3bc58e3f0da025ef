"""Runs the catalogue's benchmarks in asv's process, with a worker's gate and visits."""

from __future__ import annotations

import ast
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gradbench.core.cases import Comparison, Offer
from gradbench.core.clocks import Visits, clock_of
from gradbench.core.families import NOTEBOOKS
from gradbench.core.places import of_error
from gradbench.core.process import bind, end_with_parent
from gradbench.integrations.asv_names import DEVICE, OWN, offered, parse

WARM = 20_000_000
ROUNDS = 16
BUDGET = 500_000_000
"""A process makes ROUNDS visits, or as many as fit into BUDGET nanoseconds after WARM ones."""

MEMORY_LIMIT = 4 << 30

SHARED = (
    *("benchmark_name", "param_names", "pretty_name", "pretty_source"),
    *("rounds", "timeout", "unit", "version"),
)
"""What asv reads from attributes of a benchmark's function."""


def functions(benchmarks: Iterable[dict[str, Any]]) -> dict[str, Callable[..., Any]]:
    """The functions that asv discovers, by name."""
    tracks: dict[str, Callable[..., Any]] = {}
    for position, benchmark in enumerate(benchmarks):

        def track(mode: str, name: str = benchmark["name"]) -> dict[str, Any]:
            return measure(parse(name, os.environ.get(DEVICE, "cpu")), mode)

        # asv stores the repr of a parameter.
        modes = [ast.literal_eval(mode) for mode in benchmark["params"][0]]
        track.__dict__.update({key: benchmark[key] for key in SHARED} | {"params": modes})
        tracks[f"track_{position}"] = track
    return tracks


def end_with_asv() -> None:
    """Ends this process, and its forks, with the process that started it: asv may be killed."""
    bind(os.getppid())
    os.register_at_fork(after_in_child=end_with_parent)


def _load() -> None:
    """Registers what can be measured; packages that do not load are named on standard error."""
    from gradbench.problems import registry

    if not registry.FUNCTIONS:
        for line in registry.load():
            print(line, file=sys.stderr)


def discover() -> list[dict[str, Any]]:
    """The benchmarks of the registry in this process. Imports torch."""
    from gradbench.worker.session import Session

    _load()
    offers = Session(MEMORY_LIMIT).discover()["offers"]
    return offered(o for offer in offers if (o := Offer(**offer)).family == NOTEBOOKS)


def own() -> list[dict[str, Any]]:
    """The benchmarks of the user's functions that asv's plugin has looked at. Imports torch.

    One that does not load in this release is named on standard error, and has no benchmark here.
    """
    from gradbench.problems import registry
    from gradbench.worker.session import Session

    _load()
    known = set(registry.FUNCTIONS)
    # Files are named from the project's folder; asv starts its processes elsewhere.
    os.chdir(os.environ.get("ASV_CONF_DIR", "."))
    for path in filter(None, os.environ.get(OWN, "").split(os.pathsep)):
        try:
            registry.load_file(path)
        except Exception as error:
            said = f"{type(error).__name__}: {error} (at {of_error(error) or path})"
            print(" ".join(said.split()), file=sys.stderr)
    offers = (Offer(**offer) for offer in Session(MEMORY_LIMIT).discover()["offers"])
    return offered(offer for offer in offers if offer.function not in known)


def _require_ok(answer: dict[str, Any]) -> dict[str, Any]:
    """The gate's answer, if the mode passed; raises as `measure` does."""
    from asv_runner.benchmarks.mark import SkipNotImplemented

    if answer["status"] == "wrong":
        raise Wrong(f"wrong: {answer['reason']}")
    if answer["status"] != "ok":
        raise SkipNotImplemented(f"{answer['status']}: {answer['reason']}")
    return answer


class Wrong(Exception):
    """A mode did not pass the gate; the message says why."""


def measure(comparison: Comparison, mode: str) -> dict[str, Any]:
    """One sample of a case in this process: the median of its visits in seconds per call.

    The gate checks the mode before and after timing. Raises Wrong if it is wrong, and asv's
    SkipNotImplemented if it cannot be measured: not supported, failing, or too large.
    """
    import gc

    import torch
    from asv_runner.benchmarks.mark import SkipNotImplemented

    from gradbench.worker.session import Refused, Session

    _load()
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    session = Session(MEMORY_LIMIT)
    try:
        session.open(comparison, 0, [1, 2])
    except Refused as error:
        raise SkipNotImplemented(str(error)) from None
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        answer = _require_ok(session.prepare(mode, 0, WARM, [0]))
        visit = answer["visit"]
        calls = visit["untimed"] + visit["blocks"] * visit["number"]
        rounds = max(1, min(ROUNDS, BUDGET // (calls * visit["call"])))
        visits = session.visit([0] * rounds)
        _require_ok(session.check(0, [1]))
    finally:
        if collecting:
            gc.enable()
    times = Visits.of(visit["number"], visits["blocks"], visits["cpu"], visits["disturbed"])
    known = [t for t in times.by(clock_of([times])) if t == t] or times.raw
    return {"samples": [statistics.median(known)], "number": 1}
