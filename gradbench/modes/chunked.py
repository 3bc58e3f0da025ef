"""Batched passes in chunks that fit a share of memory: `chunk_size` from what a pass saves.

All passes at once need the memory of one times their number; the smaller a chunk is, the more often
the overhead of a pass is paid. The size of a chunk is found at the first call, which is not timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.core.verdicts import NOT_NEEDED
from gradbench.modes.common import argnums, batched, bound, per_sample
from gradbench.modes.linearized import tangents_by_input
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Unsupported, columns_at_once, rows_at_once
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

CHUNK_BYTES = 256 << 20
"""What the passes of one chunk may take together."""


def bytes_of_a_pass(f: Callable[..., Tensor], wrt: Tensors) -> int:
    """What one pass over a function keeps, by the tensors that its graph saves and by its ends."""
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.numel() * x.element_size())
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        leaves = [x.detach().requires_grad_() for x in wrt]
        y = f(*leaves)
    return sum(saved) + sum(x.numel() * x.element_size() for x in (y, *leaves))


def fitting(f: Callable[..., Tensor], wrt: Tensors) -> int:
    """How many passes over a function take `CHUNK_BYTES` together, one at least."""
    return max(1, CHUNK_BYTES // bytes_of_a_pass(f, wrt))


def result_and_chunk(problem: Problem) -> int:
    """Peak of the modes with chunks that fit: the result twice, and a chunk."""
    return 2 * problem.result_numel + CHUNK_BYTES // problem.width


@mode(
    "jacobian",
    workloads=True,
    needs=("torch.func.jacrev",),
    memory=result_and_chunk,
    passes=rows_at_once,
)
def jacrev_by_memory(problem: Problem) -> Call:
    """`torch.func.jacrev` in chunks of as many outputs as fit 256 MiB"""
    rows = 0

    def call(inputs: Tensors) -> Any:
        nonlocal rows
        if not rows:
            rows = fitting(*bound(problem, inputs))
        if rows >= problem.outputs:
            raise Unsupported(NOT_NEEDED + "all outputs fit at once: as jacrev")
        return torch.func.jacrev(problem.forward, argnums(problem), chunk_size=rows)(*inputs)

    return call


@mode(
    "jacobian",
    workloads=True,
    needs=("torch.func.jvp", "torch.func.vmap"),
    memory=result_and_chunk,
    passes=columns_at_once,
)
def jacfwd_by_memory(problem: Problem) -> Call:
    """`vmap` of `jvp` over the one-hot tangents, in chunks of as many as fit 256 MiB"""
    columns = 0

    def call(inputs: Tensors) -> Tensors:
        nonlocal columns
        f, wrt = bound(problem, inputs)
        if not columns:
            columns = fitting(f, wrt)
        if columns >= problem.coordinates:
            raise Unsupported(NOT_NEEDED + "all coordinates fit at once: as jacfwd")
        push = torch.func.vmap(lambda *t: torch.func.jvp(f, wrt, t)[1], chunk_size=columns)
        pushed = [push(*tangents) for tangents in tangents_by_input(wrt)]
        return tuple(c.movedim(0, -1).reshape(c.shape[1:] + x.shape) for c, x in zip(pushed, wrt))

    return call


@mode(
    "batch_jacobian",
    workloads=True,
    needs=("torch.func.vmap", "torch.func.jacrev"),
    memory=result_and_chunk,
)
def vmap_jacrev_by_memory(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, in chunks of as many samples as fit 256 MiB"""
    in_dims, samples = batched(problem), 0
    jacobian = torch.func.jacrev(per_sample(problem.forward, in_dims), argnums(problem))

    def call(inputs: Tensors) -> Any:
        nonlocal samples
        if not samples:
            # A sample takes a pass for each of its outputs.
            rows = math.prod(inputs[0].shape[:1]) * fitting(*bound(problem, inputs))
            samples = max(1, rows // max(1, math.prod(problem.output[1:])))
        if samples >= problem.output[0]:
            raise Unsupported(NOT_NEEDED + "all samples fit at once: as vmap_jacrev")
        return torch.func.vmap(jacobian, in_dims, chunk_size=samples)(*inputs)

    return call


@mode(
    "hessian",
    workloads=True,
    needs=("torch.func.jvp", "torch.func.vmap", "torch.func.grad"),
    memory=result_and_chunk,
    passes=columns_at_once,
)
def hessian_by_memory(problem: Problem) -> Call:
    """`vmap` of `jvp(grad)` over the one-hot tangents, in chunks of as many as fit 256 MiB"""
    if problem.output:
        raise Unsupported("the value is not one number")
    columns = 0

    def call(inputs: Tensors) -> Tensors:
        nonlocal columns
        f, wrt = bound(problem, inputs)
        if not columns:
            # A product keeps the graph of the gradient and its tangents.
            columns = max(1, fitting(f, wrt) // 4)
        if columns >= problem.coordinates:
            raise Unsupported(NOT_NEEDED + "all coordinates fit at once: as func_hessian")
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        push = torch.func.vmap(lambda *t: torch.func.jvp(gradient, wrt, t)[1], chunk_size=columns)
        rows = [push(*tangents) for tangents in tangents_by_input(wrt)]
        # The hessian is symmetric: the products with the units of x are its rows by x.
        return tuple(
            block.reshape(x.shape + z.shape)
            for x, row in zip(wrt, rows)
            for block, z in zip(row, wrt)
        )

    return call
