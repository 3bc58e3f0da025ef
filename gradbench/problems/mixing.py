"""Jacobians with a few full rows or columns: the split into passes of both directions.

An arrow matrix has a full row and a full column: no two of its columns can share a pass, and no
two of its rows, but three passes give all of it (T. Coleman, A. Verma, The efficient computation of
sparse Jacobian matrices using automatic differentiation, SIAM J. Sci. Comput. 19, 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.problems.colouring import colour
from gradbench.problems.structure import Structure, supports_of

CANDIDATES = 12
"""How many splits are tried in each direction."""


@dataclass(frozen=True)
class Mixed:
    """Which entries of a Jacobian come from passes in reverse mode, the others in forward mode.

    Rows (columns) of one colour share a reverse (forward) pass; those of colour -1 are in none.
    """

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    rows: Tensor
    columns: Tensor
    by_rows: Tensor
    """Whether an entry comes from a reverse pass, one per entry."""
    row_colours: Tensor
    column_colours: Tensor
    is_global: bool = False
    """Whether the pattern is known for every input, not only seen near a point."""

    @property
    def passes(self) -> tuple[int, int]:
        """The number of passes in forward mode, and in reverse mode."""
        return int(self.column_colours.max()) + 1, int(self.row_colours.max()) + 1


def mixed_of(structure: Structure, deadline: Deadline) -> Mixed | None:
    """The split of the entries of a structure, where it saves two passes or more."""
    if not len(structure.rows):
        return None
    fewest = min(structure.passes) - 1
    entries = structure.rows, structure.columns
    found = mix(structure.inputs, structure.output, *entries, fewest, deadline)
    return found and replace(found, is_global=structure.is_global)


def mix(
    inputs: tuple[tuple[int, ...], ...],
    output: tuple[int, ...],
    rows: Tensor,
    columns: Tensor,
    passes: int,
    deadline: Deadline | None = None,
) -> Mixed | None:
    """The split of a jacobian's entries that takes the fewest passes of both directions together;
    None where that is not fewer than `passes`, those of one direction. After the deadline no
    further split is tried.

    The fullest rows are left to reverse mode and the rest to forward mode, or the fullest columns
    to forward mode and the rest to reverse mode.
    """
    m = int(torch.tensor(output).prod()) if output else 1
    n = sum(int(torch.tensor(shape).prod()) if shape else 1 for shape in inputs)
    best = None
    for transposed in (False, True):
        along, across = (columns, rows) if transposed else (rows, columns)
        lengths = (n, m) if transposed else (m, n)
        found = _split(along, across, *lengths, passes, deadline or Deadline())
        if found is not None:
            passes, full, full_colours, rest_colours = found
            colours = (rest_colours, full_colours) if transposed else (full_colours, rest_colours)
            by_rows = ~full if transposed else full
            best = Mixed(inputs, output, rows, columns, by_rows, *colours)
    return best


def _split(
    rows: Tensor, columns: Tensor, m: int, n: int, passes: int, deadline: Deadline
) -> tuple[int, Tensor, Tensor, Tensor] | None:
    """The fewest passes that leave the fullest rows to themselves, which entries are in these, and
    the colours of these rows and of the columns of the rest. None where it is not below `passes`.
    """
    counts = torch.bincount(rows, minlength=m)
    best = None
    # Of the rest, the fullest row takes as many colours as it has entries.
    for most in counts.unique().flip(0)[1 : CANDIDATES + 1].tolist():
        full = counts > most
        of_full = full[rows]
        # Of the full rows, those that meet in a column take a pass each.
        if int(torch.bincount(columns[of_full]).max()) + most >= passes:
            continue
        if deadline.over:
            break
        row_colours = _colours(rows[of_full], columns[of_full], m)
        column_colours = _colours(columns[~of_full], rows[~of_full], n)
        total = int(row_colours.max()) + int(column_colours.max()) + 2
        if total < passes:
            passes, best = total, (total, of_full, row_colours, column_colours)
    return best


def _colours(of: Tensor, along: Tensor, count: int) -> Tensor:
    """The colours of `count` rows or columns by their entries; -1 for those without any."""
    colours = torch.full((count,), -1)
    if not of.numel():
        return colours
    supports = [support for support in supports_of(of, along, count) if support]
    colours[torch.bincount(of, minlength=count) > 0] = torch.tensor(colour(supports))
    return colours
