"""Figures of a given width, as a paper needs them: nothing clipped, no text over other text."""

from __future__ import annotations

import contextlib
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradbench.report.style import NothingToDraw, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDEST = 40.0
"""Inches up to which a width is looked for that does."""

FONTS = (9.5, 9.0, 8.5, 8.0, 7.5, 7.0, 6.5, 6.0)
"""Sizes of normal text that are tried, in points. The first is that of figures without a width."""

NARROW = 6.0
"""Inches below which a legend goes below the axes, and text begins with FONTS[3]."""

LONG = 24
"""Characters beyond which a text may be broken into lines."""

SLACK = 0.75
"""Pixels by which texts may stick out or overlap: glyphs do not fill their boxes."""

GAP = 0.2
"""Half of the least distance of two texts side by side, as a part of their height."""

Corners = npt.NDArray[np.float64]


def fit(figure: Figure, width: float) -> None:
    """Makes a figure `width` inches wide, with the largest text for which nothing is clipped.

    Raises NothingToDraw, with a width that does, where no text of 6 points or more fits.
    """
    figure_width, height = figure.get_size_inches()
    items = _sized(figure)
    if width < min(NARROW, figure_width):
        figure.set_size_inches(width, height)
        with settings(), _legible():
            figure.draw_without_rendering()
        for ax in figure.axes:
            _legend_below(figure, ax)
        items += _sized(figure, known=items)
    titles = [(t, t.get_text()) for t in _texts(figure) if len(t.get_text()) > LONG]
    sizes_of_axes = list(_labelled_sizes(figure))

    def fits(inches: float, size: float) -> bool:
        factor = size / FONTS[0]
        figure.set_size_inches(inches, height * max(factor, inches / figure_width))
        for artist, name, value in items:
            getattr(artist, f"set_{name}")(value * factor)
        for title, text in titles:
            title.set_text(text)
        with _legible():
            _wrap(figure, titles)
            for ax, labels in sizes_of_axes:
                _thin_out(ax, labels)
            return next(_faults(figure), None) is None
        return False

    sizes = FONTS[3 if width < NARROW else 0 :]
    # Most figures fit with large text, and those that do not fit at all are soon known.
    if fits(width, sizes[0]) or (
        fits(width, sizes[-1]) and any(fits(width, size) for size in sizes[1:])
    ):
        return
    if width >= WIDEST or not fits(WIDEST, FONTS[-1]):
        raise NothingToDraw(f"the figure does not fit into {width:g} inches: select less")
    narrow, wide = width, WIDEST
    while wide > 1.05 * narrow:
        middle = math.sqrt(narrow * wide)
        narrow, wide = (narrow, middle) if fits(middle, FONTS[-1]) else (middle, wide)
    enough = math.ceil(10 * wide) / 10
    raise NothingToDraw(
        f"the figure does not fit into {width:g} inches: use --width {enough:g}, or select less"
    )


@contextlib.contextmanager
def _legible() -> Iterator[None]:
    """Ends the block where matplotlib has no room left for the axes."""
    with warnings.catch_warnings(), contextlib.suppress(UserWarning):
        warnings.filterwarnings("error", message="constrained_layout not applied")
        yield


def _sized(figure: Figure, known: Any = ()) -> list[tuple[Any, str, float]]:
    """What has a size in points: artists, the properties, their values."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    there = {id(artist) for artist, _, _ in known}
    found: list[tuple[Any, str, float]] = []
    for artist in figure.findobj():
        if id(artist) in there:
            continue
        if isinstance(artist, Text):
            found.append((artist, "fontsize", float(artist.get_fontsize())))
        elif isinstance(artist, Line2D):
            found.append((artist, "markersize", float(artist.get_markersize())))
            found.append((artist, "linewidth", float(artist.get_linewidth())))
        elif isinstance(artist, Collection):
            widths = np.atleast_1d(artist.get_linewidth())
            if len(widths):
                found.append((artist, "linewidth", float(widths[0])))
    return found


def _legend_below(figure: Figure, ax: Axes) -> None:
    """Moves a legend that stands beside the axes, or is wider than half of them, below all axes."""
    legend = ax.get_legend()
    if legend is None:
        return
    beside: Any = legend
    wide = legend.get_window_extent().width > ax.bbox.width / 2
    if beside._bbox_to_anchor is None and not wide:
        return
    handles, labels = ax.get_legend_handles_labels()
    legend.remove()
    longest = max((len(label) for label in labels), default=1)
    with settings():
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=max(1, min(4, 56 // (longest + 6))),
            fontsize=8.5,
        )


def _labelled_sizes(figure: Figure) -> Iterator[tuple[Axes, list[str]]]:
    """The axes whose ticks are sizes on a logarithmic scale, with the labels."""
    from matplotlib.ticker import FixedLocator

    for ax in figure.axes:
        if ax.get_xscale() == "log" and isinstance(ax.xaxis.get_major_locator(), FixedLocator):
            yield ax, [label.get_text() for label in ax.get_xticklabels()]


def _thin_out(ax: Axes, labels: list[str]) -> None:
    """Leaves as many of the labels as stand apart in the last drawing, the largest first."""
    ticks = ax.get_xticks()
    ax.set_xticks(ticks, labels)
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    middles = ax.transData.transform([(x, 1.0) for x in ticks])[:, 0]
    widths = [box.width + 2 * GAP * box.height for box in boxes]
    places = range(len(labels) - 1, -1, -1)
    step = 1
    while any(
        middles[i] - middles[j] < (widths[i] + widths[j]) / 2
        for i, j in itertools.pairwise(places[::step])
    ):
        step += 1
    ax.set_xticks(ticks, [text if i in places[::step] else "" for i, text in enumerate(labels)])


def _wrap(figure: Figure, titles: list[tuple[Text, str]]) -> None:
    """Breaks long texts that do not fit into the figure where they stand."""
    figure.draw_without_rendering()
    whole = figure.bbox.width
    for title, text in titles:
        box = title.get_window_extent()
        middle = (box.x0 + box.x1) / 2
        room = {
            "left": whole - max(0.0, box.x0),
            "right": min(whole, box.x1),
            "center": 2 * min(middle, whole - middle),
        }[title.get_horizontalalignment()]
        if box.width > room - 2 and not title.get_rotation():
            longest = max(map(len, text.splitlines()))
            count = max(12, int(longest * (room - 4) / box.width))
            title.set_text("\n".join(textwrap.fill(line, count) for line in text.splitlines()))


def faults(figure: Figure) -> list[str]:
    """What cannot be read in a figure, in lines: text beyond its edges, and text over text."""
    return list(_faults(figure))


def _faults(figure: Figure) -> Iterator[str]:
    with settings():
        figure.draw_without_rendering()
    whole = figure.bbox
    boxes = [(text.get_text(), _corners(text)) for text in _texts(figure)]
    if not boxes:
        return
    corners = np.array([own for _, own in boxes])
    spaced = np.array([_spaced(own) for own in corners])
    low, high = corners.min(axis=1), corners.max(axis=1)
    outside = (low < -SLACK).any(axis=1) | (high > (whole.x1 + SLACK, whole.y1 + SLACK)).any(axis=1)
    for index in np.nonzero(outside)[0]:
        yield f"{boxes[index][0]!r} is clipped"
    # Turned texts are looked at closely where the upright boxes around them meet.
    low, high = spaced.min(axis=1), spaced.max(axis=1)
    meet = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=2)
    for one, other in np.argwhere(np.triu(meet, 1)):
        if _overlap(spaced[one], spaced[other]):
            yield f"{boxes[one][0]!r} overlaps {boxes[other][0]!r}"


def _texts(figure: Figure) -> Iterator[Text]:
    """The texts that are drawn."""
    from matplotlib.text import Text

    hidden = {id(t) for ax in figure.axes if not ax.get_visible() for t in ax.findobj(Text)}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - slack <= tick.get_loc() <= high + slack:
                    hidden |= {id(tick.label1), id(tick.label2)}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if id(text) not in hidden and text.get_visible() and text.get_text().strip():
            yield text


def _corners(text: Text) -> Corners:
    """The corners of the box of a text, turned as the text is, in pixels."""
    middle = text.get_window_extent().get_points().mean(axis=0)
    turn = math.radians(text.get_rotation())
    if turn:
        angle = text.get_rotation()
        text.set_rotation(0)
        box = text.get_window_extent()
        text.set_rotation(angle)
    else:
        box = text.get_window_extent()
    half = np.array([box.width, box.height]) / 2
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    matrix = np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
    return np.asarray(square @ matrix + middle)


def _spaced(corners: Corners) -> Corners:
    """The box with room to the left and right of its text."""
    along, up = corners[1] - corners[0], corners[2] - corners[1]
    length = float(np.hypot(*along))
    if not length:
        return corners
    room = GAP * float(np.hypot(*up)) / length * along
    return np.asarray(corners + [[-1], [1], [1], [-1]] * room)


def _overlap(one: Corners, other: Corners) -> bool:
    """Whether two rectangles overlap: no line along a side of one separates them."""
    for corners in (one, other):
        for along in (corners[1] - corners[0], corners[2] - corners[1]):
            length = float(np.hypot(*along))
            if not length:
                return False
            a, b = one @ along / length, other @ along / length
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= SLACK:
                return False
    return True
