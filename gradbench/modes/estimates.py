"""Hutchinson's estimate of the laplacian: the mean of vᵀHv over given vectors v of random signs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import added_up, bound, filled
from gradbench.modes.compiled import compiled
from gradbench.modes.directional import dotted
from gradbench.modes.second_order import gradients
from gradbench.modes.traces import JVP_GRAD, sampled
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Passes
from gradbench.problems.operators import ESTIMATING_SIGNS, Problem

ESTIMATE = "laplacian_estimate"


def signs_in_turn(problem: Problem) -> Passes:
    """A pass for each vector of signs."""
    return Passes(ESTIMATING_SIGNS)


def signs_at_once(problem: Problem) -> Passes:
    """One pass for all vectors of signs."""
    return Passes(ESTIMATING_SIGNS, batched=True)


def batches(problem: Problem) -> int:
    """Peak of the modes that push all vectors of signs at once: they, their products, the parts."""
    return 3 * ESTIMATING_SIGNS * problem.coordinates


def meaned(problem: Problem, products: Tensors, signs: Tensors) -> Tensor:
    """The mean of vᵀHv from the products Hv of all vectors, (vectors, *x.shape) by each input."""
    return added_up(problem, tuple((p * v).mean(0) for p, v in zip(products, signs)))


@sampled(ESTIMATE, name="grad_twice", leaves=True, passes=signs_in_turn)
def estimate_by_grad_twice(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again for each vector in a loop"""
    n = problem.differentiated

    def call(inputs: Tensors, signs: Tensors) -> Tensor:
        grads = gradients(problem, inputs)
        varying = [i for i, g in enumerate(grads) if g.requires_grad]
        if not varying:
            return added_up(problem, tuple(torch.zeros_like(v[0]) for v in signs))
        first, estimates = [grads[i] for i in varying], []
        for sign in zip(*signs):
            seeds = [sign[i] for i in varying]
            row = torch.autograd.grad(
                first, inputs[:n], seeds, retain_graph=True, allow_unused=True
            )
            estimates.append(dotted(problem, filled(row, sign), sign))
        return torch.stack(estimates).mean(0)

    return call


@sampled(ESTIMATE, name="grad_twice_batched", leaves=True, memory=batches, passes=signs_at_once)
def estimate_by_grad_twice_batched(problem: Problem) -> Call:
    """`autograd.grad` with `create_graph`, then again for all vectors, by `is_grads_batched`"""
    n = problem.differentiated

    def call(inputs: Tensors, signs: Tensors) -> Tensor:
        varying = [(g, v) for g, v in zip(gradients(problem, inputs), signs) if g.requires_grad]
        if not varying:
            return added_up(problem, tuple(torch.zeros_like(v[0]) for v in signs))
        grads, seeds = zip(*varying)
        products = torch.autograd.grad(
            grads, inputs[:n], seeds, is_grads_batched=True, allow_unused=True
        )
        return meaned(problem, filled(products, signs), signs)

    return call


@sampled(ESTIMATE, needs=("torch.func.jvp",), passes=signs_in_turn)
def loop_nested_jvp(problem: Problem) -> Call:
    """`jvp(jvp)`, Taylor mode to second order, for each vector in a loop"""

    def call(inputs: Tensors, signs: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)

        def along(sign: Tensors) -> Any:
            def slope(*wrt: Tensor) -> Any:
                return torch.func.jvp(f, wrt, sign)[1]

            return torch.func.jvp(slope, wrt, sign)[1]

        return torch.stack([along(sign) for sign in zip(*signs)]).mean(0)

    return call


@sampled(
    ESTIMATE, needs=("torch.func.jvp", "torch.func.vmap"), memory=batches, passes=signs_at_once
)
def vmap_nested_jvp(problem: Problem) -> Call:
    """`vmap` of `jvp(jvp)`: Taylor mode to second order along all vectors at once"""

    def call(inputs: Tensors, signs: Tensors) -> Any:
        f, wrt = bound(problem, inputs)

        def along(*sign: Tensor) -> Any:
            def slope(*wrt: Tensor) -> Any:
                return torch.func.jvp(f, wrt, sign)[1]

            return torch.func.jvp(slope, wrt, sign)[1]

        return torch.func.vmap(along)(*signs).mean(0)

    return call


@sampled(ESTIMATE, needs=(*JVP_GRAD, "torch.func.vmap"), memory=batches, passes=signs_at_once)
def vmap_jvp_grad(problem: Problem) -> Call:
    """`vmap` of `jvp(grad)`: all vectors pushed through the gradient at once"""

    def call(inputs: Tensors, signs: Tensors) -> Tensor:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(lambda *wrt: f(*wrt).sum(), tuple(range(len(wrt))))
        push = torch.func.vmap(lambda *sign: torch.func.jvp(gradient, wrt, sign)[1])
        return meaned(problem, push(*signs), signs)

    return call


@sampled(ESTIMATE, opt_in=True, needs=("torch.compile", "torch.func.jvp", "torch.func.vmap"))
def compiled_vmap_nested_jvp(problem: Problem) -> Call:
    """`vmap` of `jvp(jvp)` along all vectors at once, compiled"""
    return compiled(vmap_nested_jvp(problem))
