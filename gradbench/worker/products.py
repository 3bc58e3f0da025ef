"""Random products in place of a dense result that has too many entries to compute each exactly.

The products of the exact derivative with `DIRECTIONS` random vectors, from the right and from the
left, take a pass each. An entry that is off by d shows in a product of its row as d times a random
number of size one. Rows that are suspected are computed exactly, a pass each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradbench.core.operators import OPERATORS, Shape
from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors
from gradbench.problems.operators import Problem
from gradbench.worker.comparing import unravelled
from gradbench.worker.cost import MOST_CHECKED
from gradbench.worker.urgency import Late, require_time

DIRECTIONS = 4

ALLOWED = 8
"""A product may be off by so many units in the last place of its size, beside what the gate allows
to a number: entries are rounded independently."""

AGREEMENT = 1e-9
"""How far products from the right and from the left may be apart, in float64, relative to the sum
of their terms' sizes. If they are further apart, those from the right (forward mode) are not used.
"""

CHUNK = 1 << 22
"""The most entries of a result that are turned to float64 at a time."""

Row = tuple[int, int]
"""A row of a dense result: the input that numbers its rows (0 for a jacobian), and its number
among those, counted over all values."""


class Products:
    """The products by which the result of one problem is checked.

    A jacobian has a row for each value, a hessian one for each coordinate of each value. The
    hessians of several values are added up with random weights in each direction, so that a
    product of all of them takes a pass as well.
    """

    def __init__(self, problem: Problem) -> None:
        self._right, self._left = problem.function.products[problem.operator]
        hessian = OPERATORS[problem.operator].order == 2
        inputs = problem.inputs[: problem.differentiated]
        self._values: Shape = problem.output if hessian else ()
        rows = OPERATORS[problem.operator].rows(problem)[0]
        self._rows = inputs if hessian else (problem.result[0][:rows],)
        self._columns = inputs
        self._weights = self._drawn([self._values], 2) if self._values else [()] * DIRECTIONS
        self._tangents = self._drawn(self._columns, 0)
        self._seeds = self._drawn(self._rows, 1)
        self._from_the_right: bool | None = None
        """Whether there are products from the right; None before `begin`."""

    @classmethod
    def of(cls, problem: Problem, always: bool = False) -> Products | None:
        """None where every entry of the result is compared, and with `always` where it has to be:
        not every operator has products."""
        if problem.operator not in problem.function.products:
            return None
        return cls(problem) if always or problem.result_numel > MOST_CHECKED else None

    @property
    def rows(self) -> int:
        """The number of rows of the result."""
        return max(1, math.prod(self._values)) * sum(map(math.prod, self._rows))

    @property
    def numel(self) -> int:
        """The numbers of all products."""
        shapes = (*self._rows, *self._columns)
        return DIRECTIONS * sum(math.prod(shape) for shape in shapes)

    @property
    def dimensions(self) -> list[int]:
        """Those of each product in `exact` and `reduced`."""
        return [1 + len(shape) for shape in self._parts()]

    def name(self, number: int, inputs: Sequence[str]) -> str:
        """What the product of a number is, in words."""
        left = number - (len(self._parts()) - len(self._columns))
        if left >= 0:
            return f"a random vector times the derivative by {inputs[left]}"
        return "the derivative times a random vector"

    def begin(self, arguments: Arguments) -> None:
        """Finds which products can be had, by arguments in float64."""
        if self._from_the_right is None:
            inputs = arguments.inputs
            left = self._left((*self._weights[0], *self._seeds[0]), *inputs)
            self._from_the_right = self._agrees(left, inputs)

    def exact(self, arguments: Arguments) -> Tensors:
        """The products of the exact derivative, in float64: from the right, of shape (DIRECTIONS,
        *rows), then from the left, of shape (DIRECTIONS, *columns)."""
        inputs = arguments.inputs
        left, right = [], []
        for weights, seeds in zip(self._weights, self._seeds):
            left.append(self._left((*weights, *seeds), *inputs))
            require_time()
        if self._from_the_right:
            for weights, tangents in zip(self._weights, self._tangents):
                right.append(self._right((*weights, *tangents), *inputs))
                require_time()
        return tuple(torch.stack(parts).double() for side in (right, left) for parts in zip(*side))

    def reduced(self, blocks: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
        """The same products of a dense result, and the size of each: the root of the sum of its
        terms' squares, which is what independent errors of the entries are in proportion to."""
        rows, columns = self._flat(self._seeds), self._flat(self._tangents)
        right = [(u * 0.0, u * 0.0) for u in rows]
        left = [(v * 0.0, v * 0.0) for v in columns]
        for number, block in enumerate(blocks):
            r, c = divmod(number, len(columns))
            (u, v), (product, size) = (rows[r], columns[c]), right[r]
            entries = block.detach().reshape(-1, u.shape[1], v.shape[1])
            for weights, part, some in self._chunks(entries):
                square = some.square()
                product[:, part] += _summed(weights, some @ v.T)
                size[:, part] += _summed(weights.square(), square @ v.T.square())
                left[c][0].add_(_summed(weights, (u[:, part] @ some).mT))
                left[c][1].add_(_summed(weights.square(), (u[:, part].square() @ square).mT))
        sides = [*(right if self._from_the_right else []), *left]
        shapes = [(DIRECTIONS, *shape) for shape in self._parts()]
        products = tuple(p.reshape(shape) for (p, _), shape in zip(sides, shapes))
        return products, tuple(s.sqrt().reshape(shape) for (_, s), shape in zip(sides, shapes))

    def exact_rows(self, rows: Sequence[Row], arguments: Arguments) -> Tensors:
        """These rows of the exact derivative, in float64: by each input (len(rows), *x.shape)."""
        pulled = []
        for row in rows:
            pulled.append(self._left(self._unit(row), *arguments.inputs))
            require_time()
        return tuple(torch.stack(parts).double() for parts in zip(*pulled))

    def rows_of(self, rows: Sequence[Row], blocks: Sequence[Tensor]) -> Tensors:
        """The same rows of a dense result."""
        count = len(self._columns)
        return tuple(
            torch.stack(
                [
                    blocks[r * count + c].detach().reshape(-1, *x)[flat].to("cpu", torch.float64)
                    for r, flat in rows
                ]
            )
            for c, x in enumerate(self._columns)
        )

    def place_of(self, block: int) -> tuple[int, int]:
        """The input that numbers the rows of a block, 0 for a jacobian, and the rows' length."""
        source, column = divmod(block, len(self._columns))
        return source, math.prod(self._columns[column])

    def index_of(self, row: Row) -> list[int]:
        """The leading indices of a row's entries in its blocks."""
        return unravelled(row[1], (*self._values, *self._rows[row[0]]))

    def most_off(self, shares: Sequence[Tensor], most: int) -> list[Row]:
        """The rows whose products are off by the largest shares of what is allowed, at most `most`.

        `shares` are of the shapes of `exact`. Empty where products do not tell rows apart: without
        those from the right, and of the hessians of several values.
        """
        if not self._from_the_right or self._values:
            return []
        # An error is seen in all directions at once; a large product of one may be chance.
        totals = [s.nan_to_num(nan=torch.inf).sum(0).reshape(-1) for s in shares]
        ends = torch.tensor([len(t) for t in totals[: len(self._rows)]]).cumsum(0)
        worst = torch.cat(totals[: len(self._rows)]).topk(min(most, int(ends[-1]))).indices
        inputs = torch.bucketize(worst, ends, right=True)
        first = torch.cat([ends.new_zeros(1), ends])
        return [(int(r), int(i - first[r])) for r, i in zip(inputs, worst)]

    def _unit(self, row: Row) -> Tensors:
        """The seeds that a row of the derivative answers to: a one, and zeros."""
        chosen, flat = row
        seeds = [torch.zeros(shape, dtype=torch.float64) for shape in self._rows]
        value, flat = divmod(flat, max(1, seeds[chosen].numel()))
        seeds[chosen].view(-1)[flat] = 1.0
        if not self._values:
            return tuple(seeds)
        weights = torch.zeros(self._values, dtype=torch.float64)
        weights.view(-1)[value] = 1.0
        return (weights, *seeds)

    def _chunks(self, entries: Tensor) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """Parts of a block of shape (values, rows, columns) in float64, with their rows and the
        values' weights of shape (DIRECTIONS, values of the part)."""
        values, rows, columns = entries.shape
        each = torch.ones(DIRECTIONS, 1, dtype=torch.float64)
        if self._values:
            each = torch.stack([weights[0].reshape(-1) for weights in self._weights])
        step = max(1, CHUNK // max(1, columns))
        several = max(1, step // max(1, rows))
        for value in range(0, values, several):
            for start in range(0, rows, step):
                part = slice(start, min(rows, start + step))
                some = entries[value : value + several, part].to("cpu", torch.float64)
                yield each[:, value : value + several], part, some

    def _parts(self) -> tuple[Shape, ...]:
        return (*(self._rows if self._from_the_right else ()), *self._columns)

    def _drawn(self, shapes: Sequence[Shape], seed: int) -> list[Tensors]:
        generator = torch.Generator().manual_seed(seed)
        return [
            tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
            for _ in range(DIRECTIONS)
        ]

    @staticmethod
    def _flat(vectors: Sequence[Tensors]) -> list[Tensor]:
        """Of each part, the vectors of shape (DIRECTIONS, numbers)."""
        return [torch.stack([p.reshape(-1) for p in parts]) for parts in zip(*vectors)]

    def _agrees(self, left: Tensors, inputs: Tensors) -> bool:
        """Whether products from the right can be had, and say the same as those from the left."""
        try:
            right = self._right((*self._weights[0], *self._tangents[0]), *inputs)
        except Late:
            raise
        except Exception:
            return False
        ours = [(p * u).double() for p, u in zip(right, self._seeds[0])]
        theirs = [(p * t).double() for p, t in zip(left, self._tangents[0])]
        gap = sum(float(x.sum()) for x in ours) - sum(float(x.sum()) for x in theirs)
        return abs(gap) <= AGREEMENT * sum(float(x.abs().sum()) for x in (*ours, *theirs))


def _summed(weights: Tensor, products: Tensor) -> Tensor:
    """The sum over values of products of shape (values, numbers, DIRECTIONS), weighed by the
    direction's weights: (DIRECTIONS, numbers)."""
    return (products * weights.T[:, None]).sum(0).T
