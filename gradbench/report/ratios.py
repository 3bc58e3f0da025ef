"""Ratios of times: the heat map of functions and modes, dots with intervals, the forward pass."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.core.units import multiple
from gradbench.report.style import (
    FAINT,
    INK,
    PAPER,
    SERIES,
    NothingToDraw,
    axes,
    decades,
    mode_label,
    settings,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"fastest": "*", "slower": "o", "faster": "s", "same": "D", "undecided": "X"}
STATUS = {"unsupported": "–", "refused": "R", "wrong": "W", "failed": "F"}
STATUS |= {"crashed": "C", "timed out": "T", "out of memory": "M"}
OTHER = "·"
"""What a cell of the heat map shows that was not timed and has a status not in `STATUS`."""


def problem_labels(frame: pd.DataFrame) -> pd.Series[str]:
    """A label per row that names its comparison by what is not the same in all rows."""
    parts = [frame["function"].map(shortened)]
    for name in ("size", "dtype", "device", "device_name", "threads", "torch", "cpu", "run"):
        if name not in frame:
            continue
        values = frame[name].astype(str)
        # A processor has no device's name.
        if values[values != ""].nunique() < 2:
            continue
        if name == "run" and not frame.duplicated([*_KEY, "mode"]).any():
            continue
        parts.append(values + " threads" if name == "threads" else values)
    label = parts[0]
    for part in parts[1:]:
        label = label + "  " + part
    return label


_KEY = ["operator", "function", "size", "dtype", "device", "threads", "torch", "cpu"]


def _one(frame: pd.DataFrame, column: str, figure: str) -> str:
    values = list(dict.fromkeys(frame[column]))
    if len(values) != 1:
        raise NothingToDraw(
            f"{figure} shows one {column} and {len(values)} are selected: "
            + ", ".join(map(str, values[:8]))
            + ("…" if len(values) > 8 else "")
        )
    return str(values[0])


def heat_map(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Function × mode: the time as a multiple of the comparison's fastest mode, written in cells.

    `frame` has the rows of one operator, as `gradbench.report.table` makes them. A cell that was
    not timed has a letter for its status; ? marks undecided. A line below says what the signs that
    occur mean. Raises NothingToDraw for several
    operators, or where nothing was timed.
    """
    operator = _one(frame, "operator", "the heat map") if len(frame) else ""
    frame = frame[frame["mode"] != FORWARD]
    if frame.empty or not (frame["to_fastest"].notna()).any():
        raise NothingToDraw("the heat map needs modes that were timed")
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    frame = frame.assign(label=problem_labels(frame))
    functions = list(dict.fromkeys(frame["label"]))
    order = frame.groupby("mode")["to_fastest"].median().sort_values(na_position="last")
    modes = list(order.index)
    cells = {(r.label, r.mode): r for r in frame.itertuples()}
    by_hand = set(frame.loc[frame["by_hand"].astype(bool), "mode"])
    names = [mode_label(mode, mode in by_hand) for mode in modes]
    width = 1.6 + 0.075 * max(map(len, functions)) + 0.58 * len(modes)
    width = max(width, 6.0)
    height = 1.6 + 0.27 * len(functions) + 0.06 * max(map(len, names))
    ax = axes(ax, width, height)
    ramp = LinearSegmentedColormap.from_list(
        "multiple", ["#d7ecf9", "#56b4e9", "#0072b2", "#00263d"]
    )
    norm = LogNorm(1, 30, clip=True)
    values = np.full((len(functions), len(modes)), np.nan)
    with settings():
        for y, function in enumerate(functions):
            for x, mode in enumerate(modes):
                row: Any = cells.get((function, mode))
                if row is None:
                    continue
                if np.isnan(row.to_fastest):
                    sign = STATUS.get(row.status, OTHER)
                    ax.text(x, y, sign, ha="center", va="center", color=FAINT, fontsize=8)
                    continue
                values[y, x] = row.to_fastest
                dark = norm(row.to_fastest) > 0.45
                ax.text(
                    *(x, y, multiple(row.to_fastest) + ("?" if row.verdict == "undecided" else "")),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    weight="bold" if row.verdict == "fastest" else "normal",
                    color="#ffffff" if dark else "#101010",
                )
        mesh = ax.pcolormesh(
            np.arange(len(modes) + 1) - 0.5,
            np.arange(len(functions) + 1) - 0.5,
            np.ma.masked_invalid(values),
            cmap=ramp,
            norm=norm,
            edgecolors=PAPER,
            linewidth=1,
        )
        ax.invert_yaxis()
        ax.set_xticks(range(len(modes)), names, rotation=40, ha="right")
        # At the left, where a phone shows it without scrolling.
        said = textwrap.fill(_signs(frame), int(7 * width))
        ax.set_xlabel(said, fontsize=8, labelpad=8, loc="left")
        ax.set_yticks(range(len(functions)), functions)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"{operator}: time as a multiple of the fastest")
        bar = ax.figure.colorbar(mesh, ax=ax, shrink=min(1.0, 3 / height), aspect=14, extend="max")
        bar.set_ticks([1, 2, 5, 10, 30], labels=["1×", "2×", "5×", "10×", "30×"])
        bar.minorticks_off()
        bar.outline.set_visible(False)
    return ax


def _signs(frame: pd.DataFrame) -> str:
    """What the signs in the cells of these rows mean."""
    said = ["bold: the fastest"]
    if (frame["verdict"] == "undecided").any():
        said.append("?: cannot be told from it at this effort")
    missing = frame[frame["to_fastest"].isna()]
    for status in dict.fromkeys(missing["status"]):
        said.append(f"{STATUS.get(status, OTHER)}: {'not timed' if status == 'ok' else status}")
    cells = frame["label"].nunique() * frame["mode"].nunique()
    if len(frame.drop_duplicates(["label", "mode"])) < cells:
        said.append("empty: not in that comparison")
    return "; ".join(said)


def _dots(frame: pd.DataFrame, column: str, ax: Axes, labels: list[str], marks: bool) -> None:
    for y, row in enumerate(frame.to_dict("records")):
        value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
        kind = row["verdict"] or "slower"
        colour = SERIES[list(MARKS).index(kind)] if marks and row["verdict"] else FAINT
        endless = high > 1e300
        if not np.isnan(low) and row["sessions"] > 1:
            ax.plot([low, value * 10 if endless else high], [y, y], color=colour, lw=1.6, zorder=2)
        ax.plot(
            *([value], [y], MARKS[kind] if marks else "o"),
            color=colour,
            ms=9 if kind == "fastest" and marks else 6,
            mec=PAPER,
            mew=0.6,
            zorder=3,
        )
        for group in row.get("groups") or []:
            if column == "to_fastest":
                ax.plot([group], [y], "|", color=INK, ms=9, zorder=4)
    ax.axvline(1, color=FAINT, lw=0.9, ls=":")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high / low < 1.5:
        ax.set_xlim(low / 1.2, high * 1.2)
    decades(ax.xaxis)
    ax.grid(axis="x")


def dots(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The modes of one comparison: a dot for the ratio to the fastest, a bar for its interval.

    Raises NothingToDraw for the rows of several comparisons or where nothing was timed. With one
    session there is no interval, and none is drawn.
    """
    name = _one(frame, "comparison", "the dot plot") if len(frame) else ""
    _one(frame, "run", "the dot plot") if len(frame) else ""
    frame = frame[frame["to_fastest"].notna()].sort_values("to_fastest")
    if frame.empty:
        raise NothingToDraw("the dot plot needs a comparison that was timed")
    labels = [mode_label(m, hand, 36) for m, hand in zip(frame["mode"], frame["by_hand"])]
    ax = axes(ax, 8.6, 1.5 + 0.27 * len(frame))
    with settings():
        _dots(frame, "to_fastest", ax, labels, marks=True)
        for verdict, mark in MARKS.items():
            if (frame["verdict"] == verdict).any():
                colour = SERIES[list(MARKS).index(verdict)]
                ax.plot([], [], mark, color=colour, ms=7, label=verdict)
        if (frame["verdict"] == "").any():
            ax.plot([], [], "o", color=FAINT, ms=6, label="not judged")
        if frame["groups"].map(bool).any():
            ax.plot([], [], "|", color=INK, ms=9, label="groups of\nsessions")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        held = "interval between sessions" if frame["sessions"].max() > 1 else "one session"
        ax.set_xlabel(f"time as a multiple of the fastest ({held})")
        ax.set_title(shortened(name, 90), fontsize=9.5)
    return ax


def forward(frame: pd.DataFrame, ax: Axes | None = None, most: int = 48) -> Axes:
    """What the fastest derivative costs as a multiple of evaluating the function once.

    A dot and an interval per comparison of one operator, the cheapest first; at most `most`.
    Raises NothingToDraw where the forward pass was not timed.
    """
    operator = _one(frame, "operator", "the forward figure") if len(frame) else ""
    frame = frame[(frame["verdict"] == "fastest") & frame["to_forward"].notna()]
    if frame.empty:
        raise NothingToDraw("the forward figure needs comparisons with the forward pass timed")
    frame = frame.assign(label=problem_labels(frame)).sort_values("to_forward")
    if len(frame) > most:
        # The ends and what lies evenly between them.
        frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, most).astype(int))]
    labels = [f"{label}  ({shortened(m, 30)})" for label, m in zip(frame["label"], frame["mode"])]
    ax = axes(ax, 8.6, 1.5 + 0.25 * len(frame))
    with settings():
        _dots(frame, "to_forward", ax, labels, marks=False)
        ax.set_xlabel("time of the fastest mode as a multiple of one evaluation (with interval)")
        ax.set_title(f"{operator}: what a derivative costs in evaluations")
    return ax
