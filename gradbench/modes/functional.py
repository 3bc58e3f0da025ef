"""`torch.autograd.functional`: one call per derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import batched, bound, diagonal_blocks, flat
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    Unsupported,
    all_rows_in_turn,
    columns_at_once,
    columns_in_turn,
    full_hessian,
    full_jacobian,
    jacobian_by_columns,
    jacobian_by_rows,
    rows_at_once,
    rows_in_turn,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

JACOBIANS = ("derivative", "gradient", "jacobian")


@mode(*JACOBIANS, document="G", passes=rows_in_turn)
def functional_jacobian(problem: Problem) -> Call:
    """`functional.jacobian`: reverse mode in a loop over the outputs"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        return tuple(torch.autograd.functional.jacobian(f, wrt))

    return call


@mode(*JACOBIANS, memory=jacobian_by_rows, passes=rows_at_once)
def functional_jacobian_vectorized(problem: Problem) -> Call:
    """`functional.jacobian` with `vectorize=True`: all outputs in one reverse pass"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        return tuple(torch.autograd.functional.jacobian(f, wrt, vectorize=True))

    return call


@mode(*JACOBIANS, memory=jacobian_by_columns, passes=columns_at_once)
def functional_forward(problem: Problem) -> Call:
    """`functional.jacobian` in forward mode: all coordinates in one pass"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(f, wrt, strategy="forward-mode", vectorize=True)
        return tuple(blocks)  # This strategy returns a list.

    return call


@mode("batch_jacobian")
def functional_of_sum(problem: Problem) -> Call:
    """`functional.jacobian` of the sum over the samples, which do not depend on each other"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(lambda *wrt: f(*wrt).sum(0), wrt)
        return tuple(block.movedim(len(problem.output) - 1, 0) for block in blocks)

    return call


@mode("batch_jacobian", memory=full_jacobian, passes=all_rows_in_turn)
def naive_full(problem: Problem) -> Call:
    """`functional.jacobian` of the whole batch, of which each sample's own block is kept"""

    def call(inputs: Tensors) -> Tensors:
        blocks = torch.autograd.functional.jacobian(*bound(problem, inputs))
        return diagonal_blocks(blocks, len(problem.output))

    return call


@mode("batch_jacobian", passes=all_rows_in_turn)
def naive_loop(problem: Problem) -> Call:
    """`functional.jacobian` in a loop over the samples"""
    in_dims = batched(problem)

    def call(inputs: Tensors) -> Tensors:
        samples = []
        for i in range(len(inputs[0])):
            one = tuple(x if dim is None else x[i : i + 1] for x, dim in zip(inputs, in_dims))
            samples.append(torch.autograd.functional.jacobian(*bound(problem, one)))
        # Each block has a dimension of one sample among those of the value and of the input.
        return tuple(torch.cat(blocks).squeeze(len(problem.output)) for blocks in zip(*samples))

    return call


@mode("diagonal", memory=full_jacobian, passes=rows_in_turn)
def dense_diagonal(problem: Problem) -> Call:
    """`functional.jacobian`, of which the diagonal is kept"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(f, wrt)
        return tuple(
            block.reshape(x.numel(), -1).diagonal().reshape(x.shape)
            for block, x in zip(blocks, wrt)
        )

    return call


@mode("derivative", "gradient", "vjp")
def functional_vjp(problem: Problem) -> Call:
    """`functional.vjp`"""

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        return tuple(torch.autograd.functional.vjp(*bound(problem, inputs), v)[1])

    return call


@mode("jvp")
def functional_jvp(problem: Problem) -> Call:
    """`functional.jvp`: reverse mode twice"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        return torch.autograd.functional.jvp(*bound(problem, inputs), tangents)[1]

    return call


@mode("hvp", "vhp")
def functional_hvp(problem: Problem) -> Call:
    """`functional.hvp`: reverse mode three times"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        return tuple(torch.autograd.functional.hvp(*bound(problem, inputs), tangents)[1])

    return call


@mode("hvp", "vhp")
def functional_vhp(problem: Problem) -> Call:
    """`functional.vhp`: reverse mode twice, as a hessian is symmetric"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        return tuple(torch.autograd.functional.vhp(*bound(problem, inputs), tangents)[1])

    return call


@mode("hessian", passes=columns_in_turn)
def functional_hessian(problem: Problem) -> Call:
    """`functional.hessian`: reverse mode twice, in a loop over the coordinates"""
    if problem.output:
        raise Unsupported("the value is not one number")

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        return flat(torch.autograd.functional.hessian(f, wrt))

    return call


@mode("hessian", memory=jacobian_by_columns, passes=columns_at_once)
def functional_hessian_vectorized(problem: Problem) -> Call:
    """`functional.hessian` with `vectorize=True`: all coordinates in one second pass"""
    if problem.output:
        raise Unsupported("the value is not one number")

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        return flat(torch.autograd.functional.hessian(f, wrt, vectorize=True))

    return call


@mode("hessian", memory=jacobian_by_columns, passes=columns_at_once)
def functional_hessian_forward(problem: Problem) -> Call:
    """`functional.hessian` with forward mode over reverse mode"""
    if problem.output:
        raise Unsupported("the value is not one number")

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        rows = torch.autograd.functional.hessian(
            f, wrt, vectorize=True, outer_jacobian_strategy="forward-mode"
        )
        # With this strategy the result still carries the graph of the gradient.
        return tuple(block.detach() for row in rows for block in row)

    return call


@mode("batch_hessian", name="naive_full", memory=full_hessian)
def naive_full_hessian(problem: Problem) -> Call:
    """`functional.hessian` of the sum over the samples, of which each one's block is kept"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        rows = torch.autograd.functional.hessian(lambda *wrt: f(*wrt).sum(), wrt)
        return tuple(block for x, row in zip(wrt, rows) for block in diagonal_blocks(row, x.dim()))

    return call
