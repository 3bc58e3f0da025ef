"""tᵀHt: the second derivative along a direction, of one value or of each sample's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import added_up, argnums, bound, by_sample, filled, flat
from gradbench.modes.compiled import compiled
from gradbench.modes.graphed import NEEDS as GRAPHS
from gradbench.modes.graphed import replayed
from gradbench.modes.second_order import gradients
from gradbench.modes.traces import JVP_GRAD, hessian_by_sample, sampled
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, columns_at_once, tangents_at_once
from gradbench.problems.operators import Problem

ALONG = "directional_second_derivative"


def dotted(problem: Problem, products: Tensors, tangents: Tensors) -> Tensor:
    """The products with the tangents, added up: of each sample's where there is a batch."""
    return added_up(problem, tuple(p * t for p, t in zip(products, tangents)))


@sampled(ALONG, name="grad_twice", leaves=True)
def along_by_grad_twice(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again with the tangent as its seed, times it"""
    n = problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        varying = [(g, t) for g, t in zip(gradients(problem, inputs), tangents) if g.requires_grad]
        if not varying:
            return added_up(problem, tuple(torch.zeros_like(t) for t in tangents))
        grads, seeds = zip(*varying)
        products = torch.autograd.grad(grads, inputs[:n], seeds, allow_unused=True)
        return dotted(problem, filled(products, tangents), tangents)

    return call


@sampled(ALONG, name="line_grad_twice")
def along_a_line(problem: Problem) -> Call:
    """`autograd.grad` twice by the step along the tangent: of the function of one number alone"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        step = inputs[0].new_zeros(len(inputs[0]) if problem.per_sample else ()).requires_grad_()
        moved = (x + scaled(problem, step, t) for x, t in zip(inputs, tangents))
        y = f(*moved, *inputs[n:])
        (slope,) = torch.autograd.grad(y, step, torch.ones_like(y), create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(y)
        second = torch.autograd.grad(slope.sum(), step, allow_unused=True)
        return filled(second, (step,))[0].reshape(y.shape)

    return call


def scaled(problem: Problem, step: Tensor, t: Tensor) -> Tensor:
    """A tangent times the step of its sample."""
    return step.reshape(-1, *[1] * (t.dim() - 1)) * t if problem.per_sample else step * t


@sampled(ALONG, needs=("torch.func.jvp",))
def nested_jvp(problem: Problem) -> Call:
    """`jvp(jvp)` along the tangent: Taylor mode to second order"""

    def call(inputs: Tensors, tangents: Tensors) -> Any:
        f, wrt = bound(problem, inputs)

        def slope(*wrt: Tensor) -> Any:
            return torch.func.jvp(f, wrt, tangents)[1]

        return torch.func.jvp(slope, wrt, tangents)[1]

    return call


@sampled(ALONG, needs=JVP_GRAD)
def forward_over_reverse(problem: Problem) -> Call:
    """`jvp(grad)`: the tangent pushed through the gradient, then times the tangent"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(lambda *wrt: f(*wrt).sum(), tuple(range(len(wrt))))
        return dotted(problem, torch.func.jvp(gradient, wrt, tangents)[1], tangents)

    return call


@sampled(ALONG, needs=JVP_GRAD)
def reverse_over_forward(problem: Problem) -> Call:
    """`grad(jvp)`: the gradient of the derivative along the tangent, then times the tangent"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)

        def slope(*wrt: Tensor) -> Any:
            return torch.func.jvp(f, wrt, tangents)[1].sum()

        products = torch.func.grad(slope, tuple(range(len(wrt))))(*wrt)
        return dotted(problem, products, tangents)

    return call


@sampled(ALONG)
def functional_hvp(problem: Problem) -> Call:
    """`functional.hvp` times the tangent"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)
        products = torch.autograd.functional.hvp(lambda *wrt: f(*wrt).sum(), wrt, tangents)[1]
        return dotted(problem, products, tangents)

    return call


@sampled(ALONG)
def functional_vhp(problem: Problem) -> Call:
    """`functional.vhp` times the tangent"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)
        products = torch.autograd.functional.vhp(lambda *wrt: f(*wrt).sum(), wrt, tangents)[1]
        return dotted(problem, products, tangents)

    return call


@sampled(
    ALONG,
    needs=("torch.func.hessian", "torch.func.vmap"),
    memory=tangents_at_once,
    passes=columns_at_once,
)
def dense_hessian(problem: Problem) -> Call:
    """`torch.func.hessian`, of each sample of a batch by `vmap`, between the tangents"""
    wrt, n = argnums(problem), problem.differentiated
    hessian = (
        hessian_by_sample(problem)
        if problem.per_sample
        else torch.func.hessian(problem.forward, wrt)
    )

    def call(inputs: Tensors, tangents: Tensors) -> Tensor:
        blocks = flat(hessian(*inputs))
        seeds = [by_sample(problem, t) for t in tangents]
        products = []
        for i, left in enumerate(seeds):
            row = blocks[i * n : i * n + n]
            parts = [quadratic(left, block, right) for block, right in zip(row, seeds)]
            products.append(sum(parts[1:], parts[0]))
        return added_up(problem, tuple(products))

    return call


def quadratic(left: Tensor, block: Tensor, right: Tensor) -> Tensor:
    """Of each sample, the numbers on the left times those of the block times those on the right:
    all but the last sum."""
    samples, numbers = left.shape
    matrices = block.reshape(samples, numbers, right.shape[1])
    return left * (matrices @ right[..., None])[..., 0]


@sampled(ALONG, opt_in=True, needs=("torch.compile", "torch.func.jvp"))
def compiled_nested_jvp(problem: Problem) -> Call:
    """`jvp(jvp)` along the tangent, compiled"""
    return compiled(nested_jvp(problem))


@sampled(ALONG, name="graphed_grad_twice", opt_in=True, cuda=True, needs=GRAPHS)
def graphed_along(problem: Problem) -> Call:
    """`autograd.grad` of the gradient with the tangent as seed, replayed as a CUDA graph"""
    return replayed(problem, along_by_grad_twice(problem), leaves=True)
