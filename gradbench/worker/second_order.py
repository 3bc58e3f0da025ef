"""The reference for second derivatives of a user's function that are less than its hessian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradbench.problems.function import Formula, Tensors
from gradbench.worker.reference import (
    Trust,
    agrees,
    gradients,
    hessian_product,
    pullback,
    random_seed,
    row_batches,
    units,
)
from gradbench.worker.urgency import require_time

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject


def formulas(subject: Subject) -> dict[str, Formula]:
    """The reference derivative of each operator: of one value, or of one for each sample."""
    made = _BySample(subject)
    return {
        "hessian_diagonal": made.diagonal,
        "laplacian": made.laplacian,
        "directional_second_derivative": made.along,
        "laplacian_estimate": made.estimate,
    }


def hessian_diagonal(subject: Subject, *inputs: Tensor, seed: Tensor, samples: int = 1) -> Tensors:
    """The diagonal, like the inputs, of the hessian of the values times the seed, added up.

    With `samples`, the hessian is taken to have no entries between those of the inputs, so that a
    pass serves a column of each.
    """
    with torch.enable_grad():
        wrt, grads = gradients(subject, seed, *inputs)
        return tuple(_own_entries(g, x, samples) for g, x in zip(grads, wrt))


def _own_entries(g: Tensor, x: Tensor, samples: int) -> Tensor:
    """Of a gradient by x, the derivative of each number by the number of x in its place."""
    own = x.detach().new_zeros(samples, x.numel() // samples)
    for start, end, (pulled,) in row_batches(g, (x,), samples):
        parts = pulled.detach().reshape(end - start, samples, -1)[:, :, start:end]
        own[:, start:end] = parts.diagonal(0, 0, 2)
    return own.reshape(x.shape)


class _BySample:
    """Second derivatives of one value, or of one value for each sample of a batch.

    All samples share few passes where a random seed shows that they do not depend on each other
    here; else each value takes passes of its own.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.trust = Trust()

    def diagonal(self, *inputs: Tensor) -> Tensors:
        seeds, samples = self._seeds(inputs)
        if len(seeds) == 1:
            return hessian_diagonal(self.subject, *inputs, seed=seeds[0], samples=samples)
        own = tuple(torch.zeros_like(x) for x in inputs[: self.subject.differentiated])
        for i, seed in enumerate(seeds):
            require_time()
            for block, d in zip(own, hessian_diagonal(self.subject, *inputs, seed=seed)):
                block[i] = d[i]
        return own

    def laplacian(self, *inputs: Tensor) -> Tensor:
        return self._added_up(self.diagonal(*inputs), inputs)

    def estimate(self, signs: Tensors, *inputs: Tensor) -> Tensor:
        return torch.stack([self.along(sign, *inputs) for sign in zip(*signs)]).mean(0)

    def along(self, t: Tensors, *inputs: Tensor) -> Tensor:
        seeds, _ = self._seeds(inputs)
        if len(seeds) == 1:
            products = hessian_product(self.subject, t, *inputs, seed=seeds[0])
            return self._added_up(tuple(p * s for p, s in zip(products, t)), inputs)
        own = tuple(torch.zeros_like(s) for s in t)
        for i, seed in enumerate(seeds):
            require_time()
            tangents = tuple(torch.zeros_like(s) for s in t)
            for tangent, s in zip(tangents, t):
                tangent[i] = s[i]
            products = hessian_product(self.subject, tangents, *inputs, seed=seed)
            for block, p, s in zip(own, products, t):
                block[i] = p[i] * s[i]
        return self._added_up(own, inputs)

    def _added_up(self, blocks: Tensors, inputs: Sequence[Tensor]) -> Tensor:
        """The sum of the numbers of each sample, in the shape of the value."""
        shape = self.subject.forward(*inputs).shape
        samples = shape[0] if shape else 1
        return torch.stack([b.reshape(samples, -1).sum(1) for b in blocks]).sum(0).reshape(shape)

    def _seeds(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """The seeds of the value that passes are made for, and how many samples share a pass."""
        y = self.subject.forward(*inputs)
        ones, v = torch.ones_like(y), random_seed(y)
        if not y.dim():
            return [ones], 1
        if self.trust.agrees("samples", lambda: self._independent(ones, v, inputs)):
            return [ones], len(y)
        return list(units(0, y.numel(), y)), 1

    def _independent(self, ones: Tensor, v: Tensor, inputs: Sequence[Tensor]) -> bool:
        weights = v.reshape(len(v), -1)
        scaled = tuple(
            (g.reshape(len(v), -1) * weights).reshape(g.shape)
            for g in pullback(self.subject, ones, *inputs)
        )
        return agrees(scaled, pullback(self.subject, v, *inputs))
