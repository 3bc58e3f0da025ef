"""How answers look on a terminal, in a file and in a pipe."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradbench.cases import Case

if TYPE_CHECKING:
    from gradbench.run import Progress

WIDE = 200
"""Columns assumed where there is no terminal to ask."""


def console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False)


def emit(rows: Sequence[dict[str, Any]], form: str) -> None:
    """Writes rows as JSON, CSV or a Markdown table; all have the first one's columns."""
    if form == "json":
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    columns = list(rows[0]) if rows else []
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _flat(v) for k, v in row.items()} for row in rows)
        click.echo(text.getvalue(), nl=False)
        return
    click.echo(markdown([[_flat(v) for v in row.values()] for row in rows], columns))


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A Markdown table; bars and line ends in cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        clean = (str(c).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for c in cells)
        return "| " + " | ".join(clean) + " |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])


def _flat(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def table(title: str, columns: Sequence[str | tuple[str, str]]) -> Table:
    """A table; a column is its heading, or a pair of heading and justification."""
    made = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        heading, justify = column if isinstance(column, tuple) else (column, "left")
        made.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return made


def plain(text: Any, style: str = "") -> Text:
    """Text as it is: brackets in names and messages are no markup."""
    return Text(str(text), style=style)


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5940:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def call_time(seconds: float) -> str:
    """A call's time with three digits and its unit."""
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{seconds:.3g} s"


def reading(value: float, unit: str) -> str:
    """What an instrument read, with three digits and in steps of 1024 bytes or of 1000."""
    if unit == "seconds":
        return call_time(value)
    step, prefixes = (1024, ("", "Ki", "Mi", "Gi")) if unit == "bytes" else (1000, ("", "k", "M"))
    ends = "B" if unit == "bytes" else ""
    for prefix in prefixes:
        if value < step - 0.5:
            # From 1000 to 1023 three digits would need an exponent.
            return f"{value:.{4 if value >= 999.5 else 3}g} {prefix}{ends}".rstrip()
        value /= step
    return f"{value:.4g} {'Ti' if ends else 'G'}{ends}"


def short_case(case: str) -> str:
    """A case without the parts that nearly all have in common."""
    c = Case.parse(case)
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
        if time.monotonic() - self.last < self.EVERY:
            return
        self.last = time.monotonic()
        left = _left(progress)
        click.echo(
            f"{self.what}: {progress.done} of {progress.total}, "
            f"{duration(progress.elapsed)} so far{left} ({progress.label})",
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
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("[dim]{task.fields[label]}"),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None, left="", label="")

        def report(at: Progress) -> None:
            bar.update(
                task,
                total=at.total,
                completed=at.done,
                left=duration(at.elapsed) + _left(at),
                label=at.label,
            )

        yield report
