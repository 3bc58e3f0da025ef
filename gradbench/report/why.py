"""Why releases or modes differ: stored explanations, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.analysis import explained
from gradbench.analysis.explained import Explained, FunctionChange, number, signed
from gradbench.analysis.symbols import short
from gradbench.report import machines
from gradbench.store import explanations

MOST = 12
"""Explanations of a page, the newest first."""

FUNCTIONS = 5
"""Functions of an explanation."""

Table = list[list[str]]
"""Rows of cells; the first row has the headings."""


@dataclass(frozen=True)
class Why:
    """One explanation, as a page shows it."""

    machine: str
    title: str
    sentence: str
    tables: Sequence[Table]
    notes: Sequence[str]
    name: str


def read(results: Path) -> tuple[list[Why], list[str]]:
    """The newest explanation of each question in a results folder, and what had to be skipped."""
    every, problems = explanations.read_all(results)
    newest: dict[tuple[str, ...], Explained] = {}
    for one in every:
        problems += one.problems
        found = explained.of(one)
        if found is not None:
            key = (machines.named(one.started.machine), str(found.after.case), *one.started.sides)
            newest.pop(key, None)
            newest[key] = found
    return [_why(found) for found in list(newest.values())[::-1][:MOST]], problems


def _why(found: Explained) -> Why:
    sides = list(dict.fromkeys((found.before.side, found.after.side)))
    started = found.explanation.started
    return Why(
        machine=machines.named(started.machine),
        title=f"{found.after.case}: {' → '.join(sides)}",
        sentence=found.sentence,
        tables=[
            [
                ["instructions of a call", *_headings(found, sides)],
                *([g.name, *_cells(found, g.before, g.after)] for g in found.groups),
            ],
            [
                ["function", "library", *_headings(found, sides)],
                *(_function(found, f) for f in found.functions[:FUNCTIONS]),
            ],
        ],
        notes=found.notes,
        name=found.explanation.name,
    )


def _headings(found: Explained, sides: list[str]) -> list[str]:
    return sides if found.alone else [*sides, "change"]


def _cells(found: Explained, before: float, after: float) -> list[str]:
    if found.alone:
        return [number(after)]
    return [number(before), number(after), signed(after - before)]


def _function(found: Explained, function: FunctionChange) -> list[str]:
    cells = _cells(found, function.before, function.after)
    return [short(function.name), function.library, *cells]
