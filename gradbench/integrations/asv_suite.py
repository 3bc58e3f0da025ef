"""The catalogue in asv's own process, where a benchmark is measured as a worker does it.

The benchmarks' names are those of `asv_names.py`.
"""

from __future__ import annotations

import ast
import os
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from gradbench.core.cases import Comparison, Offer
from gradbench.integrations.asv_names import DEVICE, of_offers, parse

WARM = 20_000_000
ROUNDS = 16
BUDGET = 500_000_000
"""A process makes so many visits, or as many as fit into this time; warming up and budget are in
nanoseconds."""

MEMORY_LIMIT = 4 << 30

SHARED = (
    *("benchmark_name", "param_names", "pretty_name", "pretty_source"),
    *("rounds", "timeout", "unit", "version"),
)
"""What asv takes from attributes of a benchmark's function."""


def callables(listed: Iterable[dict[str, Any]]) -> dict[str, Callable[..., Any]]:
    """The functions that asv discovers, by a name that is valid in Python."""
    made: dict[str, Callable[..., Any]] = {}
    for position, one in enumerate(listed):

        def track(mode: str, benchmark: str = one["name"]) -> dict[str, Any]:
            return measure(parse(benchmark, os.environ.get(DEVICE, "cpu")), mode)

        # asv writes a parameter as Python would.
        modes = [ast.literal_eval(mode) for mode in one["params"][0]]
        track.__dict__.update({key: one[key] for key in SHARED} | {"params": modes})
        made[f"track_{position}"] = track
    return made


def discover() -> list[dict[str, Any]]:
    """The benchmarks that the registry of this process offers. Imports torch."""
    from gradbench.problems import registry
    from gradbench.worker.session import Session

    if not registry.FUNCTIONS:
        registry.load()
    offers = Session(MEMORY_LIMIT).discover()["offers"]
    return of_offers(Offer(**offer) for offer in offers)


def _right(found: dict[str, Any]) -> dict[str, Any]:
    """What the gate found, where it lets the mode pass; for what it raises see `measure`."""
    from asv_runner.benchmarks.mark import SkipNotImplemented

    if found["status"] in ("unsupported", "refused"):
        raise SkipNotImplemented(f"{found['status']}: {found['reason']}")
    if found["status"] != "ok":
        raise NotRight(f"{found['status']}: {found['reason']}")
    return found


class NotRight(Exception):
    """A mode that must not be timed, or whose time does not count; the message says why."""


def measure(comparison: Comparison, mode: str) -> dict[str, Any]:
    """One sample of a case, in this process: the median of its visits in seconds per call.

    The mode passes the gate before it is timed and again after. Raises asv's SkipNotImplemented,
    with the reason, where it is not supported here or would need too much memory, and NotRight
    where it is wrong or fails.
    """
    import gc

    import torch
    from asv_runner.benchmarks.mark import SkipNotImplemented

    from gradbench.problems import registry
    from gradbench.worker.session import Refused, Session

    if not registry.FUNCTIONS:
        registry.load()
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    session = Session(MEMORY_LIMIT)
    try:
        session.open(str(comparison), 0, [1, 2])
    except Refused as error:
        raise SkipNotImplemented(str(error)) from None
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        found = _right(session.prepare(mode, 0, WARM, [0]))
        visit = found["visit"]
        calls = visit["untimed"] + visit["blocks"] * visit["number"]
        rounds = max(1, min(ROUNDS, BUDGET // (calls * visit["call"])))
        blocks = session.visit([0] * rounds)["blocks"]
        _right(session.check(0, [1]))
    finally:
        if collecting:
            gc.enable()
    seconds = statistics.median(min(block) for block in blocks) / visit["number"] * 1e-9
    return {"samples": [seconds], "number": 1}
