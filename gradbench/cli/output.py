"""How answers look on a terminal, in a file and in a pipe.

Commands write with `say`, `emit` and `console` alone: these make text from outside fit to show.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gradbench.cli import ending
from gradbench.cli.streams import Styled
from gradbench.core import text
from gradbench.core.cases import Case
from gradbench.core.text import markdown
from gradbench.core.units import duration

if TYPE_CHECKING:
    from gradbench.runner.progress import Progress

WIDE = 200
"""Columns assumed where there is no terminal to ask."""


NARROW = 40
"""The least columns that a table is laid out for; a terminal may say that it has none."""


class _Console(Console):
    """A console on which a string is text: brackets in names and messages are no markup."""

    def render_str(self, said: str, **given: Any) -> Text:  # type: ignore[override]
        return super().render_str(_shown(said), **given)


def console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    made = _Console(
        file=Styled(stream),  # type: ignore[arg-type]
        width=None if stream.isatty() else WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )
    if made.width < NARROW:
        made.width = NARROW
    return made


def say(said: Any, err: bool = False) -> None:
    """Writes lines to standard output or error."""
    stream = sys.stderr if err else sys.stdout
    stream.write(_shown(str(said)) + "\n")
    stream.flush()


def stopped(hint: str) -> int:
    """Says what is kept of a command that a signal ended, and how to go on: its exit code."""
    say(hint, err=True)
    return ending.stopped_code()


def _shown(said: str) -> str:
    """The text as the terminal can show it, before it is laid out in columns."""
    clean = text.shown(said)
    return clean if clean.isascii() or _unicode() else text.in_ascii(clean)


def _unicode() -> bool:
    """Whether standard output can show more than ASCII; it and standard error have one encoding."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def notes(problems: Iterable[str]) -> None:
    """Names on stderr what of the stored files was left out, whatever the output's format."""
    for problem in problems:
        say(f"note: {problem}", err=True)


def emit(rows: Sequence[dict[str, Any]], form: str) -> None:
    """Writes rows as JSON, CSV or a Markdown table; all have the first one's columns."""
    if form == "json":
        say(text.json_text(list(rows), indent=2, only_ascii=not _unicode()))
        return
    columns = list(rows[0]) if rows else []
    if form == "csv":
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(map(text.csv_cell, columns))
        writer.writerows([_csv_cell(row.get(name)) for name in columns] for row in rows)
        say(written.getvalue().removesuffix("\n"))
        return
    say(markdown([[_flat(row.get(name)) for name in columns] for row in rows], columns))


def _csv_cell(value: Any) -> str:
    """A number stays one, whatever its sign; text is no formula."""
    flat = _flat(value)
    return flat if isinstance(value, (bool, int, float)) else text.csv_cell(flat)


def _flat(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


class _Table(Table):
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


def table(title: str, columns: Sequence[str | tuple[str, str]]) -> Table:
    """A table; a column is its heading, or a pair of heading and justification."""
    made = _Table(
        title=plain(title, "bold") if title else None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        heading, justify = column if isinstance(column, tuple) else (column, "left")
        made.add_column(plain(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return made


def plain(said: Any, style: str = "") -> Text:
    """Text from outside as it is, in a style: brackets in names and messages are no markup, and
    what fills screens loses its middle."""
    return Text(_shown(text.shortened(str(said), text.LONGEST)), style=style)


def short_case(c: Case) -> str:
    """A case without the parts that nearly all have in common."""
    parts = [c.comparison.operator, c.comparison.function, c.comparison.size, c.comparison.dtype]
    if c.comparison.device != "cpu":
        parts.append(c.comparison.device)
    if c.comparison.threads != 1:
        parts.append(f"{c.comparison.threads} threads")
    return " ".join([*parts, c.mode])


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    EVERY = 15.0

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = time.monotonic() - self.EVERY / 2

    def __call__(self, progress: Progress) -> None:
        ending.check()
        if time.monotonic() - self.last < self.EVERY:
            return
        self.last = time.monotonic()
        label = f" ({text.line(progress.label)})" if progress.label else ""
        say(
            f"{self.what}: {progress.done} of {progress.total}, "
            f"{duration(progress.elapsed)} so far{_left(progress)}{label}",
            err=True,
        )


def _left(progress: Progress) -> str:
    fresh = progress.done - progress.skipped
    if fresh <= 0 or progress.done >= progress.total:
        return ""
    left = progress.elapsed / fresh * (progress.total - progress.done)
    if progress.limit:
        left = min(left, max(progress.limit - progress.elapsed, 0.0))
    return f", about {duration(left)} left"


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with the time left on a terminal, a line now and then elsewhere; on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[label]}", markup=False, style="dim"),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None, left="", label="")

        def report(at: Progress) -> None:
            ending.check()
            bar.update(
                task,
                total=at.total,
                completed=at.done,
                left=duration(at.elapsed) + _left(at),
                label=_shown(text.line(at.label)),
            )

        yield report
