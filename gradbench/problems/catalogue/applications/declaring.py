"""What the declarations of the family have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.core.families import APPLICATIONS
from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, Tensors

SEED = 0
"""Of the example inputs, which are drawn as all others are."""


def declare(
    name: str,
    *,
    formula: str,
    derivative: str,
    forward: Formula,
    draw: Formula,
    derivatives: dict[str, Formula],
    inputs: tuple[str, ...],
    example: Size,
    sizes: tuple[Size, ...],
    large_sizes: tuple[Size, ...] = (),
    constants: tuple[str, ...] = (),
    dtype: str = "float64",
    products: dict[str, tuple[Formula, Formula]] | None = None,
    steps: Formula | None = None,
) -> None:
    """Registers a function of the family. Its example inputs are drawn, at the size `example`.

    Large results of jacobian and hessian are checked by `products`; by default by those of the
    formulas of jvp, vjp and hvp, where there are all that takes.
    """
    registry.function(
        Function(
            name=name,
            document="",
            family=APPLICATIONS,
            formula=formula,
            derivative=derivative,
            forward=forward,
            example=lambda: draw(example, torch.Generator().manual_seed(SEED)),
            example_size=example,
            draw=draw,
            derivatives=derivatives,
            products=products or _products(derivatives),
            steps=steps,
            inputs=inputs + constants,
            constants=constants,
            dtype=dtype,
            sizes=sizes,
            large_sizes=large_sizes,
        )
    )


def with_gauss_newton(derivatives: dict[str, Formula]) -> dict[str, Formula]:
    """The derivatives of residuals, and JᵀJt, which least squares need."""
    jvp, vjp = derivatives["jvp"], derivatives["vjp"]
    return derivatives | {"gauss_newton_product": lambda t, *inputs: vjp(jvp(t, *inputs), *inputs)}


def _products(derivatives: dict[str, Formula]) -> dict[str, tuple[Formula, Formula]]:
    found = {}
    if {"jacobian", "jvp", "vjp"} <= derivatives.keys():
        jvp, vjp = derivatives["jvp"], derivatives["vjp"]
        found["jacobian"] = (
            lambda tangents, *inputs: _tuple(jvp(tangents, *inputs)),
            lambda seeds, *inputs: _tuple(vjp(seeds[0], *inputs)),
        )
    if {"hessian", "hvp"} <= derivatives.keys():
        hvp = derivatives["hvp"]

        def both(vectors: Tensors, *inputs: Tensor) -> Tensors:
            return _tuple(hvp(vectors, *inputs))

        found["hessian"] = (both, both)
    return found


def _tuple(value: Tensor | Tensors) -> Tensors:
    return value if isinstance(value, tuple) else (value,)
