"""One value copied to k outputs, whose pullback adds up the k seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import Function, normal, scalar, vector


def _template(k: int) -> Tensor:
    """A constant of length k; only its length counts."""
    return torch.ones(k, dtype=torch.float64)


def fan_out_square(x: Tensor, copies: Tensor) -> Tensor:
    return torch.stack([x**2 for _ in range(len(copies))])


registry.function(
    Function(
        name="fan_out_square",
        document="V",
        formula="(x², …, x²), k copies",
        derivative="(2x, …, 2x)ᵀ",
        forward=fan_out_square,
        example=lambda: (scalar(1), _template(4)),
        example_size={"k": 4},
        draw=lambda size, generator: (normal(generator), _template(size["k"])),
        derivatives={
            "jacobian": lambda x, copies: (2 * x).expand_as(copies),
            "vjp": lambda v, x, copies: 2 * x * v.sum(),
            "vjp_sum": lambda seeds, x, copies: 2 * x * seeds.sum(),
            "jvp": lambda t, x, copies: (2 * x * t[0]).expand_as(copies),
        },
        inputs=("x", "copies"),
        constants=("copies",),
        sizes=({"k": 16}, {"k": 256}),
    )
)


def fan_out_sum(x: Tensor, copies: Tensor) -> Tensor:
    return torch.stack([x.sum() for _ in range(len(copies))])


registry.function(
    Function(
        name="fan_out_sum",
        document="V",
        formula="(Σᵢ xᵢ, …, Σᵢ xᵢ), k copies",
        derivative="k rows of ones",
        forward=fan_out_sum,
        example=lambda: (vector(1, 2), _template(4)),
        example_size={"k": 4, "n": 2},
        draw=lambda size, generator: (normal(generator, size["n"]), _template(size["k"])),
        derivatives={
            "jacobian": lambda x, copies: x.new_ones(()).expand(len(copies), len(x)),
            "vjp": lambda v, x, copies: v.sum().expand_as(x),
            "vjp_sum": lambda seeds, x, copies: seeds.sum().expand_as(x),
            "jvp": lambda t, x, copies: t[0].sum().expand_as(copies),
        },
        inputs=("x", "copies"),
        constants=("copies",),
        sizes=({"k": 16, "n": 64}, {"k": 256, "n": 64}),
    )
)
