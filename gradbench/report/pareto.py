"""Peak memory against time, with the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.report.looks import numbers
from gradbench.report.style import (
    INK,
    NothingToDraw,
    axes,
    beside,
    look,
    mode_label,
    seconds_axis,
    settings,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both seconds and peak memory, by time."""
    kept, least = [], float("inf")
    for label, row in frame.sort_values(["seconds", "peak_memory"]).iterrows():
        if row["peak_memory"] < least:
            kept.append(label)
            least = row["peak_memory"]
    return frame.loc[kept]


def readable(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The comparisons with time and memory of three modes or more, newest runs only."""
    if frame.empty:
        return []
    both = frame[frame["newest"] & frame["seconds"].notna() & frame["peak_memory"].notna()]
    groups = [rows for _, rows in both.groupby(["comparison", "run"], sort=False)]
    return [rows for rows in groups if (rows["mode"] != FORWARD).sum() >= 3]


def memory(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Peak memory (bytes, logarithmic) against time of one call, a mark per mode.

    The line joins the Pareto front. Bars reach from the lowest to the highest session. Raises
    NothingToDraw for several comparisons or without readings of peak memory.
    """
    if frame["comparison"].nunique() > 1:
        raise NothingToDraw("the memory figure shows one comparison; narrow the selection to it")
    frame = frame[(frame["mode"] != FORWARD) & frame["seconds"].notna()]
    frame = (
        frame[frame["peak_memory"].notna()].sort_values("run").drop_duplicates("mode", keep="last")
    )
    if frame.empty:
        raise NothingToDraw(
            "the memory figure needs both: 'gradbench run --instrument wall_time "
            "--instrument peak_memory'"
        )
    from matplotlib import ticker

    from gradbench.core.units import reading

    ax = axes(ax, 8.6, max(4.4, 1.2 + 0.24 * len(frame)))
    with settings():
        number = numbers(sorted(frame["mode"]))
        for row in frame.sort_values("mode").to_dict("records"):
            style: dict[str, Any] = look(number[row["mode"]]) | {"linestyle": ""}
            y = max(row["peak_memory"], 1)
            error = [[row["seconds"] - row["seconds_low"]], [row["seconds_high"] - row["seconds"]]]
            name = mode_label(row["mode"], row["by_hand"], 28)
            ax.errorbar(row["seconds"], y, xerr=error, ms=7, lw=1, label=name, **style)
        best = front(frame[~frame["by_hand"]])
        ax.plot(
            best["seconds"],
            best["peak_memory"].clip(lower=1),
            color=INK,
            lw=1,
            ls="--",
            zorder=1,
            drawstyle="steps-post",
            label="Pareto front\n(automatic modes)",
        )
        ax.set(xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):
            seconds_axis(axis)
        low, high = ax.get_ylim()
        if high / low < 4:
            ax.set_ylim(low / 1.6, high * 1.6)
        ax.yaxis.set_major_locator(ticker.LogLocator(base=2, numticks=8))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: reading(v, "bytes")))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.grid()
        ax.set_xlabel("time of one call (logarithmic; bar: lowest to highest session)")
        ax.set_ylabel("peak memory of one call (logarithmic)")
        ax.set_title(shortened(str(frame["comparison"].iloc[0]), 90), fontsize=9.5)
        beside(ax)
    return ax
