"""Elementwise maps: R^n → R^n, with a diagonal jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import (
    Function,
    elementwise,
    normal,
    uniform,
    vector,
    with_accumulation,
)

# A dense jacobian at the large size takes 16 GiB in float32 and is refused with less memory.
SIZES = ({"n": 64}, {"n": 1024})
LARGE_SIZES = ({"n": 65536},)


registry.function(
    Function(
        name="exp",
        document="G",
        formula="exp(xᵢ)",
        derivative="diag exp(x)",
        forward=torch.exp,
        example=lambda: (vector(1, 2, 3, 4),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=elementwise(torch.exp),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="log",
        document="G",
        formula="log xᵢ",
        derivative="diag 1/x",
        forward=torch.log,
        example=lambda: (vector(1, 2, 3, 4),),
        example_size={"n": 4},
        draw=lambda size, generator: (uniform(generator, size["n"], low=0.5, high=4),),
        derivatives=elementwise(torch.reciprocal),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="shifted_square",
        document="A",
        formula="3(xᵢ + 2)²",
        derivative="diag 6(x + 2)",
        forward=lambda x: 3 * (x + 2) ** 2,
        example=lambda: (vector(1, 1, 1, 1),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=with_accumulation(elementwise(lambda x: 6 * (x + 2))),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="three_x_squared",
        document="V",
        formula="3xᵢ²",
        derivative="diag 6x",
        forward=lambda x: 3 * x**2,
        example=lambda: (vector(1, 2),),
        example_size={"n": 2},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=elementwise(lambda x: 6 * x),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="sine",
        document="V",
        formula="sin xᵢ",
        derivative="diag cos(x)",
        forward=torch.sin,
        # The source notebook plots it and names no points: a grid over one period.
        example=lambda: (torch.linspace(-torch.pi, torch.pi, 9, dtype=torch.float64),),
        example_size={"n": 9},
        draw=lambda size, generator: (uniform(generator, size["n"], low=-4, high=4),),
        derivatives=elementwise(torch.cos),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)


def log_sin_reciprocal(x: Tensor) -> Tensor:
    return torch.log(x**2) * torch.sin(x) + 1 / x


def _log_sin_reciprocal_slope(x: Tensor) -> Tensor:
    r = 1 / x
    return 2 * r * torch.sin(x) + torch.log(x**2) * torch.cos(x) - r**2


def _away_from_zero(generator: torch.Generator, n: int) -> Tensor:
    """Uniform draws on [-3, -0.5) and [0.5, 3)."""
    size = uniform(generator, n, low=0.5, high=3)
    return size * uniform(generator, n).sign()


registry.function(
    Function(
        name="log_sin_reciprocal",
        document="V",
        formula="log(xᵢ²) sin xᵢ + 1/xᵢ",
        derivative="diag (2/x) sin x + log(x²) cos x − 1/x²",
        forward=log_sin_reciprocal,
        # The source notebook plots it and names no points: a few on either side of the pole.
        example=lambda: (vector(-3, -2, -1, -0.5, 0.5, 1, 2, 3),),
        example_size={"n": 8},
        draw=lambda size, generator: (_away_from_zero(generator, size["n"]),),
        derivatives=elementwise(_log_sin_reciprocal_slope),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)
