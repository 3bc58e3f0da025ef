"""``gradbench show --machines``: which machines agree on the fastest mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from gradbench.cli import options
from gradbench.cli.rendering import Answer, Cell, Column, Styled, Table
from gradbench.core.cases import SelectionError
from gradbench.core.units import call_time
from gradbench.report import agreement, data

STYLES = {agreement.AGREE: "green", agreement.DIFFER: "bold red", agreement.UNDECIDED: "yellow"}


def answer(results: Path, filters: options.Filters, judging: options.Judging) -> Answer:
    """The matrix of machines, releases and cases. Raises StoreError where there are no runs,
    SelectionError where the filters fit nothing."""
    every = data.table(results, (), *judging)
    rows = data.selected(every, **filters)
    if rows.empty:
        raise SelectionError(data.why_none(every, **filters))
    found = agreement.matrix(rows)
    names = [str(name) for name in found["machine"].drop_duplicates()]
    letters = {name: _letter(place) for place, name in enumerate(names)}
    return Answer(
        _records(found),
        overview=Table(_columns(letters), _lines(found)),
        summary=[
            *(f"{letter}: {name}" for name, letter in letters.items()),
            *(agreement.sentences(found) or ["No comparison was measured by two machines."]),
        ],
    )


def _records(found: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"M{place + 1}"


Line = dict[str, Any]


def _lines(found: pd.DataFrame) -> list[Line]:
    """A line for each comparison and build of torch."""
    lines: dict[tuple[Any, ...], Line] = {}
    for row in _records(found):
        key = tuple(row[name] for name in (*agreement.CASE, "torch"))
        line = lines.setdefault(key, {**row, "by": {}})
        line["by"][row["machine"]] = row
    return list(lines.values())


def _columns(letters: dict[str, str]) -> list[Column]:
    def best(machine: str) -> Any:
        def cell(line: Line) -> Cell:
            row = line["by"].get(machine)
            if row is None or not row["fastest"]:
                return ""
            return f"{row['fastest']} {call_time(row['seconds'])}"

        return cell

    return [
        Column("operator", lambda line: line["operator"]),
        Column("function", lambda line: line["function"]),
        Column("size", lambda line: line["size"], rank=2),
        Column("torch", lambda line: line["torch"], rank=1),
        *(Column(letter, best(name), optional=True) for name, letter in letters.items()),
        Column(
            "machines",
            lambda line: Styled(line["agreement"], STYLES.get(line["agreement"], "")),
        ),
    ]
