"""Timelines of cases over torch releases, with significant changes marked."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gradbench.core.releases import ReleaseError, parse
from gradbench.core.verdicts import CALLED
from gradbench.report.style import FAINT, SERIES, NothingToDraw, decades, settings, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CASE = ["operator", "function", "size", "dtype", "device", "threads", "mode"]


def shown(frame: pd.DataFrame, most: int = 12) -> list[tuple[str, pd.DataFrame]]:
    """The cases worth showing: those with called changes first, the largest change first, be it of
    a step or of the whole range; of a mode no second one before every mode has its first."""
    cases: list[tuple[int, float, str, pd.DataFrame]] = []
    for key, rows in frame.groupby(CASE, sort=False, observed=True):
        called = list(rows.loc[rows["verdict"].isin(CALLED), "change"])
        if "from_first" in rows:
            called += list(rows.loc[rows["from_first_verdict"].isin(CALLED), "from_first"])
        size = float(np.abs(np.log(called)).max()) if called else -1.0
        if rows["to_baseline"].notna().any():
            cases.append((0, size, "/".join(map(str, key)), rows))
    cases.sort(key=lambda c: (-c[1], c[2]))
    turns: dict[str, int] = {}
    for place, (_, size, name, rows) in enumerate(cases):
        mode = name.rpartition("/")[2]
        turn = turns[mode] = turns.get(mode, -1) + 1
        cases[place] = (turn if size >= 0 else len(cases), size, name, rows)
    cases.sort(key=lambda c: (c[0], -c[1], c[2]))
    return [(name, rows) for _, _, name, rows in cases[:most]]


def ordered(frame: pd.DataFrame) -> list[str]:
    """The releases in their order; no case need have all."""
    builds = frame.drop_duplicates("release")
    try:
        versions = [parse(str(torch)) for torch in builds["torch"]]
    except ReleaseError:
        return [str(release) for release in builds["release"]]
    return [str(key[-1]) for key in sorted(zip(versions, builds["date"], builds["release"]))]


def also_differs(frame: pd.DataFrame) -> dict[str, str]:
    """What changed with a release besides torch, by release."""
    notes: dict[str, dict[str, None]] = {}
    for release, note in frame.loc[frame["note"].astype(bool), ["release", "note"]].to_numpy():
        notes.setdefault(str(release), {})[str(note)] = None
    return {release: "; ".join(said) for release, said in notes.items()}


def figure(frame: pd.DataFrame, most: int = 12, columns: int = 2) -> Figure:
    """Small multiples of `timelines`, at most `most` cases; frame of `releases.timeline`.

    Raises NothingToDraw where no case was timed in any release.
    """
    chosen = shown(frame, most) if len(frame) else []
    if not chosen:
        raise NothingToDraw("there are no tracked releases; 'gradbench releases track' makes some")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    with settings():
        made = Figure(figsize=(4.9 * columns, 0.5 + 2.3 * lines))
        FigureCanvasAgg(made)
        places = np.atleast_1d(made.subplots(lines, columns, squeeze=False).ravel())
    for ax, (name, rows) in zip(places, chosen):
        timelines(rows, ax)
        ax.set_title(shortened(name, 58), fontsize=8)
    for ax in places[len(chosen) :]:
        ax.set_visible(False)
    legend = "▲ called slower than the release before, ▼ faster. Bars: interval between sessions."
    others = also_differs(frame)
    if others:
        legend += "\n* also differs from the one before: "
        legend += "; ".join(f"{release}: {what}" for release, what in others.items())
    with settings():
        made.supxlabel("\n".join(textwrap.wrap(legend, 64 * columns)), fontsize=8, ha="center")
    return made


def timelines(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One case over releases: the ratio to the baseline release with its interval.

    ▲ marks a release that was called slower than the one before, ▼ faster; releases where the case
    was not timed are named by their status at the bottom. `frame` is of `releases.timeline`.
    """
    from gradbench.report.style import axes

    if frame.groupby(CASE, observed=True).ngroups != 1:
        raise NothingToDraw("a timeline shows one case; 'gradbench plot releases' shows several")
    ax = axes(ax, 8.0, 3.4)
    rows: list[Any] = list(frame.reset_index(drop=True).itertuples())
    x = np.arange(len(rows))
    with settings():
        y = frame["to_baseline"].to_numpy(float)
        low = np.nan_to_num(y - frame["to_baseline_low"].to_numpy(float))
        high = np.nan_to_num(frame["to_baseline_high"].to_numpy(float) - y)
        ax.axhline(1, color=FAINT, lw=0.9, ls=":")
        bars = [np.clip(low, 0, None), np.clip(np.where(high > 1e300, 0, high), 0, None)]
        ax.errorbar(x, y, yerr=bars, color=SERIES[0], marker="o", ms=4, lw=1.2, capsize=2)
        for i, row in enumerate(rows):
            if row.verdict in CALLED and not np.isnan(y[i]):
                slower = row.verdict == "slower"
                ax.plot(
                    [i],
                    [y[i]],
                    "^" if slower else "v",
                    ms=9,
                    zorder=4,
                    color=SERIES[1 if slower else 2],
                )
            if row.status != "ok":
                ax.text(
                    i,
                    0.02,
                    row.status,
                    transform=ax.get_xaxis_transform(),
                    rotation=90,
                    fontsize=7,
                    va="bottom",
                    ha="center",
                )
        ax.set_yscale("log")
        bottom, top = ax.get_ylim()
        if top / bottom < 1.3:
            ax.set_ylim(bottom / 1.15, top * 1.15)
        from matplotlib import ticker

        bottom, top = ax.get_ylim()
        if top / bottom < 3:
            ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
            ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:.3g}"))
            ax.yaxis.set_minor_locator(ticker.NullLocator())
        else:
            decades(ax.yaxis)
        ax.set_xlim(-0.5, len(rows) - 0.5)
        crowded = len(rows) > 8
        ax.set_xticks(
            x,
            [f"{r.release}*" if r.note else str(r.release) for r in rows],
            rotation=45 if crowded else 0,
            ha="right" if crowded else "center",
        )
        ax.set_xlabel("torch release")
        ax.set_ylabel(f"× time in {rows[0].baseline}")
        ax.grid(axis="y")
    return ax
