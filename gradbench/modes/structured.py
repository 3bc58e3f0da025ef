"""Jacobians whose zeros are known: compressed rows or columns, put back in their places.

Dense ones belong to one function whose structure was detected, so they are registered for it
(`register`), not found in the catalogue. `gradbench.modes.sparse` has those in torch's sparse
layout. The structure is found once, outside the timed region. Builders read the fields of
`Structure` alone: the code to paste has those and not the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import InDims, argnums, batched, bound, filled, per_sample
from gradbench.modes.forward_mode import pushed
from gradbench.modes.placing import (
    colour_seeds,
    jacobian_placing,
    joined,
    like,
    register_for,
)
from gradbench.problems.function import Tensors, parts_of
from gradbench.problems.mode import Call, Passes, Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode
from gradbench.problems.structure import Structure


def register(function: str, structure: Structure, suffix: str | None = None) -> tuple[str, ...]:
    """Registers the structured modes of a function's Jacobian and returns their names.

    A diagonal Jacobian takes one seed of ones, a batched one the seeds of one sample, a banded or
    sparse one a seed per colour. If the pattern was seen near one input only, every call checks its
    result. Names end in `suffix`, by default the function's name, so several functions can have
    structured modes. If the Jacobian is dense, nothing is registered. Raises ValueError if the
    function already has structured modes.
    """
    if structure.kind == "dense":
        return ()
    forward, reverse = structure.passes
    builders = [
        (compressed_rows, False, Passes(reverse, batched=True)),
        (compressed_rows_loop, True, Passes(reverse)),
        (compressed_columns, False, Passes(forward, batched=True)),
        (compressed_columns_functional, False, Passes(forward, batched=True)),
        (compressed_columns_loop, False, Passes(forward)),
    ]
    return register_for(function, "jacobian", builders, structure, suffix)


def compressed_placing(
    problem: Problem, structure: Structure, by_rows: bool
) -> Callable[[Tensor], Tensors]:
    """The function that puts the values of all passes in place: of those by rows, each pass has
    the coordinates of all inputs, of those by columns the outputs."""
    rows, columns = structure.rows, structure.columns
    if by_rows:
        coordinates = sum(math.prod(shape) for shape in structure.inputs)
        sources = structure.row_colours[rows] * coordinates + columns
    else:
        sources = structure.column_colours[columns] * math.prod(structure.output) + rows
    return jacobian_placing(problem, structure, sources)


def compressed_rows(problem: Problem, structure: Structure) -> Call:
    """One batched pullback of a seed per colour of rows"""
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = compressed_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        pullback = torch.func.vjp(f, *wrt)[1]
        rows = [row.reshape(len(seeds), -1) for row in torch.func.vmap(pullback)(seeds)]
        return place((torch.cat(rows, 1) if len(rows) > 1 else rows[0]).reshape(-1))

    return call


def compressed_rows_loop(problem: Problem, structure: Structure) -> Call:
    """A pullback per colour of rows"""
    f, n = problem.forward, problem.differentiated
    seeds = colour_seeds(problem, structure.row_colours).reshape(-1, *structure.output)
    place = compressed_placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        rows: list[Tensor] = []
        for k, seed in enumerate(seeds, 1):
            # The last pass frees the graph, whose memory the next allocations take.
            again = k < len(seeds)
            row = torch.autograd.grad(y, wrt, seed, retain_graph=again, allow_unused=True)
            rows += filled(row, wrt)
        return place(joined(rows))

    return call


def compressed_columns(problem: Problem, structure: Structure) -> Call:
    """One batched pushforward of a tangent per colour of columns"""
    tangents = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = compressed_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        push = torch.func.vmap(lambda *tangent: torch.func.jvp(f, wrt, tangent)[1])
        return place(push(*like(tangents, wrt)).reshape(-1))

    return call


def compressed_columns_functional(problem: Problem, structure: Structure) -> Call:
    """`functional.jacobian` in forward mode by a step along the columns of each colour"""
    tangents = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = compressed_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)

        def along(steps: Tensor) -> Tensor:
            return f(*(x + (steps @ t.flatten(1)).view_as(x) for x, t in zip(wrt, directions)))

        directions = like(tangents, wrt)
        steps = directions[0].new_zeros(len(directions[0]))
        columns: Any = torch.autograd.functional.jacobian(
            along, steps, strategy="forward-mode", vectorize=True
        )
        return place(columns.reshape(-1, len(steps)).T.reshape(-1))

    return call


def compressed_columns_loop(problem: Problem, structure: Structure) -> Call:
    """Dual numbers per colour of columns"""
    f, n = problem.forward, problem.differentiated
    tangents = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = compressed_placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        wrt, columns = inputs[:n], []
        with dual.dual_level():
            for tangent in zip(*like(tangents, wrt)):
                duals = (dual.make_dual(x, t) for x, t in zip(wrt, tangent))
                columns.append(pushed(f(*duals, *inputs[n:])))
        return place(joined(columns))

    return call


def register_samples() -> tuple[str, ...]:
    """Registers the modes of a jacobian by inputs that all samples share, and returns their names.

    They hold for a function whose output i depends on row i of its constants alone, such as the
    losses of a network at the samples of a batch by its parameters.
    """
    mode("jacobian", needs=("torch.func.vmap", "torch.func.grad"))(per_sample_grad)
    mode("jacobian", needs=("torch.func.vmap", "torch.func.jacrev"))(per_sample_jacrev)
    return "per_sample_grad", "per_sample_jacrev"


def shared(problem: Problem) -> InDims:
    """The `in_dims` of vmap where all samples share the differentiated inputs."""
    n = problem.differentiated
    return (None,) * n + batched(problem)[n:]


def per_sample_grad(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample, by the inputs that all samples share"""
    if len(problem.output) != 1:
        raise Unsupported("a sample's value is not one number")
    in_dims = shared(problem)
    gradient = torch.func.grad(per_sample(problem.forward, in_dims), argnums(problem))
    gradients = torch.func.vmap(gradient, in_dims)
    return lambda inputs: gradients(*inputs)


def per_sample_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, by the inputs that all samples share"""
    in_dims = shared(problem)
    jacobian = torch.func.jacrev(per_sample(problem.forward, in_dims), argnums(problem))
    jacobians = torch.func.vmap(jacobian, in_dims)
    return lambda inputs: jacobians(*inputs)
