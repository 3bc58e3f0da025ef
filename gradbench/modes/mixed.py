"""Jacobians with a few full rows or columns, by passes of both directions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import bound, filled
from gradbench.modes.forward_mode import pushed
from gradbench.modes.placing import (
    colour_seeds,
    jacobian_placing,
    joined,
    like,
    register_for,
)
from gradbench.problems.function import Tensors, parts_of
from gradbench.problems.mixing import Mixed
from gradbench.problems.mode import Call, Passes
from gradbench.problems.operators import Problem


def register(function: str, mixed: Mixed, suffix: str | None = None) -> tuple[str, ...]:
    """Registers the modes of a function's Jacobian by both directions and returns their names.

    Names end in `suffix`, by default the function's name. Raises ValueError if the function has
    such modes already.
    """
    number = sum(mixed.passes)
    builders = [
        (mixed_passes, False, Passes(number, batched=True)),
        (mixed_passes_loop, True, Passes(number)),
    ]
    return register_for(function, "jacobian", builders, mixed, suffix)


def mixed_placing(problem: Problem, mixed: Mixed) -> Callable[[Tensor], Tensors]:
    """The function that puts the values of all passes in place: first the rows, (colours,
    coordinates), then the columns, (colours, outputs)."""
    rows, columns = mixed.rows, mixed.columns
    coordinates = sum(math.prod(shape) for shape in mixed.inputs)
    pulled = mixed.row_colours[rows] * coordinates + columns
    before = (int(mixed.row_colours.max()) + 1) * coordinates
    pushed_ones = before + mixed.column_colours[columns] * math.prod(mixed.output) + rows
    return jacobian_placing(problem, mixed, torch.where(mixed.by_rows, pulled, pushed_ones))


def mixed_passes(problem: Problem, mixed: Mixed) -> Call:
    """One batched pullback for some rows, one batched pushforward for the columns of the rest"""
    seeds = colour_seeds(problem, mixed.row_colours).reshape(-1, *mixed.output)
    tangents = parts_of(colour_seeds(problem, mixed.column_colours), mixed.inputs)
    place = mixed_placing(problem, mixed)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        pullback = torch.func.vjp(f, *wrt)[1]
        rows = torch.func.vmap(pullback)(seeds)
        push = torch.func.vmap(lambda *t: torch.func.jvp(f, wrt, t)[1])
        columns = push(*like(tangents, wrt))
        flat = [row.reshape(len(seeds), -1) for row in rows]
        return place(torch.cat([torch.cat(flat, 1).reshape(-1), columns.reshape(-1)]))

    return call


def mixed_passes_loop(problem: Problem, mixed: Mixed) -> Call:
    """A pullback per colour of some rows, and dual numbers per colour of the columns of the rest"""
    f, n = problem.forward, problem.differentiated
    seeds = colour_seeds(problem, mixed.row_colours).reshape(-1, *mixed.output)
    tangents = parts_of(colour_seeds(problem, mixed.column_colours), mixed.inputs)
    place = mixed_placing(problem, mixed)

    def call(inputs: Tensors) -> Tensors:
        wrt, constants = inputs[:n], inputs[n:]
        y = f(*inputs)
        values: list[Tensor] = []
        for k, seed in enumerate(seeds, 1):
            again = k < len(seeds)
            row = torch.autograd.grad(y, wrt, seed, retain_graph=again, allow_unused=True)
            values += filled(row, wrt)
        # Without grad mode some functions lose their tangents: the inputs are detached instead.
        with dual.dual_level():
            for tangent in zip(*like(tangents, wrt)):
                duals = [dual.make_dual(x.detach(), t) for x, t in zip(wrt, tangent)]
                values.append(pushed(f(*duals, *constants)))
        return place(joined(values))

    return call
