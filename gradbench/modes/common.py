"""Steps that many modes share: each is what a user would write in that place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gradbench.core.operators import LEARNING_RATE, Shape
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.operators import Problem

MaybeTensors = Sequence[Tensor | None]


def argnums(problem: Problem) -> int | tuple[int, ...]:
    """The `argnums` of torch.func: one number for one input, whose result is then a bare tensor."""
    n = problem.differentiated
    return 0 if n == 1 else tuple(range(n))


def bound(problem: Problem, inputs: Tensors) -> tuple[Callable[..., Tensor], Tensors]:
    """The function of its differentiated inputs alone, and those inputs."""
    f, n = problem.forward, problem.differentiated
    constants = inputs[n:]
    return (lambda *wrt: f(*wrt, *constants)) if constants else f, inputs[:n]


def filled(grads: MaybeTensors, like: Tensors) -> Tensors:
    """The gradients, with zeros for an input that the value does not depend on."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, like))


def taken(leaves: Tensors) -> tuple[Tensor | None, ...]:
    """The `.grad` of each leaf, which is reset: the next backward pass would add to it."""
    grads = tuple(leaf.grad for leaf in leaves)
    for leaf in leaves:
        leaf.grad = None
    return grads


def one_hot(y: Tensor) -> Tensor:
    """One seed or tangent per number of `y`: a one there and zeros elsewhere."""
    return torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(-1, *y.shape)


def one_hot_per_sample(y: Tensor) -> Tensor:
    """One seed per number of a sample of `y`, the same for all samples along dimension 0."""
    sample = y.shape[1:]
    seeds = torch.eye(sample.numel(), dtype=y.dtype, device=y.device)
    return seeds.reshape(-1, 1, *sample).expand(-1, *y.shape)


def row_seeds(problem: Problem) -> tuple[Callable[[Tensor], Tensor], int]:
    """The function that makes one seed per row, and the dimension that numbers the rows.

    A batch pulls back the rows of all its samples at once, as no sample depends on another.
    """
    return (one_hot_per_sample, 1) if problem.per_sample else (one_hot, 0)


def by_sample(problem: Problem, x: Tensor) -> Tensor:
    """The numbers of each sample of `x`, (samples, numbers): one sample without a batch."""
    return x.reshape(len(x) if problem.per_sample else 1, -1)


def added_up(problem: Problem, blocks: Tensors) -> Tensor:
    """The sum of all numbers of like inputs, of each sample's where there is a batch, in the shape
    of the value."""
    parts = [by_sample(problem, block).sum(1) for block in blocks]
    return sum(parts[1:], parts[0]).reshape((-1, *problem.output[1:]) if problem.per_sample else ())


def block_shapes(y: Tensor, wrt: Tensors, dim: int) -> list[Shape]:
    """The shape of the jacobian of `y` by each input; dim 1: of one jacobian per sample."""
    # Plain tuples: slicing and adding torch.Size takes several times as long.
    rows = tuple(y.shape)
    return [rows + tuple(x.shape)[dim:] for x in wrt]


def stacked(rows: Sequence[MaybeTensors], y: Tensor, wrt: Tensors, dim: int) -> Tensors:
    """The jacobian of `y` from its rows, one block per input."""
    return tuple(
        # An input that y does not depend on is None in every row.
        y.new_zeros(shape) if column[0] is None else torch.stack(column, dim).reshape(shape)
        for column, shape in zip(zip(*rows), block_shapes(y, wrt, dim))
    )


def reshaped(blocks: MaybeTensors, y: Tensor, wrt: Tensors, dim: int) -> Tensors:
    """The jacobian of `y` from blocks whose rows lie along dimension 0."""
    return tuple(
        y.new_zeros(shape) if block is None else block.movedim(0, dim).reshape(shape)
        for block, shape in zip(blocks, block_shapes(y, wrt, dim))
    )


def flat(rows: Any) -> Tensors:
    """The blocks of a hessian in row-major order."""
    return tuple(chain.from_iterable(rows)) if isinstance(rows, tuple) else (rows,)


def diagonal_blocks(blocks: Sequence[Tensor], samples: int) -> Tensors:
    """Each sample's own blocks of the (N, …, N, …) derivatives of a batch.

    `samples` is the dimension that numbers the samples differentiated by.
    """
    return tuple(block.diagonal(0, 0, samples).movedim(-1, 0) for block in blocks)


def functional_step(problem: Problem) -> Callable[[Tensors], Tensors]:
    """A step of gradient descent by `torch.func.grad`, with the update written out."""
    gradient = torch.func.grad(problem.forward, argnums(problem))

    def step(inputs: Tensors) -> Tensors:
        grads = as_tuple(gradient(*inputs))
        return tuple(p - LEARNING_RATE * g for p, g in zip(inputs, grads))

    return step


InDims = tuple[int | None, ...]


def batched(problem: Problem) -> InDims:
    """The `in_dims` of vmap: an input with as many rows as the value has one per sample."""
    samples = problem.output[:1]
    return tuple(0 if shape[:1] == samples else None for shape in problem.inputs)


def per_sample(f: Callable[..., Tensor], in_dims: InDims) -> Callable[..., Tensor]:
    """The function of one sample, for vmap, from the function of a batch."""

    def sample(*inputs: Tensor) -> Tensor:
        batch = (x if dim is None else x.unsqueeze(0) for x, dim in zip(inputs, in_dims))
        return f(*batch).squeeze(0)

    return sample
