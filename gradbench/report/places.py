"""The same function on several devices, and the sizes from which on another is the faster."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.cases import DOCUMENTS
from gradbench.report.sizes import Crossover, meeting, sized
from gradbench.report.style import (
    FAINT,
    NothingToDraw,
    axes,
    beside,
    look,
    seconds_axis,
    settings,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBLEM = ["operator", "function", "dtype", "threads", "torch"]
"""What the points of one figure have in common; the processor beside a device may differ."""


def best(frame: pd.DataFrame) -> pd.DataFrame:
    """The fastest automatic mode at each size on each device, newest runs only."""
    if frame.empty:
        return frame
    kept = frame[frame["newest"] & (frame["verdict"] == "fastest") & ~frame["by_hand"]]
    return kept[kept["size"] != DOCUMENTS]


def families(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The best rows of each function that was timed on several devices at two sizes or more."""
    found: list[pd.DataFrame] = []
    for _, rows in best(frame).groupby(PROBLEM, sort=False, dropna=False) if len(frame) else ():
        shared = rows.groupby("size")["device"].nunique()
        if (shared > 1).sum() >= 2:
            found.append(rows)
    return found


def crossings(rows: pd.DataFrame) -> list[Crossover]:
    """The sizes at which one device becomes faster than another, each by its fastest mode.

    `before` and `after` are devices. A side counts where the ranges of the sessions' times are
    apart: cases on two devices are never in one comparison, so there is no ratio to judge.
    """
    made, _ = sized(rows)
    at: dict[str, dict[int, Any]] = {}
    for row in made.itertuples():
        point: Any = row
        at.setdefault(point.device, {})[int(point.n)] = point
    found = []
    for a, b in itertools.permutations(sorted(at), 2):
        shared = sorted(at[a].keys() & at[b].keys())
        ahead = [n for n in shared if at[a][n].seconds_high < at[b][n].seconds_low]
        behind = [n for n in shared if at[b][n].seconds_high < at[a][n].seconds_low]
        later = [n for n in behind if ahead and n > min(ahead)]
        if not later:
            continue
        high = min(later)
        low = max(n for n in ahead if n < high)
        between = [n for n in shared if low <= n <= high]
        times = {n: (at[a][n].seconds, at[b][n].seconds) for n in between}
        found.append(Crossover(a, b, low, high, meeting(times)))
    return found


def by_device(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds per call of the fastest mode over size, a line for each device.

    `frame` has rows of one operator, function and dtype, on several devices. Raises NothingToDraw
    for fewer than two devices or sizes.
    """
    found = families(frame)
    if len(found) != 1:
        raise NothingToDraw(
            "the devices figure shows one function that was timed on two devices at two sizes or "
            f"more; there are {len(found)} such here"
        )
    made, name = sized(found[0])
    ax = axes(ax, 9.0, 4.6)
    with settings():
        for number, (device, rows) in enumerate(made.groupby("device", sort=True)):
            rows = rows.sort_values("n")
            style: dict[str, Any] = look(number)
            ax.fill_between(
                rows["n"],
                rows["seconds_low"],
                rows["seconds_high"],
                color=style["color"],
                alpha=0.22,
                lw=0,
            )
            ax.plot(rows["n"], rows["seconds"], lw=1.5, ms=5, label=str(device), **style)
        ax.set(xscale="log", yscale="log")
        sizes = sorted(int(n) for n in made["n"].unique())
        ax.set_xticks(sizes, [f"{n:g}" for n in sizes])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * 1.6)
        for cross in crossings(found[0]):
            ax.axvline(cross.n, color=FAINT, lw=1, ls=":")
            ax.text(
                cross.n,
                0.99,
                f" {name} ≈ {cross.about}:\n {cross.after}",
                transform=ax.get_xaxis_transform(),
                va="top",
                fontsize=8,
            )
        seconds_axis(ax.yaxis)
        ax.grid(axis="y")
        c = made.iloc[0]
        ax.set_xlabel(f"size, {name} (numbers; logarithmic)")
        ax.set_ylabel("time of one call (logarithmic)\nband: lowest to highest session")
        where = f"{c['operator']} of {c['function']}, {c['dtype']}: fastest mode of each device"
        ax.set_title(shortened(where, 90))
        beside(ax)
    return ax
