"""The objectives of ADBench and GradBench in the page: multiples of their own evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from gradbench.analysis.multiples import OBJECTIVES, Multiple, Timed, multiples
from gradbench.core.units import call_time, multiple, says_nothing
from gradbench.report.why import Table

INTRO = (
    "The time of a gradient or a jacobian over that of the function itself, as ADBench and "
    "GradBench report it: one by one ('.backward()' for each output, as their PyTorch modules do) "
    "and by the fastest automatic mode here."
)


def tables(frame: pd.DataFrame) -> list[Table]:
    """A table for gradients and one for jacobians, of the newest row of each case of a machine;
    none where no such objective was timed. The first row of each has the headings."""
    if frame.empty:
        return []
    own = frame[frame["function"].isin(OBJECTIVES)]
    found = multiples(own.to_dict("records"))  # type: ignore[arg-type]
    operators = dict.fromkeys(one.comparison.operator for one in found)
    return [_table([m for m in found if m.comparison.operator == name]) for name in operators]


def _table(found: Sequence[Multiple]) -> Table:
    heading = [found[0].comparison.operator, "size", "evaluation", found[0].theirs.mode, "fastest"]
    rows = [
        [
            f"{one.objective} ({one.comparison.function}, {_place(one)})",
            one.comparison.size,
            call_time(one.evaluation),
            _multiple(one.theirs),
            f"{_multiple(one.best)} {one.best.mode}" if one.best else "–",
        ]
        for one in found
    ]
    return [heading, *rows]


def _place(one: Multiple) -> str:
    c = one.comparison
    parts = [c.dtype, "" if c.device == "cpu" else c.device]
    return ", ".join(filter(None, [*parts, f"{c.threads} threads" if c.threads > 1 else ""]))


def _multiple(timed: Timed) -> str:
    if timed.multiple is None:
        return timed.status if timed.over is None else f"over {multiple(timed.over)}×"
    ratio = timed.multiple
    if says_nothing(ratio.low, ratio.high):
        return f"~ {ratio.value:.3g}×"
    return f"{ratio.value:.3g}× [{ratio.low:.3g}, {ratio.high:.3g}]"
