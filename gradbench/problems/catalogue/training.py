"""The loss of a small network, and one step of gradient descent on it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.core.cases import Size
from gradbench.core.operators import LEARNING_RATE
from gradbench.problems import registry
from gradbench.problems.function import Function, Tensors, normal


def mlp_mse(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    hidden = torch.tanh(functional.linear(X, W1, b1))
    return functional.mse_loss(functional.linear(hidden, W2, b2), Y)


def _backward(
    seed: Tensor | float,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    X: Tensor,
    Y: Tensor,
) -> Tensors:
    """The pullback of the loss, with P = H W2ᵀ + b2 and H = tanh(X W1ᵀ + b1)."""
    H = torch.tanh(functional.linear(X, W1, b1))
    P = functional.linear(H, W2, b2)
    dP = (seed * (2 / P.numel())) * (P - Y)
    dA = (dP @ W2) * (1 - H * H)
    return dA.T @ X, dA.sum(0), dP.T @ H, dP.sum(0)


def _gradient(*inputs: Tensor) -> Tensors:
    return _backward(1.0, *inputs)


def _jvp(
    t: Tensors, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor
) -> Tensor:
    dW1, db1, dW2, db2 = t
    H = torch.tanh(functional.linear(X, W1, b1))
    P = functional.linear(H, W2, b2)
    dH = (1 - H * H) * functional.linear(X, dW1, db1)
    dP = functional.linear(dH, W2) + functional.linear(H, dW2, db2)
    return (2 / P.numel()) * ((P - Y) * dP).sum()


def _step(*inputs: Tensor) -> Tensors:
    return tuple(p - LEARNING_RATE * g for p, g in zip(inputs, _gradient(*inputs)))


def _draw(size: Size, generator: torch.Generator) -> Tensors:
    N, d, h, k = size["N"], size["d"], size["h"], size["k"]
    return (
        normal(generator, h, d) / d**0.5,
        normal(generator, h),
        normal(generator, k, h) / h**0.5,
        normal(generator, k),
        normal(generator, N, d),
        normal(generator, N, k),
    )


registry.function(
    Function(
        name="mlp_mse",
        document="B",
        formula="mean (P − Y)², P = H W₂ᵀ + b₂, H = tanh(X W₁ᵀ + b₁), X and Y constant",
        derivative="dP = 2(P − Y)/(Nk); dW₂ = dPᵀH, db₂ = dPᵀ1; dA = (dP W₂)∘(1 − H∘H); "
        "dW₁ = dAᵀX, db₁ = dAᵀ1",
        forward=mlp_mse,
        # The source notebook names no model: eight samples of three numbers, four hidden units.
        example=lambda: _draw({"N": 8, "d": 3, "h": 4, "k": 2}, torch.Generator().manual_seed(0)),
        example_size={"N": 8, "d": 3, "h": 4, "k": 2},
        draw=_draw,
        derivatives={
            "gradient": _gradient,
            "vjp": _backward,
            "jvp": _jvp,
            "training_step": _step,
        },
        inputs=("W1", "b1", "W2", "b2", "X", "Y"),
        constants=("X", "Y"),
        sizes=({"N": 64, "d": 16, "h": 64, "k": 8},),
        large_sizes=({"N": 1024, "d": 256, "h": 1024, "k": 64},),
    )
)
