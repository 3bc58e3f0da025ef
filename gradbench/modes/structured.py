"""Jacobians whose zeros are known: compressed rows or columns, put back in their places.

These modes belong to one function whose structure was detected, so they are registered for it
(`register`), not found in the catalogue. The structure is found once, outside the timed region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import argnums, batched, bound, filled
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
    ways: dict[str, tuple[str, Callable[[Problem, Sequence[Structure]], Call]]] = {
        "compressed_rows": ("one batched pullback of a seed per colour of rows", rows_batched),
        "compressed_rows_loop": ("a pullback per colour of rows", rows_loop),
        "compressed_columns": ("one batched pushforward per colour of columns", columns_batched),
        "compressed_columns_loop": ("a pushforward per colour of columns", columns_loop),
    }
    names = []
    for way, (summary, make) in ways.items():
        name = way + (f"_of_{function}" if suffix is None else suffix)

        def build(problem: Problem, make: Callable[..., Call] = make) -> Call:
            if problem.function.name != function:
                raise Unsupported(f"its structure is that of {function}")
            if problem.wrt != tuple(s.input for s in structures):
                raise Unsupported("the structure was found at another size")
            return make(problem, structures)

        build.__doc__ = summary
        mode("jacobian", name=name)(build)
        names.append(name)
    return tuple(names)


def register_samples() -> tuple[str, ...]:
    """Registers the modes of a jacobian by inputs that all samples share, and returns their names.

    They hold for a function whose output i depends on row i of its constants alone, such as the
    losses of a network at the samples of a batch by its parameters.
    """
    mode("jacobian", needs=("torch.func.vmap", "torch.func.grad"))(per_sample_grad)
    mode("jacobian", needs=("torch.func.vmap", "torch.func.jacrev"))(per_sample_jacrev)
    return "per_sample_grad", "per_sample_jacrev"


def per_sample_grad(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample, by the inputs that all samples share"""
    if len(problem.output) != 1:
        raise Unsupported("a sample's value is not one number")
    return _over_samples(problem, torch.func.grad)


def per_sample_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, by the inputs that all samples share"""
    return _over_samples(problem, torch.func.jacrev)


def _over_samples(problem: Problem, transform: Callable[..., Callable[..., Any]]) -> Call:
    f, n = problem.forward, problem.differentiated
    in_dims = (*(None,) * n, *batched(problem)[n:])

    def sample(*inputs: Tensor) -> Tensor:
        one = (x if dim is None else x.unsqueeze(0) for x, dim in zip(inputs, in_dims))
        return f(*one).squeeze(0)

    derivatives = torch.func.vmap(transform(sample, argnums(problem)), in_dims)
    return lambda inputs: derivatives(*inputs)


def _seeds(colours: Tensor, shape: Sequence[int], like: Problem) -> Tensor:
    """One seed per colour, of ones in its places and of the given shape: (colours, *shape)."""
    seeds = torch.zeros(int(colours.max()) + 1, colours.numel(), dtype=like.dtype)
    seeds[colours, torch.arange(colours.numel())] = 1
    return seeds.reshape(-1, *shape).to(like.device)


def _placing(problem: Problem, structure: Structure, by_rows: bool) -> Callable[[Tensor], Tensor]:
    """What puts compressed rows (colours, coordinates) or columns (colours, outputs) in place."""
    n, m = structure.coordinates, structure.outputs
    if by_rows:
        source = structure.row_colours[structure.rows] * n + structure.columns
    else:
        source = structure.column_colours[structure.columns] * m + structure.rows
    source = source.to(problem.device)
    places = (structure.rows * n + structure.columns).to(problem.device)
    shape = structure.output + structure.input

    def place(compressed: Tensor) -> Tensor:
        dense = compressed.new_zeros(m * n)
        dense[places] = compressed.reshape(-1)[source]
        return dense.reshape(shape)

    return place


def rows_batched(problem: Problem, structures: Sequence[Structure]) -> Call:
    """`vmap` over the pullback of one seed per colour of rows, input by input"""
    places = [_placing(problem, s, True) for s in structures]
    seeds = [_seeds(s.row_colours, s.output, problem) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        pullback = torch.func.vjp(f, *wrt)[1]
        return tuple(
            place(torch.func.vmap(lambda v, i=i: pullback(v)[i])(v))
            for i, (place, v) in enumerate(zip(places, seeds))
        )

    return call


def rows_loop(problem: Problem, structures: Sequence[Structure]) -> Call:
    """A pullback per colour of rows, input by input"""
    places = [_placing(problem, s, True) for s in structures]
    seeds = [_seeds(s.row_colours, s.output, problem) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        f, leaves = bound(problem, inputs)
        wrt = tuple(x.detach().requires_grad_() for x in leaves)
        y = f(*wrt)
        blocks = []
        for place, all_seeds, x in zip(places, seeds, wrt):
            pulled = [
                filled(torch.autograd.grad(y, x, v, retain_graph=True, allow_unused=True), (x,))[0]
                for v in all_seeds
            ]
            blocks.append(place(torch.stack(pulled)))
        return tuple(blocks)

    return call


def columns_batched(problem: Problem, structures: Sequence[Structure]) -> Call:
    """`vmap` over the pushforward of one tangent per colour of columns, input by input"""
    places = [_placing(problem, s, False) for s in structures]
    tangents = [_seeds(s.column_colours, s.input, problem) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        for i, (place, all_tangents) in enumerate(zip(places, tangents)):
            f, x = alone(problem, inputs, i), inputs[i]
            push = torch.func.vmap(lambda t, f=f, x=x: torch.func.jvp(f, (x,), (t,))[1])
            blocks.append(place(push(all_tangents)))
        return tuple(blocks)

    return call


def columns_loop(problem: Problem, structures: Sequence[Structure]) -> Call:
    """A pushforward per colour of columns, input by input"""
    places = [_placing(problem, s, False) for s in structures]
    tangents = [_seeds(s.column_colours, s.input, problem) for s in structures]

    def call(inputs: Tensors) -> Tensors:
        blocks = []
        for i, (place, all_tangents) in enumerate(zip(places, tangents)):
            f, x = alone(problem, inputs, i), inputs[i]
            columns = [torch.func.jvp(f, (x,), (t,))[1] for t in all_tangents]
            blocks.append(place(torch.stack(columns)))
        return tuple(blocks)

    return call
