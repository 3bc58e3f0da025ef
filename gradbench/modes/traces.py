"""The diagonal of a hessian and its trace, the laplacian.

The samples of a batch do not depend on each other, so a pass serves all of them: column j of the
product is that of each sample's hessian.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import (
    added_up,
    argnums,
    batched,
    by_sample,
    flat,
    per_sample,
    row_seeds,
)
from gradbench.modes.compiled import compiled
from gradbench.modes.forward_mode import alone, pushed
from gradbench.modes.graphed import NEEDS as GRAPHS
from gradbench.modes.graphed import replayed
from gradbench.modes.second_order import gradients
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    Passes,
    Unsupported,
    columns_at_once,
    columns_in_turn,
    full_hessian,
    tangents_at_once,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gradbench.problems.registry import ModeFields

Builder = Callable[[Problem], Call]

TRACES = ("hessian_diagonal", "laplacian")

JVP_GRAD = ("torch.func.jvp", "torch.func.grad")


def sampled(*operators: str, **fields: Unpack[ModeFields]) -> Callable[[Builder], Builder]:
    """Registers modes of one value, or of one value for each sample of a batch."""

    def register(build: Builder) -> Builder:
        @functools.wraps(build)
        def checked(problem: Problem) -> Call:
            samples = problem.output[:1]
            if problem.outputs != (samples[0] if samples else 1):
                raise Unsupported("the value is not one number for each sample")
            if samples and any(shape[:1] != samples for shape in problem.wrt):
                raise Unsupported("the samples share an input that is differentiated")
            return build(problem)

        mode(*operators, **fields)(checked)
        return build

    return register


def kept(problem: Problem, diagonal: Callable[[Tensors], Tensors]) -> Call:
    """The diagonal, or its sum where that is asked for."""
    return diagonal if problem.operator == "hessian_diagonal" else summed(problem, diagonal)


def summed(problem: Problem, diagonal: Callable[[Tensors], Tensors]) -> Call:
    """The sum of the diagonal, of each sample's where there is a batch."""

    def call(inputs: Tensors) -> Tensor:
        return added_up(problem, diagonal(inputs))

    return call


def total(problem: Problem, inputs: Tensors, i: int) -> Callable[[Tensor], Tensor]:
    """The function of input i alone, as one number: the sum over the samples of a batch."""
    f = alone(problem, inputs, i)
    return (lambda x: f(x).sum()) if problem.per_sample else f


def own_entries(problem: Problem, rows: Tensor, x: Tensor) -> Tensor:
    """Of one row for each number of a sample, (numbers, *x.shape), the entry by that number."""
    samples = len(x) if problem.per_sample else 1
    return rows.reshape(len(rows), samples, -1).diagonal(0, 0, 2).reshape(x.shape)


def beside(columns: list[Tensor], x: Tensor) -> Tensor:
    """What is like `x`, from its columns of a number for each sample."""
    return torch.stack([column.reshape(-1) for column in columns], 1).reshape(x.shape)


def along_twice(f: Callable[[Tensor], Tensor], x: Tensor, t: Tensor) -> Any:
    """The second derivative of `f` along a tangent, by forward mode over forward mode."""
    return torch.func.jvp(lambda x: torch.func.jvp(f, (x,), (t,))[1], (x,), (t,))[1]


def columns_of_all(problem: Problem) -> Passes:
    """A pass for each coordinate of every sample."""
    return Passes(problem.coordinates)


def few_columns(problem: Problem) -> int:
    """Peak of the modes that take a column at a time: the columns, and the diagonal of them."""
    return 3 * problem.coordinates


@sampled(*TRACES, name="grad_twice", leaves=True, memory=few_columns, passes=columns_in_turn)
def trace_by_grad_twice(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again in a loop over the gradient's numbers"""
    n = problem.differentiated

    def second(g: Tensor, x: Tensor) -> Tensor:
        if not g.requires_grad:
            return torch.zeros_like(x)
        columns = []
        for i, column in enumerate(by_sample(problem, g).unbind(1)):
            (row,) = torch.autograd.grad(column.sum(), x, retain_graph=True, allow_unused=True)
            row = torch.zeros_like(x) if row is None else row
            columns.append(by_sample(problem, row)[:, i])
        return beside(columns, x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(g, x) for g, x in zip(gradients(problem, inputs), inputs[:n]))

    return kept(problem, diagonal)


@sampled(
    *TRACES,
    name="grad_twice_batched",
    leaves=True,
    memory=tangents_at_once,
    passes=columns_at_once,
)
def trace_by_grad_twice_batched(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then once more for all rows, with `is_grads_batched`"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(g: Tensor, x: Tensor) -> Tensor:
        if not g.requires_grad:
            return torch.zeros_like(x)
        (rows,) = torch.autograd.grad(
            g, x, seeds(g), retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        return torch.zeros_like(x) if rows is None else own_entries(problem, rows, x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(g, x) for g, x in zip(gradients(problem, inputs), inputs[:n]))

    return kept(problem, diagonal)


@sampled(
    *TRACES,
    name="func_hessian",
    needs=("torch.func.hessian", "torch.func.vmap"),
    memory=tangents_at_once,
    passes=columns_at_once,
)
def trace_of_func_hessian(problem: Problem) -> Call:
    """`torch.func.hessian`, of each sample of a batch by `vmap`, of which the diagonal is kept"""
    wrt, n = argnums(problem), problem.differentiated
    hessian = (
        hessian_by_sample(problem)
        if problem.per_sample
        else torch.func.hessian(problem.forward, wrt)
    )

    def diagonal(inputs: Tensors) -> Tensors:
        blocks = flat(hessian(*inputs))[:: n + 1]
        return tuple(diagonal_of(problem, block, x) for block, x in zip(blocks, inputs))

    return kept(problem, diagonal)


def hessian_by_sample(problem: Problem) -> Callable[..., Any]:
    """The hessian of each sample."""
    in_dims = batched(problem)
    hessian = torch.func.hessian(per_sample(problem.forward, in_dims), argnums(problem))
    return torch.func.vmap(hessian, in_dims)


def diagonal_of(problem: Problem, block: Tensor, x: Tensor) -> Tensor:
    """The diagonal of a hessian by one input, of each sample's where there is a batch."""
    samples, numbers = by_sample(problem, x).shape
    return block.reshape(samples, numbers, numbers).diagonal(0, 1, 2).reshape(x.shape)


@sampled(*TRACES, name="functional_hessian", memory=full_hessian, passes=columns_of_all)
def trace_of_functional_hessian(problem: Problem) -> Call:
    """`functional.hessian` of all inputs, the samples of a batch added up: its diagonal is kept"""
    n = problem.differentiated

    def diagonal(inputs: Tensors) -> Tensors:
        diagonals = []
        for i, x in enumerate(inputs[:n]):
            block = torch.autograd.functional.hessian(total(problem, inputs, i), x)
            diagonals.append(block.reshape(x.numel(), -1).diagonal().reshape(x.shape))
        return tuple(diagonals)

    return kept(problem, diagonal)


@sampled(*TRACES, memory=few_columns, passes=columns_in_turn)
def loop_functional_hvp(problem: Problem) -> Call:
    """`functional.hvp` in a loop over one-hot tangents"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        products = [torch.autograd.functional.hvp(f, x, t)[1] for t in seeds(x)]
        return beside([by_sample(problem, p)[:, i] for i, p in enumerate(products)], x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(*TRACES, memory=few_columns, passes=columns_in_turn)
def loop_functional_vhp(problem: Problem) -> Call:
    """`functional.vhp` in a loop over one-hot vectors"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        products = [torch.autograd.functional.vhp(f, x, t)[1] for t in seeds(x)]
        return beside([by_sample(problem, p)[:, i] for i, p in enumerate(products)], x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(*TRACES, leaves=True, memory=few_columns, passes=columns_in_turn)
def loop_dual_over_grad(problem: Problem) -> Call:
    """`autograd.grad` of dual numbers, in a loop over one-hot tangents"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        columns = []
        for i, t in enumerate(seeds(x)):
            z = dual.make_dual(x, t)
            (g,) = torch.autograd.grad(f(z), z, allow_unused=True)
            product = torch.zeros_like(x) if g is None else pushed(g)
            columns.append(by_sample(problem, product)[:, i])
        return beside(columns, x)

    def diagonal(inputs: Tensors) -> Tensors:
        with dual.dual_level():
            return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(*TRACES, needs=JVP_GRAD, memory=few_columns, passes=columns_in_turn)
def loop_jvp_grad(problem: Problem) -> Call:
    """`jvp(grad)`, forward mode over reverse mode, in a loop over one-hot tangents"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        gradient = torch.func.grad(f)
        products = [torch.func.jvp(gradient, (x,), (t,))[1] for t in seeds(x)]
        return beside([by_sample(problem, p)[:, i] for i, p in enumerate(products)], x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(
    *TRACES,
    needs=(*JVP_GRAD, "torch.func.vmap"),
    memory=tangents_at_once,
    passes=columns_at_once,
)
def vmap_jvp_grad(problem: Problem) -> Call:
    """`vmap` of `jvp(grad)`: all one-hot tangents pushed through the gradient at once"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        gradient = torch.func.grad(f)
        products = torch.func.vmap(lambda t: torch.func.jvp(gradient, (x,), (t,))[1])(seeds(x))
        return own_entries(problem, products, x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(
    *TRACES,
    needs=(*JVP_GRAD, "torch.func.vmap"),
    memory=tangents_at_once,
    passes=columns_at_once,
)
def vmap_grad_jvp(problem: Problem) -> Call:
    """`vmap` of `grad(jvp)`: the gradients of the derivatives along all one-hot tangents at once"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        def row(t: Tensor) -> Any:
            return torch.func.grad(lambda x: torch.func.jvp(f, (x,), (t,))[1])(x)

        return own_entries(problem, torch.func.vmap(row)(seeds(x)), x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(total(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(*TRACES, needs=("torch.func.jvp",), memory=few_columns, passes=columns_in_turn)
def loop_nested_jvp(problem: Problem) -> Call:
    """`jvp(jvp)`, Taylor mode to second order, in a loop over one-hot tangents"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return beside([along_twice(f, x, t) for t in seeds(x)], x)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(alone(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(
    *TRACES,
    needs=("torch.func.jvp", "torch.func.vmap"),
    memory=tangents_at_once,
    passes=columns_at_once,
)
def vmap_nested_jvp(problem: Problem) -> Call:
    """`vmap` of `jvp(jvp)`: Taylor mode to second order along all one-hot tangents at once"""
    n, seeds = problem.differentiated, row_seeds(problem)[0]

    def second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        rows: Tensor = torch.func.vmap(lambda t: along_twice(f, x, t))(seeds(x))
        return rows.reshape(len(rows), -1).T.reshape(x.shape)

    def diagonal(inputs: Tensors) -> Tensors:
        return tuple(second(alone(problem, inputs, i), inputs[i]) for i in range(n))

    return kept(problem, diagonal)


@sampled(*TRACES, opt_in=True, needs=("torch.compile", *JVP_GRAD), memory=tangents_at_once)
def compiled_vmap_jvp_grad(problem: Problem) -> Call:
    """`vmap` of `jvp(grad)`, compiled"""
    return compiled(vmap_jvp_grad(problem))


@sampled(*TRACES, opt_in=True, needs=("torch.compile", "torch.func.jvp"), memory=tangents_at_once)
def compiled_vmap_nested_jvp(problem: Problem) -> Call:
    """`vmap` of `jvp(jvp)`, compiled"""
    return compiled(vmap_nested_jvp(problem))


@sampled(
    *TRACES, name="graphed_grad_twice", opt_in=True, cuda=True, needs=GRAPHS, memory=few_columns
)
def graphed_trace(problem: Problem) -> Call:
    """`autograd.grad` of the gradient in a loop, replayed as a CUDA graph"""
    return replayed(problem, trace_by_grad_twice(problem), leaves=True)
