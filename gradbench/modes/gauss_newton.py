"""The Gauss-Newton product JᵀJt: the curvature of ½‖f‖² without the residuals' own.

(N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, 2002.)
"""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as dual

from gradbench.modes.common import argnums, bound, filled
from gradbench.modes.compiled import NEEDS, compiled
from gradbench.modes.forward_mode import pushed
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import (
    Call,
    columns_at_once,
    full_jacobian,
    full_jacobian_by_columns,
    full_jacobian_by_rows,
    rows_at_once,
    rows_in_turn,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

OPERATOR = "gauss_newton_product"


@mode(OPERATOR, needs=("torch.func.jvp", "torch.func.vjp"))
def jvp_vjp(problem: Problem) -> Call:
    """`torch.func.jvp`, then `torch.func.vjp` with its result as the seed: two forward passes"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        along = torch.func.jvp(f, wrt, tangents)[1]
        return tuple(torch.func.vjp(f, *wrt)[1](along))

    return call


@mode(OPERATOR, leaves=True)
def dual_grad(problem: Problem) -> Call:
    """Dual numbers, whose value is pulled back with its own tangent: one pass forward"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        with dual.dual_level():
            duals = tuple(dual.make_dual(x, t) for x, t in zip(inputs, tangents))
            y, along = dual.unpack_dual(f(*duals, *inputs[n:]))
            if along is None or not y.requires_grad:
                return tuple(torch.zeros_like(t) for t in tangents)
            grads = torch.autograd.grad(y, inputs[:n], along.detach(), allow_unused=True)
        return filled(grads, tangents)

    return call


@mode(OPERATOR, leaves=True)
def dual_then_grad(problem: Problem) -> Call:
    """Dual numbers without a graph, then `autograd.grad` of another forward pass"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        with torch.no_grad(), dual.dual_level():
            duals = (dual.make_dual(x, t) for x, t in zip(inputs, tangents))
            along = pushed(f(*duals, *inputs[n:]))
        grads = torch.autograd.grad(f(*inputs), inputs[:n], along, allow_unused=True)
        return filled(grads, tangents)

    return call


@mode(OPERATOR, needs=("torch.func.linearize", "torch.func.vjp"))
def linearize_vjp(problem: Problem) -> Call:
    """`torch.func.linearize` for Jt, then `torch.func.vjp` with it as the seed"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, push = torch.func.linearize(f, *wrt)
        return tuple(torch.func.vjp(f, *wrt)[1](push(*tangents)))

    return call


@mode(OPERATOR, leaves=True)
def double_backward(problem: Problem) -> Call:
    """Reverse mode thrice over one forward pass: vᵀJ is linear in v, its pullback by t is Jt"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        v = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, wrt, v, create_graph=True, allow_unused=True)
        used = [(g, t) for g, t in zip(pulled, tangents) if g is not None]
        grads, seeds = [g for g, _ in used], [t for _, t in used]
        (along,) = torch.autograd.grad(grads, v, seeds, retain_graph=True)
        return filled(torch.autograd.grad(y, wrt, along, allow_unused=True), tangents)

    return call


@mode(OPERATOR, needs=("torch.func.vjp",))
def vjp_of_vjp(problem: Problem) -> Call:
    """`torch.func.vjp` once; the pullback of its pullback is Jt, which it then pulls back itself"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        y, pull = torch.func.vjp(f, *wrt)[:2]
        _, push = torch.func.vjp(pull, torch.zeros_like(y))[:2]
        (along,) = push(tangents)
        return tuple(pull(along))

    return call


@mode(OPERATOR)
def functional_products(problem: Problem) -> Call:
    """`functional.jvp`, which is reverse mode twice, then `functional.vjp` with its result"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        _, along = torch.autograd.functional.jvp(f, wrt, tangents)
        return tuple(torch.autograd.functional.vjp(f, wrt, along)[1])

    return call


def multiplied(blocks: Tensors, tangents: Tensors) -> Tensors:
    """JᵀJt of the blocks of a jacobian, by two products of matrix and vector.

    Blocks of forward mode have the dtype of the value.
    """
    matrices = [block.reshape(-1, tangent.numel()) for block, tangent in zip(blocks, tangents)]
    terms = [matrix @ t.reshape(-1).to(matrix.dtype) for matrix, t in zip(matrices, tangents)]
    along = sum(terms[1:], terms[0])
    return tuple((along @ matrix).reshape(t.shape) for matrix, t in zip(matrices, tangents))


@mode(OPERATOR, memory=full_jacobian, passes=rows_in_turn)
def dense_functional(problem: Problem) -> Call:
    """`functional.jacobian`, whole, multiplied twice"""

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        return multiplied(torch.autograd.functional.jacobian(f, wrt), tangents)

    return call


@mode(OPERATOR, needs=("torch.func.jacrev",), memory=full_jacobian_by_rows, passes=rows_at_once)
def dense_jacrev(problem: Problem) -> Call:
    """`torch.func.jacrev`, whole, multiplied twice"""
    jacobian = torch.func.jacrev(problem.forward, argnums(problem))

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        return multiplied(as_tuple(jacobian(*inputs)), tangents)

    return call


@mode(
    OPERATOR, needs=("torch.func.jacfwd",), memory=full_jacobian_by_columns, passes=columns_at_once
)
def dense_jacfwd(problem: Problem) -> Call:
    """`torch.func.jacfwd`, whole, multiplied twice"""
    jacobian = torch.func.jacfwd(problem.forward, argnums(problem))

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        return multiplied(as_tuple(jacobian(*inputs)), tangents)

    return call


def gram_matrix(problem: Problem) -> int:
    """Peak of forming JᵀJ: the jacobian, by rows, and the matrix."""
    return full_jacobian_by_rows(problem) + 2 * problem.coordinates**2


@mode(OPERATOR, needs=("torch.func.jacrev",), memory=gram_matrix, passes=rows_at_once)
def dense_gram(problem: Problem) -> Call:
    """JᵀJ formed from `torch.func.jacrev`, times the tangent"""
    jacobian = torch.func.jacrev(problem.forward, argnums(problem))

    def call(inputs: Tensors, tangents: Tensors) -> Tensors:
        blocks = as_tuple(jacobian(*inputs))
        matrix = torch.cat([b.reshape(-1, t.numel()) for b, t in zip(blocks, tangents)], 1)
        products = (matrix.T @ matrix) @ torch.cat([t.reshape(-1) for t in tangents])
        split = products.split([t.numel() for t in tangents])
        return tuple(part.reshape(t.shape) for part, t in zip(split, tangents))

    return call


@mode(OPERATOR, opt_in=True, needs=(*NEEDS, "torch.func.jvp", "torch.func.vjp"))
def compiled_jvp_vjp(problem: Problem) -> Call:
    """`torch.func.jvp`, then `torch.func.vjp` with its result as the seed, compiled together"""
    n = problem.differentiated

    @compiled
    def product(inputs: Tensors, tangents: Tensors) -> Tensors:
        f, wrt = bound(problem, inputs)
        # See compiled_jvp: the tangents of constants need memory.
        zeros = [torch.zeros_like(constant) for constant in inputs[n:]]
        along = torch.func.jvp(problem.forward, inputs, (*tangents, *zeros))[1]
        return tuple(torch.func.vjp(f, *wrt)[1](along))

    return product
