"""`torch.func.linearize`: the tangent map is traced once, then applied to many tangents."""

from __future__ import annotations

from typing import Any

import torch

from gradbench.modes.common import bound, one_hot
from gradbench.modes.forward_mode import beside
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    Unsupported,
    columns_at_once,
    columns_in_turn,
    jacobian_by_columns,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

NEEDS = ("torch.func.linearize",)


def tangents_by_input(wrt: Tensors) -> list[Tensors]:
    """For each input the tangents that are one-hot in it and zero in the others."""
    batches = []
    for i, x in enumerate(wrt):
        units = one_hot(x)
        batches.append(
            tuple(units if j == i else z.new_zeros(len(units), *z.shape) for j, z in enumerate(wrt))
        )
    return batches


@mode(
    "jacobian",
    workloads=True,
    needs=(*NEEDS, "torch.func.vmap"),
    memory=jacobian_by_columns,
    passes=columns_at_once,
)
def linearize_vmap(problem: Problem) -> Call:
    """`torch.func.linearize` once, the linear map over all one-hot tangents by `vmap`"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        columns = [torch.func.vmap(push)(*tangents) for tangents in tangents_by_input(wrt)]
        return tuple(c.movedim(0, -1).reshape(c.shape[1:] + x.shape) for c, x in zip(columns, wrt))

    return call


@mode("jacobian", workloads=True, needs=NEEDS, memory=jacobian_by_columns, passes=columns_in_turn)
def linearize_loop(problem: Problem) -> Call:
    """`torch.func.linearize` once, the linear map in a loop over the one-hot tangents"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        return tuple(
            beside([push(*tangent) for tangent in zip(*tangents)], x)
            for x, tangents in zip(wrt, tangents_by_input(wrt))
        )

    return call


@mode(
    "hessian",
    workloads=True,
    needs=(*NEEDS, "torch.func.vmap", "torch.func.grad"),
    memory=jacobian_by_columns,
    passes=columns_at_once,
)
def linearize_grad(problem: Problem) -> Call:
    """`torch.func.linearize` of the gradient once, the linear map over all tangents by `vmap`"""
    if problem.output:
        raise Unsupported("the value is not one number")

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        _, push = torch.func.linearize(gradient, *wrt)
        columns: list[Any] = [torch.func.vmap(push)(*t) for t in tangents_by_input(wrt)]
        # The hessian is symmetric: the column of x among the rows of z is the row of x.
        return tuple(
            block.reshape(x.shape + z.shape)
            for x, row in zip(wrt, columns)
            for block, z in zip(row, wrt)
        )

    return call
