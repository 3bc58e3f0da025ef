"""`torch.func`: functions of functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradbench.modes.common import argnums, batched, bound, per_sample
from gradbench.modes.reverse import every_seed
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import (
    Call,
    columns_at_once,
    jacobian_by_columns,
    jacobian_by_rows,
    rows_at_once,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode


@mode("derivative", "gradient", needs=("torch.func.grad",))
def func_grad(problem: Problem) -> Call:
    """`torch.func.grad`"""
    gradient = torch.func.grad(problem.forward, argnums(problem))
    return lambda inputs: gradient(*inputs)


@mode("derivative", "gradient", "vjp", needs=("torch.func.vjp",))
def func_vjp(problem: Problem) -> Call:
    """`torch.func.vjp`, with a seed of one where there is none"""

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        f, wrt = bound(problem, inputs)
        y, pull = torch.func.vjp(f, *wrt)[:2]
        return tuple(pull(torch.ones_like(y) if v is None else v))

    return call


@mode(
    "derivative",
    "gradient",
    "jacobian",
    needs=("torch.func.jacrev",),
    memory=jacobian_by_rows,
    passes=rows_at_once,
)
def jacrev(problem: Problem) -> Call:
    """`torch.func.jacrev`: all outputs in one reverse pass"""
    jacobian = torch.func.jacrev(problem.forward, argnums(problem))
    return lambda inputs: jacobian(*inputs)


def chunk(problem: Problem) -> int:
    """How many rows `jacrev_chunked` takes at once: the square root of their number, rounded up."""
    return math.isqrt(problem.outputs - 1) + 1


def jacobian_by_chunks(problem: Problem) -> int:
    """Peak of `jacrev_chunked`: the rows twice, and the seeds of one chunk."""
    return 2 * problem.result_numel + chunk(problem) * (problem.outputs + problem.coordinates)


@mode("jacobian", needs=("torch.func.jacrev",), memory=jacobian_by_chunks, passes=rows_at_once)
def jacrev_chunked(problem: Problem) -> Call:
    """`torch.func.jacrev` in chunks of √m of the m outputs, for less memory"""
    jacobian = torch.func.jacrev(problem.forward, argnums(problem), chunk_size=chunk(problem))
    return lambda inputs: jacobian(*inputs)


@mode(
    "derivative",
    "gradient",
    "jacobian",
    needs=("torch.func.jacfwd",),
    memory=jacobian_by_columns,
    passes=columns_at_once,
)
def jacfwd(problem: Problem) -> Call:
    """`torch.func.jacfwd`: all coordinates in one forward pass"""
    jacobian = torch.func.jacfwd(problem.forward, argnums(problem))
    return lambda inputs: jacobian(*inputs)


@mode("batch_jacobian", needs=("torch.func.vmap", "torch.func.jacrev"))
def vmap_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample"""
    in_dims = batched(problem)
    jacobian = torch.func.jacrev(per_sample(problem.forward, in_dims), argnums(problem))
    jacobians = torch.func.vmap(jacobian, in_dims)
    return lambda inputs: jacobians(*inputs)


@mode("batch_jacobian", needs=("torch.func.vmap", "torch.func.jacfwd"))
def vmap_jacfwd(problem: Problem) -> Call:
    """`vmap(jacfwd)` of the function of one sample"""
    in_dims = batched(problem)
    jacobian = torch.func.jacfwd(per_sample(problem.forward, in_dims), argnums(problem))
    jacobians = torch.func.vmap(jacobian, in_dims)
    return lambda inputs: jacobians(*inputs)


@mode("batch_jacobian", needs=("torch.func.jacrev",))
def jacrev_of_sum(problem: Problem) -> Call:
    """`torch.func.jacrev` of the sum over the samples, which do not depend on each other"""
    f = problem.forward
    jacobian = torch.func.jacrev(lambda *inputs: f(*inputs).sum(0), argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        blocks = as_tuple(jacobian(*inputs))
        return tuple(block.movedim(len(problem.output) - 1, 0) for block in blocks)

    return call


@mode("diagonal", needs=("torch.func.vmap", "torch.func.grad"))
def vmap_grad(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one number"""
    slope = torch.func.grad(problem.forward, argnums(problem))
    # What has the value's shape is mapped over, one number at a time; the rest is passed whole.
    mapped = [shape == problem.output for shape in problem.inputs]
    slopes = torch.func.vmap(slope, tuple(0 if map else None for map in mapped))

    def call(inputs: Tensors) -> Tensors:
        blocks = slopes(*(x.reshape(-1) if map else x for x, map in zip(inputs, mapped)))
        return tuple(block.reshape(x.shape) for block, x in zip(as_tuple(blocks), inputs))

    return call


@mode("vjp_sum", needs=("torch.func.vjp",))
def summed_func_vjp(problem: Problem) -> Call:
    """`torch.func.vjp` once, with the sum of the seeds"""

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        f, wrt = bound(problem, inputs)
        return tuple(torch.func.vjp(f, *wrt)[1](seeds.sum(0)))

    return call


@mode("vjp_sum", needs=("torch.func.vjp", "torch.func.vmap"), memory=every_seed)
def vmap_func_vjp(problem: Problem) -> Call:
    """`torch.func.vjp`, its pullback mapped over the seeds by `vmap`, the results added"""

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        f, wrt = bound(problem, inputs)
        pull = torch.func.vjp(f, *wrt)[1]
        return tuple(grads.sum(0) for grads in torch.func.vmap(pull)(seeds))

    return call
