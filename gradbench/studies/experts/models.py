"""Statistical models and networks, each with its inputs and an expert's derivative. See
`functions.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.studies.experts.functions import Given, _draw

# A sum of kernels: 2000 values of one network of radial functions, by its 201 numbers.


def kernels(w: Tensor, x: Tensor) -> Tensor:
    """Σⱼ exp(−(xᵢ − wⱼ)²) times the last number: w (201,), x (2000,)."""
    each = torch.exp(-((x[:, None] - w[None, :200]) ** 2))
    values: Tensor = each.sum(1) * w[200]
    return values


def kernels_inputs() -> Given:
    return {"w": _draw(201, seed=30), "x": _draw(2000, seed=31)}


def kernels_expert(w: Tensor, x: Tensor) -> Any:
    """Per-sample gradients: each value depends on its own x."""

    def one(w: Tensor, x: Tensor) -> Tensor:
        return kernels(w, x[None])[0]

    return torch.func.vmap(torch.func.grad(one), (None, 0))(w, x)


# A Gaussian process: the log-likelihood of its data by the logarithms of its hyperparameters.


def process(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The log-likelihood of y (n,) at x (n, D) under a squared exponential kernel with a length
    per dimension: theta (D + 2,) has logarithms of lengths, of the scale and of the noise."""
    scaled = x / torch.exp(theta[:-2])
    square = (scaled * scaled).sum(1)
    distance = (square[:, None] + square[None] - 2 * scaled @ scaled.T).clamp(min=0)
    kernel = torch.exp(theta[-2] - 0.5 * distance)
    noise = torch.exp(theta[-1]) + 1e-4
    factor = torch.linalg.cholesky(kernel + noise * torch.eye(len(x), dtype=x.dtype))
    z = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    value: Tensor = -0.5 * (z * z).sum() - factor.diagonal().log().sum()
    return value


def process_inputs() -> Given:
    x = _draw(120, 3, seed=32)
    theta = torch.tensor([0.3, 0.5, 0.1, 0.2, -1.0])
    return {"theta": theta, "x": x, "y": torch.sin(x.sum(1)) + 0.3 * _draw(120, seed=33)}


def process_expert(theta: Tensor, x: Tensor, y: Tensor) -> Any:
    """One backward pass through `autograd.grad`."""
    leaf = theta.detach().requires_grad_()
    return torch.autograd.grad(process(leaf, x, y), leaf)[0]


# k-means: the second derivatives of the cost by the centres.


def clusters(centres: Tensor, samples: Tensor) -> Tensor:
    """The sum of the squared distances of samples (N, D) from the nearest of centres (K, D)."""
    return (samples[:, None] - centres).square().sum(2).min(1).values.sum()


def clusters_inputs() -> Given:
    return {"centres": _draw(10, 5, seed=34), "samples": _draw(1000, 5, seed=35)}


def clusters_expert(centres: Tensor, samples: Tensor) -> Tensor:
    """The hessian is diagonal: one product with a vector of ones."""
    leaf = centres.detach().requires_grad_()
    (g,) = torch.autograd.grad(clusters(leaf, samples), leaf, create_graph=True)
    (slopes,) = torch.autograd.grad(g, leaf, torch.ones_like(g))
    return torch.diag(slopes.reshape(-1)).reshape(*centres.shape, *centres.shape)


# The second derivatives of a network at each point of a batch, as for its Laplacian.

_HIDDEN = [(_draw(a, 32, seed=36 + a) / a**0.5, _draw(32, seed=37 + a)) for a in (3, 32)]
_OUT = _draw(32, seed=38)


def field(points: Tensor) -> Tensor:
    """The sum of a network's values at points (N, 3)."""
    h = points
    for weight, bias in _HIDDEN:
        h = torch.tanh(h @ weight.to(h) + bias.to(h))
    return (h @ _OUT.to(h)).sum()


def field_inputs() -> Given:
    return {"points": _draw(100, 3, seed=39)}


def field_expert(points: Tensor) -> Tensor:
    """As in most code for Laplacians: the gradient at all points with a graph, then once more for
    each of the three coordinates, since points are independent; then put in place."""
    n, d = points.shape
    leaf = points.detach().requires_grad_()
    (g,) = torch.autograd.grad(field(leaf), leaf, create_graph=True)
    dense = points.new_zeros(n, d, n, d)
    each = torch.arange(n)
    for i in range(d):
        (row,) = torch.autograd.grad(g[:, i].sum(), leaf, retain_graph=i + 1 < d)
        dense[each, i, each] = row
    return dense


# Gradients of each sample's loss by the weights of a convolutional network.


def images(kernel1: Tensor, kernel2: Tensor, weight: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy (N,) of images (N, 1, 12, 12) with labels (N,)."""
    h = torch.relu(functional.conv2d(x, kernel1, stride=2))
    h = torch.relu(functional.conv2d(h, kernel2))
    return functional.cross_entropy(h.flatten(1) @ weight, labels, reduction="none")


def images_inputs() -> Given:
    return {
        "kernel1": _draw(6, 1, 3, 3, seed=40) / 3,
        "kernel2": _draw(8, 6, 3, 3, seed=41) / 7,
        "weight": _draw(72, 10, seed=42) / 8,
        "x": _draw(32, 1, 12, 12, seed=43),
        "labels": torch.arange(32) % 10,
    }


def images_expert(
    kernel1: Tensor, kernel2: Tensor, weight: Tensor, x: Tensor, labels: Tensor
) -> Any:
    """As in PyTorch's tutorial on per-sample gradients: `vmap` over `grad`."""

    def one(a: Tensor, b: Tensor, c: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return images(a, b, c, x[None], label[None])[0]

    each = torch.func.vmap(torch.func.grad(one, argnums=(0, 1, 2)), (None, None, None, 0, 0))
    return each(kernel1, kernel2, weight, x, labels)


# Gradients of each sample's loss by the weights of a recurrent network.


def sequences(w_in: Tensor, w_state: Tensor, w_out: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """The squared error (N,) of a recurrent network on sequences (N, T, D) with targets (N,)."""
    state = x.new_zeros(len(x), len(w_state))
    for step in range(x.shape[1]):
        state = torch.tanh(x[:, step] @ w_in + state @ w_state)
    return (state @ w_out - target).square()


def sequences_inputs() -> Given:
    return {
        "w_in": _draw(4, 16, seed=44) / 2,
        "w_state": _draw(16, 16, seed=45) / 4,
        "w_out": _draw(16, seed=46) / 4,
        "x": _draw(48, 10, 4, seed=47),
        "target": _draw(48, seed=48),
    }


def sequences_expert(
    w_in: Tensor, w_state: Tensor, w_out: Tensor, x: Tensor, target: Tensor
) -> Any:
    """As in PyTorch's tutorial on per-sample gradients: `vmap` over `grad`."""

    def one(a: Tensor, b: Tensor, c: Tensor, x: Tensor, target: Tensor) -> Tensor:
        return sequences(a, b, c, x[None], target[None])[0]

    each = torch.func.vmap(torch.func.grad(one, argnums=(0, 1, 2)), (None, None, None, 0, 0))
    return each(w_in, w_state, w_out, x, target)
