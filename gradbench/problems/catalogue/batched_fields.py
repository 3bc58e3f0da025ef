"""Scalar and vector fields on a batch of N points.

The last dimension has the coordinates, so the same function takes one point or a batch. Each field
also comes with its two coordinates as two inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, Tensors, uniform

SIZES = ({"N": 100}, {"N": 10000})
LARGE_SIZES = ({"N": 100000},)


def _draw_points(size: Size, generator: torch.Generator) -> Tensors:
    return (uniform(generator, size["N"], 2),)


def _draw_coordinates(size: Size, generator: torch.Generator) -> Tensors:
    return uniform(generator, size["N"]), uniform(generator, size["N"])


# The source notebook draws as many points from the same range without a seed.
def _example_points() -> Tensors:
    return _draw_points({"N": 1000}, torch.Generator().manual_seed(0))


def _example_coordinates() -> Tensors:
    return _draw_coordinates({"N": 1000}, torch.Generator().manual_seed(0))


# The scalar field f = x₁x₂ + sin(u), u = x₁x₂². Below, p and q are x₁ and x₂.


def _scalar_field(p: Tensor, q: Tensor) -> Tensor:
    return p * q + torch.sin(p * q**2)


def _scalar_slopes(p: Tensor, q: Tensor) -> Tensors:
    pq = p * q
    cos = torch.cos(pq * q)
    return q + q**2 * cos, p + 2 * pq * cos


def _scalar_curvatures(p: Tensor, q: Tensor) -> Tensors:
    """∂²f/∂x₁², ∂²f/∂x₁∂x₂ and ∂²f/∂x₂²."""
    pq, qq = p * q, q**2
    u = p * qq
    sin, cos = torch.sin(u), torch.cos(u)
    return -(qq**2) * sin, 1 + 2 * q * cos - 2 * pq * qq * sin, 2 * p * cos - 4 * pq**2 * sin


def _scalar_hessian(x: Tensor) -> Tensor:
    pp, pq, qq = _scalar_curvatures(x[..., 0], x[..., 1])
    return torch.stack((pp, pq, pq, qq), dim=-1).view(*x.shape, 2)


def _scalar_blocks(p: Tensor, q: Tensor) -> Tensors:
    pp, pq, qq = _scalar_curvatures(p, q)
    return pp, pq, pq, qq


# The vector field (x₁x₂, sin(x₁ + x₂²), x₁² − 3x₂).


def _vector_field(p: Tensor, q: Tensor) -> Tensor:
    return torch.stack((p * q, torch.sin(p + q**2), p**2 - 3 * q), dim=-1)


def _vector_jacobian(x: Tensor) -> Tensor:
    p, q = x[..., 0], x[..., 1]
    cos = torch.cos(p + q**2)
    rows = (q, p, cos, 2 * q * cos, 2 * p, torch.full_like(p, -3))
    return torch.stack(rows, dim=-1).view(*x.shape[:-1], 3, 2)


def _vector_columns(p: Tensor, q: Tensor) -> Tensors:
    cos = torch.cos(p + q**2)
    return (
        torch.stack((q, cos, 2 * p), dim=-1),
        torch.stack((p, 2 * q * cos, torch.full_like(q, -3)), dim=-1),
    )


def _vector_pull_back(v: Tensor, p: Tensor, q: Tensor) -> Tensors:
    v1, v2, v3 = v[..., 0], v[..., 1], v[..., 2]
    s = v2 * torch.cos(p + q**2)
    return v1 * q + s + 2 * v3 * p, v1 * p + 2 * q * s - 3 * v3


def _vector_push_forward(dp: Tensor, dq: Tensor, p: Tensor, q: Tensor) -> Tensor:
    second = torch.cos(p + q**2) * (dp + 2 * q * dq)
    return torch.stack((q * dp + p * dq, second, 2 * p * dp - 3 * dq), dim=-1)


def _scalar_pull_back(v: Tensor, p: Tensor, q: Tensor) -> Tensors:
    by_p, by_q = _scalar_slopes(p, q)
    return v * by_p, v * by_q


def _scalar_push_forward(dp: Tensor, dq: Tensor, p: Tensor, q: Tensor) -> Tensor:
    by_p, by_q = _scalar_slopes(p, q)
    return by_p * dp + by_q * dq


def _of_points(pull_back: Formula, push_forward: Formula) -> dict[str, Formula]:
    """vjp and jvp of a field of one input (N, 2), from formulas for its two coordinates."""
    return {
        "vjp": lambda v, x: torch.stack(pull_back(v, x[..., 0], x[..., 1]), dim=-1),
        "jvp": lambda t, x: push_forward(t[0][..., 0], t[0][..., 1], x[..., 0], x[..., 1]),
    }


def _of_coordinates(pull_back: Formula, push_forward: Formula) -> dict[str, Formula]:
    """vjp and jvp of a field of two inputs (N,)."""
    return {
        "vjp": pull_back,
        "jvp": lambda t, p, q: push_forward(t[0], t[1], p, q),
    }


registry.function(
    Function(
        name="batched_scalar_field",
        document="B",
        formula="x₁x₂ + sin(x₁x₂²) of each sample, x (N, 2)",
        derivative="(x₂ + x₂² cos(x₁x₂²), x₁ + 2x₁x₂ cos(x₁x₂²)); with u = x₁x₂², hessian "
        "[[−x₂⁴ sin u, h], [h, 2x₁ cos u − 4x₁²x₂² sin u]], h = 1 + 2x₂ cos u − 2x₁x₂³ sin u",
        forward=lambda x: _scalar_field(x[..., 0], x[..., 1]),
        example=_example_points,
        example_size={"N": 1000},
        draw=_draw_points,
        derivatives={
            "batch_jacobian": lambda x: torch.stack(_scalar_slopes(x[..., 0], x[..., 1]), dim=-1),
            "batch_hessian": _scalar_hessian,
            **_of_points(_scalar_pull_back, _scalar_push_forward),
        },
        dtype="float64",
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="batched_scalar_field_xy",
        document="B",
        formula="xy + sin(xy²) of each sample, x and y (N,)",
        derivative="∂/∂x = y + y² cos(xy²), ∂/∂y = x + 2xy cos(xy²); with u = xy², hessian "
        "[[−y⁴ sin u, h], [h, 2x cos u − 4x²y² sin u]], h = 1 + 2y cos u − 2xy³ sin u",
        forward=_scalar_field,
        example=_example_coordinates,
        example_size={"N": 1000},
        draw=_draw_coordinates,
        derivatives={
            "batch_jacobian": _scalar_slopes,
            "batch_hessian": _scalar_blocks,
            **_of_coordinates(_scalar_pull_back, _scalar_push_forward),
        },
        inputs=("x", "y"),
        dtype="float64",
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="batched_vector_field",
        document="B",
        formula="(x₁x₂, sin(x₁ + x₂²), x₁² − 3x₂) of each sample, x (N, 2)",
        derivative="[[x₂, x₁], [cos(x₁ + x₂²), 2x₂ cos(x₁ + x₂²)], [2x₁, −3]]",
        forward=lambda x: _vector_field(x[..., 0], x[..., 1]),
        example=_example_points,
        example_size={"N": 1000},
        draw=_draw_points,
        derivatives={
            "batch_jacobian": _vector_jacobian,
            **_of_points(_vector_pull_back, _vector_push_forward),
        },
        dtype="float64",
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="batched_vector_field_xy",
        document="B",
        formula="(xy, sin(x + y²), x² − 3y) of each sample, x and y (N,)",
        derivative="∂/∂x = (y, cos(x + y²), 2x), ∂/∂y = (x, 2y cos(x + y²), −3)",
        forward=_vector_field,
        example=_example_coordinates,
        example_size={"N": 1000},
        draw=_draw_coordinates,
        derivatives={
            "batch_jacobian": _vector_columns,
            **_of_coordinates(_vector_pull_back, _vector_push_forward),
        },
        inputs=("x", "y"),
        dtype="float64",
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)
