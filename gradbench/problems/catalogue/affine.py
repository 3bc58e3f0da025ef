"""The affine map z = Wx + b, losses of it, and softmax.

Every loss L of z = Wx + b is differentiated in two steps: dz = ∂L/∂z, and then back through the
affine map, dx = Wᵀdz, dW = dz xᵀ, db = dz.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.core.cases import Size
from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, Tensors, normal, vector, vector_valued

# One size is not square: with m = n a transposed W has the right shape.
SIZES = ({"m": 64, "n": 64}, {"m": 16, "n": 256})
LARGE_SIZES = ({"m": 256, "n": 256},)


def affine(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return W @ x + b


def _pull_back(dz: Tensor, x: Tensor, W: Tensor) -> Tensors:
    return W.T @ dz, torch.outer(dz, x), dz


def _push_forward(t: Tensors, x: Tensor, W: Tensor) -> Tensor:
    dx, dW, db = t
    return dW @ x + W @ dx + db


def _affine_jacobian(x: Tensor, W: Tensor, b: Tensor) -> Tensors:
    m, n = W.shape
    by_W = W.new_zeros(m, m, n)  # ∂zᵢ/∂Wⱼₖ = δᵢⱼ xₖ
    by_W.diagonal(dim1=0, dim2=1).copy_(x.unsqueeze(1))
    return W, by_W, torch.eye(m, dtype=b.dtype, device=b.device)


def _draw(size: Size, generator: torch.Generator) -> Tensors:
    """x, W and b for which the entries of z have size one at every n."""
    m, n = size["m"], size["n"]
    return normal(generator, n), normal(generator, m, n) / n**0.5, normal(generator, m)


def _draw_with_target(size: Size, generator: torch.Generator) -> Tensors:
    return (*_draw(size, generator), normal(generator, size["m"]))


def _small_example() -> Tensors:
    W = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    return vector(1, 2, 3), W, vector(0.1, 0.2)


registry.function(
    Function(
        name="affine",
        document="G",
        formula="z = Wx + b",
        derivative="∂z/∂x = W, ∂zᵢ/∂Wⱼₖ = δᵢⱼ xₖ, ∂z/∂b = I",
        forward=affine,
        example=_small_example,
        example_size={"m": 2, "n": 3},
        draw=_draw,
        derivatives=vector_valued(
            jacobian=_affine_jacobian,
            vjp=lambda v, x, W, b: _pull_back(v, x, W),
            jvp=lambda t, x, W, b: _push_forward(t, x, W),
        ),
        inputs=("x", "W", "b"),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)

registry.function(
    Function(
        name="affine_sum",
        document="G",
        formula="Σᵢ zᵢ, z = Wx + b",
        derivative="dz = 1; dx = Wᵀ1, dW = 1xᵀ, db = 1",
        forward=lambda x, W, b: affine(x, W, b).sum(),
        example=_small_example,
        example_size={"m": 2, "n": 3},
        draw=_draw,
        derivatives={
            "gradient": lambda x, W, b: (
                W.sum(0),
                x.expand_as(W),
                b.new_ones(()).expand_as(b),
            ),
            "vjp": lambda v, x, W, b: (
                v * W.sum(0),
                (v * x).expand_as(W),
                v.expand_as(b),
            ),
            "jvp": lambda t, x, W, b: _push_forward(t, x, W).sum(),
        },
        inputs=("x", "W", "b"),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)


def _mse_slope(a: Tensor, y: Tensor) -> Tensor:
    return (2 / len(a)) * (a - y)


def _mse_gradient(a: Tensor, y: Tensor) -> Tensors:
    da = _mse_slope(a, y)
    return da, -da


def _mse_vjp(v: Tensor, a: Tensor, y: Tensor) -> Tensors:
    da = v * _mse_slope(a, y)
    return da, -da


def _mse_hessian(a: Tensor, y: Tensor) -> Tensors:
    same = torch.diag(torch.full_like(a, 2 / len(a)))
    mixed = -same
    return same, mixed, mixed, same


def _mse_hvp(t: Tensors, a: Tensor, y: Tensor) -> Tensors:
    da = _mse_slope(t[0], t[1])  # the gradient is linear in a − y
    return da, -da


registry.function(
    Function(
        name="mse",
        document="G",
        formula="(1/m) Σᵢ (aᵢ − yᵢ)²",
        derivative="da = 2(a − y)/m, dy = −da; hessian ±(2/m) I",
        forward=functional.mse_loss,
        example=lambda: (vector(42.1, 87.7, 88.2), vector(1, 5, 10)),
        example_size={"m": 3},
        draw=lambda size, generator: (normal(generator, size["m"]), normal(generator, size["m"])),
        derivatives={
            "gradient": _mse_gradient,
            "vjp": _mse_vjp,
            "jvp": lambda t, a, y: torch.dot(_mse_slope(a, y), t[0] - t[1]),
            "hessian": _mse_hessian,
            "hvp": _mse_hvp,
        },
        inputs=("a", "y"),
        sizes=({"m": 64}, {"m": 1024}),
        large_sizes=({"m": 1048576},),
    )
)


def _softmax_jacobian(z: Tensor) -> Tensor:
    a = torch.softmax(z, dim=0)
    return torch.diag(a) - torch.outer(a, a)


def _softmax_pull_back(v: Tensor, a: Tensor) -> Tensor:
    """(diag a − aaᵀ)v, without forming the matrix."""
    return a * (v - torch.dot(a, v))


registry.function(
    Function(
        name="softmax",
        document="G",
        formula="aᵢ = exp(zᵢ) / Σⱼ exp(zⱼ)",
        derivative="diag a − aaᵀ; its pullback a∘(v − ⟨a, v⟩)",
        forward=lambda z: torch.softmax(z, dim=0),
        # z of the source notebook's two-class example.
        example=lambda: (vector(-0.4, 2.1),),
        example_size={"m": 2},
        draw=lambda size, generator: (normal(generator, size["m"]),),
        derivatives=vector_valued(
            jacobian=_softmax_jacobian,
            vjp=lambda v, z: _softmax_pull_back(v, torch.softmax(z, dim=0)),
            jvp=lambda t, z: _softmax_pull_back(t[0], torch.softmax(z, dim=0)),
        ),
        variants={"vjp": {"manual_materialised": lambda v, z: _softmax_jacobian(z) @ v}},
        inputs=("z",),
        sizes=({"m": 64}, {"m": 1024}),
        large_sizes=({"m": 16384},),
    )
)


def _loss_of_affine(dz: Formula) -> dict[str, Formula]:
    """The derivatives of a loss L(z, y) of z = Wx + b, from dz = ∂L/∂z."""

    def gradient(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensors:
        return _pull_back(dz(x, W, b, y), x, W)

    def vjp(v: Tensor, x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensors:
        return _pull_back(v * dz(x, W, b, y), x, W)

    def jvp(t: Tensors, x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return torch.dot(dz(x, W, b, y), _push_forward(t, x, W))

    return {"gradient": gradient, "vjp": vjp, "jvp": jvp}


def _affine_mse_example() -> Tensors:
    # The source notebook has two equal rows.
    rows = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.8, 1.0], [0.4, 0.5, 0.6, 0.8, 1.0]]
    W = torch.tensor(rows, dtype=torch.float64)
    return vector(10, 15, 20, 30, 40), W, vector(0.1, 0.2, 0.7), vector(1, 5, 10)


registry.function(
    Function(
        name="affine_mse",
        document="G",
        formula="(1/m) Σᵢ (zᵢ − yᵢ)², z = Wx + b",
        derivative="dz = 2(z − y)/m; dx = Wᵀdz, dW = dz xᵀ, db = dz",
        forward=lambda x, W, b, y: functional.mse_loss(affine(x, W, b), y),
        example=_affine_mse_example,
        example_size={"m": 3, "n": 5},
        draw=_draw_with_target,
        derivatives=_loss_of_affine(lambda x, W, b, y: _mse_slope(affine(x, W, b), y)),
        inputs=("x", "W", "b", "y"),
        constants=("y",),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)


def _fused_dz(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
    a = torch.softmax(affine(x, W, b), dim=0)
    return _softmax_pull_back(_mse_slope(a, y), a)


def _materialised_gradient(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensors:
    a = torch.softmax(affine(x, W, b), dim=0)
    dz = (torch.diag(a) - torch.outer(a, a)) @ _mse_slope(a, y)
    return _pull_back(dz, x, W)


def _affine_softmax_mse_example() -> Tensors:
    # The source notebook draws in float32.
    generator = torch.Generator().manual_seed(0)
    x, W, b, y = (torch.randn(shape, generator=generator) for shape in ((5,), (3, 5), (3,), (3,)))
    return x.double(), W.double(), b.double(), y.double()


registry.function(
    Function(
        name="affine_softmax_mse",
        document="G",
        formula="(1/m) Σᵢ (aᵢ − yᵢ)², a = softmax(Wx + b)",
        derivative="da = 2(a − y)/m; dz = a∘(da − ⟨a, da⟩); dx = Wᵀdz, dW = dz xᵀ, db = dz",
        forward=lambda x, W, b, y: functional.mse_loss(torch.softmax(affine(x, W, b), dim=0), y),
        example=_affine_softmax_mse_example,
        example_size={"m": 3, "n": 5},
        draw=_draw_with_target,
        derivatives=_loss_of_affine(_fused_dz),
        variants={"gradient": {"manual_materialised": _materialised_gradient}},
        inputs=("x", "W", "b", "y"),
        constants=("y",),
        sizes=SIZES,
        large_sizes=LARGE_SIZES,
    )
)


def linear_layer_sum(X: Tensor, W: Tensor, B: Tensor) -> Tensor:
    return torch.sum(torch.tensordot(X, W, dims=1) + B)


def _linear_layer_jvp(t: Tensors, X: Tensor, W: Tensor, B: Tensor) -> Tensor:
    dX, dW, dB = t
    return (dX.sum(0) @ W + X.sum(0) @ dW + len(X) * dB).sum()


def _draw_layer(size: Size, generator: torch.Generator) -> Tensors:
    N, d, k = size["N"], size["d"], size["k"]
    return normal(generator, N, d), normal(generator, d, k) / d**0.5, normal(generator, 1, k)


registry.function(
    Function(
        name="linear_layer_sum",
        document="S",
        formula="Σᵢⱼ (XW + B)ᵢⱼ, X (N, d), W (d, k), B (1, k)",
        derivative="dX = 1(W1)ᵀ, dW = (Xᵀ1)1ᵀ, dB = N",
        forward=linear_layer_sum,
        # The source notebook draws inputs of these shapes without a seed.
        example=lambda: _draw_layer({"N": 5, "d": 2, "k": 3}, torch.Generator().manual_seed(0)),
        example_size={"N": 5, "d": 2, "k": 3},
        draw=_draw_layer,
        derivatives={
            "gradient": lambda X, W, B: (
                W.sum(1).expand_as(X),
                X.sum(0).unsqueeze(1).expand_as(W),
                B.new_full((), len(X)).expand_as(B),
            ),
            "vjp": lambda v, X, W, B: (
                (v * W.sum(1)).expand_as(X),
                (v * X.sum(0)).unsqueeze(1).expand_as(W),
                (v * len(X)).expand_as(B),
            ),
            "jvp": _linear_layer_jvp,
        },
        inputs=("X", "W", "B"),
        sizes=({"N": 64, "d": 32, "k": 16},),
        large_sizes=({"N": 1024, "d": 512, "k": 256},),
    )
)
