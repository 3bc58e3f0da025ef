"""Functions with data-dependent branches, linear on each branch."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.function import Function, scalar, uniform, vector, vector_valued

BOUND = 1000


def norm_doubling(a: Tensor) -> Tensor:
    b = 2 * a
    while b.norm() < BOUND:
        b = 2 * b
    return b if b.sum() > 0 else 100 * b


def _factor(a: Tensor) -> float:
    """c of f(a) = c·a, from the branches that the norm takes.

    Doubling is exact in floating point, so the doubled vector has the doubled norm. The quotient
    f(a)/a would be undefined for zero entries.
    """
    norm, factor = 2 * a.norm().item(), 2.0
    while norm < BOUND:
        norm, factor = 2 * norm, 2 * factor
    return factor if a.sum().item() > 0 else 100 * factor


def _away_from_zero(generator: torch.Generator, *shape: int) -> Tensor:
    """Random entries whose norm needs a bounded number of doublings to reach the bound."""
    return uniform(generator, *shape, low=0.1, high=2) * uniform(generator, *shape).sign()


registry.function(
    Function(
        name="norm_doubling",
        document="V",
        formula="b = 2a, doubled while |b| < 1000; then b if b > 0, else 100b",
        derivative="f(a)/a, a power of two, or 100 times one",
        forward=norm_doubling,
        example=lambda: (scalar(-0.4315),),
        example_size={},
        draw=lambda size, generator: (_away_from_zero(generator),),
        derivatives={
            "derivative": lambda a: a.new_full((), _factor(a)),
            "vjp": lambda v, a: v * _factor(a),
            "jvp": lambda t, a: _factor(a) * t[0],
        },
        inputs=("a",),
    )
)

registry.function(
    Function(
        name="norm_doubling_vector",
        document="V",
        formula="b = 2a, doubled while ‖b‖ < 1000; then b if Σᵢ bᵢ > 0, else 100b",
        derivative="cI, c a power of two, or 100 times one",
        forward=norm_doubling,
        # The source notebook runs a single number and defines the function for vectors too.
        example=lambda: (vector(-0.4315, 0.25, 1),),
        example_size={"n": 3},
        draw=lambda size, generator: (_away_from_zero(generator, size["n"]),),
        derivatives=vector_valued(
            jacobian=lambda a: torch.diag(torch.full_like(a, _factor(a))),
            vjp=lambda v, a: v * _factor(a),
            jvp=lambda t, a: _factor(a) * t[0],
        ),
        inputs=("a",),
        sizes=({"n": 64},),
        large_sizes=({"n": 1024},),
    )
)
