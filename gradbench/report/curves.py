"""Plots from the source notebooks: a function and its derivative, by autograd and by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gradbench.report.style import FAINT, INK, SERIES, axes, settings
from gradbench.runner.wire import Worker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = {
    "sine": [(-2 * np.pi, 2 * np.pi)],
    # On either side of the pole.
    "log_sin_reciprocal": [(-6.0, -0.25), (0.25, 6.0)],
}
"""The functions that the source notebooks plot (exercises 2 and 5), with their intervals."""


def computed(worker: Worker, function: str, points: int = 160) -> pd.DataFrame:
    """A function on its intervals, as columns x, value, automatic, by_hand, formula, function.

    Computed by torch, in the worker. NaN rows separate the intervals.
    """
    parts = []
    for low, high in CURVES[function]:
        x = np.linspace(low, high, points)
        told = worker.request("curve", 60, function=function, points=x.tolist())
        told = {k: told[k] for k in ("formula", "value", "automatic", "by_hand")}
        part = pd.DataFrame({"x": x, **told, "function": function})
        parts += [part, pd.DataFrame([{"x": np.nan, "function": function}])]
    return pd.concat(parts[:-1], ignore_index=True)


def derivatives(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One function of `computed`: the derivative by hand as a wide line, by AD as dots on it."""
    name, formula = frame["function"].iloc[0], frame["formula"].iloc[0]
    ax = axes(ax, 7.2, 4.0)
    apart = (frame["automatic"] - frame["by_hand"]).abs().max()
    with settings():
        ax.axhline(0, color=FAINT, lw=0.7)
        ax.plot(frame["x"], frame["value"], color=INK, lw=1.3, ls="--", label="function")
        ax.plot(
            frame["x"],
            frame["by_hand"],
            color=SERIES[4],
            lw=4.5,
            alpha=0.7,
            label="derivative by hand",
        )
        every = frame.iloc[::4]
        ax.plot(
            every["x"],
            every["automatic"],
            "o",
            color=SERIES[0],
            ms=3.2,
            label="derivative by autograd",
        )
        ax.set_xlabel("x (dimensionless)")
        ax.set_ylabel("value (dimensionless)")
        differ = f"differ by at most {apart:.1e}" if apart else "are equal at every point"
        ax.set_title(f"{name}: {formula}\nautograd and by hand {differ}")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return ax
