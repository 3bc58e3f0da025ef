"""Progress of Python functions: a bar on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from gradbench.core import arguments
from gradbench.core.text import line, shown
from gradbench.core.units import duration
from gradbench.runner.progress import Lines, Progress, Report, left, silent

OFTEN = 0.2
"""Seconds between two lines that a notebook shows."""


def require_report(progress: Any) -> None:
    """Raises TypeError for what cannot be reported to."""
    if progress is not None and not callable(progress):
        try:
            arguments.flag("progress", progress)
        except TypeError as error:
            raise TypeError(f"{error}: or a function, called with each step") from None


@contextlib.contextmanager
def showing(what: str, progress: bool | Report | None) -> Iterator[Report]:
    """What a measurement reports its progress to, in the course of it.

    `progress` is a function that is called with each step, or whether progress is shown on
    standard error; None shows it on a terminal and in a notebook.
    """
    if callable(progress):
        yield progress
        return
    notebook = in_notebook()
    moves = notebook or can_move()
    if progress is False or (progress is None and not moves):
        yield silent
        return
    if moves:
        with (_cell if notebook else _bar)(what) as report:
            yield report
        return
    lines = Lines(what, _write)
    yield lines
    lines.end()


def in_notebook() -> bool:
    """Whether this is the process of a notebook, whose output can be written over."""
    shell = sys.modules.get("IPython")
    if shell is None:
        return False
    return type(shell.get_ipython()).__name__ in ("ZMQInteractiveShell", "Shell")


def can_move() -> bool:
    """Whether standard error is a terminal on which a line can be written over."""
    stream = sys.stderr
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM", "") not in ("dumb", "unknown")
    )


def _write(said: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(shown(said) + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        *(TextColumn("{task.description}", markup=False), BarColumn(bar_width=12)),
        TextColumn("{task.fields[said]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None, said="starting")

        def report(at: Progress) -> None:
            bar.update(task, total=at.total, completed=at.done, said=_said(at))

        yield report


@contextlib.contextmanager
def _cell(what: str) -> Iterator[Report]:
    """A line of a notebook's output that is written over, and gone at the end.

    Plain text by IPython's own means: rich's and tqdm's bars need ipywidgets.
    """
    # Of the notebook's own process, which has it: it is no dependency.
    display = importlib.import_module("IPython.display").display
    place = display({"text/plain": f"{what}: starting"}, raw=True, display_id=True)
    newest = 0.0

    def report(at: Progress) -> None:
        nonlocal newest
        if time.monotonic() - newest > OFTEN:
            newest = time.monotonic()
            full = round(12 * at.done / at.total) if at.total else 0
            bar = "█" * full + "░" * (12 - full)
            place.update({"text/plain": f"{what} {bar} {_said(at)}"}, raw=True)

    try:
        yield report
    finally:
        place.update({"text/plain": ""}, raw=True)


def _said(at: Progress) -> str:
    label = shown(line(at.leads or at.label, 40))
    return f"{at.done} of {at.total} {at.unit}, {duration(at.elapsed)}{left(at)} {label}".rstrip()
