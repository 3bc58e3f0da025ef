"""Forward mode by dual numbers and by `torch.func.jvp`, one tangent at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import bound, one_hot
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, columns_in_turn, jacobian_by_columns
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode


def pushed(y: Tensor) -> Tensor:
    """The tangent of a dual number; a value that depends on no dual number has none."""
    primal, tangent = dual.unpack_dual(y)
    return torch.zeros_like(primal) if tangent is None else tangent


def alone(problem: Problem, inputs: Tensors, i: int) -> Callable[[Tensor], Tensor]:
    """The function of input i alone."""
    f, before, after = problem.forward, inputs[:i], inputs[i + 1 :]
    return lambda x: f(*before, x, *after)


def beside(columns: list[Tensor], x: Tensor) -> Tensor:
    """The jacobian by `x` from its columns."""
    return torch.stack(columns, -1).reshape((*columns[0].shape, *x.shape))


@mode("derivative", "gradient", "jacobian", memory=jacobian_by_columns, passes=columns_in_turn)
def forward_loop(problem: Problem) -> Call:
    """Dual numbers in a loop over the coordinates, each with a one-hot tangent"""
    n = problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        with dual.dual_level():
            for i, x in enumerate(inputs[:n]):
                f = alone(problem, inputs, i)
                columns = [pushed(f(dual.make_dual(x, t))) for t in one_hot(x)]
                blocks.append(beside(columns, x))
        return tuple(blocks)

    return call


@mode("derivative", "gradient", "jacobian", memory=jacobian_by_columns, passes=columns_in_turn)
def loop_jvp(problem: Problem) -> Call:
    """`torch.func.jvp` in a loop over the coordinates, each with a one-hot tangent"""
    n = problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        for i, x in enumerate(inputs[:n]):
            f = alone(problem, inputs, i)
            columns = [torch.func.jvp(f, (x,), (t,))[1] for t in one_hot(x)]
            blocks.append(beside(columns, x))
        return tuple(blocks)

    return call


@mode("diagonal")
def ones_dual(problem: Problem) -> Call:
    """Dual numbers once, with a tangent of ones"""
    n = problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        with dual.dual_level():
            return tuple(
                pushed(alone(problem, inputs, i)(dual.make_dual(x, torch.ones_like(x))))
                for i, x in enumerate(wrt)
            )

    return call


@mode("diagonal")
def ones_jvp(problem: Problem) -> Call:
    """`torch.func.jvp` once, with a tangent of ones"""
    n = problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        return tuple(
            torch.func.jvp(alone(problem, inputs, i), (x,), (torch.ones_like(x),))[1]
            for i, x in enumerate(wrt)
        )

    return call


@mode("jvp", name="dual")
def dual_numbers(problem: Problem) -> Call:
    """Dual numbers: one evaluation of the function, each value beside its tangent"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        with dual.dual_level():
            duals = (dual.make_dual(x, t) for x, t in zip(inputs, tangents))
            return pushed(f(*duals, *inputs[n:]))

    return call


@mode("jvp")
def func_jvp(problem: Problem) -> Call:
    """`torch.func.jvp`"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        f, wrt = bound(problem, inputs)
        return torch.func.jvp(f, wrt, tangents)[1]

    return call


@mode("jvp", needs=("torch.func.linearize",))
def linearize(problem: Problem) -> Call:
    """`torch.func.linearize`: the tangent map is traced, then applied"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        return push(*tangents)

    return call


@mode("jvp", leaves=True)
def double_backward(problem: Problem) -> Call:
    """Reverse mode twice: vᵀJ is linear in v, and its pullback by the tangent is Jt"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        y = f(*inputs)
        v = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, inputs[:n], v, create_graph=True, allow_unused=True)
        used = [(g, t) for g, t in zip(pulled, tangents) if g is not None]
        return torch.autograd.grad([g for g, _ in used], v, [t for _, t in used])[0]

    return call
