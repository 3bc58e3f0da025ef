"""Jacobians whose zeros are known: compressed rows or columns, put back in their places.

These modes belong to one function whose structure was detected, so they are registered for it
(`register`), not found in the catalogue. The structure is found once, outside the timed region.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradbench.modes.common import InDims, argnums, batched, bound, filled, per_sample
from gradbench.modes.forward_mode import alone
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode
from gradbench.problems.structure import Structure


def register(
    function: str, structures: Sequence[Structure], suffix: str | None = None
) -> tuple[str, ...]:
    """Registers the structured modes of a function's Jacobian and returns their names.

    `structures` has one entry per differentiated input. A diagonal Jacobian takes one seed of ones,
    a batched one the seeds of one sample, a banded or sparse one a seed per colour. Names end in
    `suffix`, by default the function's name, so several functions can have structured modes. If the
    Jacobian of an input is dense, nothing is registered. Raises ValueError if the function already
    has structured modes.
    """
    if any(structure.kind == "dense" for structure in structures):
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
            if problem.wrt != tuple(s.input for s in structures):
                raise Unsupported("the structure was found at another size")
            return builder(problem, structures)

        mode("jacobian", name=name)(build)
        names.append(name)
    return tuple(names)


def seeds_of(problem: Problem, colours: Tensor, shape: Sequence[int]) -> Tensor:
    """One seed per colour, with ones in its places and of the given shape: (colours, *shape)."""
    seeds = torch.zeros(int(colours.max()) + 1, colours.numel(), dtype=problem.dtype)
    seeds[colours, torch.arange(colours.numel())] = 1
    return seeds.reshape(-1, *shape).to(problem.device)


def placing(problem: Problem, structure: Structure, by_rows: bool) -> Callable[[Tensor], Tensor]:
    """The function that puts compressed rows (colours, coordinates) or columns (colours, outputs)
    in place."""
    n, m = math.prod(structure.input), math.prod(structure.output)
    if by_rows:
        source = structure.row_colours[structure.rows] * n + structure.columns
    else:
        source = structure.column_colours[structure.columns] * m + structure.rows
    source = source.to(problem.device)
    places = (structure.rows * n + structure.columns).to(problem.device)

    def place(compressed: Tensor) -> Tensor:
        dense = compressed.new_zeros(m * n)
        dense[places] = compressed.reshape(-1)[source]
        return dense.reshape(structure.output + structure.input)

    return place


def compressed_rows(problem: Problem, structures: Sequence[Structure]) -> Call:
    """one batched pullback of a seed per colour of rows"""
    seeds = [seeds_of(problem, s.row_colours, s.output) for s in structures]
    places = [placing(problem, s, by_rows=True) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        y, pullback = torch.func.vjp(f, *wrt)[:2]
        return tuple(
            place(torch.func.vmap(lambda v, i=i: pullback(v)[i])(vs.to(y)))
            for i, (place, vs) in enumerate(zip(places, seeds))
        )

    return call


def compressed_rows_loop(problem: Problem, structures: Sequence[Structure]) -> Call:
    """a pullback per colour of rows"""
    seeds = [seeds_of(problem, s.row_colours, s.output) for s in structures]
    places = [placing(problem, s, by_rows=True) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        f, leaves = bound(problem, inputs)
        wrt = tuple(x.detach().requires_grad_() for x in leaves)
        y = f(*wrt)
        blocks = []
        for place, vs, x in zip(places, seeds, wrt):
            rows = [
                filled(torch.autograd.grad(y, x, v, retain_graph=True, allow_unused=True), (x,))[0]
                for v in vs.to(y)
            ]
            blocks.append(place(torch.stack(rows)))
        return tuple(blocks)

    return call


def compressed_columns(problem: Problem, structures: Sequence[Structure]) -> Call:
    """one batched pushforward per colour of columns"""
    tangents = [seeds_of(problem, s.column_colours, s.input) for s in structures]
    places = [placing(problem, s, by_rows=False) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        for i, (place, ts) in enumerate(zip(places, tangents)):
            f, x = alone(problem, inputs, i), inputs[i]
            push = torch.func.vmap(lambda t, f=f, x=x: torch.func.jvp(f, (x,), (t,))[1])
            blocks.append(place(push(ts.to(x))))
        return tuple(blocks)

    return call


def compressed_columns_loop(problem: Problem, structures: Sequence[Structure]) -> Call:
    """a pushforward per colour of columns"""
    tangents = [seeds_of(problem, s.column_colours, s.input) for s in structures]
    places = [placing(problem, s, by_rows=False) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        for i, (place, ts) in enumerate(zip(places, tangents)):
            f, x = alone(problem, inputs, i), inputs[i]
            columns = [torch.func.jvp(f, (x,), (t,))[1] for t in ts.to(x)]
            blocks.append(place(torch.stack(columns)))
        return tuple(blocks)

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
