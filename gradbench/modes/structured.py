"""Jacobians whose zeros are known: compressed rows or columns, put back in their places.

These modes belong to one function whose structure was detected, so they are registered for it
(`register`), not found in the catalogue. The structure is found once, outside the timed region.
Builders read the fields of `Structure` alone: the code to paste has those and not the class.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradbench.modes.common import InDims, argnums, batched, bound, filled, per_sample
from gradbench.modes.local import checked_jacobian
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Unsupported
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
    names = []
    for compressed in (
        compressed_rows,
        compressed_rows_loop,
        compressed_columns,
        compressed_columns_loop,
    ):
        name = compressed.__name__ + (f"_of_{function}" if suffix is None else suffix)

        @functools.wraps(compressed)
        def build(problem: Problem, builder: Callable[..., Call] = compressed) -> Call:
            if problem.function.name != function:
                raise Unsupported(f"its structure is that of {function}")
            if problem.wrt != structure.inputs:
                raise Unsupported("the structure was found at another size")
            call = builder(problem, structure)
            return call if structure.is_global else checked_jacobian(problem, call)

        mode("jacobian", name=name)(build)
        names.append(name)
    return tuple(names)


def seeds_of(problem: Problem, colours: Tensor) -> Tensor:
    """One flat seed per colour, with ones in its places: (colours, coordinates or outputs)."""
    seeds = torch.zeros(int(colours.max()) + 1, colours.numel(), dtype=problem.dtype)
    seeds[colours, torch.arange(colours.numel())] = 1
    return seeds.to(problem.device)


def placing(problem: Problem, structure: Structure, by_rows: bool) -> list[Callable[..., Tensor]]:
    """For each input, the function that puts compressed rows (colours, coordinates of the input) or
    columns (colours, outputs) in place."""
    m, begin = math.prod(structure.output), 0
    placings = []
    for shape in structure.inputs:
        n = math.prod(shape)
        own = (structure.columns >= begin) & (structure.columns < begin + n)
        rows, columns = structure.rows[own], structure.columns[own] - begin
        if by_rows:
            source = structure.row_colours[rows] * n + columns
        else:
            source = structure.column_colours[begin + columns] * m + rows
        source, places = source.to(problem.device), (rows * n + columns).to(problem.device)
        begin += n

        def place(
            compressed: Tensor,
            source: Tensor = source,
            places: Tensor = places,
            shape: tuple[int, ...] = shape,
        ) -> Tensor:
            block = compressed.new_zeros(m * math.prod(shape))
            block[places] = compressed.reshape(-1)[source]
            return block.reshape(structure.output + shape)

        placings.append(place)
    return placings


def compressed_rows(problem: Problem, structure: Structure) -> Call:
    """one batched pullback of a seed per colour of rows"""
    seeds = seeds_of(problem, structure.row_colours).reshape(-1, *structure.output)
    placings = placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        y, pullback = torch.func.vjp(f, *wrt)[:2]
        rows = torch.func.vmap(pullback)(seeds.to(y))
        return tuple(place(row) for place, row in zip(placings, rows))

    return call


def compressed_rows_loop(problem: Problem, structure: Structure) -> Call:
    """a pullback per colour of rows"""
    seeds = seeds_of(problem, structure.row_colours).reshape(-1, *structure.output)
    placings = placing(problem, structure, by_rows=True)

    def call(inputs: Tensors) -> Tensors:
        f, leaves = bound(problem, inputs)
        wrt = tuple(x.detach().requires_grad_() for x in leaves)
        y = f(*wrt)
        rows = [
            filled(torch.autograd.grad(y, wrt, v, retain_graph=True, allow_unused=True), wrt)
            for v in seeds.to(y)
        ]
        return tuple(place(torch.stack(row)) for place, row in zip(placings, zip(*rows)))

    return call


def compressed_columns(problem: Problem, structure: Structure) -> Call:
    """one batched pushforward of a tangent per colour of columns"""
    tangents = seeds_of(problem, structure.column_colours)
    placings = placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        columns = torch.func.vmap(lambda *t: torch.func.jvp(f, wrt, t)[1])(*like(tangents, wrt))
        return tuple(place(columns) for place in placings)

    return call


def compressed_columns_loop(problem: Problem, structure: Structure) -> Call:
    """a pushforward per colour of columns"""
    tangents = seeds_of(problem, structure.column_colours)
    placings = placing(problem, structure, by_rows=False)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        columns = [torch.func.jvp(f, wrt, t)[1] for t in zip(*like(tangents, wrt))]
        return tuple(place(torch.stack(columns)) for place in placings)

    return call


def like(tangents: Tensor, wrt: Tensors) -> Tensors:
    """Flat tangents of all inputs, (k, coordinates), as a tensor of each: (k, *x.shape)."""
    parts = tangents.to(wrt[0]).split([x.numel() for x in wrt], 1)
    return tuple(part.reshape(-1, *x.shape) for part, x in zip(parts, wrt))


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
