"""The error of each mode, in units in the last place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.report.style import NothingToDraw, axes, beside, look, settings, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def errors(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Worst error in units in the last place by mode and dtype: a mark per case.

    Linear up to 1 ulp and logarithmic beyond; wrong results have a mark of their own, and where
    they are infinitely wrong it stands at the right edge. Raises NothingToDraw where nothing was
    checked.
    """
    frame = frame[frame["status"].isin(("ok", "wrong")) & (frame["mode"] != FORWARD)]
    frame = frame[frame["ulps"].notna()]
    if frame.empty:
        raise NothingToDraw("the correctness figure needs cases that were checked")
    worst = frame.groupby("mode")["ulps"].max()
    modes = list(worst.sort_values().index)
    place = {mode: y for y, mode in enumerate(modes)}
    finite = frame.loc[frame["ulps"] < 1e300, "ulps"]
    edge = max(10.0, 3 * (finite.max() if len(finite) else 1.0))
    dtypes = sorted(frame["dtype"].unique())
    ax = axes(ax, 8.6, 1.4 + 0.21 * len(modes))
    with settings():
        for number, dtype in enumerate(dtypes):
            style = look(number) | {"linestyle": ""}
            shift = 0.3 * (number - (len(dtypes) - 1) / 2) / max(1, len(dtypes) - 1)
            own = frame[(frame["dtype"] == dtype) & (frame["status"] == "ok")]
            # Cases that coincide are drawn once: the page stays small.
            own = own.assign(ulps=own["ulps"].round(2)).drop_duplicates(["mode", "ulps"])
            y = own["mode"].map(place).astype(float) + shift
            ax.plot(own["ulps"].clip(upper=edge), y, ms=4.5, alpha=0.75, label=dtype, **style)
        wrong = frame[frame["status"] == "wrong"]
        if len(wrong):
            x = wrong["ulps"].clip(upper=edge)
            ax.plot(x, wrong["mode"].map(place), "x", color="#d55e00", ms=9, mew=2, label="wrong")
        ax.set_xscale("symlog", linthresh=1)
        ticks = [0, 0.5, 1] + [10**k for k in range(1, 12) if 10**k <= edge]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_xlim(-0.08, edge * 1.15)
        ax.set_yticks(range(len(modes)), [shortened(m, 32) for m in modes])
        ax.set_ylim(-0.7, len(modes) - 0.3)
        ax.grid(axis="x")
        ax.set_xlabel(
            "worst error of a case, units in the last place (of the block's largest entry)"
        )
        ax.set_title("Error of each mode")
        beside(ax)
    return ax
