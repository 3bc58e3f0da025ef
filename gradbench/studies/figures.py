"""The studies' figures, as PNG and SVG. Colours are Okabe and Ito's, safe for colour blindness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradbench.core.verdicts import CALLED
from gradbench.report.style import save, settings
from gradbench.store.studies import Study
from gradbench.studies.rules import logs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")


def _plain(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1 and 3 of each decade, as plain numbers, no others."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def figures(studies: Sequence[Study]) -> Iterator[tuple[str, Figure]]:
    """One figure for each kind of study that is there, by the kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for kind, make in _FIGURES.items():
        own = [s for s in studies if s.started.study == kind]
        with settings():
            figure = make(own) if own else None
        if figure is not None:
            yield kind, figure
            pyplot.close(figure)


def draw(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Writes each figure as PNG and SVG; the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, figure in figures(studies):
        for suffix in (".svg", ".png"):
            save(figure, folder / f"{kind}{suffix}")
        written.append(folder / f"{kind}.png")
    return written


def _condition(study: Study) -> str:
    from gradbench.studies.tally import conditions

    neighbour = study.settings.get("neighbour", "none")
    name = "between processes" if study.settings.get("between") else "one process"
    where = {
        "none": f"load average {conditions(study)['load'] or 0:.1f}",
        "other": "background load on the other core",
        "same": "background load on the same core",
        "both": "background load on both cores",
    }
    return f"{name}, {where[neighbour]}"


def _aa(studies: Sequence[Study]) -> Any:
    """Apparent differences of identical code, for each condition, with the threshold."""
    from matplotlib import pyplot

    from gradbench.studies.tally import floors_of, outcomes

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2))
    wrong = total = 0
    for colour, study in zip(COLOURS, studies):
        floors = floors_of(study)
        way = "between" if study.settings.get("between") else "process"
        found = [o for o in outcomes(study.trials, floors) if o.way == way and not o.share]
        if not found:
            continue
        apart = np.sort(100 * np.abs(np.expm1([o.log for o in found])))
        beyond = 1 - np.arange(len(apart)) / len(apart)
        axes.step(apart, 100 * beyond, where="post", color=colour, label=_condition(study))
        axes.axvline(100 * floors[way], color=GREY, lw=0.8, ls=":")
        wrong += sum(o.verdict in CALLED for o in found)
        total += len(found)
    if not total:
        return None
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.01, None),
        xlabel="apparent difference of identical code, %",
        ylabel="comparisons with at least this difference, %",
        title=f"The same code against itself: {wrong} false positives in {total} comparisons",
    )
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    axes.plot([], [], color=GREY, lw=0.8, ls=":", label="threshold (1 %; between processes 2 %)")
    axes.legend(frameon=False, loc="lower left")
    return figure


def _power(studies: Sequence[Study]) -> Any:
    """Share called slower against the slowdown, with exact intervals."""
    from matplotlib import pyplot

    from gradbench.studies.tally import power

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2))
    series: dict[str, list[dict[str, Any]]] = {}
    for study in studies:
        for row in power(study):
            name = f"{row['rule'].split(',')[0]}, {row['budget']:g} s"
            if row["neighbour"] != "none":
                name += f", background load: {row['neighbour']}"
            series.setdefault(name, []).append(row)
    if not series:
        return None
    for number, (name, rows) in enumerate(series.items()):
        shift = 1 + 0.02 * (number - (len(series) - 1) / 2)
        x = [100 * row["slowdown"] * shift for row in rows]
        y = np.array([100 * row["power"] for row in rows])
        low = y - [100 * row["power_low"] for row in rows]
        high = [100 * row["power_high"] for row in rows] - y
        style: dict[str, Any] = {
            "marker": "os^Dv"[number % 5],
            "color": COLOURS[number % len(COLOURS)],
        }
        axes.errorbar(x, y, yerr=[low, high], capsize=3, ms=5, lw=1, label=name, **style)
    ticks = sorted({100 * row["slowdown"] for rows in series.values() for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(
        ylim=(-3, 103),
        xlabel="injected slowdown, %",
        ylabel="called slower, % of trials (95 % interval)",
        title="Detected slowdowns, by seconds of measuring",
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def _coverage(studies: Sequence[Study]) -> Any:
    """Every process's ratio around the long-run ratio, and the coverage of the intervals."""
    from matplotlib import pyplot

    from gradbench.studies import coverage

    study = studies[0]
    pools: dict[str, list[float]] = {}
    for trial in study.good("pool"):
        c, mode = trial.case.comparison, trial.case.mode
        name = f"{c.operator}/{c.function}\n{mode} : {trial.values['against']}"
        pools.setdefault(name, []).append(float(np.median(logs(trial.log_ratios))))
    rows = coverage.rows(study)
    if not pools or not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 * len(pools) + 1.8))
    chance = np.random.default_rng(0)
    for y, (_, values) in enumerate(pools.items()):
        apart = 100 * np.expm1(np.array(values) - np.mean(values))
        jitter = y + chance.uniform(-0.18, 0.18, len(values))
        axes.plot(apart, jitter, "o", ms=3, alpha=0.5, color=BLUE, mec="none")
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set_yticks(range(len(pools)), list(pools), fontsize=8)
    axes.invert_yaxis()
    group, one = rows[0]["coverage"], rows[-1]["coverage"]
    axes.set(
        xlabel="ratio of two modes in one process (a dot),\n% from the long-run ratio",
    )
    figure.suptitle(
        f"Processes differ: the interval of one covers the long-run ratio in {one:.0%} of trials,\n"
        f"that of five processes in {group:.0%}",
        x=0.01,
        ha="left",
    )
    return figure


def _peers(studies: Sequence[Study]) -> Any:
    """False positives against power at 2 %, and the cost of a comparison."""
    from matplotlib import pyplot

    from gradbench.studies import peers

    rows = peers.rows(studies[0])
    if not rows:
        return None
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 0.36 * len(rows) + 1.6), sharey=True, width_ratios=(2, 1)
    )
    names = [f"{row['method']}: {row['rule']}" for row in rows]
    for y, row in enumerate(rows):
        for name, colour, marker, shift in (
            ("rate", RED, "o", -0.15),
            ("power_2", BLUE, "s", 0.15),
        ):
            value, low, high = (100 * row[name + end] for end in ("", "_low", "_high"))
            left.errorbar(
                value,
                y + shift,
                xerr=[[value - low], [high - value]],
                fmt=marker,
                color=colour,
                ms=5,
                capsize=2,
                lw=1,
                label={"rate": "false positives (same code)", "power_2": "detects 2 %"}[name]
                if not y
                else None,
            )
        right.plot(row["seconds_in_all"], y, "D", color=GREY, ms=5)
    left.set_yticks(range(len(rows)), names)
    left.invert_yaxis()
    left.set(xlim=(-3, 103), xlabel="% of trials (95 % interval)")
    left.set_title("False positives, and power for a slowdown of 2 %")
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    right.set(xscale="log", xlabel="total seconds\nper comparison")
    _plain(right.xaxis)
    return figure


def _load(studies: Sequence[Study]) -> Any:
    """Ratios, false positives and power of each method by the number of busy processes."""
    from matplotlib import pyplot

    from gradbench.studies import load

    rows = load.rows(studies[0])
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        # The first rule of each method is its default.
        rule = next((rule for method, rule in series if method == row["method"]), row["rule"])
        if row["rule"] == rule:
            series.setdefault((row["method"], rule), []).append(row)
    busy = sorted({row["busy"] for row in rows})
    if not series:
        return None
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 4.6))
    for number, ((method, rule), own) in enumerate(series.items()):
        style: dict[str, Any] = {
            "marker": "os^DvP"[number % 6],
            "color": COLOURS[number % len(COLOURS)],
            "lw": 2 if method == load.GRADBENCH else 1,
            "ms": 5,
            "label": f"{method}: {rule}",
        }
        off = [(row["busy"], 1 + row["off"]) for row in own if row["off"] is not None]
        if off:
            axes[0].plot([busy.index(x) for x, _ in off], [y for _, y in off], **style)
        for axis, name in zip(axes[1:], ("rate", "power_5")):
            told = [(row["busy"], 100 * row[name]) for row in own if row["trials"]]
            axis.plot([busy.index(x) for x, _ in told], [y for _, y in told], **style)
    axes[0].axhspan(1 / (1 + load.NEAR), 1 + load.NEAR, color=GREY, alpha=0.2, lw=0)
    axes[0].set(yscale="log", title="Ratio, as a multiple of the truth\n(worst pair; band: 10 %)")
    _plain(axes[0].yaxis)
    axes[1].set(ylim=(-3, 103), title="Same code called different,\n% of comparisons")
    axes[2].set(ylim=(-3, 103), title="Slowdown of 5 % called slower,\n% of comparisons")
    for axis in axes:
        axis.set_xticks(range(len(busy)), [str(number) for number in busy])
        axis.set_xlabel("busy processes per core")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return figure


_FIGURES: dict[str, Callable[[Sequence[Study]], Any]] = {
    "aa": _aa,
    "power": _power,
    "coverage": _coverage,
    "peers": _peers,
    "load": _load,
}
