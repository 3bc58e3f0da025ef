"""What all figures share: colours, marks, axes, and how a figure becomes a file or part of a page.

Colours and marks are those of `gradbench.report.looks`; a mark and a line style go with each
colour, so that no colour is needed to read a figure.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.core import text
from gradbench.core.extras import require
from gradbench.report.looks import COLOURS, MARKS
from gradbench.store.files import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#1a1a1b", "#fdfdfe"
"""Text and background; a page puts its own in their place, light or dark."""
FAINT = "#8a8a8c"
SERIES = tuple(light for light, _ in COLOURS)
_LINES = ("-", "--", "-.", ":")


class NothingToDraw(ValueError):
    """The frame has nothing to draw; the message says what the figure needs."""


def look(number: int) -> dict[str, Any]:
    """Colour, mark and line style of the series of a number: see `looks`."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKS[number % len(MARKS)][0],
        "linestyle": _LINES[number // len(SERIES) % len(_LINES)],
    }


LIGHTER = (0.0, 0.3, 0.12, 0.5, 0.62, 0.72)
"""How much white the areas of each colour of SERIES have, so that they differ in greyscale."""


def shade(number: int) -> str:
    """The colour of an area of the series of a number: series of one colour differ in lightness."""
    from matplotlib.colors import to_hex, to_rgb

    colour, place = number % len(SERIES), number // len(SERIES) % 3
    colour_of_area = to_rgb(SERIES[colour])
    for part, towards in ((LIGHTER[colour], 1.0), ((0.0, 1.0), (0.55, 1.0), (0.4, 0.0))[place]):
        red, green, blue = (c + part * (towards - c) for c in colour_of_area)
        colour_of_area = (red, green, blue)
    return to_hex(colour_of_area)


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib's settings for the figures of this package, without a display."""
    require("a figure", "matplotlib")
    import matplotlib

    rc: dict[Any, Any] = {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "font.size": 9.5,
        "svg.hashsalt": "gradbench",
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "text.parse_math": False,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "legend.frameon": False,
        "grid.color": FAINT,
        "grid.alpha": 0.3,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with matplotlib.rc_context(rc):
        yield


@contextmanager
def _letters() -> Iterator[None]:
    """Hides warnings about missing glyphs: a page shows them in the reader's fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or new ones of a figure of this size in inches."""
    return figure(width, height).subplots() if ax is None else ax


def figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, without axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with settings():
        made = Figure(figsize=(width, height))
        FigureCanvasAgg(made)
        return made


def decades(axis: Any) -> None:
    """A logarithmic axis with plain numbers, with closer ticks on short ranges."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high / low < 400 else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def seconds_axis(axis: Any) -> None:
    """A logarithmic axis of seconds, labelled in ns, µs, ms and s."""
    from matplotlib import ticker

    from gradbench.core.units import call_time

    decades(axis)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: call_time(value)))


def beside(ax: Axes, **given: Any) -> None:
    """The legend, to the right of the axes."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, **given)


def shortened(name: str, most: int = 40) -> str:
    """A name that fits beside an axis, shortened in the middle."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def mode_label(mode: str, by_hand: bool, most: int = 30) -> str:
    """A mode's name in a figure, marked if its derivative is written by hand."""
    return shortened(mode, most) + (" (by hand)" if by_hand else "")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as its ending says (.svg, .png or .pdf), whole or not at all."""
    form = path.suffix.lower().removeprefix(".")
    if form == "svg":
        write_text(path, _svg(figure))
        return
    with replacing(path) as draft:
        write(figure, draft, format=form, dpi=150)


def write(figure: Figure, target: Any, **given: Any) -> None:
    """Writes a figure with `Figure.savefig`, its text made fit to show: a dollar sign begins no
    formula."""
    from matplotlib.text import Text

    with settings(), _letters():
        for label in figure.findobj(Text):
            assert isinstance(label, Text)
            label.set_parse_math(False)
            label.set_text(text.shown(label.get_text()))
        figure.savefig(target, **given)


def _svg(figure: Figure) -> str:
    """A figure as an SVG file. XML cannot hold a control character, and the labels of ticks are
    made only as it is drawn."""
    written = io.StringIO()
    write(figure, written, format="svg", metadata={"Date": None})
    # Hundredths of a point are enough, in half of the space.
    shorter = re.sub(r"(\d\.\d\d)\d+", r"\1", written.getvalue())
    return text.shown(shorter)


_VARIABLES = {INK: "--ink", PAPER: "--paper", FAINT: "--faint", "#666666": "--faint"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}


def inline(figure: Figure, name: str, described: str) -> str:
    """A figure as an SVG element for a page: its colours are the page's, light or dark.

    `described` is the text alternative; `name` keeps ids of several figures apart.
    """
    from html import escape

    svg = _svg(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The description is escaped and put in last, so that nothing in it is taken for a colour.
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana")
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    least = f"{float(width[1]) * 0.95:.0f}" if width else "600"
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r' width="[\d.]+pt"', "", svg, count=1)
    head = (
        f'<svg role="img" aria-label="{escape(text.shown(described))}" style="min-width:{least}px;'
    )
    head += f'max-width:{float(least) * 1.6:.0f}px"'
    return svg.replace("<svg", head, 1)
