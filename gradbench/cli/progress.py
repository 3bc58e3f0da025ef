"""Progress of a command: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradbench.cli import ending
from gradbench.cli.output import console, say, shown
from gradbench.core import text
from gradbench.core.units import duration

if TYPE_CHECKING:
    from gradbench.runner.progress import Progress


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    EVERY = 15.0
    FIRST = 1.0
    """Seconds after which the first line comes: a command that is faster needs none."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = time.monotonic() - self.EVERY + min(self.FIRST, self.EVERY)

    def __call__(self, progress: Progress) -> None:
        ending.check()
        if time.monotonic() - self.last < self.EVERY:
            return
        self.last = time.monotonic()
        label = f" ({text.line(progress.label)})" if progress.label else ""
        leads = f"; {text.line(progress.leads)}" if progress.leads else ""
        say(
            f"{self.what}: {progress.done} of {progress.total} {progress.unit}, "
            f"{duration(progress.elapsed)} so far{_left(progress)}{label}{leads}",
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
def starting(what: str) -> Iterator[None]:
    """Says on a terminal what takes the seconds before the first progress; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(what, spinner="line"):
        yield


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with the time left on a terminal, a line now and then elsewhere; on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what)
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
                left=duration(at.elapsed) + _left(at),
                label=shown(text.line(at.leads or at.label)),
            )

        yield report
