"""How an explanation is shown: a sentence, groups of functions, functions, operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradbench.analysis import explained as analysis
from gradbench.analysis.explained import Change, Explained, number, percent, signed, spread
from gradbench.analysis.symbols import short
from gradbench.cli.rendering import Answer, Column, Styled, Table
from gradbench.core.units import counted
from gradbench.store import explanations
from gradbench.store.explanations import SideProfiled
from gradbench.store.lines import StoreError

LEAST = 0.001
"""The share of all instructions below which a function's change is not shown in a table."""


def answer(found: Explained, top: int = 10) -> Answer:
    """The answer of a command that explains, with so many functions."""
    shown = [f for f in found.functions[:top] if _counts(found, f)]
    title = "functions that execute most" if found.alone else "functions that changed most"
    return Answer(
        map(_record, found.functions),
        heading=f"{' → '.join(dict.fromkeys((found.before.side, found.after.side)))}: "
        f"{found.after.case}",
        ahead=[Styled(found.sentence, "bold"), ""],
        overview=Table(_group_columns(found), found.groups, "instructions of a call by group"),
        details=[
            Table(_function_columns(found), shown, f"{title} (inclusive: with what they call)"),
            *_counted(found, top),
        ],
        summary=[_about(found)],
        notes=[f"note: {note}" for note in found.notes],
        document=document(found),
    )


def _counts(found: Explained, function: Change) -> bool:
    part = function.after if found.alone else abs(function.change)
    return part >= LEAST * max(found.before.total, found.after.total)


def _group_columns(found: Explained) -> list[Column]:
    def share(group: Change) -> str:
        whole = found.after.total if found.alone else found.change
        part = group.after if found.alone else group.change
        return percent(part / whole) if whole else ""

    columns = [
        Column("group", lambda group: group.name, whole=True),
        *_sides(found, lambda g: g.before, lambda g: g.after),
    ]
    if not found.alone:
        columns.append(Column("change", lambda group: signed(group.change), right=True))
    if found.alone or found.differs:
        heading = "share" if found.alone else "of the change"
        columns.append(Column(heading, share, right=True))
    return columns


def _sides(
    found: Explained,
    before: Callable[[Any], float | None],
    after: Callable[[Any], float | None],
    what: str = "",
) -> list[Column]:
    """A column for each side."""

    def column(side: SideProfiled, value: Callable[[Any], float | None]) -> Column:
        heading = f"{what} {side.side}".strip()
        return Column(heading, lambda row: _number(value(row)), right=True)

    if found.alone:
        return [column(found.after, after)]
    return [column(found.before, before), column(found.after, after)]


def _number(value: float | None) -> str:
    return "recursive" if value is None else number(value)


def _function_columns(found: Explained) -> list[Column]:
    columns = [
        Column("function", lambda f: short(f.name), prose=True),
        Column("library", lambda f: _library(f.library), rank=1),
    ]
    if not found.alone:
        columns.append(Column("change", lambda f: signed(f.change), right=True))
    return [
        *columns,
        *_sides(found, lambda f: f.before, lambda f: f.after, "self"),
        *_sides(found, lambda f: f.inclusive_before, lambda f: f.inclusive_after, "incl."),
    ]


def _library(name: str) -> str:
    """``libtorch_cpu.so`` is torch_cpu, ``libc.so.6`` is libc."""
    stem = re.sub(r"\.so[.\d]*$|\.cpython.*", "", name)
    return re.sub(r"^lib(?=torch|c10|python|stdc|mkl)", "", stem)


def _counted(found: Explained, top: int) -> list[Table]:
    tables = []
    for title, what, changes in (
        ("dispatched operations", "operation", found.operations),
        ("Python functions called", "function", found.python_calls),
    ):
        columns = [
            Column(what, lambda change: change.name, prose=True),
            *_plain_sides(found),
        ]
        more = f", the first {top} of {len(changes)}" if len(changes) > top else ""
        said = "" if found.alone else " that differ"
        tables.append(Table(columns, changes[:top], f"{title}{said}, in a call{more}"))
    return tables


def _plain_sides(found: Explained) -> list[Column]:
    after = Column(found.after.side, lambda change: str(change.after), right=True)
    if found.alone:
        return [after]
    return [Column(found.before.side, lambda change: str(change.before), right=True), after]


def _about(found: Explained) -> str:
    side = found.after
    apart = max(spread(one.repeats) for one in (found.before, found.after))
    return (
        f"{side.case}: instructions under Callgrind, the median of {len(side.repeats)} profiles "
        f"of {counted(side.calls, 'call')} after warming up ({apart:.2%} apart). "
        f"They are no time: compare one side with the other. Stored as {found.explanation.name}"
    )


# ── for programs ──────────────────────────────────────────────────────────────────────────────


def _record(function: Any) -> dict[str, Any]:
    return {
        "function": function.name,
        "library": function.library,
        "group": function.group,
        "self_before": function.before,
        "self_after": function.after,
        "inclusive_before": function.inclusive_before,
        "inclusive_after": function.inclusive_after,
    }


def document(found: Explained) -> dict[str, Any]:
    """All of an explanation."""
    return {
        "explanation": found.explanation.name,
        "started": found.explanation.started.started,
        "of": found.explanation.started.of,
        "sentence": found.sentence,
        "notes": found.notes,
        "differs": found.differs and not found.alone,
        "ratio": found.ratio,
        "resolution": found.resolution,
        "sides": [_side(side) for side in _distinct(found)],
        "groups": _changes(found.groups),
        "functions": [_record(function) for function in found.functions],
        "operations": _changes(found.operations),
        "python_calls": _changes(found.python_calls),
    }


def _distinct(found: Explained) -> Sequence[SideProfiled]:
    return [found.after] if found.alone else [found.before, found.after]


def _side(side: SideProfiled) -> dict[str, Any]:
    return {
        "side": side.side,
        "case": str(side.case),
        "torch": side.environment.get("torch"),
        "cpu_capability": side.environment.get("cpu_capability"),
        "counted_with": side.capability,
        "instructions": side.total,
        "repeats": side.repeats,
        "calls": side.calls,
        "seconds_roughly": side.call,
        "groups": side.groups,
        "operations": side.operations,
        "python_calls": side.python_calls,
    }


def _changes(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [{"name": c.name, "before": c.before, "after": c.after} for c in changes]


def stored(results: Path, name: str) -> Answer | None:
    """The answer of a stored explanation by its name, the beginning of it or its file; None where
    there is none."""
    try:
        found = analysis.of(explanations.find(results, name))
    except StoreError:
        return None
    return None if found is None else answer(found)
