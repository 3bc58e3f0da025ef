"""The page's sections of figures, with titles, introductions and alternative texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.core.units import call_time, reading
from gradbench.report import correctness, curves, history, pareto, places, ratios, regions, sizes
from gradbench.report.findings import anchor, scaling_anchor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SCALING, MOST_MEMORY = 12, 6
"""Figures of a kind in one page; `gradbench plot` draws any other."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page with its alternative text; drawn when the page is written."""

    id: str
    described: str
    make: Callable[[], Figure]


@dataclass
class Section:
    id: str
    title: str
    intro: str
    figures: list[Shown] = field(default_factory=list)


EXTRAS = ("devices", "memory", "correctness", "notebooks", "studies")
"""Sections that a report has only on request (`--with`)."""


def figures(frame: pd.DataFrame, changes: pd.DataFrame) -> list[Section]:
    """The sections of figures of a report without scripts: the HTML page draws its own.

    `frame` has the newest row of each case of one machine, `changes` its tracked builds.
    """
    others = frame.drop(index=regions.gridded(frame).index)
    sections = [*_operators(others), _scaling(others), _releases(changes)]
    return [section for section in sections if section.figures]


def extras(
    frame: pd.DataFrame,
    wanted: Collection[str],
    drawn: Sequence[pd.DataFrame] = (),
    studies: Sequence[tuple[str, Figure]] = (),
) -> list[Section]:
    """The atlas, and those of `EXTRAS` that are wanted, as far as they have figures.

    `drawn` holds frames of `curves.computed`, `studies` each study's kind and figure.
    """
    made = {
        "devices": lambda: _places(frame),
        "memory": lambda: _memory(frame),
        "correctness": lambda: _correctness(frame),
        "notebooks": lambda: _curves(drawn),
        "studies": lambda: _studies(studies),
    }
    sections = [_atlas(frame), *(made[name]() for name in EXTRAS if name in wanted)]
    return [section for section in sections if section.figures]


def _figure(draw: Callable[..., Any], frame: pd.DataFrame) -> Callable[[], Figure]:
    def make() -> Figure:
        made: Figure = draw(frame).figure
        return made

    return make


def _ends(frame: pd.DataFrame, column: str, written: Callable[[float], str]) -> str:
    """The least and the largest of a column over the automatic modes, with the modes."""
    own = frame[frame[column].notna() & frame["mode"].ne(FORWARD) & ~frame["by_hand"]]
    if own.empty:
        return "no automatic mode was measured"
    own = own.sort_values(column)
    return " to ".join(f"{written(own[column].iloc[i])} ({own['mode'].iloc[i]})" for i in (0, -1))


def _operators(frame: pd.DataFrame) -> list[Section]:
    found: list[Section] = []
    if frame.empty:
        return found
    for operator in dict.fromkeys(frame[frame["to_fastest"].notna()]["operator"]):
        own = frame[frame["operator"] == operator]
        section = Section(
            anchor("operator", str(operator)),
            str(operator),
            "Time of each mode, divided by the time of the fastest automatic mode.",
        )
        names = list(dict.fromkeys(own["comparison"]))
        # A figure has a page's height at most.
        for start in range(0, len(names), 45):
            some = own[own["comparison"].isin(names[start : start + 45])]
            if some["to_fastest"].notna().any():
                section.figures.append(
                    Shown(
                        anchor("heat", str(operator), str(start)),
                        f"{operator}: multiple of the fastest by function and mode",
                        _figure(ratios.heat_map, some),
                    )
                )
        found.append(section)
    return found


def _scaling(frame: pd.DataFrame) -> Section:
    section = Section(
        "scaling",
        "Time over size",
        "Bands: lowest to highest session. Dotted lines: sizes at which another mode becomes the "
        "fastest, interpolated between two measured sizes at which the verdict is clear.",
    )
    families = sorted(sizes.families(frame), key=lambda rows: -len(rows))
    for part in families[:MOST_SCALING]:
        first = part.iloc[0].to_dict()
        _, named = sizes.sized(part)
        section.figures.append(
            Shown(
                scaling_anchor(first),
                f"time of one call over size: {first['operator']} of {first['function']}"
                + "".join(
                    f"; {c.before} is the fastest below {named} ≈ {c.about}, {c.after} above"
                    for c in sizes.crossovers(part)
                ),
                _figure(sizes.scaling, part),
            )
        )
    return section


def _atlas(frame: pd.DataFrame) -> Section:
    section = Section(
        "atlas",
        "The fastest mode over outputs and inputs",
        "Colours and marks: the fastest mode; marks are the measured points. Stripes in two "
        "colours and open marks: too close to call. Lines: the usual choice takes so many times as "
        "long as the fastest. White: every mode was ruled out.",
    )
    rows = regions.gridded(frame)
    if len(rows):
        newest = rows[rows["run"] == rows["run"].max()]
        one = (newest[regions.ONE] == newest[regions.ONE].iloc[0]).all(axis=1)
        described = ". ".join(regions.told(one) for one in regions.maps(newest[one]))
        section.figures.append(Shown("regions", described, lambda: regions.atlas(newest[one])))
    return section


def _places(frame: pd.DataFrame) -> Section:
    section = Section(
        "devices",
        "Devices",
        "The fastest mode of each device over size. Dotted lines: sizes from which another device "
        "is faster. On either side, every session of one device is faster than every session of "
        f"the other (p ≤ {places.CHANCE:.2f}). +transfer: copies to and from the device are timed "
        "too; +cold: caches are emptied before each call; +8sets: calls cycle through eight sets "
        "of inputs.",
    )
    for part in places.families(frame)[:MOST_SCALING]:
        first: dict[Any, Any] = part.iloc[0].to_dict()
        said = " ".join(places.told(part))
        section.figures.append(
            Shown(
                anchor("devices", *(str(first[name]) for name in places.PROBLEM)),
                "time of one call by device over size: {operator} of {function}. ".format(**first)
                + (said or "No device is clearly faster from some size on."),
                _figure(places.by_device, part),
            )
        )
    return section


def _memory(frame: pd.DataFrame) -> Section:
    section = Section(
        "memory",
        "Memory against time",
        "Lower left is better. Dashed: Pareto front of the automatic modes. Bars: lowest to "
        "highest session.",
    )
    for part in pareto.readable(frame)[:MOST_MEMORY]:
        first = part.iloc[0]
        section.figures.append(
            Shown(
                anchor("memory", first.comparison, first.run),
                f"peak memory against time: {first.comparison}. "
                f"Time: {_ends(part, 'seconds', call_time)}. "
                f"Memory: {_ends(part, 'peak_memory', lambda v: reading(v, 'bytes'))}",
                _figure(pareto.memory, part),
            )
        )
    return section


def _releases(changes: pd.DataFrame) -> Section:
    section = Section(
        "releases",
        "Torch releases",
        "Ratios to the baseline release. ▲ slower than the previous release, ▼ faster. At most 12 "
        "cases, those with the largest significant change first.",
    )
    if len(changes) and history.shown(changes):
        described = "time over torch releases as a ratio to the baseline release"
        section.figures.append(Shown("timelines", described, lambda: history.figure(changes)))
    return section


def _correctness(frame: pd.DataFrame) -> Section:
    section = Section(
        "correctness",
        "Correctness",
        "Every mode is compared with the analytic derivative in float64, before and after it is "
        "timed. Each mark is the worst entry of a case over all checks.",
    )
    if len(frame) and frame.loc[frame["mode"] != FORWARD, "ulps"].notna().any():
        checked = frame[frame["status"].isin(("ok", "wrong")) & (frame["mode"] != FORWARD)]
        if len(checked):
            described = (
                "worst error in units in the last place by mode and dtype: "
                f"{_ends(checked, 'ulps', lambda v: f'{v:.2g}')}"
            )
            section.figures.append(Shown("errors", described, _figure(correctness.errors, frame)))
    return section


def _curves(drawn: Sequence[pd.DataFrame]) -> Section:
    section = Section(
        "curves",
        "Plots from the source notebooks",
        "A function and its derivative, by hand and by reverse mode, computed for this page.",
    )
    for part in drawn:
        name = str(part["function"].iloc[0])
        described = f"{name} and its derivative, by autograd and by hand; the two coincide"
        section.figures.append(
            Shown(anchor("curve", name), described, _figure(curves.derivatives, part))
        )
    return section


def _studies(studies: Sequence[tuple[str, Figure]]) -> Section:
    section = Section(
        "studies",
        "How far to trust the verdicts",
        "The newest stored studies: false positives on identical code, and power to find "
        "injected slowdowns.",
    )
    for kind, figure in studies:
        headline = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
        described = " ".join(f"study {kind}: {headline}".split())
        section.figures.append(
            Shown(anchor("study", kind), described, lambda made=figure: made)  # type: ignore[misc]
        )
    return section
