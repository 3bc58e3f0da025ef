"""The structure of a jacobian: its zeros, and which passes they save."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradbench.problems.colouring import Support, colour

POINTS = 3
"""The random points near an input at which products are taken."""

MOST_ENTRIES = 2_000_000
"""Entries are coloured in Python: a few seconds for so many."""

MOST_LISTED = 16_000_000
"""Entries of a batched Jacobian that are listed: a quarter of a gigabyte."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Structure:
    """The known zeros of a Jacobian by all differentiated inputs together.

    Its columns are the coordinates of all inputs, each flattened, one after another. `rows` and
    `columns` are the positions of the entries, one pair per entry. For a dense Jacobian they are
    empty, or the entries of one whose zeros save no pass by rows or columns alone; for a batched
    one of more than `MOST_LISTED` entries they are empty. Columns (rows) of one colour share a
    forward (reverse) pass: `column_colours` has one number per coordinate, `row_colours` one per
    output. A reverse pass serves all inputs.
    """

    kind: str
    """"dense", "diagonal" (by every input), "batched", "banded" or "sparse"."""
    evidence: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    rows: Tensor
    columns: Tensor
    column_colours: Tensor
    row_colours: Tensor
    is_global: bool
    """Whether the zeros are known for every input: traced through the operations, not only seen
    near a point."""

    @property
    def outputs(self) -> int:
        return math.prod(self.output)

    @property
    def sizes(self) -> list[int]:
        """The number of coordinates of each input."""
        return [math.prod(shape) for shape in self.inputs]

    @property
    def coordinates(self) -> int:
        return sum(self.sizes)

    @property
    def entries(self) -> int:
        """The number of entries that are not known to be zero."""
        if self.kind == "dense":
            return self.outputs * self.coordinates
        if self.kind == "batched" and not self.rows.numel():
            return self.outputs * self.coordinates // self.output[0]
        return self.rows.numel()

    @property
    def passes(self) -> tuple[int, int]:
        """The number of passes for all entries: in forward mode, and in reverse mode."""
        return passes_of(self.column_colours), passes_of(self.row_colours)

    def block(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows and columns of the entries by one input; its own first column is 0."""
        begin, size = sum(self.sizes[:number]), self.sizes[number]
        inside = (self.columns >= begin) & (self.columns < begin + size)
        return self.rows[inside], self.columns[inside] - begin


def passes_of(colours: Tensor) -> int:
    return int(colours.max()) + 1 if colours.numel() else 0


def samples_of(shapes_in: Shapes, shape_out: tuple[int, ...]) -> int:
    """The number of samples along dimension 0 of every input and of the output; 0 for none."""
    batches = {shape[0] if shape else 0 for shape in (*shapes_in, shape_out)}
    batch = batches.pop()
    return batch if not batches and batch > 1 else 0


def blocks(
    shapes_in: Shapes, shape_out: tuple[int, ...], evidence: str, *, is_global: bool
) -> Structure:
    """The structure of samples that do not depend on each other."""
    batch = shape_out[0]
    a = math.prod(shape_out) // batch
    rows, columns, colours = [], [], []
    begin = taken = 0
    samples = torch.arange(batch)[:, None, None]
    for shape in shapes_in:
        b = math.prod(shape) // batch
        block = (batch, a, b) if a * sum(map(math.prod, shapes_in)) <= MOST_LISTED else (0, a, b)
        listed = samples[: block[0]]
        rows.append((listed * a + torch.arange(a)[:, None]).expand(block).reshape(-1))
        columns.append((begin + listed * b + torch.arange(b)).expand(block).reshape(-1))
        colours.append((taken + torch.arange(b)).repeat(batch))
        begin, taken = begin + batch * b, taken + b
    return Structure(
        "batched",
        evidence,
        shapes_in,
        shape_out,
        torch.cat(rows),
        torch.cat(columns),
        torch.cat(colours),
        torch.arange(a).repeat(batch),
        is_global,
    )


def supports_of(of: Tensor, along: Tensor, count: int) -> list[Support]:
    """For each of `count` columns (rows), those `of` entries, the rows (columns) `along` them."""
    # One list, cut up: a hundred thousand tensors would take seconds.
    listed = along[torch.argsort(of, stable=True)].tolist()
    ends = torch.bincount(of, minlength=count).cumsum(0).tolist()
    return [listed[start:end] for start, end in zip([0, *ends], ends)]


def _kind(rows: Tensor, columns: Tensor, shapes_in: Shapes, shape_out: tuple[int, ...]) -> str:
    n, m = sum(math.prod(shape) for shape in shapes_in), math.prod(shape_out)
    if not rows.numel():
        return "sparse"
    if all(math.prod(shape) == m for shape in shapes_in) and bool((columns % m == rows).all()):
        return "diagonal"
    if n == m and torch.equal(rows, columns):
        return "diagonal"
    batch = samples_of(shapes_in, shape_out)
    if batch and batch < n:
        sample = torch.cat(
            [torch.arange(batch).repeat_interleave(math.prod(s) // batch) for s in shapes_in]
        )
        if bool((sample[columns] == rows // (m // batch)).all()):
            return "batched"
    offsets = columns - rows
    low, high = int(offsets.min()), int(offsets.max())
    if 2 * (high - low + 1) <= min(n, m):
        band = sum(min(m, n - k) - max(0, -k) for k in range(low, high + 1))
        if 2 * rows.numel() >= band:
            return "banded"
    return "sparse"


def structure_of(
    shapes_in: Shapes,
    shape_out: tuple[int, ...],
    rows: Tensor,
    columns: Tensor,
    evidence: str,
    *,
    is_global: bool,
    saving: bool = True,
) -> Structure:
    """The structure with these entries, dense where they are too many to colour or, with `saving`,
    to save passes.

    A diagonal is filled in where entries of it are missing: they save no pass. A flat output may be
    the gradient by one input: its rows are samples as that input's are.
    """
    n, m = sum(math.prod(shape) for shape in shapes_in), math.prod(shape_out)
    of_input = len(shapes_in) == 1 and shape_out == (n,)
    kind = _kind(rows, columns, shapes_in, shapes_in[0] if of_input else shape_out)
    if kind == "diagonal":
        columns = torch.arange(n)
        rows = columns % m
    batch = samples_of(shapes_in, shape_out)
    if kind == "batched" and batch and rows.numel() == n * m // batch:
        return blocks(shapes_in, shape_out, evidence, is_global=is_global)
    if kind != "diagonal" and rows.numel() > MOST_ENTRIES:
        return dense(shapes_in, shape_out, evidence + ": too many to colour")

    def coloured(of: Tensor, along: Tensor, count: int) -> Tensor:
        return torch.tensor(colour(supports_of(of, along, count)), dtype=torch.int64)

    structure = Structure(
        kind,
        evidence,
        shapes_in,
        shape_out,
        rows,
        columns,
        coloured(columns, rows, n),
        coloured(rows, columns, m),
        is_global,
    )
    fewer = min(structure.passes) <= min(n, m) // 2
    if not saving or fewer or kind in ("diagonal", "batched", "banded"):
        return structure
    return replace(
        structure,
        kind="dense",
        evidence=evidence + ": too many to save passes by rows or columns alone",
    )


def dense(shapes_in: Shapes, shape_out: tuple[int, ...], evidence: str) -> Structure:
    """A Jacobian without zeros that are known."""
    none = torch.empty(0, dtype=torch.int64)
    return Structure(
        "dense",
        evidence,
        shapes_in,
        shape_out,
        none,
        none,
        torch.arange(sum(math.prod(shape) for shape in shapes_in)),
        torch.arange(math.prod(shape_out)),
        True,
    )
