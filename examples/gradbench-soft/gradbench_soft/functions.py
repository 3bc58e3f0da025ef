"""A smooth way to keep numbers between -1 and 1."""

import torch
from torch import Tensor

import gradbench
from gradbench.problems.function import elementwise, normal, vector


def slope(x: Tensor) -> Tensor:
    """The derivative of one number: (1 + x²)^(-3/2)."""
    return (1 + x**2) ** -1.5


@gradbench.function(
    derivative="diag (1 + x²)^(-3/2)",
    example=lambda: (vector(-2, 0, 0.5, 3),),
    example_size={"n": 4},
    draw=lambda size, generator: (normal(generator, size["n"]),),
    derivatives=elementwise(slope),
    sizes=({"n": 64}, {"n": 1024}),
)
def soft_clip(x: Tensor) -> Tensor:
    """xᵢ / √(1 + xᵢ²)"""
    return x / torch.sqrt(1 + x**2)
