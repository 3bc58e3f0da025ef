"""asv's names and descriptions of benchmarks: one per comparison, with modes as the parameter.

A benchmark is named `operator.function.track_dtype`, as `jacobian.softmax.track_float32`. A size
other than the example inputs and more than one thread precede the last part, as in
`vjp.exp.n=64.threads=2.track_float64`. The device is an axis of asv (``GRADBENCH_DEVICE``).
"""

from __future__ import annotations

import ast
import datetime
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradbench.core.cases import DOCUMENTS, Comparison, Offer, Place

DEVICE = "GRADBENCH_DEVICE"
"""The environment variable for asv's axis of devices."""

OWN = "GRADBENCH_OWN"
"""The environment variable for the files that declare functions of the user's."""

VERSION = "1"
"""Pinned: asv hides the history of a benchmark whose version changes with its source."""

PROCESSES = 5
"""asv calls them rounds. Each gives one sample, so that asv's interval is between processes."""


def milliseconds(date: datetime.date) -> int:
    """The start of a day in UTC, as asv stores it."""
    midnight = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc)
    return int(midnight.timestamp()) * 1000


def name(comparison: Comparison) -> str:
    """The name of a comparison's benchmark."""
    parts = [comparison.operator, comparison.function]
    if comparison.size != DOCUMENTS:
        parts.append(comparison.size)
    if comparison.threads != 1:
        parts.append(f"threads={comparison.threads}")
    return ".".join([*parts, f"track_{comparison.dtype}"])


def parse(text: str, device: str = "cpu") -> Comparison:
    """The comparison of a benchmark's name. Raises ValueError for other names or devices."""
    parts = text.split(".")
    if len(parts) < 3 or not parts[-1].startswith("track_"):
        raise ValueError(f"{text!r} is not operator.function.track_dtype")
    operator, function, *rest, last = parts
    threads = 1
    if rest and rest[-1].startswith("threads="):
        threads = int(rest.pop().partition("=")[2])
    if len(rest) > 1:
        raise ValueError(f"{text!r} has more than one size")
    size = rest[0] if rest else DOCUMENTS
    place = str(Place.parse(device))
    return Comparison(operator, function, size, last[len("track_") :], place, threads)


def benchmark(comparison: Comparison, modes: Iterable[str], code: str = "") -> dict[str, Any]:
    """A comparison as an entry of asv's list of benchmarks."""
    title = f"{comparison.operator} of {comparison.function}"
    if comparison.size != DOCUMENTS:
        title += f", {comparison.size}"
    title += f", {comparison.dtype}"
    if comparison.threads != 1:
        title += f", {comparison.threads} threads"
    return {
        # asv too writes name and code twice.
        "benchmark_name": name(comparison),
        "code": code,
        "name": name(comparison),
        "param_names": ["mode"],
        "params": [[repr(mode) for mode in modes]],
        "pretty_name": title,
        "pretty_source": code,
        "rounds": PROCESSES,
        "timeout": 300.0,
        "type": "track",
        "unit": "seconds",
        "version": VERSION,
    }


def offered(offers: Iterable[Offer]) -> list[dict[str, Any]]:
    """A benchmark for every operator of every function: example inputs, the function's own dtype
    and all modes but those that compile."""
    return [
        benchmark(
            Comparison(offer.operator, offer.function, DOCUMENTS, offer.dtype),
            offer.modes,
            f"{offer.formula}\n{offer.derivative}",
        )
        for offer in offers
    ]


def stored(folder: Path) -> list[dict[str, Any]]:
    """gradbench's benchmarks in a folder of asv's results; none if the list cannot be read, as when
    asv was killed while it wrote it."""
    try:
        entries = json.loads((folder / "benchmarks.json").read_text("utf-8")).values()
        return [entry for entry in entries if isinstance(entry, dict) and _is_ours(entry)]
    except (OSError, ValueError, AttributeError):
        return []


def _is_ours(entry: dict[str, Any]) -> bool:
    try:
        comparison = parse(entry["name"])
        modes = [ast.literal_eval(mode) for (mode,) in zip(*entry["params"])]
        return entry.keys() >= benchmark(comparison, modes).keys()
    except (KeyError, TypeError, ValueError, SyntaxError):
        return False


def merge(lists: Iterable[Iterable[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One list of benchmarks, by name: the first entry of each, with the modes of all.

    So no earlier benchmark is lost, even if the current environment lacks it.
    """
    merged: dict[str, dict[str, Any]] = {}
    for entry in itertools.chain.from_iterable(lists):
        first = merged.setdefault(entry["name"], entry)
        if first is not entry and len(entry["params"]) == 1:
            modes = dict.fromkeys([*first["params"][0], *entry["params"][0]])
            merged[entry["name"]] = {**first, "params": [list(modes)]}
    return merged
