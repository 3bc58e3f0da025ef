"""The reference for a user's function: reverse mode in float64, with its evidence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gradbench.problems.function import Formula, Tensors

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

AGREEMENT = 1e-9
"""How far a structured derivative's product may be from the pullback, in float64, relative to its
largest number."""


def pullback(subject: Subject, seed: Tensor, *inputs: Tensor) -> Tensors:
    """The seed, of the value's shape, times the jacobian, by one pass in reverse mode.

    A function that has a forward mode only takes a pass for each coordinate.
    """
    if subject.manner.forward_only:
        wrt = inputs[: subject.differentiated]
        blocks = _columns(subject, *inputs)[1]
        return tuple((seed.reshape(-1) @ b).reshape(x.shape) for b, x in zip(blocks, wrt))
    with torch.enable_grad():
        wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: subject.differentiated])
        y = subject.forward(*wrt, *inputs[subject.differentiated :])
        if not y.requires_grad:
            return tuple(torch.zeros_like(x) for x in wrt)
        pulled = torch.autograd.grad(y, wrt, seed, allow_unused=True)
    return _filled(pulled, wrt)


def pushforward(subject: Subject, tangents: Tensors, *inputs: Tensor) -> Tensor:
    """The jacobian times the tangents, one for each differentiated input, in forward mode.

    Raises what the function raises there: not every function has a forward mode.
    """
    n = subject.differentiated
    with torch.enable_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(x.detach(), t) for x, t in zip(inputs[:n], tangents)]
        y = subject.forward(*duals, *inputs[n:])
        pushed = forward_ad.unpack_dual(y).tangent
        return torch.zeros_like(y) if pushed is None else pushed.detach().clone()


def _columns(subject: Subject, *inputs: Tensor) -> tuple[Tensor, Tensors]:
    """The value y, and dense jacobian blocks of shape (y.numel(), x.numel()), by forward mode."""
    y = subject.forward(*inputs)
    wrt = inputs[: subject.differentiated]
    blocks = []
    for number, x in enumerate(wrt):
        columns = []
        for one in torch.eye(x.numel(), dtype=x.dtype):
            tangents = [torch.zeros_like(z) for z in wrt]
            tangents[number] = one.reshape(x.shape)
            columns.append(pushforward(subject, tuple(tangents), *inputs).reshape(-1))
        blocks.append(torch.stack(columns, 1) if columns else x.new_zeros(y.numel(), 0))
    return y.detach(), tuple(blocks)


def _gradients(subject: Subject, seed: Tensor | None, *inputs: Tensor) -> tuple[Tensors, Tensors]:
    """Leaves, and the gradient of the value times the seed with its graph."""
    wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: subject.differentiated])
    y = subject.forward(*wrt, *inputs[subject.differentiated :])
    grads = torch.autograd.grad(y, wrt, seed, create_graph=True, allow_unused=True)
    return wrt, _filled(grads, wrt)


def hessian_product(
    subject: Subject, tangents: Tensors, *inputs: Tensor, seed: Tensor | None = None
) -> Tensors:
    """The hessian of a scalar value times the tangents, by reverse mode twice.

    With a seed of the value's shape, that of the sum of the values times the seed.
    """
    with torch.enable_grad():
        wrt, grads = _gradients(subject, seed, *inputs)
        pairs = [(g, t) for g, t in zip(grads, tangents) if g.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(x) for x in wrt)
        first, seeds = zip(*pairs)
        return _filled(torch.autograd.grad(first, wrt, seeds, allow_unused=True), wrt)


def hessian(subject: Subject, *inputs: Tensor) -> Tensors:
    """The blocks of the value's hessians, row by row, of shape (y.shape + x.shape + z.shape)."""
    with torch.enable_grad():
        wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: subject.differentiated])
        y = subject.forward(*wrt, *inputs[subject.differentiated :])
        each = [_hessian_of_one(one, wrt) for one in y.reshape(-1)]
    return tuple(torch.stack(b).reshape(y.shape + b[0].shape) for b in zip(*each))


def _hessian_of_one(y: Tensor, wrt: Tensors) -> Tensors:
    blocks: list[Tensor] = []
    grads: Tensors = tuple(torch.zeros_like(x) for x in wrt)
    if y.requires_grad:
        grads = _filled(torch.autograd.grad(y, wrt, create_graph=True, allow_unused=True), wrt)
    for g in grads:
        if not g.requires_grad:
            blocks += (g.new_zeros(g.shape + x.shape) for x in wrt)
            continue
        seeds = torch.eye(g.numel(), dtype=g.dtype).reshape(-1, *g.shape)
        pulled = [
            _filled(torch.autograd.grad(g, wrt, seed, retain_graph=True, allow_unused=True), wrt)
            for seed in seeds
        ]
        blocks += (torch.stack(c).reshape(g.shape + x.shape) for c, x in zip(zip(*pulled), wrt))
    return tuple(b.detach() for b in blocks)


def rows(subject: Subject, *inputs: Tensor) -> tuple[Tensor, Tensors]:
    """The value y, and dense jacobian blocks of shape (y.numel(), x.numel()), by reverse mode.

    Rounding apart they are exact where every backward formula is right.
    """
    if subject.manner.forward_only:
        return _columns(subject, *inputs)
    with torch.enable_grad():
        wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: subject.differentiated])
        y = subject.forward(*wrt, *inputs[subject.differentiated :])
        blocks = tuple(x.new_zeros(y.numel(), x.numel()) for x in wrt)
        if not y.requires_grad:
            return y, blocks
        seeds = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
        try:
            # Far faster than one by one, where vmap can.
            pulled: Any = torch.autograd.grad(
                y, wrt, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
        except RuntimeError:
            columns = zip(
                *(
                    torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
                    for seed in seeds
                )
            )
            pulled = [None if c[0] is None else torch.stack(c) for c in columns]
        blocks = tuple(
            block if g is None else g.reshape(block.shape) for g, block in zip(pulled, blocks)
        )
    return y.detach(), tuple(block.detach() for block in blocks)


def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    """The gradients, with zeros for an input that the value does not depend on."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, like))


def _agrees(product: Tensors, wanted: Tensors) -> bool:
    """Whether a structure explains what a random seed pulls back."""
    return all(
        bool(((p - w).abs() <= AGREEMENT * w.abs().max()).all()) for p, w in zip(product, wanted)
    )


def formulas(subject: Subject) -> dict[str, Formula]:
    """The reference derivative of each operator."""

    def jacobian(*inputs: Tensor) -> Tensors:
        y, blocks = rows(subject, *inputs)
        return tuple(b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))

    # The next two take few passes where a random seed shows that the structure holds here too.
    def diagonal(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        slopes = pullback(subject, torch.ones_like(y), *inputs)
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        if _agrees(tuple(d * v for d in slopes), pullback(subject, v, *inputs)):
            return slopes
        return tuple(
            b.diagonal().reshape(x.shape) for b, x in zip(rows(subject, *inputs)[1], inputs)
        )

    def batch_jacobian(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        samples = y[0].numel()
        seeds = torch.eye(samples, dtype=y.dtype).reshape(samples, 1, *y.shape[1:])
        pulled = [pullback(subject, seed.expand_as(y), *inputs) for seed in seeds]
        columns = zip(*pulled)
        own_blocks = tuple(torch.stack(c, 1).reshape(y.shape + c[0].shape[1:]) for c in columns)
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        seeded = v.reshape(len(y), samples, 1)
        product = tuple(
            (b.reshape(len(y), samples, -1) * seeded).sum(1).reshape(x.shape)
            for b, x in zip(own_blocks, inputs)
        )
        if _agrees(product, pullback(subject, v, *inputs)):
            return own_blocks
        y, blocks = rows(subject, *inputs)
        dense = (b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))
        return tuple(d.diagonal(0, 0, y.dim()).movedim(-1, 0) for d in dense)

    def vjp(v: Tensor, *inputs: Tensor) -> Tensors:
        return pullback(subject, v, *inputs)

    def hvp(t: Tensors, *inputs: Tensor) -> Tensors:
        return hessian_product(subject, t, *inputs)

    def jvp(t: Tensors, *inputs: Tensor) -> Tensor:
        y, blocks = rows(subject, *inputs)
        parts = [b @ s.reshape(-1) for b, s in zip(blocks, t)]
        return torch.stack(parts).sum(0).reshape(y.shape)

    return {
        "gradient": jacobian,
        "jacobian": jacobian,
        "diagonal": diagonal,
        "batch_jacobian": batch_jacobian,
        "vjp": vjp,
        "jvp": jvp,
        "hessian": functools.partial(hessian, subject),
        "hvp": hvp,
    }
