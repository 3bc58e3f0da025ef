"""Families of functions: what is selected together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from gradbench.core.suggest import hint
from gradbench.core.text import line

T = TypeVar("T")

NOTEBOOKS = "notebooks"
"""The functions of the source notebooks, and those that name no family."""

APPLICATIONS = "applications"
"""Objectives as they are met in practice."""

ALL = "all"
"""Selects every family; no family has this name."""


class SelectionError(ValueError):
    """A selection that names something unknown, or that selects nothing."""


def require_families(wanted: Iterable[str], there: Iterable[str]) -> None:
    """Raises SelectionError, with the names that exist, for a family that there is not."""
    names = sorted({*there, NOTEBOOKS, ALL})
    for name in wanted:
        if name not in names:
            near = hint(name, names)
            raise SelectionError(
                f"there is no family {line(name, 60)!r}{'; ' + near if near else ''} "
                f"(families: {', '.join(names)})"
            )


def family_of(function: str, families: Mapping[str, str]) -> str:
    """The family of a function, by a log's families of what is not of the notebooks."""
    return families.get(function, NOTEBOOKS)


def of_families(
    stored: Sequence[T], wanted: Collection[str], family: Callable[[T], str]
) -> Sequence[T]:
    """What is of the families wanted; without any, all.

    Raises SelectionError for a family that nothing stored is of.
    """
    if not wanted or ALL in wanted:
        return stored
    there = {family(one) for one in stored}
    for name in wanted:
        if name not in there:
            raise SelectionError(
                f"no stored case is of the family {line(name, 60)!r} "
                f"(families: {', '.join(sorted({*there, ALL}))})"
            )
    return [one for one in stored if family(one) in wanted]
