"""`torch.autograd.functional`: one call per derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import batched, bound, diagonal_blocks, flat
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    full_hessian,
    full_jacobian,
    jacobian_by_columns,
    jacobian_by_rows,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

JACOBIANS = ("derivative", "gradient", "jacobian")


def called(problem: Problem, api: Callable[..., Any], **options: Any) -> Call:
    """`api(f, inputs, **options)` with the function of its differentiated inputs alone."""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        # The forward-mode strategies return lists.
        return tuple(api(f, wrt, **options))

    return call


@mode(*JACOBIANS, document="G")
def functional_jacobian(problem: Problem) -> Call:
    """`functional.jacobian`: reverse mode in a loop over the outputs"""
    return called(problem, torch.autograd.functional.jacobian)


@mode(*JACOBIANS, memory=jacobian_by_rows)
def functional_jacobian_vectorized(problem: Problem) -> Call:
    """`functional.jacobian` with `vectorize=True`: all outputs in one reverse pass"""
    return called(problem, torch.autograd.functional.jacobian, vectorize=True)


@mode(*JACOBIANS, memory=jacobian_by_columns)
def functional_forward(problem: Problem) -> Call:
    """`functional.jacobian` in forward mode: all coordinates in one pass"""
    return called(
        problem, torch.autograd.functional.jacobian, strategy="forward-mode", vectorize=True
    )


@mode("batch_jacobian")
def functional_of_sum(problem: Problem) -> Call:
    """`functional.jacobian` of the sum over the samples, which do not depend on each other"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(lambda *wrt: f(*wrt).sum(0), wrt)
        return tuple(block.movedim(len(problem.output) - 1, 0) for block in blocks)

    return call


@mode("batch_jacobian", memory=full_jacobian)
def naive_full(problem: Problem) -> Call:
    """`functional.jacobian` of the whole batch, of which each sample's own block is kept"""

    def call(inputs: Tensors) -> Tensors:
        blocks = torch.autograd.functional.jacobian(*bound(problem, inputs))
        return diagonal_blocks(blocks, len(problem.output))

    return call


@mode("batch_jacobian")
def naive_loop(problem: Problem) -> Call:
    """`functional.jacobian` in a loop over the samples"""
    in_dims = batched(problem)

    def call(inputs: Tensors) -> Tensors:
        samples = []
        for i in range(problem.output[0]):
            one = (x if dim is None else x[i : i + 1] for x, dim in zip(inputs, in_dims))
            samples.append(torch.autograd.functional.jacobian(*bound(problem, tuple(one))))
        return tuple(
            torch.stack(blocks).reshape(shape)
            for blocks, shape in zip(zip(*samples), problem.result)
        )

    return call


@mode("diagonal", memory=full_jacobian)
def dense_diagonal(problem: Problem) -> Call:
    """`functional.jacobian`, of which the diagonal is kept"""
    n = problem.outputs

    def call(inputs: Tensors) -> Tensors:
        blocks = torch.autograd.functional.jacobian(*bound(problem, inputs))
        return tuple(
            block.reshape(n, n).diagonal().reshape(shape)
            for block, shape in zip(blocks, problem.result)
        )

    return call


@mode("derivative", "gradient", "vjp")
def functional_vjp(problem: Problem) -> Call:
    """`functional.vjp`"""

    def call(inputs: Tensors, v: Tensor | None = None) -> Any:
        _, pulled = torch.autograd.functional.vjp(*bound(problem, inputs), v)
        return pulled

    return call


@mode("jvp")
def functional_jvp(problem: Problem) -> Call:
    """`functional.jvp`: reverse mode twice"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        _, pushed = torch.autograd.functional.jvp(*bound(problem, inputs), tangents)
        return pushed

    return call


@mode("hvp")
def functional_hvp(problem: Problem) -> Call:
    """`functional.hvp`: reverse mode three times"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        _, product = torch.autograd.functional.hvp(*bound(problem, inputs), tangents)
        return product

    return call


@mode("hvp")
def functional_vhp(problem: Problem) -> Call:
    """`functional.vhp`: reverse mode twice, as a hessian is symmetric"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        _, product = torch.autograd.functional.vhp(*bound(problem, inputs), tangents)
        return product

    return call


def hessian_called(problem: Problem, **options: Any) -> Call:
    """The blocks of `functional.hessian` with the given options."""
    rows = called(problem, torch.autograd.functional.hessian, **options)
    return lambda inputs: flat(rows(inputs))


@mode("hessian")
def functional_hessian(problem: Problem) -> Call:
    """`functional.hessian`: reverse mode twice, in a loop over the coordinates"""
    return hessian_called(problem)


@mode("hessian", memory=jacobian_by_columns)
def functional_hessian_vectorized(problem: Problem) -> Call:
    """`functional.hessian` with `vectorize=True`: all coordinates in one second pass"""
    return hessian_called(problem, vectorize=True)


@mode("hessian", memory=jacobian_by_columns)
def functional_hessian_forward(problem: Problem) -> Call:
    """`functional.hessian` with forward mode over reverse mode"""
    blocks = hessian_called(problem, vectorize=True, outer_jacobian_strategy="forward-mode")
    # With this strategy the result still carries the graph of the gradient.
    return lambda inputs: tuple(block.detach() for block in blocks(inputs))


@mode("batch_hessian", name="naive_full", memory=full_hessian)
def naive_full_hessian(problem: Problem) -> Call:
    """`functional.hessian` of the sum over the samples, of which each one's block is kept"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        rows = torch.autograd.functional.hessian(lambda *wrt: f(*wrt).sum(), wrt)
        return tuple(block for x, row in zip(wrt, rows) for block in diagonal_blocks(row, x.dim()))

    return call
