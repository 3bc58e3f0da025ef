"""Sparse results: compared entry by entry where the exact one has entries, and zero elsewhere.

The reference of a user's sparse jacobian takes a pass for each colour in float64. A random product
tells whether entries are missing from its pattern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradbench.modes.placing import unravelled as indices
from gradbench.problems.function import Tensors, parts_of
from gradbench.problems.mixing import Mixed
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure, passes_of
from gradbench.worker.allowance import ENTRY, ROW, Path
from gradbench.worker.comparing import Finding, unravelled
from gradbench.worker.reference import AGREEMENT, Trust, pullback, pushforward, tried
from gradbench.worker.urgency import require_time

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

FORWARD = 3
"""Passes in forward mode are taken where they are so many times fewer."""


def entries_of(block: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The places of a sparse block's entries, in order, each row times the columns plus the column,
    and their values. The first `rows` dimensions number the rows."""
    entries = block.detach().cpu().coalesce()
    keys = torch.zeros(entries.indices().shape[1], dtype=torch.int64)
    for index, length in zip(entries.indices(), entries.shape):
        keys = keys * length + index
    return keys, entries.values()


@dataclass(frozen=True)
class Entries:
    """The places where the exact result of a problem has entries, at any of its arguments."""

    problem: Problem
    keys: tuple[Tensor, ...]
    """By block, in order: see `entries_of`."""

    @classmethod
    def of(cls, problem: Problem, results: Sequence[Tensors]) -> Entries:
        """Those of exact results, sparse blocks each."""
        rows = len(problem.output)
        found = [[entries_of(block, rows)[0] for block in blocks] for blocks in results]
        return cls(problem, tuple(torch.unique(torch.cat(keys)) for keys in zip(*found)))

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """By block, the row of each entry."""
        return tuple(keys // width for keys, width in zip(self.keys, self._widths))

    def values(self, blocks: Sequence[Tensor]) -> Tensors:
        """The numbers of a sparse result at these places, by block a vector in float64."""
        return tuple(
            self._at(*entries_of(b, self._rows), keys) for b, keys in zip(blocks, self.keys)
        )

    def way(self, path: Path) -> Path:
        """A way to sparse blocks as one to the numbers at these places."""
        return lambda arguments: self.values(path(arguments))

    def elsewhere(self, blocks: Sequence[Tensor], exact: Sequence[Tensor]) -> Finding:
        """Whether a result has numbers elsewhere that rounding of a row does not explain."""
        unit, least = self.problem.unit, self.problem.smallest
        names = self.problem.function.inputs
        for number, (block, keys, right) in enumerate(zip(blocks, self.keys, exact)):
            places, values = entries_of(block, self._rows)
            width = self._widths[number]
            largest = torch.zeros(self.problem.outputs, dtype=torch.float64)
            largest.scatter_reduce_(0, keys // width, right.abs(), "amax")
            known = self._at(keys, torch.ones(len(keys)), places) != 0
            allowed = ENTRY * least + ROW * unit * largest[places // width]
            wrong = (~known & ~(values.double().abs() <= allowed)).nonzero().flatten()
            if len(wrong):
                first = int(wrong[0])
                return Finding(
                    f"by {names[number]}{self.place(number, int(places[first]))}: "
                    f"{float(values[first]):.6g} where the derivative is zero "
                    f"({len(wrong)} such entries)",
                    math.inf,
                    math.inf,
                )
        return Finding()

    def name(self, number: int, at: Sequence[int]) -> str:
        """An entry of a block, by its place in the vector of its values."""
        place = self.place(number, int(self.keys[number][at[0]]))
        return f"by {self.problem.function.inputs[number]}{place}"

    def place(self, number: int, key: int) -> list[int]:
        """The indices of an entry of a block."""
        return unravelled(key, self.problem.result[number])

    @property
    def _rows(self) -> int:
        return len(self.problem.output)

    @property
    def _widths(self) -> list[int]:
        return [math.prod(shape) for shape in self.problem.wrt]

    @staticmethod
    def _at(keys: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """The values at places, zero where there is none. Moves numbers alone: under Monte Carlo
        arithmetic nothing is rounded here."""
        if not len(keys):
            return torch.zeros(len(places), dtype=torch.float64)
        found = torch.searchsorted(keys, places).clamp(max=len(keys) - 1)
        there = keys[found] == places
        padded = torch.cat([values.double(), torch.zeros(1, dtype=torch.float64)])
        return padded[torch.where(there, found, len(keys))]


def sparse_jacobian(
    subject: Subject, structure: Structure, mixed: Mixed | None, trust: Trust, *inputs: Tensor
) -> Tensors:
    """The jacobian as sparse blocks in float64, (*y.shape, *x.shape) by each input.

    Raises RuntimeError where a random product shows entries outside of the structure.
    """

    def all_there(blocks: Tensors) -> bool:
        return _explains(subject, structure, blocks, inputs)

    if mixed is not None and trust.found.get("mixed", True):
        blocks = tried(lambda: _by_both(subject, structure, mixed, inputs))
        if blocks and trust.agrees("mixed", lambda: all_there(blocks)):
            return blocks
    forward, reverse = structure.passes
    if FORWARD * forward < reverse and trust.found.get("forward", True):
        blocks = tried(lambda: _by_columns(subject, structure, inputs))
        if blocks and trust.agrees("forward", lambda: all_there(blocks)):
            return blocks
    blocks = _by_rows(subject, structure, inputs)
    if not trust.agrees("pattern", lambda: all_there(blocks)):
        raise RuntimeError("its derivative has entries outside of the pattern that was found")
    return blocks


def _by_rows(subject: Subject, structure: Structure, inputs: Sequence[Tensor]) -> Tensors:
    pulled = _pulled(subject, structure.output, structure.row_colours, inputs)
    return _blocks(structure, pulled[structure.row_colours[structure.rows], structure.columns])


def _by_columns(subject: Subject, structure: Structure, inputs: Sequence[Tensor]) -> Tensors:
    pushed = _pushed(subject, structure.inputs, structure.column_colours, inputs)
    return _blocks(structure, pushed[structure.column_colours[structure.columns], structure.rows])


def _by_both(
    subject: Subject, structure: Structure, mixed: Mixed, inputs: Sequence[Tensor]
) -> Tensors:
    rows, columns, by_rows = mixed.rows, mixed.columns, mixed.by_rows
    pulled = _pulled(subject, mixed.output, mixed.row_colours, inputs)
    pushed = _pushed(subject, mixed.inputs, mixed.column_colours, inputs)
    values = torch.empty(len(rows), dtype=torch.float64)
    values[by_rows] = pulled[mixed.row_colours[rows[by_rows]], columns[by_rows]]
    values[~by_rows] = pushed[mixed.column_colours[columns[~by_rows]], rows[~by_rows]]
    return _blocks(structure, values)


def _pulled(
    subject: Subject, output: tuple[int, ...], colours: Tensor, inputs: Sequence[Tensor]
) -> Tensor:
    """What the rows of each colour pull back, by all coordinates: (colours, coordinates)."""
    passes = []
    for colour in range(passes_of(colours)):
        require_time()
        pulled = pullback(subject, (colours == colour).double().reshape(output), *inputs)
        passes.append(torch.cat([p.reshape(-1) for p in pulled]))
    return torch.stack(passes)


def _pushed(
    subject: Subject,
    shapes: Sequence[tuple[int, ...]],
    colours: Tensor,
    inputs: Sequence[Tensor],
) -> Tensor:
    """The derivatives along the columns of each colour: (colours, outputs)."""
    passes = []
    for colour in range(passes_of(colours)):
        require_time()
        tangents = parts_of((colours == colour).double(), shapes)
        passes.append(pushforward(subject, tangents, *inputs).reshape(-1))
    return torch.stack(passes)


def _blocks(structure: Structure, values: Tensor) -> Tensors:
    """Sparse blocks from the values of the entries, in the structure's order."""
    blocks, begin = [], 0
    for number, size in enumerate(structure.sizes):
        inside = (structure.columns >= begin) & (structure.columns < begin + size)
        blocks.append(_block(structure, number, values[inside]))
        begin += size
    return tuple(blocks)


def _block(structure: Structure, number: int, values: Tensor) -> Tensor:
    """A sparse block from the values of its entries, in the structure's order."""
    rows, columns = structure.block(number)
    shape = structure.inputs[number]
    places = torch.stack([*indices(rows, structure.output), *indices(columns, shape)])
    full = (*structure.output, *shape)
    return torch.sparse_coo_tensor(places, values, full, check_invariants=False)


def _explains(
    subject: Subject, structure: Structure, blocks: Tensors, inputs: Sequence[Tensor]
) -> bool:
    """Whether the blocks are all of the jacobian, by the pullback of a random seed."""
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(structure.outputs, generator=generator, dtype=torch.float64)
    pulled = pullback(subject, seed.reshape(structure.output), *inputs)
    for number, (block, wanted) in enumerate(zip(blocks, pulled)):
        rows, columns = structure.block(number)
        terms = block._values() * seed[rows]
        sums = torch.zeros(2, wanted.numel(), dtype=torch.float64)
        sums.index_add_(1, columns, torch.stack([terms, terms.abs()]))
        allowed = AGREEMENT * sums[1].max() if sums.numel() else 0.0
        if not bool(((sums[0] - wanted.reshape(-1)).abs() <= allowed).all()):
            return False
    return True
