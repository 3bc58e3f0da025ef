"""Batch normalisation, differentiated through the mean and the variance of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems import registry
from gradbench.problems.function import Function, Tensors, normal, uniform

EPS = 1e-5


def batch_norm(X: Tensor, gamma: Tensor, beta: Tensor, C: Tensor) -> Tensor:
    """A weighted sum of the normalised batch; for a plain sum, dX would be zero."""
    centred = X - X.mean(0)
    variance = (centred**2).mean(0)
    normalised = centred / torch.sqrt(variance + EPS)
    return (C * (gamma * normalised + beta)).sum()


def _normalise(X: Tensor) -> Tensors:
    """x̂ and 1/√(σ² + ε)."""
    centred = X - X.mean(0)
    scale = torch.rsqrt((centred**2).mean(0) + EPS)
    return centred * scale, scale


def _gradient(X: Tensor, gamma: Tensor, beta: Tensor, C: Tensor) -> Tensors:
    normalised, scale = _normalise(X)
    d_beta = C.sum(0)
    d_gamma = (C * normalised).sum(0)
    # The mean removes the mean of C, the variance the part of C along x̂.
    dX = gamma * scale * (C - d_beta / len(X) - normalised * (d_gamma / len(X)))
    return dX, d_gamma, d_beta


def _vjp(v: Tensor, X: Tensor, gamma: Tensor, beta: Tensor, C: Tensor) -> Tensors:
    return _gradient(X, gamma, beta, v * C)  # the loss is linear in C


def _jvp(t: Tensors, X: Tensor, gamma: Tensor, beta: Tensor, C: Tensor) -> Tensor:
    dX, d_gamma, d_beta = t
    normalised, scale = _normalise(X)
    moved = scale * (dX - dX.mean(0) - normalised * (normalised * dX).mean(0))
    return (C * (d_gamma * normalised + gamma * moved + d_beta)).sum()


def _draw(size: Size, generator: torch.Generator) -> Tensors:
    N, d = size["N"], size["d"]
    return (
        normal(generator, N, d),
        uniform(generator, d, low=0.5, high=1.5),
        normal(generator, d),
        normal(generator, N, d),
    )


registry.function(
    Function(
        name="batch_norm",
        document="S",
        formula="Σᵢⱼ Cᵢⱼ (γⱼ x̂ᵢⱼ + βⱼ), x̂ = (X − μ)/√(σ² + ε), μ and σ² over the batch, C constant",
        derivative="dβ = Σᵢ Cᵢ, dγ = Σᵢ Cᵢ∘x̂ᵢ, dX = γ/√(σ² + ε) ∘ (C − dβ/N − x̂∘dγ/N)",
        forward=batch_norm,
        # The source notebook names only the layer: a batch of eight samples of three features.
        example=lambda: _draw({"N": 8, "d": 3}, torch.Generator().manual_seed(0)),
        example_size={"N": 8, "d": 3},
        draw=_draw,
        derivatives={"gradient": _gradient, "vjp": _vjp, "jvp": _jvp},
        inputs=("X", "gamma", "beta", "C"),
        constants=("C",),
        sizes=({"N": 64, "d": 32},),
        large_sizes=({"N": 1024, "d": 256},),
    )
)
