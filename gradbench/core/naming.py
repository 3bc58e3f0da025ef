"""How a user names one case: in full, as tables show it, or by its operator, function and mode."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

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
    ``vjp/exp/n=64/grad``, ``vjp/exp/float64/grad``. Tables have spaces in place of slashes. Raises
    SelectionError where a part is missing or is no size, dtype, device or number of threads.
    """
    parts = name.split("/") if "/" in name else name.split()
    if len(parts) < 3 or not all(parts):
        raise SelectionError(
            f"{line(name, 80)!r} is no case: {FORM}, or a full name as 'gradbench list cases' "
            "prints it"
        )
    operator, function, *between, mode = parts
    fields: dict[str, tuple[str, ...]] = {}
    threads: tuple[int, ...] = (1,)
    for part in between:
        field, value = _field(name, part)
        if field in fields or (field == "threads" and threads != (1,)):
            raise SelectionError(f"{line(name, 80)!r}: it has two {field}")
        if field == "threads":
            threads = (int(value),)
        else:
            fields[field] = (value,)
    return Selection(
        functions=(function,),
        operators=(operator,),
        modes=(mode,),
        sizes=fields.get("sizes", ()),
        dtypes=fields.get("dtypes", ()),
        devices=fields.get("devices", ("cpu",)),
        threads=threads,
    )


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


def one_entry(offers: Sequence[Offer], name: str, modes: Collection[str] = ()) -> Entry:
    """The comparison that a name is about, with its mode, and further `modes`, alone.

    Raises SelectionError where there is no such case, or where the name has several.
    """
    chosen = selected(name)
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
