"""The table of `gradbench show --multiples`."""

from __future__ import annotations

from collections.abc import Sequence

from gradbench.analysis.multiples import Multiple, Timed, record
from gradbench.cli.cells import times
from gradbench.cli.rendering import Answer, Cell, Column, Styled, Table
from gradbench.core.units import call_time, multiple


def answer(found: Sequence[Multiple]) -> Answer:
    """A row per comparison, smallest sizes first as in the run."""
    named = [one for one in found if one.objective]
    plain = {(c.device, c.threads) for one in found for c in (one.comparison,)} <= {("cpu", 1)}
    columns = [
        Column("function", lambda one: one.comparison.function),
        *([Column("objective", lambda one: one.objective, rank=3)] if named else []),
        Column("size", lambda one: one.comparison.size),
        Column("dtype", lambda one: one.comparison.dtype, rank=4),
        *([] if plain else [Column("device", _place)]),
        Column("evaluation", lambda one: call_time(one.evaluation), rank=2, right=True),
        Column("one by one", lambda one: _cell(one.theirs), right=True),
        Column("fastest", lambda one: one.best.mode if one.best else ""),
        Column("its multiple", lambda one: _cell(one.best), right=True),
    ]
    details = []
    for operator in dict.fromkeys(one.comparison.operator for one in found):
        rows = [one for one in found if one.comparison.operator == operator]
        title = f"{operator}, as multiples of an evaluation"
        details.append(Table(columns, rows, f"{title} (one by one: {rows[0].theirs.mode})"))
    return Answer(
        [record(one) for one in found],
        details=details,
        summary=["One by one: '.backward()' for each output, as in ADBench and GradBench"],
    )


def _place(one: Multiple) -> str:
    c = one.comparison
    return c.device + (f", {c.threads} threads" if c.threads != 1 else "")


def _cell(timed: Timed | None) -> Cell:
    if timed is None:
        return ""
    if timed.multiple is None:
        over = timed.status if timed.over is None else f"over {multiple(timed.over)}"
        return Styled(over, "yellow")
    return times(timed.multiple)
