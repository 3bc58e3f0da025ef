"""The functions of the atlas: maps of n inputs to m outputs, in families that differ in structure.

Each family has the map, for its jacobian, and the sum of its outputs, for gradient and hessian.
The profile *atlas* asks how the fastest mode depends on m and n.

All weights and inputs are positive. Nothing cancels then in any derivative, and the gate compares
large ones without Monte Carlo arithmetic, which would take minutes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.core.cases import Size
from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, Tensors, uniform

FINE, COARSE = (1, 4, 16, 64, 256, 1024, 4096), (1, 8, 64, 512, 4096)
"""Outputs and inputs at which the maps, and their sums, are measured."""

SAMPLES = 32
"""Samples of the batch: neither in FINE nor in COARSE, so that no other dimension is as long."""

HIDDEN = 32
"""Hidden units of the network."""


def _positive(generator: torch.Generator, *shape: int) -> Tensor:
    return uniform(generator, *shape, low=0.25, high=1.25)


# A dense map: every output depends on every input.


def dense_map(x: Tensor, W: Tensor) -> Tensor:
    return torch.exp(W @ x)


def _dense_jacobian(x: Tensor, W: Tensor) -> Tensor:
    return torch.exp(W @ x).unsqueeze(1) * W


def _dense_gradient(x: Tensor, W: Tensor) -> Tensor:
    return W.T @ torch.exp(W @ x)


def _dense_hessian(x: Tensor, W: Tensor) -> Tensor:
    return W.T @ (torch.exp(W @ x).unsqueeze(1) * W)


def _draw_dense(size: Size, generator: torch.Generator) -> Tensors:
    m, n = size["m"], size["n"]
    return _positive(generator, n), _positive(generator, m, n) / n


# An elementwise map: where there are fewer outputs than inputs the terms are added up, and where
# there are more the inputs are repeated. Term k belongs to output k mod m and to input k mod n.


def _repeated(x: Tensor, length: int) -> Tensor:
    return x if len(x) == length else x.repeat(-(-length // len(x)))[:length]


def _folded(terms: Tensor, length: int) -> Tensor:
    """The sums of the terms of equal k mod length."""
    if len(terms) == length:
        return terms
    return functional.pad(terms, (0, -len(terms) % length)).view(-1, length).sum(0)


def elementwise_map(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return _folded(c * _repeated(torch.sin(x), len(c)), len(b)) + b


def _elementwise_jacobian(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    k = torch.arange(len(c), device=x.device)
    jacobian = x.new_zeros(len(b), len(x))
    jacobian[k % len(b), k % len(x)] = c * _repeated(torch.cos(x), len(c))
    return jacobian


def elementwise_sum(x: Tensor, c: Tensor) -> Tensor:
    return (c * _repeated(torch.sin(x), len(c))).sum()


def _draw_elementwise(size: Size, generator: torch.Generator) -> Tensors:
    m, n = size["m"], size["n"]
    return _positive(generator, n), _positive(generator, max(m, n)), _positive(generator, m)


# A batched field: the dense map of every sample by itself.


def batched_map(X: Tensor, W: Tensor) -> Tensor:
    return torch.exp(X @ W.T)


def _batched_jacobian(X: Tensor, W: Tensor) -> Tensor:
    return torch.exp(X @ W.T).unsqueeze(2) * W


def _batched_gradient(X: Tensor, W: Tensor) -> Tensor:
    return torch.exp(X @ W.T) @ W


def _batched_hessian(X: Tensor, W: Tensor) -> Tensor:
    return W.T @ (torch.exp(X @ W.T).unsqueeze(2) * W)


def _draw_batch(size: Size, generator: torch.Generator) -> Tensors:
    N, m, n = size["N"], size["m"], size["n"]
    return _positive(generator, N, n), _positive(generator, m, n) / n


# A small network: however many inputs and outputs it has, they meet in a few hidden units.


def network_map(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return B @ torch.tanh(A @ x)


def _slopes(x: Tensor, A: Tensor) -> Tensors:
    """The hidden units and their derivatives by what goes in."""
    t = torch.tanh(A @ x)
    return t, 1 - t * t


def _network_jacobian(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return B @ (_slopes(x, A)[1].unsqueeze(1) * A)


def _network_gradient(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return A.T @ (_slopes(x, A)[1] * B.sum(0))


def _network_hessian(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return A.T @ (_bent(x, A, B).unsqueeze(1) * A)


def _bent(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """The second derivative of the sum by what goes into each hidden unit."""
    t, slope = _slopes(x, A)
    return -2 * t * slope * B.sum(0)


def _draw_network(size: Size, generator: torch.Generator) -> Tensors:
    h, m, n = size["h"], size["m"], size["n"]
    A, B = _positive(generator, h, n) / n, _positive(generator, m, h) / h
    return _positive(generator, n), A, B


def _symmetric(product: Formula) -> dict[str, tuple[Formula, Formula]]:
    """The products of a hessian, from the right and from the left, for large ones."""

    def both(vectors: Tensors, *inputs: Tensor) -> Tensors:
        return (product(vectors[0], *inputs),)

    return {"hessian": (both, both)}


def _declare(
    name: str,
    formula: str,
    derivative: str,
    forward: Formula,
    draw: Formula,
    derivatives: dict[str, Formula],
    inputs: tuple[str, ...],
    products: dict[str, tuple[Formula, Formula]] | None = None,
    **fixed: int,
) -> None:
    example_size = {**dict.fromkeys(fixed, 3), "m": 4, "n": 2}
    numbers = FINE if name.endswith("_map") else COARSE
    registry.function(
        Function(
            name=name,
            document="M",
            formula=formula,
            derivative=derivative,
            forward=forward,
            example=lambda: draw(example_size, torch.Generator().manual_seed(0)),
            example_size=example_size,
            draw=draw,
            derivatives=derivatives,
            products=products or {},
            inputs=inputs,
            constants=inputs[1:],
            atlas=tuple({**fixed, "m": m, "n": n} for m, n in itertools.product(numbers, numbers)),
        )
    )


_declare(
    "dense_map",
    "exp(Wx), W (m, n) constant",
    "diag exp(Wx) W",
    dense_map,
    _draw_dense,
    {"jacobian": _dense_jacobian},
    ("x", "W"),
    {
        "jacobian": (
            lambda t, x, W: (torch.exp(W @ x) * (W @ t[0]),),
            lambda v, x, W: (W.T @ (torch.exp(W @ x) * v[0]),),
        )
    },
)
_declare(
    "dense_sum",
    "Σᵢ exp(Wx)ᵢ, W (m, n) constant",
    "Wᵀexp(Wx); hessian Wᵀ diag exp(Wx) W",
    lambda x, W: dense_map(x, W).sum(),
    _draw_dense,
    {"gradient": _dense_gradient, "hessian": _dense_hessian},
    ("x", "W"),
    _symmetric(lambda t, x, W: W.T @ (torch.exp(W @ x) * (W @ t))),
)
_declare(
    "elementwise_map",
    "bᵢ + Σ cₖ sin xₖ over k ≡ i mod m, k < max(m, n), x periodic; c and b constant",
    "∂yᵢ/∂xⱼ = Σ cₖ cos xⱼ over k ≡ i mod m, k ≡ j mod n",
    elementwise_map,
    _draw_elementwise,
    {"jacobian": _elementwise_jacobian},
    ("x", "c", "b"),
    {
        "jacobian": (
            lambda t, x, c, b: (_folded(c * _repeated(torch.cos(x) * t[0], len(c)), len(b)),),
            lambda v, x, c, b: (torch.cos(x) * _folded(c * _repeated(v[0], len(c)), len(x)),),
        )
    },
)
_declare(
    "elementwise_sum",
    "Σₖ cₖ sin xₖ over k < max(m, n), x periodic; c constant",
    "wⱼ cos xⱼ, wⱼ = Σ cₖ over k ≡ j mod n; hessian −diag(w ∘ sin x)",
    elementwise_sum,
    lambda size, generator: _draw_elementwise(size, generator)[:2],
    {
        "gradient": lambda x, c: _folded(c, len(x)) * torch.cos(x),
        "hessian": lambda x, c: torch.diag(-_folded(c, len(x)) * torch.sin(x)),
    },
    ("x", "c"),
    _symmetric(lambda t, x, c: -_folded(c, len(x)) * torch.sin(x) * t),
)
_declare(
    "batched_map",
    "exp(Wx) of each of N samples, X (N, n), W (m, n) constant",
    "diag exp(Wx) W of each sample",
    batched_map,
    _draw_batch,
    {"batch_jacobian": _batched_jacobian},
    ("X", "W"),
    N=SAMPLES,
)
_declare(
    "batched_sum",
    "Σᵢ exp(Wx)ᵢ of each of N samples, X (N, n), W (m, n) constant",
    "Wᵀexp(Wx) of each sample; hessian Wᵀ diag exp(Wx) W",
    lambda X, W: batched_map(X, W).sum(-1),
    _draw_batch,
    {"batch_jacobian": _batched_gradient, "batch_hessian": _batched_hessian},
    ("X", "W"),
    N=SAMPLES,
)
_declare(
    "network_map",
    "B tanh(Ax), A (h, n) and B (m, h) constant",
    "B diag(1 − t²) A, t = tanh(Ax)",
    network_map,
    _draw_network,
    {"jacobian": _network_jacobian},
    ("x", "A", "B"),
    {
        "jacobian": (
            lambda t, x, A, B: (B @ (_slopes(x, A)[1] * (A @ t[0])),),
            lambda v, x, A, B: (A.T @ (_slopes(x, A)[1] * (B.T @ v[0])),),
        )
    },
    h=HIDDEN,
)
_declare(
    "network_sum",
    "Σᵢ (B tanh(Ax))ᵢ, A (h, n) and B (m, h) constant",
    "Aᵀ((1 − t²) ∘ b), t = tanh(Ax), b = Bᵀ1; hessian −Aᵀ diag(2t(1 − t²)b) A",
    lambda x, A, B: network_map(x, A, B).sum(),
    _draw_network,
    {"gradient": _network_gradient, "hessian": _network_hessian},
    ("x", "A", "B"),
    _symmetric(lambda t, x, A, B: A.T @ (_bent(x, A, B) * (A @ t))),
    h=HIDDEN,
)
