"""The operators (gradient, jacobian, vjp, …): their results' shapes, seeds and usual modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench.core.cases import TF32
from gradbench.problems.function import Function, Tensors

Shape = tuple[int, ...]

ACCUMULATED_SEEDS = 4
"""The number of seeds of vjp_sum, as in the source notebooks."""

TF32_UNIT = 2.0**-10
"""The unit in the last place of TF32, whose mantissa has ten bits."""

LEARNING_RATE = 0.1
"""The step length of training_step: plain gradient descent, p − 0.1 ∂L/∂p."""


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
    def result_numel(self) -> int:
        return sum(math.prod(shape) for shape in self.result)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of the tensors of a case; ``tf32`` computes on float32."""
    kind: torch.dtype = torch.float32 if name == TF32 else getattr(torch, name)
    return kind


def _like_inputs(problem: Problem) -> tuple[Shape, ...]:
    return problem.wrt


def _no_rows(problem: Problem) -> tuple[int, ...]:
    return (0,) * len(problem.wrt)


def _output_rows(problem: Problem) -> tuple[int, ...]:
    return (len(problem.output),) * len(problem.wrt)


def _hessian_rows(problem: Problem) -> tuple[int, ...]:
    values = 0 if problem.operator == "batch_hessian" else len(problem.output)
    return tuple(values + len(a) for a in problem.wrt for _ in problem.wrt)


def _draw(generator: torch.Generator, shape: Shape) -> Tensor:
    # Bounded away from zero: a tiny seed would hide the error of its output.
    sign = torch.randint(0, 2, shape, generator=generator, dtype=torch.float64) * 2 - 1
    return sign * (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)


def _cotangent(problem: Problem, generator: torch.Generator) -> Tensor:
    return _draw(generator, problem.output)


def _cotangents(problem: Problem, generator: torch.Generator) -> Tensor:
    return _draw(generator, (ACCUMULATED_SEEDS, *problem.output))


def _tangents(problem: Problem, generator: torch.Generator) -> Tensors:
    return tuple(_draw(generator, shape) for shape in problem.wrt)


@dataclass(frozen=True)
class Operator:
    """One kind of derivative."""

    name: str
    summary: str
    first: str
    """The usual choice of mode."""
    shapes: Callable[[Problem], tuple[Shape, ...]] = _like_inputs
    """The exact shapes of the result's blocks."""
    rows: Callable[[Problem], tuple[int, ...]] = _no_rows
    """For each block, how many leading dimensions number the outputs. The others are the derivative
    of one output by one input, whose scale limits the rounding error of its entries."""
    seed: Callable[[Problem, torch.Generator], Any] | None = None
    """Draws the seed or tangents; None if the operator takes none."""


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("derivative", "f′(x) of a scalar function of one number", "backward"),
        Operator("gradient", "all partial derivatives of one value", "backward"),
        Operator(
            "jacobian",
            "∂yᵢ/∂xⱼ of every output by every input",
            "functional_jacobian",
            lambda problem: tuple(problem.output + shape for shape in problem.wrt),
            _output_rows,
        ),
        Operator(
            "batch_jacobian",
            "one jacobian per sample, without the zero blocks between samples",
            "loop_grad",
            lambda problem: tuple(problem.output + shape[1:] for shape in problem.wrt),
            _output_rows,
        ),
        Operator(
            "diagonal",
            "the diagonal of an elementwise map's jacobian",
            "ones_backward",
            rows=_output_rows,
        ),
        Operator("vjp", "vᵀJ: the pullback of a seed", "backward", seed=_cotangent),
        Operator(
            "vjp_sum",
            "Σₖ vₖᵀJ: the pullback of several seeds, accumulated",
            "accumulated_backward",
            seed=_cotangents,
        ),
        Operator(
            "jvp",
            "Jt: the pushforward of a tangent",
            "func_jvp",
            lambda problem: (problem.output,),
            lambda problem: (0,),
            _tangents,
        ),
        Operator(
            "hessian",
            "∂²y/∂xᵢ∂xⱼ of one value, or of each of several",
            "functional_hessian",
            lambda problem: tuple(problem.output + a + b for a in problem.wrt for b in problem.wrt),
            _hessian_rows,
        ),
        Operator(
            "batch_hessian",
            "one hessian per sample",
            "grad_twice",
            lambda problem: tuple(a + b[1:] for a in problem.wrt for b in problem.wrt),
            _hessian_rows,
        ),
        Operator("hvp", "Ht: the hessian times a tangent", "grad_twice", seed=_tangents),
        Operator(
            "training_step",
            f"the parameters after one step of gradient descent of length {LEARNING_RATE}",
            "backward_step",
        ),
    )
}
