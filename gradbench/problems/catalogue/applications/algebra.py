"""Linear algebra: the logarithm of a determinant."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems.catalogue.applications.declaring import declare
from gradbench.problems.function import Tensors, normal, scalar_valued

# log |det A|, with the derivative of K. B. Petersen, M. S. Pedersen, The Matrix Cookbook (2012),
# equations 57 and 60. GradBench expands the determinant itself by minors, which no program would.
# By the factors, not by `slogdet`: jacrev of its jacfwd is zero in torch 2.13, without an error.


def log_determinant(A: Tensor) -> Tensor:
    factors: Tensor = torch.linalg.lu_factor(A).LU
    return torch.log(factors.diagonal().abs()).sum()


def _gradient(A: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(A)
    return inverse.T


def _hessian(A: Tensor) -> Tensor:
    inverse = torch.linalg.inv(A)
    return -torch.einsum("jk,li->ijkl", inverse, inverse)


def _hvp(t: Tensors, A: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(A)
    return -(inverse @ t[0] @ inverse).T


def _draw(size: Size, generator: torch.Generator) -> Tensors:
    n = size["n"]
    return (normal(generator, n, n) / n**0.5 + 1.5 * torch.eye(n, dtype=torch.float64),)


declare(
    "log_determinant",
    formula="log |det A|, A (n, n)",
    derivative="A⁻ᵀ; hessian −(A⁻¹)ⱼₖ(A⁻¹)ₗᵢ at ij, kl",
    forward=log_determinant,
    draw=_draw,
    derivatives={
        **scalar_valued(_gradient, hessian=_hessian, hvp=_hvp),
        "hessian_diagonal": lambda A: -(_gradient(A) ** 2),
    },
    inputs=("A",),
    example={"n": 3},
    sizes=({"n": 8}, {"n": 24}),
    large_sizes=({"n": 512},),
)
