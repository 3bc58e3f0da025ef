"""Selects judged rows, and finds the verdicts that make a check fail."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from operator import attrgetter

from gradbench.analysis.table import Row
from gradbench.core import text
from gradbench.core.cases import SelectionError, nothing_fits
from gradbench.core.families import of_families
from gradbench.core.suggest import hint
from gradbench.core.verdicts import CALLED


def filtered(
    rows: Sequence[Row],
    comparisons: Sequence[str] = (),
    families: Sequence[str] = (),
    **filters: tuple[str, ...],
) -> list[Row]:
    """The rows of these families that fit globs over comparisons' names, or their beginnings, and
    over their parts.

    Raises SelectionError where there are none.
    """
    rows = of_families(rows, families, attrgetter("family"))
    kept = []
    for row in rows:
        if row.case.matches(**filters) and (
            not comparisons or any(_fits(row.comparison, glob) for glob in comparisons)
        ):
            kept.append(row)
    if not kept:
        raise SelectionError(_why_none(rows, comparisons, filters))
    return kept


def _fits(comparison: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(comparison, glob) or fnmatch.fnmatchcase(comparison, f"{glob}/*")


def _why_none(
    rows: Sequence[Row], comparisons: Sequence[str], filters: dict[str, tuple[str, ...]]
) -> str:
    names = list(dict.fromkeys(row.comparison for row in rows))
    for glob in comparisons:
        if not any(_fits(name, glob) for name in names):
            # A beginning of a name is compared with beginnings.
            parts = glob.count("/") + 1
            begun = dict.fromkeys("/".join(name.split("/")[:parts]) for name in names)
            near = hint(glob, begun) or "'gradbench show' lists its comparisons"
            return f"no comparison of this run matches {text.line(glob, 80)!r}; {near}"
    return nothing_fits((row.case for row in rows), **filters)


def fails(verdicts: Iterable[str], fail_on: str | None) -> bool:
    """Whether a check fails that looks for `slower`, `faster` or `any` of the two."""
    wanted = {*CALLED} if fail_on == "any" else {fail_on}
    return fail_on is not None and not wanted.isdisjoint(verdicts)
