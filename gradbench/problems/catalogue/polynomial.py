"""A polynomial map R² → R³, stacked and written in place."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import Function, Tensors, normal, vector, vector_valued


def polynomial_map(x: Tensor) -> Tensor:
    return torch.stack((3 * x[0] ** 2, x[0] ** 2 + 2 * x[1] ** 3, 10 * x[1]))


def polynomial_map_in_place(x: Tensor) -> Tensor:
    y = x.new_empty(3)
    y[0] = 3 * x[0] ** 2
    y[1] = x[0] ** 2 + 2 * x[1] ** 3
    y[2] = 10 * x[1]
    return y


def _jacobian(x: Tensor) -> Tensor:
    x1, x2 = x[0], x[1]
    zero, ten = x.new_zeros(()), x.new_full((), 10)
    return torch.stack((6 * x1, zero, 2 * x1, 6 * x2**2, zero, ten)).view(3, 2)


def _vjp(v: Tensor, x: Tensor) -> Tensor:
    x1, x2 = x[0], x[1]
    v1, v2, v3 = v[0], v[1], v[2]
    return torch.stack(((6 * v1 + 2 * v2) * x1, 6 * x2**2 * v2 + 10 * v3))


def _jvp(t: Tensors, x: Tensor) -> Tensor:
    x1, x2 = x[0], x[1]
    t1, t2 = t[0][0], t[0][1]
    s = x1 * t1
    return torch.stack((6 * s, 2 * s + 6 * x2**2 * t2, 10 * t2))


for name, how, forward in (
    ("polynomial_map", "stacked", polynomial_map),
    (
        "polynomial_map_in_place",
        "each written in place into an empty vector",
        polynomial_map_in_place,
    ),
):
    registry.function(
        Function(
            name=name,
            document="V",
            formula=f"(3x₁², x₁² + 2x₂³, 10x₂), {how}",
            derivative="[[6x₁, 0], [2x₁, 6x₂²], [0, 10]]",
            forward=forward,
            example=lambda: (vector(1, 2),),
            example_size={},
            draw=lambda size, generator: (normal(generator, 2),),
            derivatives=vector_valued(jacobian=_jacobian, vjp=_vjp, jvp=_jvp),
        )
    )
