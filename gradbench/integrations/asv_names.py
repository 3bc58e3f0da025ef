"""The catalogue as asv sees it: a benchmark per comparison, its modes as the parameter.

A comparison's benchmark is named `operator.function.track_dtype`, as
`jacobian.softmax.track_float32`; another size than the documents' and more than one thread stand
before the last part, as `vjp.exp.n=64.threads=2.track_float64`. The device is asv's own axis
(``GRADBENCH_DEVICE``). A name thus follows from the case alone.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradbench.core.cases import DOCUMENTS, Comparison, Offer, Place

DEVICE = "GRADBENCH_DEVICE"
"""The environment variable that is asv's axis of devices."""

UNIT = "seconds"

VERSION = "1"
"""Pinned: asv hides the history of a benchmark whose version changes with its source."""

PROCESSES = 5
"""Rounds in asv's words: each is a process of its own and gives one sample, so that asv's
interval is the one between processes."""

TIMEOUT = 300.0


def name(comparison: Comparison) -> str:
    """The name of a comparison's benchmark."""
    parts = [comparison.operator, comparison.function]
    if comparison.size != DOCUMENTS:
        parts.append(comparison.size)
    if comparison.threads != 1:
        parts.append(f"threads={comparison.threads}")
    return ".".join([*parts, f"track_{comparison.dtype}"])


def parse(text: str, device: str = "cpu") -> Comparison:
    """The comparison of a benchmark's name; ValueError where it or the device is none of ours."""
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


def described(comparison: Comparison, modes: Iterable[str], code: str = "") -> dict[str, Any]:
    """What asv's list of benchmarks says of a comparison."""
    title = f"{comparison.operator} of {comparison.function}"
    if comparison.size != DOCUMENTS:
        title += f", {comparison.size}"
    title += f", {comparison.dtype}"
    if comparison.threads != 1:
        title += f", {comparison.threads} threads"
    return {
        # Name and code twice, as asv itself writes them of a function that tells them.
        "benchmark_name": name(comparison),
        "code": code,
        "name": name(comparison),
        "param_names": ["mode"],
        "params": [[repr(mode) for mode in modes]],
        "pretty_name": title,
        "pretty_source": code,
        "rounds": PROCESSES,
        "timeout": TIMEOUT,
        "type": "track",
        "unit": UNIT,
        "version": VERSION,
    }


def of_offers(offers: Iterable[Offer]) -> list[dict[str, Any]]:
    """The benchmark of every function under every operator: the documents' inputs, the function's
    own dtype, all modes but those that compile."""
    return [
        described(
            Comparison(offer.operator, offer.function, DOCUMENTS, offer.dtype),
            offer.modes,
            f"{offer.formula}\n{offer.derivative}",
        )
        for offer in offers
    ]


def listed(folder: Path) -> list[dict[str, Any]]:
    """The benchmarks of a folder of asv's results that are ours; none where no list can be read
    (asv writes it in place, so a kill can leave half of it)."""
    try:
        stored = json.loads((folder / "benchmarks.json").read_text("utf-8"))
        return [one for one in stored.values() if isinstance(one, dict) and _ours(one)]
    except (OSError, ValueError, AttributeError):
        return []


def _ours(one: dict[str, Any]) -> bool:
    try:
        comparison = parse(one["name"])
        modes = [ast.literal_eval(mode) for (mode,) in zip(*one["params"])]
        return one.keys() >= described(comparison, modes).keys()
    except (KeyError, TypeError, ValueError, SyntaxError):
        return False


def merged(lists: Iterable[Iterable[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Lists of benchmarks as one, by name: the first description of each, with the modes of all.

    So nothing that was ever measured drops out of the list, however little the environment at
    hand knows.
    """
    found: dict[str, dict[str, Any]] = {}
    for listed in lists:
        for one in listed:
            known = found.setdefault(one["name"], one)
            if known is not one and len(one["params"]) == 1:
                modes = dict.fromkeys([*known["params"][0], *one["params"][0]])
                found[one["name"]] = {**known, "params": [list(modes)]}
    return found
