"""Time over size, and the sizes at which another mode becomes the fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core.cases import DOCUMENTS, FORWARD, parse_size
from gradbench.core.units import grouped
from gradbench.report.looks import numbers
from gradbench.report.style import (
    FAINT,
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

ROW_OF_LABELS = 0.055
"""The height of a row of labels, as a share of the axes'."""

FAMILY = ["operator", "function", "dtype", "device", "device_name", "threads", "machine", "torch"]
"""What the points of one figure have in common."""


def sized(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of known size with the number that varies as column `n`, and that number's name.

    Where several numbers vary, n is their product.
    """
    sizes = {s: parsed(s) for s in frame["size"].unique()}
    known = {s: size for s, size in sizes.items() if size}
    names = list(dict.fromkeys(name for size in known.values() for name in size))
    varying = [n for n in names if len({size.get(n) for size in known.values()}) > 1]
    frame = frame[frame["size"].isin(known)]
    number = {s: math.prod(size.get(n, 1) for n in varying) for s, size in known.items()}
    return frame.assign(n=frame["size"].map(number)), " · ".join(varying)


def parsed(label: str) -> dict[str, int]:
    if label == DOCUMENTS:
        return {}
    try:
        return parse_size(label)
    except ValueError:
        return {}


def families(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each function that was timed at three sizes or more, newest runs only.

    Without those on a grid, where several sizes have the same product: they are in the atlas.
    """
    found: list[pd.DataFrame] = []
    if frame.empty:
        return found
    timed = frame[frame["newest"] & frame["seconds"].notna() & (frame["size"] != DOCUMENTS)]
    for _, rows in timed.groupby(FAMILY, sort=False, dropna=False):
        made, _ = sized(rows)
        if made["n"].nunique() >= 3 and not on_grid(made):
            found.append(rows)
    return found


def on_grid(made: pd.DataFrame) -> bool:
    """Whether several sizes of rows of `sized` have the same n."""
    return bool(made["size"].nunique() > made["n"].nunique())


@dataclass(frozen=True)
class Crossover:
    """Where the fastest mode changes: at `n` by interpolation. The verdicts are clear at the sizes
    `low` and `high`, and at none between."""

    before: str
    after: str
    low: int
    high: int
    n: float

    @property
    def about(self) -> str:
        """The size with two digits."""
        return f"{self.n:.2g}" if self.n < 100 else f"{float(f'{self.n:.2g}'):.0f}"


def crossovers(frame: pd.DataFrame) -> list[Crossover]:
    """The sizes at which another mode becomes the fastest, with clear verdicts on both sides.

    Between two neighbouring sizes the lines of time on logarithmic axes are taken as straight.
    """
    made, _ = sized(frame)
    at: dict[str, dict[int, Any]] = {}
    for row in made.itertuples():
        point: Any = row
        at.setdefault(point.mode, {})[int(point.n)] = point
    fastest = sorted((n, m) for m, rows in at.items() for n in rows if rows[n].verdict == "fastest")
    found = []
    for (_, before), (change, after) in itertools.pairwise(fastest):
        if before == after:
            continue
        a, b = at[before], at[after]
        shared = sorted(a.keys() & b.keys())
        ahead = [n for n in shared if n < change and _beats(a[n], b[n])]
        behind = [n for n in shared if n >= change and _beats(b[n], a[n])]
        if not (ahead and behind):
            continue
        low, high = max(ahead), min(behind)
        between = [n for n in shared if low <= n <= high]
        times = {n: (a[n].seconds, b[n].seconds) for n in between}
        found.append(Crossover(before, after, low, high, meeting(times)))
    return found


def meeting(times: Mapping[int, tuple[float, float]]) -> float:
    """The size at which the second of two times falls below the first, by size in rising order.

    The second is the larger one at the first size and the smaller one at the last.
    """
    gap = {n: math.log(b / a) for n, (a, b) in times.items()}
    left, right = next((x, y) for x, y in itertools.pairwise(gap) if gap[x] > 0 and gap[y] <= 0)
    share = gap[left] / (gap[left] - gap[right])
    return math.exp(math.log(left) + share * math.log(right / left))


def label_crossings(ax: Axes, name: str, crossings: Sequence[tuple[Crossover, str]]) -> None:
    """Dotted lines at crossings, each labelled in a row of its own above the lines of times."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (ROW_OF_LABELS * (len(crossings) + 0.5)))
    left, right = ax.get_xlim()
    for row, (cross, after) in enumerate(crossings):
        ax.axvline(cross.n, color=FAINT, lw=1, ls=":")
        in_right_half = cross.n > math.sqrt(left * right)
        ax.text(
            cross.n,
            0.99 - ROW_OF_LABELS * row,
            f" {name} ≈ {cross.about}: {after} ",
            transform=ax.get_xaxis_transform(),
            va="top",
            ha="right" if in_right_half else "left",
            fontsize=8,
            in_layout=False,
        )


def _beats(winner: Any, other: Any) -> bool:
    """Whether the one is the fastest and the other is *slower*."""
    if winner.verdict != "fastest" or other.verdict != "slower":
        return False
    return bool(winner.seconds < other.seconds)


def scaling(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds per call over size for each mode of one function, on logarithmic axes.

    Bands reach from the lowest to the highest session. Dotted lines mark crossovers. `frame` has
    rows of one operator, function, dtype, device, build; sizes of the documents are left out.
    Raises NothingToDraw for fewer than two sizes, or for a grid of them.
    """
    timed = frame[frame["seconds"].notna()]
    many = [c for c in FAMILY if timed[c].nunique(dropna=False) > 1]
    if many:
        raise NothingToDraw(f"the scaling figure shows one {many[0]}; narrow the selection to it")
    made, name = sized(timed)
    if made["n"].nunique() < 2:
        raise NothingToDraw("the scaling figure needs a function timed at two sizes or more")
    if on_grid(made):
        raise NothingToDraw(
            "these sizes are a grid, of which 'gradbench plot atlas' has a map; narrow it to one "
            "line, such as --size 'm=64,*'"
        )
    made = made.sort_values("run").drop_duplicates(["n", "mode"], keep="last")
    sizes: list[int] = sorted(int(n) for n in made["n"].unique())
    groups = {str(m): rows.sort_values("n") for m, rows in made.groupby("mode", sort=True)}
    order = sorted(groups, key=lambda m: -groups[m]["seconds"].iloc[-1])
    number = numbers(sorted(groups))
    ax = axes(ax, 9.0, max(4.6, 1.2 + 0.24 * len(order)))
    with settings():
        for mode in order:
            rows = groups[mode]
            style: dict[str, Any] = look(number[str(mode)])
            if mode == FORWARD:
                style = {"color": FAINT, "marker": ".", "linestyle": ":"}
            ax.fill_between(
                rows["n"],
                rows["seconds_low"],
                rows["seconds_high"],
                color=style["color"],
                alpha=0.22,
                lw=0,
            )
            name_of_mode = mode_label(mode, bool(rows["by_hand"].iloc[0]), 28)
            ax.plot(rows["n"], rows["seconds"], lw=1.5, ms=5, label=name_of_mode, **style)
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(sizes, [grouped(n) for n in sizes])
        ax.minorticks_off()
        label_crossings(ax, name, [(c, shortened(c.after, 24)) for c in crossovers(made)])
        seconds_axis(ax.yaxis)
        ax.grid(axis="y")
        c = made.iloc[0]
        ax.set_xlabel(f"size, {name} (numbers; logarithmic)")
        ax.set_ylabel("time of one call (logarithmic)\nband: lowest to highest session")
        where = f"{c['operator']} of {c['function']}, {c['dtype']} on {c['device']}"
        ax.set_title(shortened(where, 90))
        beside(ax)
    return ax
