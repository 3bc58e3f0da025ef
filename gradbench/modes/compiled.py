"""`torch.compile` of the other ways. Measured only when asked for: compiling takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.core.operators import OPERATORS
from gradbench.modes.common import (
    argnums,
    batched,
    bound,
    filled,
    flat,
    functional_step,
    per_sample,
    taken,
)
from gradbench.modes.manual import by_formula
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, jacobian_by_columns, jacobian_by_rows
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

NEEDS = ("torch.compile",)


def compiled(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """The function compiled as a whole for its shapes, in a mode of `torch.compile`; what cannot be
    compiled raises.

    Without `fullgraph` the parts that cannot be compiled would run as they are, unnoticed.
    """

    # Where the outermost frame is one of torch's own, some releases run it as it is, unnoticed.
    def whole(*arguments: Any) -> Any:
        return function(*arguments)

    fast = torch.compile(whole, fullgraph=True, dynamic=False, mode=mode)
    from torch._dynamo import config

    # Torch counts the functions compiled by their code, which is the one above for all.
    for limit in ("cache_size_limit", "accumulated_cache_size_limit"):
        if hasattr(config, limit):
            setattr(config, limit, 1_000_000)
    return fast


@mode(*OPERATORS, by_hand=True, opt_in=True, needs=NEEDS)
def compiled_manual(problem: Problem) -> Call:
    """The analytic derivative, compiled"""
    return by_formula(problem, compiled(problem.function.formulas[problem.operator]))


@mode("derivative", "gradient", "vjp", opt_in=True, leaves=True, needs=NEEDS)
def compiled_backward(problem: Problem) -> Call:
    """`.backward()` of the compiled function, whose backward pass is compiled too"""
    f, n = compiled(problem.forward), problem.differentiated

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        f(*inputs).backward(v)
        return filled(taken(inputs[:n]), inputs)

    return call


@mode("derivative", "gradient", opt_in=True, needs=(*NEEDS, "torch.func.grad"))
def compiled_grad(problem: Problem) -> Call:
    """`torch.func.grad`, compiled"""
    gradient = compiled(torch.func.grad(problem.forward, argnums(problem)))
    return lambda inputs: gradient(*inputs)


@mode("jacobian", opt_in=True, needs=(*NEEDS, "torch.func.jacrev"), memory=jacobian_by_rows)
def compiled_jacrev(problem: Problem) -> Call:
    """`torch.func.jacrev`, compiled"""
    jacobian = compiled(torch.func.jacrev(problem.forward, argnums(problem)))
    return lambda inputs: jacobian(*inputs)


@mode("jacobian", opt_in=True, needs=(*NEEDS, "torch.func.jacfwd"), memory=jacobian_by_columns)
def compiled_jacfwd(problem: Problem) -> Call:
    """`torch.func.jacfwd`, compiled"""
    jacobian = compiled(torch.func.jacfwd(problem.forward, argnums(problem)))
    return lambda inputs: jacobian(*inputs)


@mode("batch_jacobian", opt_in=True, needs=(*NEEDS, "torch.func.vmap", "torch.func.jacrev"))
def compiled_vmap_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, compiled"""
    in_dims = batched(problem)
    jacobian = torch.func.jacrev(per_sample(problem.forward, in_dims), argnums(problem))
    jacobians = compiled(torch.func.vmap(jacobian, in_dims))
    return lambda inputs: jacobians(*inputs)


@mode("diagonal", opt_in=True, needs=(*NEEDS, "torch.func.vjp"))
def compiled_ones_vjp(problem: Problem) -> Call:
    """`torch.func.vjp` with a seed of ones, compiled"""

    @compiled
    def slopes(*inputs: Tensor) -> Any:
        f, wrt = bound(problem, inputs)
        y, pull = torch.func.vjp(f, *wrt)[:2]
        return pull(torch.ones_like(y))

    return lambda inputs: slopes(*inputs)


@mode("vjp", opt_in=True, needs=(*NEEDS, "torch.func.vjp"))
def compiled_vjp(problem: Problem) -> Call:
    """`torch.func.vjp`, compiled"""

    @compiled
    def pulled(inputs: Tensors, v: Tensor) -> Any:
        f, wrt = bound(problem, inputs)
        return torch.func.vjp(f, *wrt)[1](v)

    return pulled


@mode("vjp_sum", opt_in=True, needs=(*NEEDS, "torch.func.vjp"))
def compiled_summed_vjp(problem: Problem) -> Call:
    """`torch.func.vjp` with the sum of the seeds, compiled"""

    @compiled
    def pulled(inputs: Tensors, seeds: Tensor) -> Any:
        f, wrt = bound(problem, inputs)
        return torch.func.vjp(f, *wrt)[1](seeds.sum(0))

    return pulled


@mode("jvp", opt_in=True, needs=(*NEEDS, "torch.func.jvp"))
def compiled_jvp(problem: Problem) -> Call:
    """`torch.func.jvp`, compiled"""
    f, n = problem.forward, problem.differentiated

    @compiled
    def pushed(inputs: Tensors, tangents: Tensors) -> Any:
        # The zero tangent that torch gives a constant has no memory, and the compiled code
        # would read it (pytorch issue 177261).
        zeros = [torch.zeros_like(constant) for constant in inputs[n:]]
        return torch.func.jvp(f, inputs, (*tangents, *zeros))[1]

    return pushed


@mode("hessian", opt_in=True, needs=(*NEEDS, "torch.func.hessian"), memory=jacobian_by_columns)
def compiled_hessian(problem: Problem) -> Call:
    """`torch.func.hessian`, compiled"""
    hessian = compiled(torch.func.hessian(problem.forward, argnums(problem)))
    return lambda inputs: flat(hessian(*inputs))


@mode("batch_hessian", opt_in=True, needs=(*NEEDS, "torch.func.vmap", "torch.func.jacrev"))
def compiled_vmap_jacrev_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev(jacrev))` of the function of one sample, compiled"""
    wrt, in_dims = argnums(problem), batched(problem)
    sample = per_sample(problem.forward, in_dims)
    hessian = torch.func.jacrev(torch.func.jacrev(sample, wrt), wrt)
    hessians = compiled(torch.func.vmap(hessian, in_dims))
    return lambda inputs: flat(hessians(*inputs))


@mode("hvp", "vhp", opt_in=True, needs=(*NEEDS, "torch.func.jvp", "torch.func.grad"))
def compiled_hvp(problem: Problem) -> Call:
    """`jvp(grad)`: the tangent pushed through the gradient, compiled"""
    n = problem.differentiated

    @compiled
    def product(inputs: Tensors, tangents: Tensors) -> Any:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(n)))
        return torch.func.jvp(gradient, wrt, tangents)[1]

    return product


@mode("training_step", opt_in=True, needs=(*NEEDS, "torch.func.grad"))
def compiled_step(problem: Problem) -> Call:
    """`torch.func.grad` and the update written out, compiled together"""
    return compiled(functional_step(problem))
