"""Progress of a command: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradbench.cli import ending
from gradbench.cli.output import console, quiet, shown, warn
from gradbench.core import text
from gradbench.core.units import duration
from gradbench.runner.progress import Lines, Progress, left
from gradbench.runner.showing import can_move


class _Lines(Lines):
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, what: str) -> None:
        super().__init__(what, warn)

    def __call__(self, progress: Progress) -> None:
        ending.check()
        super().__call__(progress)


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Says on a terminal what takes the seconds before the first progress; nothing elsewhere."""
    if quiet() or not can_move():
        yield
        return
    with console(stderr=True).status(what, spinner="line"):
        yield


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with the time left on a terminal, a line now and then elsewhere; on stderr."""
    if quiet():
        yield lambda at: ending.check()
        return
    if not can_move():
        lines = _Lines(what)
        yield lines
        lines.end()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        # What has no room is cut at its end, so that the bar stays on one line.
        TextColumn(
            "{task.fields[label]}",
            markup=False,
            style="dim",
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=console(stderr=True),
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task(what, total=None, count="", left="", label="starting")

        def report(at: Progress) -> None:
            ending.check()
            bar.update(
                task,
                total=at.total,
                completed=at.done,
                count=f"{at.done} of {at.total} {at.unit}",
                left=duration(at.elapsed) + left(at),
                label=shown(text.line(at.leads or at.label)),
            )

        yield report
