"""Jacobians in torch's sparse layout: compressed passes, whose values are the entries.

Time and memory are in proportion to the entries. Which entries there are is found once, outside the
timed region (`gradbench.problems.sparsity`). Builders read the fields of `Structure` alone: the
code to paste has those and not the class.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import argnums, bound, filled
from gradbench.modes.forward_mode import pushed
from gradbench.modes.local import CHECKS
from gradbench.modes.placing import colour_seeds, parts
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import (
    Call,
    Passes,
    Unsupported,
    columns_at_once,
    full_jacobian,
    rows_at_once,
    rows_in_turn,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode
from gradbench.problems.sparsity import sparsity
from gradbench.problems.structure import Structure

OPERATOR = "jacobian_sparse"

MOST_SEEDS = 1 << 30
"""The most numbers that the seeds of all passes may have."""


def unravelled(flat: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The indices along each dimension of flat indices into a shape."""
    indices = []
    for length in reversed(shape):
        indices.append(flat % length)
        flat = flat // length
    return indices[::-1]


def sparse_placing(
    problem: Problem, structure: Structure, by_rows: bool
) -> Callable[[Tensor], Tensors]:
    """The function that makes sparse blocks, one per input, from the values of all passes: of those
    by rows, each pass has the coordinates of all inputs, of those by columns the outputs."""
    rows, columns = structure.rows, structure.columns
    sizes = [math.prod(shape) for shape in structure.inputs]
    if by_rows:
        sources = structure.row_colours[rows] * sum(sizes) + columns
    else:
        sources = structure.column_colours[columns] * math.prod(structure.output) + rows
    blocks, begin = [], 0
    for shape, size in zip(structure.inputs, sizes):
        own = ((columns >= begin) & (columns < begin + size)).nonzero().flatten()
        # A coalesced tensor has its entries row by row.
        own = own[torch.argsort(rows[own] * size + columns[own])]
        indices = unravelled(rows[own], structure.output) + unravelled(columns[own] - begin, shape)
        places = torch.stack(indices) if indices else torch.empty(0, len(own), dtype=torch.int64)
        full = (*structure.output, *shape)
        blocks.append((places.to(problem.device), sources[own].to(problem.device), full))
        begin += size

    def place(values: Tensor) -> Tensors:
        return tuple(
            torch.sparse_coo_tensor(
                places,
                values.detach().index_select(0, source),
                full,
                is_coalesced=True,
                check_invariants=False,
            )
            for places, source, full in blocks
        )

    return place


def sparse_rows(problem: Problem, structure: Structure) -> Call:
    """One `vmap` of the pullback over a seed per colour of rows"""
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = sparse_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        pullback = torch.func.vjp(f, *wrt)[1]
        rows = [row.reshape(len(seeds), -1) for row in torch.func.vmap(pullback)(seeds)]
        return place(torch.cat(rows, 1).reshape(-1))

    return call


def sparse_rows_batched(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` once for a seed per colour of rows, with `is_grads_batched`"""
    f, n = problem.forward, problem.differentiated
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = sparse_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        pulled = torch.autograd.grad(y, wrt, seeds, is_grads_batched=True, allow_unused=True)
        rows = [
            x.new_zeros(len(seeds), x.numel()) if row is None else row.reshape(len(seeds), -1)
            for row, x in zip(pulled, wrt)
        ]
        return place(torch.cat(rows, 1).reshape(-1))

    return call


def sparse_rows_loop(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` in a loop over a seed per colour of rows"""
    f, n = problem.forward, problem.differentiated
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = sparse_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        rows: list[Tensor] = []
        for k, seed in enumerate(seeds, 1):
            # The last pass frees the graph, whose memory the next allocations take.
            again = k < len(seeds)
            row = torch.autograd.grad(y, wrt, seed, retain_graph=again, allow_unused=True)
            rows += filled(row, wrt)
        return place(torch.cat([row.reshape(-1) for row in rows]))

    return call


def sparse_columns(problem: Problem, structure: Structure) -> Call:
    """One `vmap` of `jvp` over a tangent per colour of columns"""
    tangents = colour_seeds(problem, structure.column_colours)
    place = sparse_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        push = torch.func.vmap(lambda *tangent: torch.func.jvp(f, wrt, tangent)[1])
        return place(push(*parts(tangents, wrt)).reshape(-1))

    return call


def sparse_columns_loop(problem: Problem, structure: Structure) -> Call:
    """Dual numbers in a loop over a tangent per colour of columns"""
    f, n = problem.forward, problem.differentiated
    tangents = colour_seeds(problem, structure.column_colours)
    place = sparse_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        wrt, columns = inputs[:n], []
        with dual.dual_level():
            for tangent in zip(*parts(tangents, wrt)):
                duals = (dual.make_dual(x, t) for x, t in zip(wrt, tangent))
                columns.append(pushed(f(*duals, *inputs[n:])))
        return place(torch.cat([column.reshape(-1) for column in columns]))

    return call


def sparse_linearize(problem: Problem, structure: Structure) -> Call:
    """`torch.func.linearize` once, the linear map in a loop over a tangent per colour of columns"""
    tangents = colour_seeds(problem, structure.column_colours)
    place = sparse_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        columns = [push(*tangent) for tangent in zip(*parts(tangents, wrt))]
        return place(torch.cat([column.reshape(-1) for column in columns]))

    return call


def _declare(
    builder: Callable[[Problem, Structure], Call],
    by_rows: bool,
    *,
    batched: bool = False,
    leaves: bool = False,
    needs: tuple[str, ...] = (),
) -> None:
    """Registers a builder that takes the structure of the problem's jacobian."""

    @functools.wraps(builder)
    def build(problem: Problem) -> Call:
        structure = sparsity(problem)
        number = passes(problem).number
        if number * max(problem.outputs, problem.coordinates) > MOST_SEEDS:
            raise Unsupported(f"it takes {number} passes this way")
        call = builder(problem, structure)
        return call if structure.is_global else CHECKS[OPERATOR](problem, call)

    def passes(problem: Problem) -> Passes:
        return Passes(sparsity(problem).passes[1 if by_rows else 0], batched=batched)

    def memory(problem: Problem) -> int:
        # The seeds, what they are made into, and the values of all passes one after another.
        return 3 * problem.result_numel + 3 * passes(problem).number * (
            problem.outputs + problem.coordinates
        )

    mode(
        OPERATOR,
        name=builder.__name__,
        leaves=leaves,
        needs=needs,
        passes=passes,
        memory=memory,
    )(build)


_declare(sparse_rows, True, batched=True, needs=("torch.func.vjp", "torch.func.vmap"))
_declare(sparse_rows_batched, True, batched=True, leaves=True)
_declare(sparse_rows_loop, True, leaves=True)
_declare(sparse_columns, False, batched=True, needs=("torch.func.jvp", "torch.func.vmap"))
_declare(sparse_columns_loop, False)
_declare(sparse_linearize, False, needs=("torch.func.linearize",))


@mode(OPERATOR, memory=full_jacobian, passes=rows_in_turn)
def dense_to_sparse(problem: Problem) -> Call:
    """`functional.jacobian`, of which `to_sparse` keeps what is not zero"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        blocks = torch.autograd.functional.jacobian(f, wrt)
        return tuple(block.to_sparse() for block in blocks)

    return call


@mode(OPERATOR, needs=("torch.func.jacrev",), memory=full_jacobian, passes=rows_at_once)
def jacrev_to_sparse(problem: Problem) -> Call:
    """`torch.func.jacrev`, of which `to_sparse` keeps what is not zero"""
    jacobian: Callable[..., Any] = torch.func.jacrev(problem.forward, argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        return tuple(block.to_sparse() for block in as_tuple(jacobian(*inputs)))

    return call


@mode(OPERATOR, needs=("torch.func.jacfwd",), memory=full_jacobian, passes=columns_at_once)
def jacfwd_to_sparse(problem: Problem) -> Call:
    """`torch.func.jacfwd`, of which `to_sparse` keeps what is not zero"""
    jacobian: Callable[..., Any] = torch.func.jacfwd(problem.forward, argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        return tuple(block.to_sparse() for block in as_tuple(jacobian(*inputs)))

    return call
