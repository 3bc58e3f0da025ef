"""Colouring of sparse matrices: which columns one pass can carry together.

Columns that share no row are structurally orthogonal: one product with their sum holds the entries
of all of them (A. Curtis, M. Powell, J. Reid, On the estimation of sparse Jacobian matrices, 1974;
A. Gebremedhin, F. Manne, A. Pothen, What color is your Jacobian?, SIAM Review 47, 2005).
"""

from __future__ import annotations

from collections.abc import Sequence

Support = Sequence[int]
"""The rows in which a column has an entry."""


def colour(supports: Sequence[Support]) -> list[int]:
    """A colour for each column, such that no two columns of one colour share a row.

    Colours greedily, once in the given order (best for banded matrices) and once from the fullest
    column to the emptiest, and returns the better result. Colours are 0, 1, …; a column without
    rows gets 0.
    """
    in_order = list(range(len(supports)))
    first = _greedy(supports, in_order)
    if max(first, default=0) + 1 == fewest(supports):
        return first
    second = _greedy(supports, sorted(in_order, key=lambda column: -len(supports[column])))
    return min(first, second, key=lambda colours: max(colours, default=0))


def fewest(supports: Sequence[Support]) -> int:
    """No colouring has fewer colours than the fullest row has entries, and one at least."""
    entries: dict[int, int] = {}
    for support in supports:
        for row in support:
            entries[row] = entries.get(row, 0) + 1
    return max(entries.values(), default=1)


def _greedy(supports: Sequence[Support], order: Sequence[int]) -> list[int]:
    taken: dict[int, int] = {}  # the colours seen in a row, as bits
    colours = [0] * len(supports)
    for column in order:
        seen = 0
        for row in supports[column]:
            seen |= taken.get(row, 0)
        bit = ~seen & (seen + 1)  # the lowest colour that is free in all rows
        colours[column] = bit.bit_length() - 1
        for row in supports[column]:
            taken[row] = taken.get(row, 0) | bit
    return colours
