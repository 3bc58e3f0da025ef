"""How a user names one case: in full, as tables show it, or by its operator, function and mode."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from gradbench.core import own
from gradbench.core.cases import (
    DTYPES,
    Entry,
    Offer,
    Place,
    Selection,
    SelectionError,
    expand,
    is_size,
    parse_size,
    size_label,
)
from gradbench.core.suggest import hint
from gradbench.core.text import line

FORM = "OPERATOR/FUNCTION/MODE, with the size and the dtype before the mode if needed"


def selected(name: str) -> Selection:
    """What a name of one case selects.

    It is a full name, as 'gradbench list cases' prints it (``vjp/exp/n=64/float32/cpu/1/grad``),
    or has at least the operator, the function and, last, the mode: ``vjp/exp/grad``,
    ``vjp/exp/n=64/grad``, ``vjp/exp/float64/grad``, ``gradient/model.py:loss/grad``. Tables have
    spaces in place of slashes. Raises SelectionError where a part is missing or is no size, dtype,
    device or number of threads.
    """
    return Selection(**_fields(name))


def narrowed(name: str, selection: Selection) -> Selection:
    """A selection narrowed to the case of a name. Raises SelectionError as `selected` does, and
    where the selection names some of it too."""
    fields = _fields(name)
    for field in ("functions", "operators", "modes", "sizes", "dtypes"):
        given = getattr(selection, field)
        if given and field in fields and given != fields[field]:
            option = field.removesuffix("s")
            raise SelectionError(
                f"{line(name, 80)} names a {option}: remove --{option} {line(given[0], 60)}"
            )
    return replace(selection, **fields)


def _fields(name: str) -> dict[str, Any]:
    """The fields of a selection that a name of a case gives."""
    parts = name.split("/") if "/" in name else name.split()
    function, between = _function(parts[1:-1])
    if len(parts) < 3 or not all((parts[0], function, *between, parts[-1])):
        raise SelectionError(
            f"{line(name, 80)!r} is no case: {FORM}, or a full name as 'gradbench list cases' "
            "prints it"
        )
    fields: dict[str, Any] = {
        "functions": (function,),
        "operators": (parts[0],),
        "modes": (parts[-1],),
    }
    for part in between:
        field, value = _field(name, part)
        if field in fields:
            raise SelectionError(
                f"{line(name, 80)!r} is no case: {FORM}; it has two {field}, "
                f"{fields[field][0]} and {line(value, 40)}"
            )
        fields[field] = (int(value),) if field == "threads" else (value,)
    return fields


def _function(parts: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The function at the beginning of the parts, and the parts after it. The path of a file in
    the name of a user's own function has slashes too."""
    for end in range(1, len(parts) + 1):
        joined = "/".join(parts[:end])
        if own.is_target(own.unversioned(joined)):
            return joined, parts[end:]
    return (parts[0], parts[1:]) if parts else ("", ())


def _field(name: str, part: str) -> tuple[str, str]:
    """Which field of a case a part between function and mode is, and its value."""
    if part in DTYPES:
        return "dtypes", part
    if part.isascii() and part.isdigit() and int(part[:6]) > 0:
        return "threads", part[:6]
    if is_size(part):
        try:
            return "sizes", size_label(parse_size(part))
        except ValueError as error:
            raise SelectionError(f"{line(name, 80)!r}: {error}") from error
    try:
        return "devices", str(Place.parse(part))
    except ValueError:
        return "sizes", part


def one_entry(
    offers: Sequence[Offer], name: str, chosen: Selection, modes: Collection[str] = ()
) -> Entry:
    """The comparison that a name is about, with its mode, and further `modes`, alone.

    `chosen` is what the name selects. Raises SelectionError where there is no such case, or where
    the name has several.
    """
    wanted = replace(chosen, modes=tuple(dict.fromkeys((*chosen.modes, *modes))))
    for offer in offers:
        if (offer.operator,) == chosen.operators and (offer.function,) == chosen.functions:
            _require_modes(offer, wanted.modes)
    entries = expand(offers, wanted)
    if len(entries) > 1 or set(entries[0].modes) != set(wanted.modes):
        cases = [case for entry in entries for case in entry.cases]
        raise SelectionError(f"{line(name, 80)!r} is more than one case: {', '.join(cases[:4])}, …")
    return entries[0]


def _require_modes(offer: Offer, modes: Collection[str]) -> None:
    """Raises SelectionError for a mode that an operator of a function has not."""
    there = offer.modes + offer.opt_in
    for mode in modes:
        if mode not in there and not set(mode) & set("*?["):
            near = hint(mode, there, usual={offer.first}, exotic=offer.opt_in)
            raise SelectionError(
                f"{offer.operator} of {offer.function} has no mode {line(mode, 60)!r}; "
                + (near or f"it has {', '.join(offer.modes)}")
            )
