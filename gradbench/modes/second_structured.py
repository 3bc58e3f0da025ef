"""Hessians whose zeros are known: the products of few tangents, put in their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import bound, filled
from gradbench.modes.forward_mode import pushed
from gradbench.modes.placing import colour_seeds, joined, like, placing, register_for
from gradbench.modes.second_order import gradients
from gradbench.modes.traces import TRACES, kept
from gradbench.problems.function import Tensors, parts_of
from gradbench.problems.mode import Call, Passes
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure


def register(
    function: str, structure: Structure, suffix: str | None = None, operator: str = "hessian"
) -> tuple[str, ...]:
    """Registers the structured modes of a function's Hessian, or of an operator that needs less of
    it, and returns their names.

    `structure` is that of its gradient: all inputs by all coordinates. Names end in `suffix`, by
    default the function's name. If the Hessian is dense, nothing is registered. Raises ValueError
    if the function has such modes already.
    """
    if structure.kind == "dense":
        return ()
    number = structure.passes[0]
    if operator in TRACES and structure.is_global:
        # Without a check of their own, they need zeros that hold everywhere.
        compressed = [
            (compressed_trace_by_grad_twice, True, Passes(number)),
            (compressed_trace, False, Passes(number, batched=True)),
        ]
        return register_for(function, operator, compressed, structure, suffix)
    if operator != "hessian":
        return ()
    builders = [
        (compressed_grad_twice, True, Passes(number)),
        (compressed_grad_twice_batched, True, Passes(number, batched=True)),
        (compressed_dual_over_grad, True, Passes(number)),
        (compressed_hessian, False, Passes(number, batched=True)),
    ]
    return register_for(function, "hessian", builders, structure, suffix)


def hessian_placing(
    problem: Problem, structure: Structure, batched: bool
) -> Callable[[Tensor], Tensors]:
    """The function that puts products with the tangents of all colours in place.

    Their values lie one after another: for each colour those of each input, or, where they are
    batched, for each input those of each colour.
    """
    rows, columns = structure.rows, structure.columns
    sizes = torch.tensor([math.prod(shape) for shape in structure.inputs])
    first = sizes.cumsum(0) - sizes
    input_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    i, j, n = input_of[rows], input_of[columns], int(sizes.sum())
    colours = structure.column_colours[columns]
    passes = int(structure.column_colours.max()) + 1
    if batched:
        sources = first[i] * passes + colours * sizes[i] + rows - first[i]
    else:
        sources = colours * n + rows
    # Blocks lie one after another, by the first input, then by the second.
    begin = first[i] * n + sizes[i] * first[j]
    places = begin + (rows - first[i]) * sizes[j] + columns - first[j]
    shapes = [a + b for a in structure.inputs for b in structure.inputs]
    return placing(problem, shapes, places, sources)


def compressed_grad_twice(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` with `create_graph`, then again once per colour of rows"""
    n = problem.differentiated
    by_input = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    seeds = list(zip(*by_input))
    place = hessian_placing(problem, structure, batched=False)

    def call(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        grads = gradients(problem, inputs)
        varying = [i for i, g in enumerate(grads) if g.requires_grad]
        first = [grads[i] for i in varying]
        products: list[Tensor] = []
        for k, seed in enumerate(seeds, 1):
            second = [seed[i] for i in varying]
            again = k < len(seeds)
            row = torch.autograd.grad(first, wrt, second, retain_graph=again, allow_unused=True)
            products += filled(row, wrt)
        return place(joined(products))

    return call


def compressed_grad_twice_batched(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` with `create_graph`, then once more for all colours of rows"""
    n = problem.differentiated
    seeds = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = hessian_placing(problem, structure, batched=True)

    def call(inputs: Tensors) -> Tensors:
        wrt, grads = inputs[:n], gradients(problem, inputs)
        varying = [i for i, g in enumerate(grads) if g.requires_grad]
        first, second = [grads[i] for i in varying], [seeds[i] for i in varying]
        again: Sequence[Tensor | None] = [None] * n
        if varying:
            again = torch.autograd.grad(
                first, wrt, second, is_grads_batched=True, allow_unused=True
            )
        return place(joined(filled(again, seeds)))

    return call


def compressed_dual_over_grad(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` of dual numbers, once per colour of columns"""
    f, n = problem.forward, problem.differentiated
    seeds = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = hessian_placing(problem, structure, batched=False)

    def call(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        products: list[Tensor] = []
        with dual.dual_level():
            for tangent in zip(*like(seeds, wrt)):
                duals = tuple(dual.make_dual(x, t) for x, t in zip(wrt, tangent))
                grads = torch.autograd.grad(f(*duals, *inputs[n:]), duals, allow_unused=True)
                products += [pushed(g) for g in filled(grads, wrt)]
        return place(joined(products))

    return call


def compressed_hessian(problem: Problem, structure: Structure) -> Call:
    """`jvp(grad)`, all colours of columns in one batched pass"""
    seeds = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = hessian_placing(problem, structure, batched=True)

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        push = torch.func.vmap(lambda *t: torch.func.jvp(gradient, wrt, t)[1])
        products = push(*like(seeds, wrt))
        return place(joined(products))

    return call


def diagonal_placing(problem: Problem, structure: Structure) -> Callable[[Tensors], Tensors]:
    """The function that takes the diagonal from the products with the tangents of all colours.

    They come by input: (colours, *x.shape). An entry that is known to be zero is in no product
    alone.
    """
    sizes = [math.prod(shape) for shape in structure.inputs]
    on_it = torch.zeros(sum(sizes), dtype=torch.bool)
    on_it[structure.rows[structure.rows == structure.columns]] = True
    colours = structure.column_colours.where(on_it, 0).to(problem.device)
    weights = on_it.to(problem.device, problem.dtype)

    def place(products: Tensors) -> Tensors:
        flat = torch.cat([product.reshape(len(product), -1) for product in products], 1)
        diagonal = flat.gather(0, colours[None])[0] * weights
        parts = diagonal.split(sizes)
        return tuple(d.reshape(p.shape[1:]) for d, p in zip(parts, products))

    return place


def compressed_trace_by_grad_twice(problem: Problem, structure: Structure) -> Call:
    """`autograd.grad` with `create_graph`, then again once per colour: the diagonal alone"""
    n = problem.differentiated
    by_input = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    seeds = list(zip(*by_input))
    place = diagonal_placing(problem, structure)

    def diagonal(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        grads = gradients(problem, inputs)
        varying = [i for i, g in enumerate(grads) if g.requires_grad]
        first = [grads[i] for i in varying]
        products = []
        for seed in seeds:
            second = [seed[i] for i in varying]
            row = torch.autograd.grad(first, wrt, second, retain_graph=True, allow_unused=True)
            products.append(filled(row, wrt))
        return place(tuple(torch.stack(column) for column in zip(*products)))

    return kept(problem, diagonal)


def compressed_trace(problem: Problem, structure: Structure) -> Call:
    """`jvp(grad)`, all colours of columns in one batched pass: the diagonal alone"""
    seeds = parts_of(colour_seeds(problem, structure.column_colours), structure.inputs)
    place = diagonal_placing(problem, structure)

    def diagonal(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        push = torch.func.vmap(lambda *t: torch.func.jvp(gradient, wrt, t)[1])
        return place(push(*like(seeds, wrt)))

    return kept(problem, diagonal)
