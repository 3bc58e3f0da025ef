"""Random products in place of a dense result that has too many entries to compute each exactly.

The products of the exact derivative with `DIRECTIONS` random vectors, from the right and from the
left, take a pass each. An entry that is off by d shows in a product of its row as d times a random
number of size one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors
from gradbench.problems.operators import Problem, Shape
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


class Products:
    """The products by which the result of one problem is checked."""

    def __init__(self, problem: Problem) -> None:
        self._right, self._left = problem.function.products[problem.operator]
        inputs = problem.inputs[: problem.differentiated]
        self._rows = inputs if problem.operator == "hessian" else (problem.output,)
        self._columns = inputs
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
            self._from_the_right = self._agrees(self._left(self._seeds[0], *inputs), inputs)

    def exact(self, arguments: Arguments) -> Tensors:
        """The products of the exact derivative, in float64: from the right, of shape (DIRECTIONS,
        *rows), then from the left, of shape (DIRECTIONS, *columns)."""
        inputs = arguments.inputs
        left = [self._left(seed, *inputs) for seed in self._seeds]
        require_time()
        right = []
        if self._from_the_right:
            right = [self._right(tangent, *inputs) for tangent in self._tangents]
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
            entries = block.detach().reshape(u.shape[1], v.shape[1])
            step = max(1, CHUNK // max(1, v.shape[1]))
            for start in range(0, len(entries), step):
                part = slice(start, start + step)
                some = entries[part].to("cpu", torch.float64)
                product[:, part] += v @ some.T
                size[:, part] += v.square() @ some.square().T
                left[c][0].add_(u[:, part] @ some)
                left[c][1].add_(u[:, part].square() @ some.square())
        sides = [*(right if self._from_the_right else []), *left]
        shapes = [(DIRECTIONS, *shape) for shape in self._parts()]
        products = tuple(p.reshape(shape) for (p, _), shape in zip(sides, shapes))
        return products, tuple(s.sqrt().reshape(shape) for (_, s), shape in zip(sides, shapes))

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
            right = self._right(self._tangents[0], *inputs)
        except Late:
            raise
        except Exception:
            return False
        ours = [(p * u).double() for p, u in zip(right, self._seeds[0])]
        theirs = [(p * t).double() for p, t in zip(left, self._tangents[0])]
        gap = sum(float(x.sum()) for x in ours) - sum(float(x.sum()) for x in theirs)
        return abs(gap) <= AGREEMENT * sum(float(x.abs().sum()) for x in (*ours, *theirs))
