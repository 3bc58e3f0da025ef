"""Reports and figures of stored runs. The figures take a DataFrame and return matplotlib Axes.

`gradbench.report.table()` makes the frame that they take; docs/report.md shows each figure.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbench.report.correctness import errors
    from gradbench.report.curves import derivatives
    from gradbench.report.data import table
    from gradbench.report.history import timelines
    from gradbench.report.pareto import memory
    from gradbench.report.places import by_device
    from gradbench.report.ratios import dots, forward, heat_map
    from gradbench.report.regions import atlas
    from gradbench.report.sizes import scaling

_PLACES = {
    "correctness": ("errors",),
    "curves": ("derivatives",),
    "data": ("table",),
    "pareto": ("memory",),
    "places": ("by_device",),
    "ratios": ("heat_map", "dots", "forward"),
    "regions": ("atlas",),
    "sizes": ("scaling",),
    "history": ("timelines",),
}

__all__ = [
    "atlas",
    "by_device",
    "derivatives",
    "dots",
    "errors",
    "forward",
    "heat_map",
    "memory",
    "scaling",
    "table",
    "timelines",
]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"gradbench.report.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
