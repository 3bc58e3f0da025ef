"""Six functions from different fields, each with its inputs and with the derivative that somebody
who knows PyTorch's documentation writes by hand.

What is called `expert` takes the function's arguments and returns the derivative that advice on
the function is about. None of it is measured by hand: `gradbench study experts` has advice measure
it beside its own ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Given = dict[str, Any]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# A physics-informed network: the derivatives of u(x, t) by place and time at collocation points.

WIDTH = 32
_SIZES = ((2, WIDTH), (WIDTH, WIDTH))
_LAYERS = [(_draw(a, b, seed=b) / a**0.5, _draw(b, seed=a)) for a, b in _SIZES]
_LAST = _draw(WIDTH, seed=1)


def pinn(points: Tensor) -> Tensor:
    """The network's value at each point of shape (N, 2); shape (N,)."""
    h = points
    for weight, bias in _LAYERS:
        h = torch.tanh(h @ weight.to(h) + bias.to(h))
    return h @ _LAST.to(h)


def pinn_inputs() -> Given:
    return {"points": _draw(400, 2, seed=2)}


def pinn_expert(points: Tensor) -> Tensor:
    """As in most code for such networks: one pullback of ones, since points are independent."""
    points = points.detach().requires_grad_()
    u = pinn(points)
    return torch.autograd.grad(u, points, torch.ones_like(u))[0]


# Reprojection: the residuals of many points in the image, by the six numbers of a camera's pose.


def reprojection(pose: Tensor, points: Tensor, seen: Tensor) -> Tensor:
    """Residuals in the image plane, shape (N, 2), of points of shape (N, 3) turned and moved by a
    pose of shape (6,): a rotation vector (Rodrigues' formula) and a translation."""
    turn, move = pose[:3], pose[3:]
    angle = torch.sqrt((turn * turn).sum() + 1e-12)
    axis = (turn / angle).expand_as(points)
    cos, sin = torch.cos(angle), torch.sin(angle)
    along = (axis * points).sum(1, keepdim=True)
    turned = points * cos + torch.linalg.cross(axis, points) * sin + axis * along * (1 - cos)
    placed = turned + move
    residuals: Tensor = placed[:, :2] / placed[:, 2:] - seen
    return residuals


def reprojection_inputs() -> Given:
    points = _draw(150, 3, seed=3) + torch.tensor([0.0, 0.0, 8.0])
    return {
        "pose": torch.tensor([0.1, -0.2, 0.3, 0.5, -0.5, 1.0]),
        "points": points,
        "seen": points[:, :2] / points[:, 2:],
    }


def reprojection_expert(pose: Tensor, points: Tensor, seen: Tensor) -> Any:
    """Few inputs and many outputs: forward mode."""
    return torch.func.jacfwd(reprojection)(pose, points, seen)


# A recurrent cell: how the last state depends on the first.


def recurrence(state: Tensor, inputs: Tensor) -> Tensor:
    """The state after all steps of a gated unit; state of shape (H,), inputs (T, H)."""
    gate_weight, weight = (_draw(2 * 24, 24, seed=s).to(state) / 5 for s in (5, 6))
    for x in inputs:
        both = torch.cat([state, x])
        gate = torch.sigmoid(both @ gate_weight)
        state = gate * state + (1 - gate) * torch.tanh(both @ weight)
    return state


def recurrence_inputs() -> Given:
    return {"state": _draw(24, seed=7), "inputs": _draw(12, 24, seed=8)}


def recurrence_expert(state: Tensor, inputs: Tensor) -> Any:
    """All rows in one batched pass of reverse mode."""
    return torch.func.jacrev(recurrence)(state, inputs)


# A mixture of Gaussians: the gradient of the log-likelihood by all parameters.


def mixture(logits: Tensor, means: Tensor, log_scales: Tensor, samples: Tensor) -> Tensor:
    """The log-likelihood of samples (N, D) under K diagonal Gaussians: logits (K,), means and
    logarithms of the scales (K, D)."""
    z = (samples[:, None] - means) / torch.exp(log_scales)
    each = -0.5 * (z * z).sum(-1) - log_scales.sum(-1)
    return torch.logsumexp(each + torch.log_softmax(logits, 0), 1).sum()


def mixture_inputs() -> Given:
    return {
        "logits": _draw(5, seed=9),
        "means": _draw(5, 3, seed=10),
        "log_scales": 0.1 * _draw(5, 3, seed=11),
        "samples": _draw(300, 3, seed=12),
    }


def mixture_expert(logits: Tensor, means: Tensor, log_scales: Tensor, samples: Tensor) -> Any:
    """One backward pass through `autograd.grad`."""
    a, b, c = (p.detach().requires_grad_() for p in (logits, means, log_scales))
    return torch.autograd.grad(mixture(a, b, c, samples), (a, b, c))


# A finite-difference stencil: the residual of an implicit step of Burgers' equation.


def burgers(u: Tensor, old: Tensor) -> Tensor:
    """The residual at each point of a grid, with the ends held; shapes (n,)."""
    dt, dx = 0.01, 0.05
    mid = u[1:-1]
    advection = mid * (u[2:] - u[:-2]) / (2 * dx)
    diffusion = 0.1 * (u[2:] - 2 * mid + u[:-2]) / dx**2
    return torch.cat([u[:1], (mid - old[1:-1]) / dt + advection - diffusion, u[-1:]])


def burgers_inputs() -> Given:
    return {"u": _draw(300, seed=13), "old": _draw(300, seed=14)}


def burgers_expert(u: Tensor, old: Tensor) -> Tensor:
    """Three pushforwards of combs, as no two columns three apart share a row; then put in place."""
    n = len(u)
    column = torch.arange(n)
    combs = (column[None] % 3 == torch.arange(3)[:, None]).to(u)
    pushed = torch.func.vmap(lambda t: torch.func.jvp(lambda u: burgers(u, old), (u,), (t,))[1])(
        combs
    )
    dense = u.new_zeros(n, n)
    for offset in (-1, 0, 1):
        row = column[max(0, -offset) : n - max(0, offset)]
        dense[row, row + offset] = pushed[(row + offset) % 3, row]
    return dense


# Gradients of each sample's loss by the weights of a small network.


def losses(w1: Tensor, w2: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each sample, shape (N,); x (N, D), labels (N,) of integers."""
    scores = torch.relu(x @ w1) @ w2
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")


def losses_inputs() -> Given:
    return {
        "w1": _draw(10, 16, seed=15) / 3,
        "w2": _draw(16, 4, seed=16) / 4,
        "x": _draw(64, 10, seed=17),
        "labels": torch.arange(64) % 4,
    }


def losses_expert(w1: Tensor, w2: Tensor, x: Tensor, labels: Tensor) -> Any:
    """As in PyTorch's tutorial on per-sample gradients: `vmap` over `grad`."""

    def one(w1: Tensor, w2: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return losses(w1, w2, x[None], label[None])[0]

    each = torch.func.vmap(torch.func.grad(one, argnums=(0, 1)), in_dims=(None, None, 0, 0))
    return each(w1, w2, x, labels)
