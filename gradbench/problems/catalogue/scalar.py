"""Functions of scalars."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, normal, scalar, with_accumulation


def _of_one_number(slope: Formula) -> dict[str, Formula]:
    """The derivatives of R → R from f′."""
    return {
        "derivative": slope,
        "vjp": lambda v, *inputs: v * slope(*inputs),
        "jvp": lambda t, *inputs: slope(*inputs) * t[0],
    }


registry.function(
    Function(
        name="square",
        document="SV",
        formula="x²",
        derivative="2x",
        forward=lambda x: x**2,
        example=lambda: (scalar(1),),
        example_size={},
        draw=lambda size, generator: (normal(generator),),
        derivatives=with_accumulation(_of_one_number(lambda x: 2 * x)),
    )
)

registry.function(
    Function(
        name="residual",
        document="S",
        formula="c − x²",
        derivative="−2x",
        forward=lambda x, c: c - x**2,
        # The source notebook draws x at random; here it is that of squared_residual.
        example=lambda: (scalar(1), scalar(10)),
        example_size={},
        draw=lambda size, generator: (normal(generator), normal(generator)),
        derivatives=_of_one_number(lambda x, c: -2 * x),
        inputs=("x", "c"),
        constants=("c",),
    )
)


def _squared_residual_curvature(x: Tensor, c: Tensor) -> Tensor:
    return 12 * x**2 - 4 * c


registry.function(
    Function(
        name="squared_residual",
        document="S",
        formula="(x² − c)²",
        derivative="4x(x² − c)",
        forward=lambda x, c: (x**2 - c) ** 2,
        example=lambda: (scalar(1), scalar(10)),
        example_size={},
        draw=lambda size, generator: (normal(generator), normal(generator)),
        derivatives=_of_one_number(lambda x, c: 4 * x * (x**2 - c))
        | {
            "hessian": _squared_residual_curvature,
            "hvp": lambda t, x, c: _squared_residual_curvature(x, c) * t[0],
        },
        inputs=("x", "c"),
        constants=("c",),
    )
)

registry.function(
    Function(
        name="scalar_affine",
        document="S",
        formula="wx + b",
        derivative="∂/∂w = x, ∂/∂x = w, ∂/∂b = 1",
        forward=lambda w, x, b: w * x + b,
        example=lambda: (scalar(5), scalar(2.5), scalar(4)),
        example_size={},
        draw=lambda size, generator: (normal(generator), normal(generator), normal(generator)),
        derivatives={
            "gradient": lambda w, x, b: (x, w, torch.ones_like(b)),
            "vjp": lambda v, w, x, b: (v * x, v * w, v),
            "jvp": lambda t, w, x, b: t[0] * x + w * t[1] + t[2],
        },
        inputs=("w", "x", "b"),
    )
)
