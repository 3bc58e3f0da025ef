"""An answer as a table for people, as CSV, as JSON or as Markdown: one `Renderer` for each.

A command hands over an `Answer`. Programs get its records, people its tables and lines. What a
renderer does not show is never computed, where the command hands over generators.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

from gradbench.cli import layout
from gradbench.cli.layout import Need, Shape
from gradbench.cli.output import console, hint, printable, quiet, say, unicode
from gradbench.core import text
from gradbench.core.text import markdown, markdown_cell


class Styled(NamedTuple):
    """A cell or a line that a terminal shows in a style."""

    said: Any
    style: str

    def __str__(self) -> str:
        return str(self.said)


Cell = str | Styled


@dataclass(frozen=True)
class Column:
    """One column: its heading, what it shows of a row, and what becomes of it in a narrow terminal.

    An optional column is left out where it would be empty, in Markdown too. `right`, `whole`,
    `prose` and `rank`: see `layout.Shape`.
    """

    heading: str
    cell: Callable[[Any], Cell]
    right: bool = False
    optional: bool = False
    whole: bool = False
    prose: bool = False
    rank: int = 0

    @property
    def shape(self) -> Shape:
        return Shape(self.right, self.whole, self.prose, self.rank)


@dataclass(frozen=True)
class Table:
    """Rows of any kind and the columns that show them. Without rows, nothing is shown of it."""

    columns: Sequence[Column]
    rows: Sequence[Any]
    title: str = ""

    def laid_out(self) -> tuple[list[Column], list[list[Cell]]]:
        """The columns that are shown, and their cells."""
        cells = [[column.cell(row) for column in self.columns] for row in self.rows]
        kept = [
            (place, column)
            for place, column in enumerate(self.columns)
            if not column.optional or any(str(row[place]) for row in cells)
        ]
        return [c for _, c in kept], [[row[place] for place, _ in kept] for row in cells]


def fields(
    record: dict[str, Any],
    cell: Callable[[Any], Cell] = str,
    whole: Collection[str] = (),
    prose: Collection[str] = (),
    least: Sequence[str] = (),
) -> list[Column]:
    """A column for each field of such records, under the field's name in words.

    `whole` are those that are never shortened, `prose` those with sentences, `least` those that are
    left out where space is short, in this order.
    """

    def shown(name: str) -> Callable[[Any], Cell]:
        return lambda row: cell(row[name])

    ranks = {name: len(least) - place for place, name in enumerate(least)}
    return [
        Column(
            name.replace("_", " "),
            shown(name),
            whole=name in whole,
            prose=name in prose,
            rank=ranks.get(name, 0),
        )
        for name in record
    ]


def places(
    headings: Sequence[str],
    right: Collection[str] = (),
    prose: Collection[str] = (),
    least: Sequence[str] = (),
) -> list[Column]:
    """Columns for rows that are sequences of cells; `prose` and `least` as for `fields`."""
    ranks = {name: len(least) - place for place, name in enumerate(least)}
    return [
        Column(
            heading,
            itemgetter(place),
            heading in right,
            prose=heading in prose,
            rank=ranks.get(heading, 0),
        )
        for place, heading in enumerate(headings)
    ]


@dataclass(frozen=True)
class Answer:
    """What a command has to say, for programs (`records`) and for people (all else)."""

    records: Iterable[dict[str, Any]] = ()
    """Flat rows; docs/schemas.md has their fields."""
    heading: str = ""
    """With a heading, Markdown shows what people get; without one, the records as a table."""
    ahead: Sequence[Cell] = ()
    """What a reader has to know before all else, such as that the machine was busy."""
    differences: Sequence[str] = ()
    """What differs between the two sides that are compared."""
    overview: Table | None = None
    details: Iterable[Table] = ()
    apart: bool = False
    """In Markdown, each of the details has a heading of its own."""
    summary: Iterable[Cell] = ()
    notes: Iterable[Cell] = ()
    hints: Iterable[Cell] = ()
    """What to type next, for a terminal: `--quiet` leaves it out."""
    text: str = ""
    """With a text, a terminal shows that alone."""
    document: dict[str, Any] | None = None
    """With a document, JSON is that and not the records."""


class Renderer(ABC):
    """Writes answers to standard output in one format."""

    @abstractmethod
    def write(self, answer: Answer) -> None: ...


class Terminal(Renderer):
    """Tables and lines for people. What matters most stands last, where the reader's eye is."""

    def write(self, answer: Answer) -> None:
        if answer.text:
            say(answer.text)
            for line in answer.hints:
                hint(line)
            return
        out = console()
        differences = [Styled(f"also differs: {what}", "yellow") for what in answer.differences]
        left_out: dict[str, None] = {}

        def write(lines: Iterable[Cell]) -> None:
            for line in lines:
                out.print(_Lines(_folded_line(line, out.width)), end="", crop=False)

        write([*answer.ahead, *differences])
        overview = [answer.overview] if answer.overview else []
        for part in (*overview, *answer.details):
            if part.rows:
                lines, missing = _table_lines(part, out.width)
                out.print(_Lines(lines), end="")
                left_out |= dict.fromkeys(heading for heading in missing if heading)
        write([*answer.summary, *answer.notes])
        if quiet():
            return
        write(answer.hints)
        if left_out:
            names = ", ".join(left_out)
            write([Styled(f"No room in {out.width} columns for: {names} (try COLUMNS=200)", "dim")])


class Json(Renderer):
    def write(self, answer: Answer) -> None:
        content = list(answer.records) if answer.document is None else answer.document
        say(text.json_text(content, indent=2, only_ascii=not unicode()))


class Csv(Renderer):
    def write(self, answer: Answer) -> None:
        rows, columns = _with_columns(answer)
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(map(text.csv_cell, columns))
        writer.writerows([self._cell(row.get(name)) for name in columns] for row in rows)
        say(written.getvalue().removesuffix("\n"))

    @staticmethod
    def _cell(value: Any) -> str:
        """A number stays one, whatever its sign; text is no formula."""
        flat = _flat(value)
        return flat if isinstance(value, (bool, int, float)) else text.csv_cell(flat)


class Markdown(Renderer):
    """A table, or a section with a heading of its own, in which the summary comes early."""

    def write(self, answer: Answer) -> None:
        if answer.apart:
            for line in self._ahead(answer):
                say(f"{line}\n")
            for part in answer.details:
                say(f"### {markdown_cell(part.title)}\n\n{self._table(part)}\n")
        elif answer.heading:
            say("\n\n".join(self._blocks(answer)))
        else:
            rows, columns = _with_columns(answer)
            say(markdown([[_flat(row.get(name)) for name in columns] for row in rows], columns))

    def _blocks(self, answer: Answer) -> Iterator[str]:
        yield f"### {markdown_cell(answer.heading)}"
        yield from self._ahead(answer)
        if answer.overview is not None:
            yield self._table(answer.overview)
        yield from (markdown_cell(str(line)) for line in answer.summary)
        if answer.differences:
            yield f"> Also differs: {markdown_cell(', '.join(answer.differences))}."
        for part in answer.details:
            if part.rows and part.title != answer.heading:
                yield f"{markdown_cell(part.title[:1].upper() + part.title[1:])}:"
            if part.rows:
                yield self._table(part)
        notes = [f"- {markdown_cell(str(note))}" for note in answer.notes]
        if notes:
            yield "\n".join(notes)

    @staticmethod
    def _ahead(answer: Answer) -> Iterator[str]:
        return (markdown_cell(str(line)) for line in answer.ahead if str(line))

    @staticmethod
    def _table(shown: Table) -> str:
        columns, rows = shown.laid_out()
        return markdown([[str(c) for c in row] for row in rows], [c.heading for c in columns])


FORMATS: dict[str, type[Renderer]] = {"table": Terminal, "json": Json, "csv": Csv, "md": Markdown}


def _with_columns(answer: Answer) -> tuple[list[dict[str, Any]], list[str]]:
    rows = list(answer.records)
    return rows, list(dict.fromkeys(name for row in rows for name in row))


def _flat(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


# ── tables on a terminal ──────────────────────────────────────────────────────────────────────


class _Lines:
    """Lines of text and styles, which are written as they are."""

    def __init__(self, lines: Iterable[Sequence[Styled]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            # As few segments as the styles allow, and no space at the end of a line.
            said = ""
            filled = [place for place, (part, _) in enumerate(line) if part.strip()]
            for part, style in line[: 1 + max(filled, default=-1)]:
                if style:
                    yield from (Segment(said), Segment(part, console.get_style(style)))
                    said = ""
                else:
                    said += part
            yield Segment(said.rstrip() + "\n")


def _table_lines(shown: Table, width: int) -> tuple[Iterator[list[Styled]], list[str]]:
    """The lines of a table, and the headings of the columns that are left out."""
    columns, rows = shown.laid_out()
    shapes = [column.shape for column in columns]
    headings = [_one_line(column.heading) for column in columns]
    cells = [[_one_line(cell) for cell in row] for row in rows]
    filled = [place for place in range(len(columns)) if not place or any(r[place] for r in cells)]
    needs = [
        Need(
            cell_len(heading),
            max(map(cell_len, layout.words(heading)), default=0),
            max((cell_len(row[place]) for row in cells), default=0),
        )
        for place, heading in enumerate(headings)
    ]
    widths = layout.fitted(needs, shapes, width, filled)
    ellipsis, rule = ("…", "─") if unicode() else ("...", "-")
    bold = dict.fromkeys(widths, "bold")

    def written() -> Iterator[list[Styled]]:
        if shown.title:
            yield [Styled(layout.cut(_one_line(shown.title), width, ellipsis), "bold")]
        for line in layout.heading_lines(headings, widths, shapes, ellipsis):
            yield _joined(line, bold)
        yield [Styled(rule * (sum(widths.values()) + layout.BETWEEN * (len(widths) - 1)), "")]
        for row, said in zip(rows, cells):
            styles = {p: c.style for p, c in enumerate(row) if isinstance(c, Styled)}
            for line in layout.row_lines(said, widths, shapes, ellipsis):
                yield _joined(line, styles)
        yield [Styled("", "")]

    return written(), [headings[place] for place in filled if place not in widths]


def _joined(parts: Sequence[tuple[int, str]], styles: dict[int, str]) -> list[Styled]:
    """A line of padded cells; a style is of the text alone, not of the space around it."""
    line = []
    for number, (place, said) in enumerate(parts):
        text = said.strip(" ")
        before, after = said[: len(said) - len(said.lstrip(" "))], said[len(said.rstrip(" ")) :]
        gap = " " * layout.BETWEEN if number else ""
        line += [Styled(gap + before, ""), Styled(text, styles.get(place, ""))]
        line.append(Styled(after if text else "", ""))
    return line


def _one_line(cell: Any) -> str:
    """A cell as the terminal can show it, in one line."""
    said = str(cell)
    return printable(" ".join(said.split()) if "\n" in said or "\t" in said else said)


def _folded_line(cell: Cell, width: int) -> Iterator[list[Styled]]:
    """A line of text on as many lines as it takes; what is longer than a line, such as a path,
    stays whole."""
    style = cell.style if isinstance(cell, Styled) else ""
    for line in layout.folded(printable(str(cell)), width, ellipsis=""):
        yield [Styled(line, style)]
