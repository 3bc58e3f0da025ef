"""Compiled ways whose kernels are replayed as CUDA graphs: `mode="reduce-overhead"`.

Beside `compiled_…`, they tell what compilation buys without the launches of its kernels. On CUDA
devices only: elsewhere torch ignores the mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.modes.common import argnums, batched, bound, flat, functional_step, per_sample
from gradbench.modes.compiled import NEEDS, compiled
from gradbench.modes.per_sample import of_one, of_samples
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import Call, Unsupported, jacobian_by_columns, jacobian_by_rows
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

GRAPHS = (*NEEDS, "torch.cuda.CUDAGraph", "torch.compiler.cudagraph_mark_step_begin")


def replaying(problem: Problem, function: Callable[..., Any]) -> Callable[..., Tensors]:
    """The function compiled as a whole and recorded; each result is copied out of the memory that
    the next replay writes to. Raises Unsupported on a processor."""
    if problem.device.type != "cuda":
        raise Unsupported("CUDA graphs are recorded on CUDA devices")
    fast = compiled(function, mode="reduce-overhead")

    def call(*arguments: Any) -> Tensors:
        torch.compiler.cudagraph_mark_step_begin()
        return tuple(block.clone() for block in as_tuple(fast(*arguments)))

    return call


@mode("derivative", "gradient", opt_in=True, cuda=True, needs=(*GRAPHS, "torch.func.grad"))
def compiled_grad_graphs(problem: Problem) -> Call:
    """`torch.func.grad`, compiled with `reduce-overhead`"""
    gradient = replaying(problem, torch.func.grad(problem.forward, argnums(problem)))
    return lambda inputs: gradient(*inputs)


@mode("vjp", opt_in=True, cuda=True, needs=(*GRAPHS, "torch.func.vjp"))
def compiled_vjp_graphs(problem: Problem) -> Call:
    """`torch.func.vjp`, compiled with `reduce-overhead`"""

    def pulled(inputs: Tensors, v: Tensor) -> Any:
        f, wrt = bound(problem, inputs)
        return torch.func.vjp(f, *wrt)[1](v)

    return replaying(problem, pulled)


@mode("jvp", opt_in=True, cuda=True, needs=(*GRAPHS, "torch.func.jvp"))
def compiled_jvp_graphs(problem: Problem) -> Call:
    """`torch.func.jvp`, compiled with `reduce-overhead`"""
    f, n = problem.forward, problem.differentiated

    def pushed(inputs: Tensors, tangents: Tensors) -> Any:
        # See compiled_jvp: the tangents of constants need memory.
        zeros = [torch.zeros_like(constant) for constant in inputs[n:]]
        return torch.func.jvp(f, inputs, (*tangents, *zeros))[1]

    return replaying(problem, pushed)


@mode(
    "jacobian",
    opt_in=True,
    cuda=True,
    needs=(*GRAPHS, "torch.func.jacrev"),
    memory=jacobian_by_rows,
)
def compiled_jacrev_graphs(problem: Problem) -> Call:
    """`torch.func.jacrev`, compiled with `reduce-overhead`"""
    jacobian = replaying(problem, torch.func.jacrev(problem.forward, argnums(problem)))
    return lambda inputs: jacobian(*inputs)


@mode(
    "batch_jacobian",
    opt_in=True,
    cuda=True,
    needs=(*GRAPHS, "torch.func.vmap", "torch.func.jacrev"),
)
def compiled_vmap_jacrev_graphs(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, compiled with `reduce-overhead`"""
    in_dims = batched(problem)
    jacobian = torch.func.jacrev(per_sample(problem.forward, in_dims), argnums(problem))
    jacobians = replaying(problem, torch.func.vmap(jacobian, in_dims))
    return lambda inputs: jacobians(*inputs)


@mode(
    "hessian",
    opt_in=True,
    cuda=True,
    needs=(*GRAPHS, "torch.func.hessian"),
    memory=jacobian_by_columns,
)
def compiled_hessian_graphs(problem: Problem) -> Call:
    """`torch.func.hessian`, compiled with `reduce-overhead`"""
    hessian = torch.func.hessian(problem.forward, argnums(problem))
    recorded = replaying(problem, lambda *inputs: flat(hessian(*inputs)))
    return lambda inputs: recorded(*inputs)


@mode("hvp", opt_in=True, cuda=True, needs=(*GRAPHS, "torch.func.jvp", "torch.func.grad"))
def compiled_hvp_graphs(problem: Problem) -> Call:
    """`jvp(grad)`: the tangent pushed through the gradient, compiled with `reduce-overhead`"""
    n = problem.differentiated

    def product(inputs: Tensors, tangents: Tensors) -> Any:
        f, wrt = bound(problem, inputs)
        gradient = torch.func.grad(f, tuple(range(n)))
        return torch.func.jvp(gradient, wrt, tangents)[1]

    return replaying(problem, product)


@mode("training_step", opt_in=True, cuda=True, needs=(*GRAPHS, "torch.func.grad"))
def compiled_step_graphs(problem: Problem) -> Call:
    """`torch.func.grad` and the update written out, compiled together with `reduce-overhead`"""
    return replaying(problem, functional_step(problem))


@mode(
    "per_sample_gradient",
    opt_in=True,
    cuda=True,
    needs=(*GRAPHS, "torch.func.vmap", "torch.func.grad"),
)
def compiled_vmap_grad_graphs(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample, compiled with `reduce-overhead`"""
    gradient = torch.func.grad(of_one(problem), argnums(problem))
    gradients = replaying(problem, torch.func.vmap(gradient, of_samples(problem)))
    return lambda inputs: gradients(*inputs)
