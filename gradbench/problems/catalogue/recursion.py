"""A linear recurrence, whose graph is as deep as the number of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems import registry
from gradbench.problems.function import Function, Tensors, scalar, uniform


def recurrence(w: Tensor, h: Tensor, steps: Tensor) -> Tensor:
    """The last of T states; T is the length of `steps`."""
    for _ in range(len(steps)):
        h = w * h
    return h


def _gradient(w: Tensor, h: Tensor, steps: Tensor) -> Tensors:
    T = len(steps)
    power = w ** (T - 1)
    return T * power * h, w * power


def _vjp(v: Tensor, w: Tensor, h: Tensor, steps: Tensor) -> Tensors:
    dw, dh = _gradient(w, h, steps)
    return v * dw, v * dh


def _jvp(t: Tensors, w: Tensor, h: Tensor, steps: Tensor) -> Tensor:
    dw, dh = _gradient(w, h, steps)
    return dw * t[0] + dh * t[1]


def _hessian(w: Tensor, h: Tensor, steps: Tensor) -> Tensors:
    T = len(steps)
    mixed = T * w ** (T - 1)
    # T = 1 is linear in w: the factor T − 1 is zero, and a negative power never arises.
    by_w_twice = T * (T - 1) * w ** max(T - 2, 0) * h
    return by_w_twice, mixed, mixed, torch.zeros_like(h)


def _hvp(t: Tensors, w: Tensor, h: Tensor, steps: Tensor) -> Tensors:
    by_w_twice, mixed, _, _ = _hessian(w, h, steps)
    return by_w_twice * t[0] + mixed * t[1], mixed * t[0]


def _draw(size: Size, generator: torch.Generator) -> Tensors:
    # |w − 1| ≤ 1/2T keeps w^T within e^(±1/2) or so at every depth, and T² w^T finite in float32.
    T = size["T"]
    w = uniform(generator, low=1 - 0.5 / T, high=1 + 0.5 / T)
    h = uniform(generator, low=0.5, high=1.5)
    return w, h, torch.ones(T, dtype=torch.float64)


registry.function(
    Function(
        name="recurrence",
        document="S",
        formula="h_T, with h_t = w·h_{t−1}",
        derivative="dw = T w^(T−1) h₀, dh₀ = w^T; "
        "hessian [[T(T−1) w^(T−2) h₀, T w^(T−1)], [T w^(T−1), 0]]",
        forward=recurrence,
        example=lambda: (scalar(2), scalar(0.5), torch.ones(2, dtype=torch.float64)),
        example_size={"T": 2},
        draw=_draw,
        derivatives={
            "gradient": _gradient,
            "vjp": _vjp,
            "jvp": _jvp,
            "hessian": _hessian,
            "hvp": _hvp,
        },
        inputs=("w", "h", "steps"),
        constants=("steps",),
        sizes=({"T": 10}, {"T": 100}),
        large_sizes=({"T": 1000},),
    )
)
