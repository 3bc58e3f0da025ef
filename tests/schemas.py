"""docs/schemas.md as the tests hold the commands' JSON against it."""

from __future__ import annotations

import math
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "schemas.md"
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": dict}


def sections() -> dict[str, dict[str, tuple[str, bool]]]:
    """By the command in the heading: each field's type, and whether a row may lack it."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading, _, text = part.partition("\n")
        fields = {}
        for names, kind in re.findall(r"^\| (`[^|]*) \| `([^|]*)` \|", text, re.M):
            for name in re.findall(r"`(\w+)`", names):
                fields[name] = (kind, names.rstrip().endswith("°"))
        for command in re.findall(r"`gradbench ([^`]*)`", heading):
            found[command] = fields
    return found


def require(command: str, rows) -> None:
    """That rows, or one object, have the fields of the page, and values of their types."""
    fields = sections()[command]
    rows = [rows] if isinstance(rows, dict) else rows
    assert rows, f"{command}: no rows"
    for row in rows:
        unknown = row.keys() - fields.keys()
        assert not unknown, f"{command}: not on the page: {unknown}"
        missing = {name for name, (_, optional) in fields.items() if not optional} - row.keys()
        assert not missing, f"{command}: not in a row: {missing}"
        for name, value in row.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
            kind = fields[name][0]
            assert _is(value, kind), f"{command}: {name} is {value!r}, not {kind}"


def _is(value, kind: str) -> bool:
    if kind.endswith("?"):
        return value is None or _is(value, kind[:-1])
    if kind.startswith("["):
        return isinstance(value, list) and all(_is(each, kind[1:-1]) for each in value)
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, TYPES[kind]) and not (isinstance(value, float) and math.isnan(value))
