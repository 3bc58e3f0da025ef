"""Lays out a table in a width: which columns it has, how wide they are, and its lines.

Where everything fits, it is shown as it is. Where it does not, the least important columns are left
out one by one, names lose their middle, and sentences go on in the next line, between words.
Numbers are never shortened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

BETWEEN = 2
"""Spaces between two columns."""


@dataclass(frozen=True)
class Shape:
    """How one column behaves where space is short."""

    right: bool = False
    """Whether it has numbers, which stand on the right and are never shortened."""
    whole: bool = False
    """Whether its names are never shortened: a reader types them."""
    prose: bool = False
    """Whether it has sentences, which may take several lines."""
    rank: int = 0
    """The column of the highest rank is left out first; those of rank 0 stay."""


COMFORTABLE = {"name": 17, "prose": 24}
"""Columns of a rank are left out before others get narrower than this."""

LEAST = {"name": 8, "prose": 16}


@dataclass(frozen=True)
class Need:
    """The columns of the screen that one column of a table needs."""

    heading: int
    word: int
    """The longest word of the heading: a heading may take several lines, between words."""
    cells: int

    @property
    def natural(self) -> int:
        return max(self.heading, self.cells)

    def least(self, shape: Shape, least: dict[str, int]) -> int:
        cells = self.cells
        if not (shape.right or shape.whole):
            cells = min(cells, least["prose" if shape.prose else "name"])
        return max(self.word, cells)


def fitted(
    needs: Sequence[Need], shapes: Sequence[Shape], width: int, filled: Sequence[int]
) -> dict[int, int]:
    """The columns to show and their widths, by their places. Those that are not `filled` are left
    out."""
    shown = list(filled)
    while True:
        for least in (COMFORTABLE, LEAST):
            ranked = [place for place in shown if shapes[place].rank]
            widths = {place: needs[place].least(shapes[place], least) for place in shown}
            free = width - sum(widths.values()) - BETWEEN * (len(shown) - 1)
            if free >= 0:
                widths = _widened(widths, needs, shapes, free)
                return _with_room(widths, needs, filled, width)
            if ranked:
                break
        if len(shown) == 1:
            return {shown[0]: max(1, min(needs[shown[0]].natural, width))}
        # The last of those that are equally unimportant; what stands first names the row.
        shown.remove(max(shown[1:], key=lambda place: (shapes[place].rank, place)))


def _with_room(
    widths: dict[int, int], needs: Sequence[Need], filled: Sequence[int], width: int
) -> dict[int, int]:
    """The columns, with those for which there is room after all, as others took more."""
    for place in filled:
        more = max(needs[place].word, needs[place].cells)
        free = width - sum(widths.values()) - BETWEEN * len(widths)
        if place not in widths and more <= free:
            widths = widths | {place: more}
    return {place: widths[place] for place in sorted(widths)}


def _widened(
    widths: dict[int, int], needs: Sequence[Need], shapes: Sequence[Shape], free: int
) -> dict[int, int]:
    """The columns with the free space, shared evenly: first among names, then among headings, then
    among sentences."""
    names = {p: needs[p].cells for p in widths if not shapes[p].prose}
    headings = {p: needs[p].natural for p in widths if not shapes[p].prose}
    sentences = {p: needs[p].natural for p in widths}
    for wanted in (names, headings, sentences):
        narrow = [p for p in wanted if widths[p] < wanted[p]]
        while free and narrow:
            widths[min(narrow, key=lambda p: widths[p])] += 1
            free -= 1
            narrow = [p for p in narrow if widths[p] < wanted[p]]
    return widths


def cut(name: str, width: int, ellipsis: str = "…") -> str:
    """A name in so many columns of the screen, without its middle where it is longer."""
    if cell_len(name) <= width:
        return name
    rest = width - cell_len(ellipsis)
    if rest < 2:
        return _head(name, width)
    tail = _head(name[::-1], rest // 2)[::-1]
    return _head(name, rest - cell_len(tail)) + ellipsis + tail


def _head(name: str, width: int) -> str:
    """The beginning of a name that fits in so many columns; some letters take two."""
    head = name[:width]
    while cell_len(head) > width:
        head = head[:-1]
    return head


_WORDS = re.compile(r"[0-9.]+ %\S*|(?:\[[^][]{1,30}\]|\S)+")
"""An interval, a share or a word: none of them is broken."""


def words(text: str) -> list[str]:
    return _WORDS.findall(text)


def folded(text: str, width: int, ellipsis: str = "…") -> list[str]:
    """A text in lines, broken between words only; a longer word loses its middle if `ellipsis`,
    and else stands on a line that is too long."""
    lines = []
    for part in text.splitlines() or [""]:
        if cell_len(part) <= width:
            lines.append(part)
            continue
        line = ""
        for word in words(part):
            if line and cell_len(line) + 1 + cell_len(word) > width:
                lines.append(line)
                line = ""
            line += (" " if line else "") + (cut(word, width, ellipsis) if ellipsis else word)
        lines.append(line)
    return lines


Line = list[tuple[int, str]]
"""The places of the columns and their padded text."""


def heading_lines(
    headings: Sequence[str], widths: dict[int, int], shapes: Sequence[Shape], ellipsis: str = "…"
) -> list[Line]:
    """The headings, on as many lines as their columns' widths ask for."""
    parts = {place: folded(headings[place], width, ellipsis) for place, width in widths.items()}
    tallest = max(map(len, parts.values()))
    parts = {place: [""] * (tallest - len(part)) + part for place, part in parts.items()}
    return _lines(parts, widths, shapes)


def row_lines(
    cells: Sequence[str], widths: dict[int, int], shapes: Sequence[Shape], ellipsis: str = "…"
) -> list[Line]:
    """The lines of one row: several where it has sentences that need them."""
    parts = {
        place: folded(cells[place], width, ellipsis)
        if shapes[place].prose
        else [cut(cells[place], width, ellipsis)]
        for place, width in widths.items()
    }
    return _lines(parts, widths, shapes)


def _lines(
    parts: dict[int, list[str]], widths: dict[int, int], shapes: Sequence[Shape]
) -> list[Line]:
    tallest = max(map(len, parts.values()))
    padded = {place: part + [""] * (tallest - len(part)) for place, part in parts.items()}
    return [
        [
            (place, _padded(padded[place][n], width, shapes[place]))
            for place, width in widths.items()
        ]
        for n in range(tallest)
    ]


def _padded(said: str, width: int, shape: Shape) -> str:
    space = " " * (width - cell_len(said))
    return space + said if shape.right else said + space
