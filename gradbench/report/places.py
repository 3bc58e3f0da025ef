"""Time over size on several devices, and the sizes from which another device is faster."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core.cases import DOCUMENTS, Place
from gradbench.core.units import grouped
from gradbench.report.sizes import Crossover, label_crossings, meeting, sized
from gradbench.report.style import (
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

PROBLEM = ["operator", "function", "dtype", "threads", "machine", "torch"]
"""What the points of one figure have in common: one machine, one build."""

CHANCE = 0.05
"""The largest p-value at which one device counts as faster than another, see `ahead`."""


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


def ahead(a: Any, b: Any) -> bool:
    """Whether a is significantly faster than b: every session of a is faster than every one of b.

    If the sessions of both came from one distribution, they would separate like this in 2 of
    C(m + n, m) cases (Wilcoxon's exact rank-sum test at its extreme). False if that is more than
    `CHANCE`, as with fewer than four sessions each.
    """
    return bool(a.seconds_high < b.seconds_low) and odds(a.sessions, b.sessions) <= CHANCE


def odds(m: int, n: int) -> float:
    """The p-value of m sessions of one and n of another that do not overlap."""
    return 2 / math.comb(int(m + n), int(m))


def comparable(a: str, b: str) -> bool:
    """Whether two places are different devices under like conditions, copies apart."""
    one, two = Place.parse(a), Place.parse(b)
    return one.device != two.device and one.conditions == two.conditions


def crossings(rows: pd.DataFrame) -> list[Crossover]:
    """The sizes at which one device becomes faster than another, each by its fastest mode, by size.

    `before` and `after` are devices; between `low` and `high` neither is significantly faster. Two
    devices are never in one comparison, so their sessions are compared: see `ahead`.
    """
    made, _ = sized(rows)
    at: dict[str, dict[int, Any]] = {}
    for row in made.itertuples():
        point: Any = row
        at.setdefault(point.device, {})[int(point.n)] = point
    found = []
    for a, b in itertools.combinations(sorted(at), 2):
        if not comparable(a, b):
            continue
        shared = sorted(at[a].keys() & at[b].keys())
        leads = [(n, a, b) for n in shared if ahead(at[a][n], at[b][n])]
        leads += [(n, b, a) for n in shared if ahead(at[b][n], at[a][n])]
        for (low, before, after), (high, now, _) in itertools.pairwise(sorted(leads)):
            if now == before:
                continue
            times = {
                n: (at[before][n].seconds, at[after][n].seconds) for n in shared if low <= n <= high
            }
            found.append(Crossover(before, after, low, high, meeting(times)))
    return sorted(found, key=lambda cross: (cross.n, cross.before, cross.after))


def told(rows: pd.DataFrame) -> list[str]:
    """A sentence for each crossing, with its p-value."""
    made, name = sized(rows)
    said = []
    for cross in crossings(rows):
        at = made["n"].isin((cross.low, cross.high))
        of = made["device"].isin((cross.before, cross.after))
        fewest = made[at & of]["sessions"].min()
        said.append(
            f"above {name} ≈ {cross.about}, {cross.after} is faster than {cross.before} (at "
            f"{cross.low} and at {cross.high}, every session of one is faster than every session "
            f"of the other: p = 1/{1 / odds(fewest, fewest):.0f}; interpolated between)."
        )
    return said


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
        ax.set_xticks(sizes, [grouped(n) for n in sizes])
        ax.minorticks_off()
        label_crossings(ax, name, [(cross, cross.after) for cross in crossings(found[0])])
        seconds_axis(ax.yaxis)
        ax.grid(axis="y")
        c = made.iloc[0]
        ax.set_xlabel(f"size, {name} (numbers; logarithmic)")
        ax.set_ylabel("time of one call (logarithmic)\nband: lowest to highest session")
        where = f"{c['operator']} of {c['function']}, {c['dtype']}: fastest mode of each device"
        ax.set_title(shortened(where, 90))
        beside(ax)
    return ax
