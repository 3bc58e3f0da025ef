"""The atlas: which mode is fastest over outputs × inputs, and the price of the usual choice."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.core.units import counted, grouped
from gradbench.report.looks import numbers
from gradbench.report.sizes import parsed
from gradbench.report.style import (
    FAINT,
    INK,
    PAPER,
    SERIES,
    NothingToDraw,
    figure,
    look,
    settings,
    shade,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

ONE = ["dtype", "device", "device_name", "threads", "machine", "torch"]
"""What all maps of one figure have in common."""

MESH = 10
"""Points of the drawn mesh between two measured ones, in each direction."""

NARROW = 5.0
"""Inches below which the maps stand in two columns."""

FAR = math.log(30)
"""A mode that was not timed at a point is taken as so much slower than the fastest there."""

CLOSE = math.log(1.01)
"""Differences below the threshold of the verdicts are too close to call anyway."""

PRICES = (2, 10, 100, 1000)
"""Contour lines of the price, multiples of the fastest."""

HATCHES = ("////", "\\\\\\\\", "||||", "----")

KINDS = {"jacobian": "Jacobian", "hessian": "Hessian", "gradient": "Gradient"}


@dataclass(frozen=True)
class Map:
    """One function under one operator over outputs (rows) × inputs (columns)."""

    kind: str
    family: str
    outputs: list[int]
    inputs: list[int]
    modes: list[str]
    seconds: Array
    """Natural logarithms, modes × outputs × inputs; NaN where nothing was timed."""
    spread: Array
    """How far the logarithm of the ratio to the fastest may be off, of the same shape."""
    fastest: list[list[str]]
    """The fastest mode of each point, empty where none was timed."""
    close: npt.NDArray[np.bool_]
    """Whether another mode is too close to the fastest to call."""
    tied: list[str]
    """The modes that are too close to the fastest somewhere."""
    usual: str

    @property
    def winners(self) -> list[str]:
        return sorted({mode for row in self.fastest for mode in row if mode})


def gridded(frame: pd.DataFrame) -> pd.DataFrame:
    """The newest rows of functions that were timed on a whole grid of outputs and inputs, which
    are its columns `m` and `n`."""
    if frame.empty:
        return frame
    sizes = {label: parsed(label) for label in frame["size"].unique()}
    both = {label: (s["m"], s["n"]) for label, s in sizes.items() if {"m", "n"} <= s.keys()}
    frame = frame[frame["size"].isin(both) & frame["newest"] & (frame["mode"] != FORWARD)]
    m, n = (frame["size"].map(lambda label, i=i: both[label][i]) for i in (0, 1))
    kept = []
    for _, rows in frame.assign(m=m, n=n).groupby(
        ["operator", "function", *ONE], sort=False, dropna=False
    ):
        outputs, inputs = rows["m"].nunique(), rows["n"].nunique()
        points = len(rows[["m", "n"]].drop_duplicates())
        if min(outputs, inputs) > 1 and points == outputs * inputs:
            kept.append(rows)
    return pd.concat(kept) if kept else frame.iloc[:0]


def maps(frame: pd.DataFrame) -> list[Map]:
    """The maps of rows of `gridded`."""
    found = [
        _map(str(operator), str(function), rows, sorted(set(rows["m"])), sorted(set(rows["n"])))
        for (operator, function), rows in frame.groupby(["operator", "function"], sort=False)
    ]
    return sorted(found, key=lambda one: list(KINDS).index(one.kind))


def _map(
    operator: str, function: str, rows: pd.DataFrame, outputs: list[int], inputs: list[int]
) -> Map:
    automatic = rows[~rows["by_hand"].astype(bool)]
    timed = automatic[automatic["seconds"].notna() & automatic["to_fastest"].notna()]
    modes = list(dict.fromkeys(timed["mode"]))
    shape = (len(modes), len(outputs), len(inputs))
    seconds, spread = np.full(shape, math.nan), np.zeros(shape)
    fastest = [["" for _ in inputs] for _ in outputs]
    close = np.zeros(shape[1:], dtype=bool)
    tied: set[str] = set()
    for row in timed.to_dict("records"):
        i, j = outputs.index(row["m"]), inputs.index(row["n"])
        k = modes.index(row["mode"])
        seconds[k, i, j] = math.log(row["seconds"])
        low = max(row["to_fastest_low"], 1e-3) if row["to_fastest_low"] > 0 else 1e-3
        spread[k, i, j] = math.log(row["to_fastest"] / low)
        if row["verdict"] == "fastest":
            fastest[i][j] = row["mode"]
        if row["verdict"] in ("undecided", "same"):
            close[i, j] = True
            tied.add(row["mode"])
    # Ratios are formed inside rounds, and tell more than the quotient of two medians.
    best = {
        (i, j): seconds[modes.index(m), i, j]
        for i, r in enumerate(fastest)
        for j, m in enumerate(r)
        if m
    }
    for row in timed.to_dict("records"):
        i, j = outputs.index(row["m"]), inputs.index(row["n"])
        if (i, j) in best:
            seconds[modes.index(row["mode"]), i, j] = best[i, j] + math.log(row["to_fastest"])
    usual = timed.loc[timed["baseline"].astype(bool), "mode"]
    family, _, end = function.rpartition("_")
    of_sum = operator == "batch_jacobian" and end == "sum"
    kind = "gradient" if of_sum else operator.removeprefix("batch_")
    return Map(
        kind if kind in KINDS else "jacobian",
        family if end in ("map", "sum") else function,
        outputs,
        inputs,
        modes,
        seconds,
        spread,
        fastest,
        close,
        sorted(tied),
        str(usual.mode().iloc[0]) if len(usual) else "",
    )


@dataclass(frozen=True)
class Mesh:
    """A map between its measured points, by straight lines on logarithmic axes."""

    x: Array
    y: Array
    seconds: Array
    """Of each mode; NaN where nothing was timed at a corner."""
    spread: Array


def mesh(one: Map) -> Mesh:
    best = np.nanmin(np.where(np.isnan(one.seconds), np.inf, one.seconds), axis=0)
    nothing = np.isinf(best)
    seconds = np.where(np.isnan(one.seconds), best + FAR, one.seconds)
    seconds[:, nothing] = math.nan
    x, y = _finer(np.log(one.inputs)), _finer(np.log(one.outputs))
    return Mesh(x, y, _stretched(seconds, one, x, y), _stretched(one.spread, one, x, y))


def _finer(places: Array) -> Array:
    parts = [np.linspace(a, b, MESH, endpoint=False) for a, b in itertools.pairwise(places)]
    return np.concatenate([*parts, places[-1:]])


def _stretched(values: Array, one: Map, x: Array, y: Array) -> Array:
    """Values at the points of a map, bilinear between them."""
    columns, rows = _weights(np.log(one.inputs), x), _weights(np.log(one.outputs), y)
    whole = np.nan_to_num(values, nan=1e6)
    return np.asarray(np.einsum("yi,kij,xj->kyx", rows, whole, columns))


def _weights(at: Array, finer: Array) -> Array:
    return np.stack([np.interp(finer, at, unit) for unit in np.eye(len(at))], axis=1)


def atlas(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Which mode is fastest over outputs × inputs: a map for each family and kind of derivative.

    `frame` has rows of `report.table` of one machine, device, dtype and build, of functions on a
    grid of sizes m (outputs) and n (inputs), as the profile *atlas* measures them. Colours are the
    fastest mode; stripes in two colours, two modes that are too close to call; lines, the time of
    the usual choice as a multiple of the fastest. Between measured points times are interpolated.
    `width` is that in inches for which the figure will be used: a narrow one has two columns of
    maps. Raises NothingToDraw without such rows, or with those of several machines.
    """
    frame = gridded(frame)
    if frame.empty:
        raise NothingToDraw(
            "the atlas needs functions timed on a grid of outputs m and inputs n: "
            "'gradbench run --profile atlas'"
        )
    for column in ONE:
        if frame[column].nunique(dropna=False) > 1:
            raise NothingToDraw(f"the atlas shows one {column}; narrow the selection to it")
    found = maps(frame)
    families = list(dict.fromkeys(one.family for one in found))
    columns = len(families) if width is None or width >= NARROW else min(2, len(families))
    kinds = list(dict.fromkeys(one.kind for one in found))
    lines = [
        (kind, families[i : i + columns])
        for kind in kinds
        for i in range(0, len(families), columns)
    ]
    number = numbers(mode for one in found for mode in one.winners + one.tied)
    made = figure(1.2 + 2.1 * columns, 1.5 + 1.95 * len(lines))
    places = {(one.kind, one.family): one for one in found}
    with settings():
        grid = made.subplots(len(lines), columns, squeeze=False)
        for line, ((kind, across), row) in enumerate(zip(lines, grid)):
            for ax, family in itertools.zip_longest(row, across):
                one = places.get((kind, family))
                ax.set_visible(one is not None)
                if one is None:
                    continue
                _draw(ax, one, number)
                if not line or columns < len(families):
                    ax.set_title(shortened(family.replace("_", " "), 24), loc="center")
                if line == len(lines) - 1:
                    ax.set_xlabel("inputs")
            summed = "outputs" if kind == "jacobian" else "outputs, added up"
            row[0].set_ylabel(f"{KINDS[kind]}\n{summed}")
        _legend(made, number, found)
        made.suptitle("The fastest mode", x=0.01, ha="left", fontsize=12)
        made.text(0.99, 0.99, _where(frame.iloc[0]), ha="right", va="top", fontsize=8)
    return made


def told(one: Map) -> str:
    """A map in words: how many of its points each mode wins."""
    won = Counter(mode for row in one.fastest for mode in row if mode)
    modes = ", ".join(f"{mode} at {count}" for mode, count in won.most_common())
    whole = len(one.outputs) * len(one.inputs)
    return f"{KINDS[one.kind]}, {one.family}: of {whole} points {modes or 'none timed'}"


def _where(row: Any) -> str:
    """The machine and the build of a row, in a line."""
    machine = " ".join(str(row["machine"]).replace("Processor", "").split())
    return ", ".join(
        filter(
            None,
            (
                shortened(str(row["device_name"]) or machine, 40),
                f"{row['dtype']}",
                counted(int(row["threads"]), "thread"),
                f"torch {row['torch']}",
            ),
        )
    )


def _draw(ax: Axes, one: Map, number: dict[str, int]) -> None:
    made = mesh(one)
    known = made.seconds.max(axis=0) < 1e3
    x, y = np.exp(made.x), np.exp(made.y)
    # A mode that is the fastest at no measured point gets no area between two of them either.
    order = [one.modes.index(mode) for mode in one.winners]
    best = np.where(known, made.seconds[order].min(axis=0), math.nan)
    ahead = {k: np.ma.masked_where(~known, _ahead(made.seconds, k, order)) for k in order}
    for k, area in ahead.items():
        ax.contourf(x, y, area, levels=[0, 1e9], colors=[shade(number[one.modes[k]])], zorder=1)
    _stripes(ax, one, made, best, number)
    for line in ahead.values():
        if line.min() < 0 < line.max():
            ax.contour(x, y, line, levels=[0], colors=[PAPER], linewidths=1.2, zorder=3)
    _points(ax, one, number)
    _prices(ax, one, made, best)
    ax.set(xscale="log", yscale="log", facecolor=PAPER)
    for axis, places in ((ax.xaxis, one.inputs), (ax.yaxis, one.outputs)):
        labelled = places[::2] if len(places) > 5 else places
        axis.set_ticks(labelled, [grouped(n) for n in labelled])
        axis.set_ticks([], minor=True)
    reach = 1.35
    ax.set_xlim(one.inputs[0] / reach, one.inputs[-1] * reach)
    ax.set_ylim(one.outputs[0] / reach, one.outputs[-1] * reach)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _ahead(seconds: Array, k: int, among: Sequence[int]) -> Array:
    """How far a mode is ahead of the others: the logarithm of a ratio, negative where it is not."""
    others = [seconds[other] for other in among if other != k]
    return np.min(others, axis=0) - seconds[k] if others else np.ones_like(seconds[k])


def _stripes(ax: Axes, one: Map, made: Mesh, best: Array, number: dict[str, int]) -> None:
    """Stripes in the colour of each mode that may be the fastest too."""
    first = made.seconds.argmin(axis=0)
    own = np.take_along_axis(made.spread, first[None], axis=0)[0]
    x, y = np.exp(made.x), np.exp(made.y)
    for k, mode in enumerate(one.modes):
        if mode not in number:
            continue
        margin = made.seconds[k] - best - np.maximum(np.maximum(made.spread[k], own), CLOSE)
        margin = np.ma.masked_invalid(margin)
        if not ((margin < 0) & (first != k)).any():
            # Stripes in its own colour would not be seen.
            continue
        n = number[mode]
        drawn = ax.contourf(
            x, y, margin, levels=[-1e9, 0], colors="none", hatches=[HATCHES[n % 4]], zorder=2
        )
        drawn.set_edgecolor(shade(n))
        drawn.set_linewidth(0)


def _points(ax: Axes, one: Map, number: dict[str, int]) -> None:
    """The measured points, with the mark of the fastest mode: open where it is too close to call,
    a cross where all modes were ruled out."""
    for i, m in enumerate(one.outputs):
        for j, n in enumerate(one.inputs):
            mode = one.fastest[i][j]
            mark = look(number[mode])["marker"] if mode else "x"
            colour = INK if mode else FAINT
            inner = PAPER if one.close[i, j] else colour
            ax.plot([n], [m], marker=mark, color=colour, ms=3.8, mew=0.6, mfc=inner, zorder=5)


def _prices(ax: Axes, one: Map, made: Mesh, best: Array) -> None:
    """Contour lines of the time of the usual choice as a multiple of the fastest."""
    if one.usual not in one.modes:
        return
    k = one.modes.index(one.usual)
    timed = ~np.isnan(one.seconds[k])
    there = _stretched(timed.astype(float)[None], one, made.x, made.y)[0] > 1 - 1e-9
    price = np.ma.masked_where(~there, made.seconds[k] - best)
    if not price.count():
        return
    levels = [v for v in PRICES if price.min() < math.log(v) < price.max()]
    if not levels:
        return
    x, y = np.exp(made.x), np.exp(made.y)
    logs = [math.log(v) for v in levels]
    lines = ax.contour(x, y, price, levels=logs, colors=INK, linewidths=0.7, zorder=4)
    taken: list[Array] = []
    for level, path in zip(levels, lines.get_paths()):
        _label(ax, one, np.asarray(path.vertices), f"{level}×", taken)


LABEL = np.array([0.17, 0.1])
"""Width and height of a label of a contour line and the room around it, as shares of the map."""


def _label(ax: Axes, one: Map, line: Array, text: str, taken: list[Array]) -> None:
    """Labels a contour line away from other labels and from measured points, if there is room."""
    whole = np.log([one.inputs[-1] / one.inputs[0], one.outputs[-1] / one.outputs[0]])
    places = np.log(line / [one.inputs[0], one.outputs[0]]) / whole
    free = np.all((places > LABEL / 2) & (places < 1 - LABEL / 2), axis=1)
    for other in taken:
        free &= np.any(np.abs(places - other) > LABEL, axis=1)
    if not free.any():
        return
    points = np.array([(n, m) for n in one.inputs for m in one.outputs], dtype=float)
    points = np.log(points / [one.inputs[0], one.outputs[0]]) / whole
    away = np.abs((places[free][:, None] - points) / LABEL).max(axis=2).min(axis=1)
    best = int(np.flatnonzero(free)[away.argmax()])
    taken.append(places[best])
    ax.text(
        float(line[best, 0]),
        float(line[best, 1]),
        text,
        fontsize=7,
        ha="center",
        va="center",
        zorder=6,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )


def _legend(made: Figure, number: dict[str, int], found: Sequence[Map]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = []
    for n in sorted(set(number.values()), key=lambda n: (n % len(SERIES), n)):
        names = [mode for mode, own in number.items() if own == n]
        mark = Line2D([], [], marker=look(n)["marker"], color=INK, ls="", ms=4)
        entries.append(((Patch(facecolor=shade(n)), mark), ", ".join(names)))
    stripes = Patch(facecolor=PAPER, edgecolor=FAINT, hatch="////", lw=0)
    mark = Line2D([], [], marker="o", color=INK, mfc=PAPER, mew=0.6, ls="", ms=4)
    entries.append(((stripes, mark), "too close to call"))
    usual = dict.fromkeys(one.usual for one in found if one.usual)
    line = Line2D([], [], color=INK, lw=0.7)
    entries.append((line, textwrap.fill("usual choice / fastest: " + ", ".join(usual), 44)))
    if any("" in row for one in found for row in one.fastest):
        ruled_out = Line2D([], [], marker="x", color=FAINT, ls="", ms=4, mew=0.6)
        entries.append((ruled_out, "all ruled out"))
    longest = max(len(line) for _, name in entries for line in name.splitlines())
    width, height = made.get_size_inches()
    # At 8 points an inch has room for some fifteen characters.
    columns = max(1, min(3, int(15 * width / (longest + 7))))
    more = math.ceil(len(entries) / columns) - 4
    made.set_size_inches(width, height + 0.18 * max(0, more))
    made.legend(
        [handle for handle, _ in entries],
        [name for _, name in entries],
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        handlelength=1.8,
    )
