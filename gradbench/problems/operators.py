"""A problem: an operator of a function at given shapes, and the seed that it is posed with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench.core.cases import TF32
from gradbench.core.operators import OPERATORS, Shape
from gradbench.problems.function import Function

ACCUMULATED_SEEDS = 4
"""The number of seeds of vjp_sum, as in the source notebooks."""

ESTIMATING_SIGNS = 8
"""The number of vectors of signs of laplacian_estimate. Its standard deviation is
√(2 Σᵢ≠ⱼ Hᵢⱼ² / vectors); a diagonal hessian is estimated exactly."""

TF32_UNIT = 2.0**-10
"""The unit in the last place of TF32, whose mantissa has ten bits."""


@dataclass(frozen=True)
class Problem:
    """An operator of a function at given shapes, dtype and device: what a mode is built for."""

    function: Function
    operator: str
    inputs: tuple[Shape, ...]
    """Shapes of all inputs, constants included."""
    output: Shape
    dtype: torch.dtype
    device: torch.device
    tf32: bool = False
    """Whether matmuls may round their float32 factors to TF32."""

    @property
    def unit(self) -> float:
        """The unit in the last place of TF32 or of the dtype, or of a coarser one inside."""
        own = TF32_UNIT if self.tf32 else float(torch.finfo(self.dtype).eps)
        return max(own, self.function.unit)

    @property
    def smallest(self) -> float:
        """The smallest positive number of the dtype: the error of an underflow."""
        info = torch.finfo(self.dtype)
        return float(info.tiny * info.eps)

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return torch.finfo(self.dtype).bits // 8

    @property
    def forward(self) -> Callable[..., Tensor]:
        return self.function.forward

    @property
    def differentiated(self) -> int:
        return self.function.differentiated

    @property
    def wrt(self) -> tuple[Shape, ...]:
        """Shapes of the differentiated inputs."""
        return self.inputs[: self.differentiated]

    @property
    def per_sample(self) -> bool:
        """Whether it is one derivative per sample of a batch."""
        return OPERATORS[self.operator].per_sample and bool(self.output)

    @property
    def outputs(self) -> int:
        """The number of entries of the function's value."""
        return math.prod(self.output)

    @property
    def coordinates(self) -> int:
        """The number of entries of all differentiated inputs."""
        return sum(math.prod(shape) for shape in self.wrt)

    @property
    def result(self) -> tuple[Shape, ...]:
        """The exact shapes of the operator's result, one per block."""
        return OPERATORS[self.operator].shapes(self)

    @property
    def samples(self) -> int:
        """The number of samples that share the differentiated inputs: the length of the value, or,
        of one number, that of the first constant with dimensions; 1 without any."""
        shapes = (self.output, *self.inputs[self.differentiated :])
        return next((shape[0] for shape in shapes if shape), 1)

    @property
    def result_numel(self) -> int:
        """The numbers that the result holds; of a sparse one with the indices of its entries."""
        if OPERATORS[self.operator].sparse:
            from gradbench.problems.sparsity import numbers

            return numbers(self)
        return sum(math.prod(shape) for shape in self.result)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of the tensors of a case; ``tf32`` computes on float32."""
    kind: torch.dtype = torch.float32 if name == TF32 else getattr(torch, name)
    return kind


def draw_seed(problem: Problem, generator: torch.Generator) -> Any:
    """The seed or the tangents that the operator takes, float64; None if it takes none."""
    kind = OPERATORS[problem.operator].seed
    return _SEEDS[kind](problem, generator) if kind else None


def _signs(generator: torch.Generator, shape: Shape) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.float64) * 2 - 1


def _draw(generator: torch.Generator, shape: Shape) -> Tensor:
    # Bounded away from zero: a tiny seed would hide the error of its output.
    sign = _signs(generator, shape)
    return sign * (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)


_SEEDS: dict[str, Callable[[Problem, torch.Generator], Any]] = {
    "v": lambda problem, generator: _draw(generator, problem.output),
    "seeds": lambda problem, generator: _draw(generator, (ACCUMULATED_SEEDS, *problem.output)),
    "signs": lambda problem, generator: tuple(
        _signs(generator, (ESTIMATING_SIGNS, *shape)) for shape in problem.wrt
    ),
    "t": lambda problem, generator: tuple(_draw(generator, shape) for shape in problem.wrt),
}
"""What draws each kind of seed (`Operator.seed`)."""
