"""The operators: which derivative is computed, what it takes and what its result looks like."""

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
"""How many seeds vjp_sum pulls back (the documents use four)."""

TF32_UNIT = 2.0**-10
"""The unit in the last place of TF32, which keeps ten bits of the mantissa."""

LEARNING_RATE = 0.1
"""The step length of training_step: plain gradient descent, p − 0.1 ∂L/∂p."""


@dataclass(frozen=True)
class Problem:
    """A function under an operator at given shapes: what a mode is built for."""

    function: Function
    operator: str
    inputs: tuple[Shape, ...]
    """Shapes of all inputs, constants included."""
    output: Shape
    dtype: torch.dtype
    device: torch.device
    tf32: bool = False
    """Whether matrix products may round their float32 factors to TF32."""

    @property
    def unit(self) -> float:
        """The unit in the last place of what is computed with."""
        return TF32_UNIT if self.tf32 else float(torch.finfo(self.dtype).eps)

    @property
    def smallest(self) -> float:
        """The smallest number above zero of the dtype: what underflow may be off by."""
        known = torch.finfo(self.dtype)
        return float(known.tiny * known.eps)

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
        """How many numbers the function's value has."""
        return math.prod(self.output)

    @property
    def coordinates(self) -> int:
        """How many numbers the differentiated inputs have together."""
        return sum(math.prod(shape) for shape in self.wrt)

    @property
    def result(self) -> tuple[Shape, ...]:
        """The exact shapes of the operator's result, one per block."""
        return OPERATORS[self.operator].shapes(self)

    @property
    def result_numel(self) -> int:
        return sum(math.prod(shape) for shape in self.result)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of the tensors of a case whose name has this one."""
    kind: torch.dtype = torch.float32 if name == TF32 else getattr(torch, name)
    return kind


@dataclass(frozen=True)
class Operator:
    """One kind of derivative.

    `shapes` gives the exact shapes of the result. `rows` gives for each block how many leading
    dimensions number the outputs: what is left is one output's derivative by one input, the
    scale on which its rounding error is judged. `first` is the mode that people usually write
    first. `seed` draws the seed or tangents, None where the operator takes none.
    """

    name: str
    summary: str
    shapes: Callable[[Problem], tuple[Shape, ...]]
    rows: Callable[[Problem], tuple[int, ...]]
    first: str
    seed: Callable[[Problem, torch.Generator], Any] | None = None


def _like_inputs(problem: Problem) -> tuple[Shape, ...]:
    return problem.wrt


def _no_rows(problem: Problem) -> tuple[int, ...]:
    return (0,) * len(problem.wrt)


def _jacobian(problem: Problem) -> tuple[Shape, ...]:
    return tuple(problem.output + shape for shape in problem.wrt)


def _output_rows(problem: Problem) -> tuple[int, ...]:
    return (len(problem.output),) * len(problem.wrt)


def _batch_jacobian(problem: Problem) -> tuple[Shape, ...]:
    return tuple(problem.output + shape[1:] for shape in problem.wrt)


def _hessian(problem: Problem) -> tuple[Shape, ...]:
    return tuple(a + b for a in problem.wrt for b in problem.wrt)


def _hessian_rows(problem: Problem) -> tuple[int, ...]:
    return tuple(len(a) for a in problem.wrt for _ in problem.wrt)


def _batch_hessian(problem: Problem) -> tuple[Shape, ...]:
    return tuple(a + b[1:] for a in problem.wrt for b in problem.wrt)


def _draw(generator: torch.Generator, shape: Shape) -> Tensor:
    # Bounded away from zero: a seed of nearly nothing would hide the output it stands for.
    sign = torch.randint(0, 2, shape, generator=generator, dtype=torch.float64) * 2 - 1
    return sign * (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)


def _cotangent(problem: Problem, generator: torch.Generator) -> Tensor:
    return _draw(generator, problem.output)


def _cotangents(problem: Problem, generator: torch.Generator) -> Tensor:
    return _draw(generator, (ACCUMULATED_SEEDS, *problem.output))


def _tangents(problem: Problem, generator: torch.Generator) -> Tensors:
    return tuple(_draw(generator, shape) for shape in problem.wrt)


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("derivative", "f′(x) of a number's function", _like_inputs, _no_rows, "backward"),
        Operator(
            "gradient", "all partial derivatives of one value", _like_inputs, _no_rows, "backward"
        ),
        Operator(
            "jacobian",
            "∂yᵢ/∂xⱼ of every output by every input",
            _jacobian,
            _output_rows,
            "functional_jacobian",
        ),
        Operator(
            "batch_jacobian",
            "one jacobian per sample, without the zero blocks between samples",
            _batch_jacobian,
            _output_rows,
            "loop_grad",
        ),
        Operator(
            "diagonal",
            "the diagonal of an elementwise map's jacobian",
            _like_inputs,
            _output_rows,
            "ones_backward",
        ),
        Operator(
            "vjp", "vᵀJ: the pullback of a seed", _like_inputs, _no_rows, "backward", _cotangent
        ),
        Operator(
            "vjp_sum",
            "Σₖ vₖᵀJ: the pullback of several seeds, accumulated",
            _like_inputs,
            _no_rows,
            "accumulated_backward",
            _cotangents,
        ),
        Operator(
            "jvp",
            "Jt: the pushforward of a tangent",
            lambda problem: (problem.output,),
            lambda problem: (0,),
            "func_jvp",
            _tangents,
        ),
        Operator(
            "hessian", "∂²y/∂xᵢ∂xⱼ of one value", _hessian, _hessian_rows, "functional_hessian"
        ),
        Operator(
            "batch_hessian",
            "one hessian per sample",
            _batch_hessian,
            _hessian_rows,
            "grad_twice",
        ),
        Operator(
            "hvp",
            "Ht: the hessian times a tangent",
            _like_inputs,
            _no_rows,
            "grad_twice",
            _tangents,
        ),
        Operator(
            "training_step",
            f"the parameters after one step of gradient descent of length {LEARNING_RATE}",
            _like_inputs,
            _no_rows,
            "backward_step",
        ),
    )
}
