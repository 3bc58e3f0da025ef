"""Second derivatives, by the nestings of the first ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as dual
from torch import Tensor

from gradbench.modes.common import (
    argnums,
    batched,
    block_shapes,
    bound,
    filled,
    flat,
    per_sample,
    reshaped,
    row_seeds,
    stacked,
)
from gradbench.modes.forward_mode import pushed
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import (
    Call,
    Unsupported,
    columns_at_once,
    columns_in_turn,
    columns_of_columns,
    jacobian_by_columns,
    rows_then_entries,
    tangents_of_tangents,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

Transform = Callable[..., Callable[..., Any]]


def gradients(problem: Problem, inputs: Tensors) -> Tensors:
    """The gradient, of every sample at once where there is a batch, with a graph of its own.

    Without `create_graph` a second derivative raises. A gradient that is constant has no graph.
    """
    f, n = problem.forward, problem.differentiated
    y, wrt = f(*inputs), inputs[:n]
    grads = torch.autograd.grad(y, wrt, torch.ones_like(y), create_graph=True, allow_unused=True)
    return filled(grads, wrt)


def differentiated_again(problem: Problem, jacobian: Callable[[Tensor, Tensors], Tensors]) -> Call:
    """The hessian as the jacobian of each input's gradient: zero where that is constant."""
    n, dim = problem.differentiated, row_seeds(problem)[1]

    def call(inputs: Tensors) -> Tensors:
        wrt = inputs[:n]
        blocks: list[Tensor] = []
        for g in gradients(problem, inputs):
            if g.requires_grad:
                blocks += jacobian(g, wrt)
            else:
                blocks += (g.new_zeros(shape) for shape in block_shapes(g, wrt, dim))
        return tuple(blocks)

    return call


@mode(
    "hessian",
    "batch_hessian",
    leaves=True,
    document="B",
    memory=jacobian_by_columns,
    passes=columns_in_turn,
)
def grad_twice(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again in a loop over the gradient's entries"""
    if problem.operator == "hessian" and problem.output:
        raise Unsupported("the value is not one number")
    seeds, dim = row_seeds(problem)

    def jacobian(g: Tensor, wrt: Tensors) -> Tensors:
        rows = [
            torch.autograd.grad(g, wrt, seed, retain_graph=True, allow_unused=True)
            for seed in seeds(g)
        ]
        return stacked(rows, g, wrt, dim)

    return differentiated_again(problem, jacobian)


@mode("hessian", "batch_hessian", leaves=True, memory=jacobian_by_columns, passes=columns_at_once)
def grad_twice_batched(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then once more for all rows, with `is_grads_batched`"""
    if problem.operator == "hessian" and problem.output:
        raise Unsupported("the value is not one number")
    seeds, dim = row_seeds(problem)

    def jacobian(g: Tensor, wrt: Tensors) -> Tensors:
        blocks = torch.autograd.grad(
            g, wrt, seeds(g), retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        return reshaped(blocks, g, wrt, dim)

    return differentiated_again(problem, jacobian)


def nested(problem: Problem, outer: Transform, inner: Transform) -> Call:
    """The hessian as `outer(inner(f))`."""
    wrt = argnums(problem)
    hessian = outer(inner(problem.forward, wrt), wrt)

    def call(inputs: Tensors) -> Tensors:
        return flat(hessian(*inputs))

    return call


def nested_per_sample(problem: Problem, outer: Transform, inner: Transform) -> Call:
    """The hessian of each sample as `vmap(outer(inner(f)))`."""
    wrt, in_dims = argnums(problem), batched(problem)
    hessian = outer(inner(per_sample(problem.forward, in_dims), wrt), wrt)
    hessians = torch.func.vmap(hessian, in_dims)

    def call(inputs: Tensors) -> Tensors:
        return flat(hessians(*inputs))

    return call


@mode("hessian", needs=("torch.func.hessian",), memory=jacobian_by_columns, passes=columns_at_once)
def func_hessian(problem: Problem) -> Call:
    """`torch.func.hessian`: forward mode over reverse mode"""
    hessian = torch.func.hessian(problem.forward, argnums(problem))

    def call(inputs: Tensors) -> Tensors:
        return flat(hessian(*inputs))

    return call


@mode("hessian", needs=("torch.func.jacrev",), memory=jacobian_by_columns, passes=columns_at_once)
def jacrev_jacrev(problem: Problem) -> Call:
    """`jacrev(jacrev)`: reverse mode over reverse mode"""
    return nested(problem, torch.func.jacrev, torch.func.jacrev)


@mode(
    "hessian", needs=("torch.func.jacfwd",), memory=tangents_of_tangents, passes=columns_of_columns
)
def jacfwd_jacfwd(problem: Problem) -> Call:
    """`jacfwd(jacfwd)`: forward mode over forward mode"""
    return nested(problem, torch.func.jacfwd, torch.func.jacfwd)


@mode(
    "hessian",
    needs=("torch.func.jacrev", "torch.func.jacfwd"),
    memory=tangents_of_tangents,
    passes=columns_of_columns,
)
def jacrev_jacfwd(problem: Problem) -> Call:
    """`jacrev(jacfwd)`: reverse mode over forward mode"""
    return nested(problem, torch.func.jacrev, torch.func.jacfwd)


@mode("batch_hessian", needs=("torch.func.vmap", "torch.func.hessian"))
def vmap_hessian(problem: Problem) -> Call:
    """`vmap(hessian)` of the function of one sample: forward mode over reverse mode"""
    in_dims = batched(problem)
    hessian = torch.func.hessian(per_sample(problem.forward, in_dims), argnums(problem))
    hessians = torch.func.vmap(hessian, in_dims)

    def call(inputs: Tensors) -> Tensors:
        return flat(hessians(*inputs))

    return call


@mode("batch_hessian", needs=("torch.func.vmap", "torch.func.jacrev"))
def vmap_jacrev_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev(jacrev))` of the function of one sample"""
    return nested_per_sample(problem, torch.func.jacrev, torch.func.jacrev)


@mode("batch_hessian", needs=("torch.func.vmap", "torch.func.jacfwd"))
def vmap_jacfwd_jacfwd(problem: Problem) -> Call:
    """`vmap(jacfwd(jacfwd))` of the function of one sample"""
    return nested_per_sample(problem, torch.func.jacfwd, torch.func.jacfwd)


@mode("batch_hessian", needs=("torch.func.vmap", "torch.func.jacrev", "torch.func.jacfwd"))
def vmap_jacrev_jacfwd(problem: Problem) -> Call:
    """`vmap(jacrev(jacfwd))` of the function of one sample"""
    return nested_per_sample(problem, torch.func.jacrev, torch.func.jacfwd)


@mode("batch_hessian", needs=("torch.func.jacrev", "torch.func.grad"))
def jacrev_of_sum(problem: Problem) -> Call:
    """`jacrev` of the sum over the samples of `grad`, as the samples do not depend on each other"""
    f, wrt = problem.forward, argnums(problem)
    gradient = torch.func.grad(lambda *inputs: f(*inputs).sum(), wrt)
    hessians = torch.func.jacrev(
        lambda *inputs: tuple(g.sum(0) for g in as_tuple(gradient(*inputs))), wrt
    )

    def call(inputs: Tensors) -> Tensors:
        return tuple(
            block.movedim(x.dim() - 1, 0)
            for x, row in zip(inputs, hessians(*inputs))
            for block in as_tuple(row)
        )

    return call


def functional_jacobian_twice(problem: Problem) -> Call:
    """`functional.jacobian` of `functional.jacobian`: the hessians of several values"""

    def call(inputs: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)

        def jacobian(*wrt: Tensor) -> Tensors:
            return tuple(torch.autograd.functional.jacobian(f, wrt, create_graph=True))

        return flat(torch.autograd.functional.jacobian(jacobian, wrt))

    return call


def register_several() -> None:
    """Registers the usual choice for a function of several values, which none of the catalogue's
    hessians has."""
    declare = mode("hessian", memory=jacobian_by_columns, passes=rows_then_entries)
    declare(functional_jacobian_twice)


@mode("hvp", "vhp", name="grad_twice", leaves=True)
def product_by_grad_twice(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again with the tangent as its seed"""
    n = problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        varying = [(g, t) for g, t in zip(gradients(problem, inputs), tangents) if g.requires_grad]
        if not varying:
            return tuple(torch.zeros_like(t) for t in tangents)
        grads, seeds = zip(*varying)
        products = torch.autograd.grad(grads, inputs[:n], seeds, allow_unused=True)
        return filled(products, tangents)

    return call


@mode("hvp", "vhp", needs=("torch.func.jvp", "torch.func.grad"))
def forward_over_reverse(problem: Problem) -> Call:
    """`jvp(grad)`: the tangent pushed through the gradient"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        return tuple(torch.func.jvp(gradient, wrt, tangents)[1])

    return call


@mode("hvp", "vhp", needs=("torch.func.jvp", "torch.func.grad"))
def reverse_over_forward(problem: Problem) -> Call:
    """`grad(jvp)`: the gradient of the derivative along the tangent"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        slope = torch.func.grad(
            lambda *wrt: torch.func.jvp(f, wrt, tangents)[1], tuple(range(len(wrt)))
        )
        return tuple(slope(*wrt))

    return call


@mode("hvp", "vhp", needs=("torch.func.vjp", "torch.func.grad"))
def reverse_over_reverse(problem: Problem) -> Call:
    """`vjp(grad)`: the tangent pulled back through the gradient"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(len(wrt))))
        return tuple(torch.func.vjp(gradient, *wrt)[1](tangents))

    return call


@mode("hvp", "vhp", leaves=True)
def dual_over_grad(problem: Problem) -> Call:
    """`autograd.grad` of dual numbers: the tangent rides through the backward pass"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        with dual.dual_level():
            duals = tuple(dual.make_dual(x, t) for x, t in zip(inputs, tangents))
            grads = torch.autograd.grad(f(*duals, *inputs[n:]), duals, allow_unused=True)
            return tuple(pushed(g) for g in filled(grads, tangents))

    return call
