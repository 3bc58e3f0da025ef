"""Patterns that were seen near one input only: a call that relies on one checks its result."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.modes.common import MaybeTensors, bound, filled
from gradbench.modes.second_order import gradients
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem

OUTSIDE = (
    "the derivative has entries outside its pattern, which was seen near another input: look for "
    "the pattern near this one, or use a way without it"
)


def random_seed(like: Tensor) -> Tensor:
    """The same random numbers between 0.5 and 1.5 at every call."""
    drawn = torch.rand(like.numel(), generator=torch.Generator().manual_seed(0)) + 0.5
    return drawn.to(like).reshape(like.shape)


def require_explained(products: Tensors, seeds: Tensors, blocks: Tensors) -> None:
    """Raises RuntimeError unless the blocks, row by row, explain the seeds times the matrix.

    The tolerance is the root of the dtype's unit in the last place, relative to the sum of the
    sizes of a product's terms and a tenth of the largest such sum.
    """
    for j, product in enumerate(products):
        total = size = torch.zeros_like(product).reshape(-1)
        for i, seed in enumerate(seeds):
            block = blocks[i * len(products) + j].detach().reshape(seed.numel(), -1)
            # The value, and so its seed, may be wider than the inputs.
            flat = seed.reshape(-1).to(block.dtype)
            total = total + flat @ block
            size = size + flat @ block.abs()
        allowed = torch.finfo(product.dtype).eps ** 0.5 * (size + 0.1 * size.max())
        if bool(((product.reshape(-1) - total).abs() > allowed).any()):
            raise RuntimeError(OUTSIDE)


def random_pullback(problem: Problem, inputs: Tensors) -> tuple[Tensor, Tensors]:
    """A random seed and its pullback, by reverse mode."""
    f, given = bound(problem, inputs)
    wrt = tuple(x.detach().requires_grad_() for x in given)
    with torch.enable_grad():
        y = f(*wrt)
        seed = random_seed(y.detach())
        pulled: MaybeTensors = (None,) * len(wrt)
        if y.requires_grad:
            pulled = torch.autograd.grad(y, wrt, seed, allow_unused=True)
    return seed, filled(pulled, wrt)


def checked_jacobian(problem: Problem, call: Call) -> Call:
    """The same call, which compares its result with one pullback of a random seed."""

    def checked(inputs: Tensors) -> Tensors:
        blocks: Tensors = call(inputs)
        seed, products = random_pullback(problem, inputs)
        require_explained(products, (seed,), blocks)
        return blocks

    return checked


def checked_hessian(problem: Problem, call: Call) -> Call:
    """The same call, which compares its result with one product with a random tangent."""
    n = problem.differentiated

    def checked(inputs: Tensors) -> Tensors:
        blocks: Tensors = call(inputs)
        wrt = tuple(x.detach().requires_grad_() for x in inputs[:n])
        seeds = tuple(random_seed(x.detach()) for x in wrt)
        with torch.enable_grad():
            grads = gradients(problem, (*wrt, *inputs[n:]))
            total = sum((g * seed).sum() for g, seed in zip(grads, seeds) if g.requires_grad)
            products = filled((None,) * n, wrt)
            if isinstance(total, Tensor):
                products = filled(torch.autograd.grad(total, wrt, allow_unused=True), wrt)
        require_explained(products, seeds, blocks)
        return blocks

    return checked


def checked_sparse(problem: Problem, call: Call) -> Call:
    """The same call with a sparse result, which it compares with one pullback of a random seed."""

    def checked(inputs: Tensors) -> Tensors:
        blocks: Tensors = call(inputs)
        seed, products = random_pullback(problem, inputs)
        rows = seed.dim()
        for product, block in zip(products, blocks):
            entries = block.detach().coalesce()
            places = entries.indices()
            flat = torch.zeros_like(places[0])
            for index, length in zip(places[rows:], product.shape):
                flat = flat * length + index
            terms = (entries.values() * seed[tuple(places[:rows])]).to(product.dtype)
            sums = product.new_zeros(2, product.numel())
            sums.index_add_(1, flat, torch.stack([terms, terms.abs()]))
            allowed = torch.finfo(product.dtype).eps ** 0.5 * (sums[1] + 0.1 * sums[1].max())
            if bool(((product.reshape(-1) - sums[0]).abs() > allowed).any()):
                raise RuntimeError(OUTSIDE)
        return blocks

    return checked


CHECKS = {
    "jacobian": checked_jacobian,
    "hessian": checked_hessian,
    "jacobian_sparse": checked_sparse,
}
"""By operator."""
