"""Jacobians by what is gathered from the inputs: slices, rows and entries picked by indices.

Where each output depends on a few gathered numbers, as a residual of bundle adjustment on those of
one camera and one point, pulling back to these takes fewer passes than pulling back to the inputs,
where the outputs meet again. The graph of the forward pass has the places (`edges`); autograd takes
them as inputs (`torch.autograd.graph.GradientEdge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench.modes.placing import colour_seeds, joined, placing, register_for
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Passes
from gradbench.problems.operators import Problem

NEEDS = ("torch.autograd.graph.GradientEdge",)


@dataclass(frozen=True)
class Gathered:
    """How the outputs depend on tensors gathered from the inputs, and where these are in the graph.

    The flattened gathered tensors lie one after another, and so do the flattened blocks of the
    Jacobian by each input. Row i of the Jacobian belongs to pass `row_colours[i]`. Entry e of it,
    in row `rows[e]`, is the derivative by gathered number `numbers[e]`; it is added to number
    `places[e]` of the blocks.
    """

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    tensors: tuple[tuple[int, int], ...]
    """The place in `nodes` of the node of each gathered tensor, and which of its outputs it is."""
    sizes: tuple[int, ...]
    """The number of numbers of each."""
    graph: int
    """The number of nodes of the graph."""
    evidence: str
    row_colours: Tensor
    rows: Tensor
    numbers: Tensor
    places: Tensor
    is_global: bool
    """Whether the pattern is known for every input, not only seen near a point."""

    @property
    def passes(self) -> int:
        return int(self.row_colours.max()) + 1


def register(function: str, gathered: Gathered, suffix: str | None = None) -> tuple[str, ...]:
    """Registers the modes of a function's Jacobian by gathered tensors and returns their names.

    Names end in `suffix`, by default the function's name. Raises ValueError if the function has
    such modes already.
    """
    builders = [
        (gathered_rows, True, Passes(gathered.passes, batched=True)),
        (gathered_rows_loop, True, Passes(gathered.passes)),
    ]
    return register_for(function, "jacobian", builders, gathered, suffix, NEEDS)


def nodes(y: Tensor) -> list[Any]:
    """The nodes of the graph of `y`, always in the same order."""
    found: list[Any] = [y.grad_fn]
    seen = {y.grad_fn, None}
    for node in found:
        for source, _ in node.next_functions:
            if source not in seen:
                seen.add(source)
                found.append(source)
    return found


def gathered_edges(y: Tensor, gathered: Gathered) -> list[Any]:
    """The gathered tensors as autograd takes them as inputs."""
    graph = nodes(y)
    if len(graph) != gathered.graph:
        raise RuntimeError("the function takes another way than when it was looked at")
    edge = torch.autograd.graph.GradientEdge
    return [edge(graph[node], number) for node, number in gathered.tensors]


def gathered_rows(problem: Problem, gathered: Gathered) -> Call:
    """one batched pullback to the tensors that are gathered from the inputs"""
    f = problem.forward
    seeds = colour_seeds(problem, gathered.row_colours).reshape(-1, *gathered.output)
    blocks = [gathered.output + shape for shape in gathered.inputs]
    # Each tensor has its numbers in all passes, one pass after another.
    sizes = torch.tensor(gathered.sizes)
    starts = sizes.cumsum(0) - sizes
    tensor = torch.repeat_interleave(torch.arange(len(sizes)), sizes)[gathered.numbers]
    own = gathered.numbers - starts[tensor]
    colours = gathered.row_colours[gathered.rows]
    sources = starts[tensor] * len(seeds) + colours * sizes[tensor] + own
    place = placing(problem, blocks, gathered.places, sources)

    def call(inputs: Tensors) -> Tensors:
        y = f(*inputs)
        tensors = gathered_edges(y, gathered)
        pulled = torch.autograd.grad(y, tensors, seeds, is_grads_batched=True)
        return place(joined(pulled))

    return call


def gathered_rows_loop(problem: Problem, gathered: Gathered) -> Call:
    """a pullback per colour of rows, to the tensors that are gathered from the inputs"""
    f = problem.forward
    seeds = colour_seeds(problem, gathered.row_colours).reshape(-1, *gathered.output)
    blocks = [gathered.output + shape for shape in gathered.inputs]
    # Each pass pulls back to the tensors in which its rows have entries, and to no others.
    sizes = torch.tensor(gathered.sizes)
    starts = sizes.cumsum(0) - sizes
    tensor = torch.repeat_interleave(torch.arange(len(sizes)), sizes)[gathered.numbers]
    passes = gathered.row_colours[gathered.rows] * len(sizes) + tensor
    kept, which = passes.unique(return_inverse=True)
    pulled_before = sizes[kept % len(sizes)].cumsum(0) - sizes[kept % len(sizes)]
    sources = pulled_before[which] + gathered.numbers - starts[tensor]
    place = placing(problem, blocks, gathered.places, sources)
    wanted = [(kept[kept // len(sizes) == k] % len(sizes)).tolist() for k in range(len(seeds))]

    def call(inputs: Tensors) -> Tensors:
        y = f(*inputs)
        tensors = gathered_edges(y, gathered)
        rows: list[Tensor] = []
        for k, (seed, some) in enumerate(zip(seeds, wanted), 1):
            own = [tensors[i] for i in some]
            rows += torch.autograd.grad(y, own, seed, retain_graph=k < len(seeds))
        return place(joined(rows))

    return call
