"""An answer as a table for people, as CSV, as JSON or as Markdown: one `Renderer` for each.

A command hands over an `Answer`. Programs get its records, people its tables and lines. What a
renderer does not show is never computed, where the command hands over generators.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from rich import box, table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from gradbench.cli.output import console, plain, say, unicode
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
    """One column: its heading, what it shows of a row, and whether that stands on the right.

    An optional column is left out where it would be empty.
    """

    heading: str
    cell: Callable[[Any], Cell]
    right: bool = False
    optional: bool = False


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


def fields(record: dict[str, Any], cell: Callable[[Any], Cell] = str) -> list[Column]:
    """A column for each field of such records, under the field's name."""

    def shown(name: str) -> Callable[[Any], Cell]:
        return lambda row: cell(row[name])

    return [Column(name, shown(name)) for name in record]


def places(headings: Sequence[str], right: Sequence[str] = ()) -> list[Column]:
    """Columns for rows that are sequences of cells."""
    return [
        Column(heading, itemgetter(place), heading in right)
        for place, heading in enumerate(headings)
    ]


@dataclass(frozen=True)
class Answer:
    """What a command has to say, for programs (`records`) and for people (all else)."""

    records: Iterable[dict[str, Any]] = ()
    """Flat rows, all with the fields of the first."""
    heading: str = ""
    """With a heading, Markdown shows what people get; without one, the records as a table."""
    differences: Sequence[str] = ()
    """What differs between the two sides that are compared."""
    overview: Table | None = None
    details: Iterable[Table] = ()
    apart: bool = False
    """In Markdown, each of the details has a heading of its own."""
    summary: Iterable[Cell] = ()
    notes: Iterable[Cell] = ()
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
            return
        out = console()
        for difference in answer.differences:
            out.print(plain(f"also differs: {difference}", "yellow"))
        overview = [answer.overview] if answer.overview else []
        for part in (*overview, *answer.details):
            if part.rows:
                out.print(terminal_table(part))
        for line in (*answer.summary, *answer.notes):
            out.print(_styled(line))


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
            for part in answer.details:
                say(f"### {markdown_cell(part.title)}\n\n{self._table(part)}\n")
        elif answer.heading:
            say("\n\n".join(self._blocks(answer)))
        else:
            rows, columns = _with_columns(answer)
            say(markdown([[_flat(row.get(name)) for name in columns] for row in rows], columns))

    def _blocks(self, answer: Answer) -> Iterator[str]:
        yield f"### {markdown_cell(answer.heading)}"
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
    def _table(shown: Table) -> str:
        columns, rows = shown.laid_out()
        return markdown([[str(c) for c in row] for row in rows], [c.heading for c in columns])


FORMATS: dict[str, type[Renderer]] = {"table": Terminal, "json": Json, "csv": Csv, "md": Markdown}


def _with_columns(answer: Answer) -> tuple[list[dict[str, Any]], list[str]]:
    rows = list(answer.records)
    return rows, list(rows[0]) if rows else []


def _flat(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


# ── tables on a terminal ──────────────────────────────────────────────────────────────────────


def terminal_table(shown: Table) -> table.Table:
    columns, rows = shown.laid_out()
    made = _Table(
        title=plain(shown.title, "bold") if shown.title else None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        justify = "right" if column.right else "left"
        made.add_column(plain(column.heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*map(_styled, row))
    return made


def _styled(cell: Cell) -> Text:
    return plain(*cell) if isinstance(cell, Styled) else plain(cell)


class _Table(table.Table):
    """A table of `plain` cells, laid out here where nothing has to be wrapped.

    It looks as rich's does, which takes a millisecond for a row: half a minute for a large run.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = list(zip(*(column.cells for column in self.columns)))
        if rows and not options.ascii_only and (widths := self._widths(rows, options)):
            return self._laid_out(console, rows, widths)
        return super().__rich_console__(console, options)

    def _widths(
        self, rows: Sequence[Sequence[RenderableType]], options: ConsoleOptions
    ) -> list[int] | None:
        """The columns' widths; None where something has to be wrapped, which is rich's."""
        widths = [cell_len(str(column.header)) for column in self.columns]
        for cells in rows:
            for place, cell in enumerate(cells):
                if not isinstance(cell, Text) or "\n" in cell.plain or "\t" in cell.plain:
                    return None
                widths[place] = max(widths[place], cell_len(cell.plain))
        total = sum(widths) + _BETWEEN * (len(widths) - 1) + 2
        title = cell_len(str(self.title or ""))
        return widths if max(total, title + 1) <= options.max_width and title <= total else None

    def _laid_out(
        self, console: Console, rows: Sequence[Sequence[RenderableType]], widths: Sequence[int]
    ) -> Iterator[Segment]:
        total = sum(widths) + _BETWEEN * (len(widths) - 1) + 2
        right = [column.justify == "right" for column in self.columns]

        def line(cells: Sequence[RenderableType]) -> Iterator[Segment]:
            """A line, with as few segments as its styles allow."""
            said = " "
            for place, cell in enumerate(cells):
                assert isinstance(cell, Text)
                space = " " * (widths[place] - cell_len(cell.plain))
                said += (" " * _BETWEEN if place else "") + (space if right[place] else "")
                if cell.style:
                    yield Segment(said)
                    yield Segment(cell.plain, console.get_style(cell.style))
                    said = ""
                else:
                    said += cell.plain
                said += "" if right[place] else space
            yield Segment(said + " \n")

        if isinstance(self.title, Text):
            title = self.title.plain
            style = console.get_style("table.title") + console.get_style(self.title.style)
            yield Segment(title, style)
            yield Segment(" " * (total - cell_len(title)) + "\n")
        yield Segment(" " * total + "\n")
        yield from line([Text(str(column.header), style="bold") for column in self.columns])
        yield Segment(" " + "─" * (total - 2) + " \n")
        for cells in rows:
            yield from line(cells)
        yield Segment(" " * total + "\n")


_BETWEEN = 3
"""Spaces between two columns."""
