"""Quadratic forms: R^n → R, with a constant diagonal hessian."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import (
    Function,
    normal,
    scalar_valued,
    uniform,
    vector,
    with_accumulation,
)


def sum_of_squares(x: Tensor) -> Tensor:
    """The sum by Python's `sum`: one addition and one graph node per entry."""
    return cast(Tensor, sum(x**2))


registry.function(
    Function(
        name="sum_of_squares",
        document="S",
        formula="((0 + x₁²) + x₂²) + … + xₙ², by Python's sum(x**2)",
        derivative="2x; hessian 2I",
        forward=sum_of_squares,
        example=lambda: (vector(1, 5, 6),),
        example_size={"n": 3},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=scalar_valued(
            lambda x: 2 * x,
            hessian=lambda x: torch.diag(torch.full_like(x, 2)),
            hvp=lambda t, x: 2 * t[0],
        )
        | {"jvp": lambda t, x: 2 * torch.dot(x, t[0])},
        sizes=({"n": 64},),
        large_sizes=({"n": 1024},),
    )
)

registry.function(
    Function(
        name="twice_dot",
        document="V",
        formula="2 xᵀx",
        derivative="4x; hessian 4I",
        forward=lambda x: 2 * torch.dot(x, x),
        example=lambda: (vector(0, 1, 2, 3),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=scalar_valued(
            lambda x: 4 * x,
            hessian=lambda x: torch.diag(torch.full_like(x, 4)),
            hvp=lambda t, x: 4 * t[0],
        )
        | {"jvp": lambda t, x: 4 * torch.dot(x, t[0])},
        sizes=({"n": 64}, {"n": 1024}),
        large_sizes=({"n": 1048576},),
    )
)

registry.function(
    Function(
        name="weighted_quadratic",
        document="A",
        formula="3 xᵀ(w + 2)∘², x constant",
        derivative="6x∘(w + 2); hessian diag 6x",
        forward=lambda w, x: 3 * torch.dot(x, (w + 2) ** 2),
        example=lambda: (vector(1, 1, 1), vector(0.5, 0.5, 0.5)),
        example_size={"n": 3},
        draw=lambda size, generator: (
            normal(generator, size["n"]),
            uniform(generator, size["n"], low=0.5, high=1.5),
        ),
        derivatives=with_accumulation(
            scalar_valued(
                lambda w, x: 6 * x * (w + 2),
                hessian=lambda w, x: torch.diag(6 * x),
                hvp=lambda t, w, x: 6 * x * t[0],
            )
            | {"jvp": lambda t, w, x: 6 * torch.dot(x * (w + 2), t[0])},
        ),
        inputs=("w", "x"),
        constants=("x",),
        sizes=({"n": 64}, {"n": 1024}),
        large_sizes=({"n": 1048576},),
    )
)
