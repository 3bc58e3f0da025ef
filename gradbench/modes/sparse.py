"""Jacobians in torch's sparse layout: compressed passes, whose values are the entries.

Time and memory are in proportion to the entries. Which entries there are is found once, outside the
timed region (`gradbench.problems.sparsity`). Builders read the fields of `Structure` alone: the
code to paste has those and not the class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradbench.modes.common import argnums, bound
from gradbench.modes.local import CHECKS
from gradbench.modes.mixed import mixed_passes, mixed_passes_loop
from gradbench.modes.placing import SPARSE as OPERATOR
from gradbench.modes.placing import colour_seeds, joined, like
from gradbench.modes.structured import (
    compressed_columns,
    compressed_columns_loop,
    compressed_placing,
    compressed_rows,
    compressed_rows_loop,
)
from gradbench.problems.function import Tensors, as_tuple, parts_of
from gradbench.problems.mixing import Mixed
from gradbench.problems.mode import (
    Call,
    Passes,
    Unsupported,
    columns_at_once,
    full_jacobian,
    full_jacobian_by_columns,
    full_jacobian_by_rows,
    rows_at_once,
    rows_in_turn,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode
from gradbench.problems.sparsity import sparsity, split
from gradbench.problems.structure import Structure

MOST_SEEDS = 1 << 30
"""The most numbers that the seeds of all passes may have."""


def sparse_rows_batched(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` once for a seed per colour of rows, with `is_grads_batched`"""
    f, n = problem.forward, problem.differentiated
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = compressed_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        pulled = torch.autograd.grad(y, wrt, seeds, is_grads_batched=True, allow_unused=True)
        rows = [
            x.new_zeros(len(seeds), x.numel()) if row is None else row.reshape(len(seeds), -1)
            for row, x in zip(pulled, wrt)
        ]
        return place(torch.cat(rows, 1).reshape(-1))

    return call


def sparse_linearize(problem: Problem, structure: Structure) -> Call:
    """`torch.func.linearize` once, the linear map in a loop over a tangent per colour of columns"""
    tangents = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = compressed_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        return place(joined([push(*tangent) for tangent in zip(*like(tangents, wrt))]))

    return call


def _forward(problem: Problem) -> tuple[Structure, int]:
    structure = sparsity(problem)
    return structure, structure.passes[0]


def _reverse(problem: Problem) -> tuple[Structure, int]:
    structure = sparsity(problem)
    return structure, structure.passes[1]


def _both(problem: Problem) -> tuple[Mixed, int]:
    mixed = split(problem)
    return mixed, sum(mixed.passes)


def _declare(
    name: str,
    builder: Callable[[Problem, Any], Call],
    known: Callable[[Problem], tuple[Any, int]],
    *,
    batched: bool = False,
    leaves: bool = False,
    needs: tuple[str, ...] = (),
) -> None:
    """Registers a builder that takes what is `known` of the zeros of the problem's jacobian, which
    comes with the number of its passes."""

    @functools.wraps(builder)
    def build(problem: Problem) -> Call:
        zeros, number = known(problem)
        if number * max(problem.outputs, problem.coordinates) > MOST_SEEDS:
            raise Unsupported(f"it takes {number} passes this way")
        call = builder(problem, zeros)
        return call if zeros.is_global else CHECKS[OPERATOR](problem, call)

    def passes(problem: Problem) -> Passes:
        return Passes(known(problem)[1], batched=batched)

    def memory(problem: Problem) -> int:
        # The seeds, what they are made into, and the values of all passes one after another.
        return 3 * problem.result_numel + 3 * known(problem)[1] * (
            problem.outputs + problem.coordinates
        )

    declared = mode(OPERATOR, name=name, leaves=leaves, needs=needs, passes=passes, memory=memory)
    declared(build)


VMAP, PULL, PUSH = "torch.func.vmap", "torch.func.vjp", "torch.func.jvp"

_declare("sparse_rows", compressed_rows, _reverse, batched=True, needs=(PULL, VMAP))
_declare("sparse_rows_batched", sparse_rows_batched, _reverse, batched=True, leaves=True)
_declare("sparse_rows_loop", compressed_rows_loop, _reverse, leaves=True)
_declare("sparse_columns", compressed_columns, _forward, batched=True, needs=(PUSH, VMAP))
_declare("sparse_columns_loop", compressed_columns_loop, _forward)
_declare("sparse_linearize", sparse_linearize, _forward, needs=("torch.func.linearize",))
_declare("sparse_mixed", mixed_passes, _both, batched=True, needs=(PULL, PUSH, VMAP))
_declare("sparse_mixed_loop", mixed_passes_loop, _both, leaves=True)


@mode(OPERATOR, memory=full_jacobian, passes=rows_in_turn)
def dense_to_sparse(problem: Problem) -> Call:
    """`functional.jacobian`, of which `to_sparse` keeps what is not zero"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(f, wrt)
        return tuple(block.to_sparse() for block in blocks)

    return call


@mode(OPERATOR, needs=("torch.func.jacrev",), memory=full_jacobian_by_rows, passes=rows_at_once)
def jacrev_to_sparse(problem: Problem) -> Call:
    """`torch.func.jacrev`, of which `to_sparse` keeps what is not zero"""
    jacobian: Callable[..., Any] = torch.func.jacrev(problem.forward, argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        return tuple(block.to_sparse() for block in as_tuple(jacobian(*inputs)))

    return call


@mode(
    OPERATOR, needs=("torch.func.jacfwd",), memory=full_jacobian_by_columns, passes=columns_at_once
)
def jacfwd_to_sparse(problem: Problem) -> Call:
    """`torch.func.jacfwd`, of which `to_sparse` keeps what is not zero"""
    jacobian: Callable[..., Any] = torch.func.jacfwd(problem.forward, argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        return tuple(block.to_sparse() for block in as_tuple(jacobian(*inputs)))

    return call
