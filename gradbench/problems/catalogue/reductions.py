"""Sums and means: R^n → R."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, normal, vector, with_accumulation


def _ones(x: Tensor) -> Tensor:
    """A one per entry of x, which share one number in memory."""
    return x.new_ones(()).expand_as(x)


_SUM: dict[str, Formula] = {
    "gradient": _ones,
    "vjp": lambda v, x: v.expand_as(x),
    "jvp": lambda t, x: t[0].sum(),
}

registry.function(
    Function(
        name="sum",
        document="G",
        formula="Σᵢ xᵢ",
        derivative="1",
        forward=torch.sum,
        example=lambda: (vector(1, 2, 3, 4),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=_SUM,
        sizes=({"n": 1024},),
        large_sizes=({"n": 1048576},),
    )
)

registry.function(
    Function(
        name="mean",
        document="G",
        formula="(1/n) Σᵢ xᵢ",
        derivative="1/n",
        forward=torch.mean,
        example=lambda: (vector(1, 2, 3, 4),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives={
            "gradient": lambda x: x.new_full((), 1 / len(x)).expand_as(x),
            "vjp": lambda v, x: (v / len(x)).expand_as(x),
            "jvp": lambda t, x: t[0].mean(),
        },
        sizes=({"n": 1024},),
        large_sizes=({"n": 1048576},),
    )
)


def builtin_sum(x: Tensor) -> Tensor:
    """The sum by Python's `sum`: one addition and one graph node per entry."""
    return cast(Tensor, sum(x))


registry.function(
    Function(
        name="builtin_sum",
        document="V",
        formula="((0 + x₁) + x₂) + … + xₙ, by Python's sum(x)",
        derivative="1",
        forward=builtin_sum,
        example=lambda: (vector(1, 2),),
        example_size={"n": 2},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=with_accumulation(_SUM),
        sizes=({"n": 64},),
        large_sizes=({"n": 1024},),
    )
)
