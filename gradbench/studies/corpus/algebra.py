"""Linear algebra, and algorithms that are unrolled."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.studies.corpus import example

rand, randn = torch.rand, torch.randn


def _definite(n: int) -> Tensor:
    a = randn(n, n)
    return a @ a.T / n + torch.eye(n)


@example("determinant", lambda: randn(5, 5))
def determinant(a: Tensor) -> Tensor:
    return torch.linalg.det(a)


@example("log-determinant", lambda: _definite(5))
def log_determinant(a: Tensor) -> Tensor:
    return torch.logdet(a)


@example("linear system", lambda: (randn(5, 5) + 3 * torch.eye(5), randn(5)))
def linear_system(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve(a, b)


@example("Cholesky factor", lambda: _definite(4))
def cholesky(a: Tensor) -> Tensor:
    return torch.linalg.cholesky((a + a.T) / 2).square().sum(1)


@example("eigenvalues", lambda: randn(5, 5))
def eigenvalues(a: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(a + a.T).exp().log1p().sum()


@example("eigenvectors", lambda: randn(4, 4) + torch.diag(torch.arange(4.0) * 4))
def principal(a: Tensor) -> Tensor:
    vectors = torch.linalg.eigh(a + a.T).eigenvectors
    return (vectors[:, -1] * vectors[:, -1]).cumsum(0)


@example("nuclear norm", lambda: randn(5, 3))
def nuclear(a: Tensor) -> Tensor:
    return torch.linalg.svdvals(a).sum()


@example("spectral norm, power iteration", lambda: (randn(5, 4), randn(4)), ("a",))
def power_iteration(a: Tensor, v: Tensor) -> Tensor:
    for _ in range(8):
        u = a @ v
        u = u / u.norm()
        v = a.T @ u
        v = v / v.norm()
    return u @ a @ v


@example("matrix exponential", lambda: (randn(4, 4) / 2, randn(4)))
def exponential(a: Tensor, x: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(a) @ x


@example("inverse", lambda: randn(4, 4) + 3 * torch.eye(4))
def inverse(a: Tensor) -> Tensor:
    return torch.linalg.inv(a).square().sum()


@example("QR factors", lambda: randn(5, 3))
def qr_factors(a: Tensor) -> Tensor:
    return torch.linalg.qr(a).R.diagonal().abs().log().sum()


@example("ridge regression, solved", lambda: (randn(3) / 2, randn(12, 3), randn(12)), ("logs",))
def ridge(logs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    w = torch.linalg.solve(x.T @ x + torch.diag(logs.exp()), x.T @ y)
    return (x @ w - y).square().sum() + w.square().sum()


@example("polynomial fit", lambda: (rand(8), randn(8)))
def vandermonde(x: Tensor, y: Tensor) -> Tensor:
    powers = torch.stack([x**k for k in range(4)], 1)
    w = torch.linalg.solve(powers.T @ powers + 0.01 * torch.eye(4).to(x), powers.T @ y)
    return w.square().sum()


@example(
    "tensor decomposition",
    lambda: (randn(3, 2), randn(4, 2), randn(2, 2), randn(3, 4, 2)),
    ("a", "b", "c"),
)
def decomposition(a: Tensor, b: Tensor, c: Tensor, t: Tensor) -> Tensor:
    return (torch.einsum("ir,jr,kr->ijk", a, b, c) - t).square().sum()


@example(
    "matrix factorisation, some entries",
    lambda: (randn(5, 2), randn(6, 2), randn(5, 6)),
    ("u", "v"),
)
def factorisation(u: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    known = torch.arange(30).reshape(5, 6) % 3 > 0
    return (u @ v.T - seen)[known].square().sum() + 0.1 * (u.square().sum() + v.square().sum())


@example(
    "unrolled gradient descent",
    lambda: (randn(4), randn(10, 4), randn(10), rand(2) / 10),
    ("start", "rates"),
)
def unrolled_descent(start: Tensor, x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    w, speed = start, torch.zeros_like(start)
    for _ in range(8):
        speed = (1 - rates[1]) * speed - rates[0] * x.T @ (x @ w - y) / 10
        w = w + speed
    return (x @ w - y).square().mean()


@example("meta-learning, inner gradient", lambda: (randn(4), randn(6, 4), randn(6)), ("w",))
def meta_learning(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    inner = torch.func.grad(lambda w: (torch.tanh(x @ w) - y).square().mean())
    return (torch.tanh(x @ (w - 0.1 * inner(w))) - y).square().mean()


@example("Newton's method, unrolled", lambda: rand(6) * 5 + 0.5)
def newton_root(a: Tensor) -> Tensor:
    x = torch.ones_like(a)
    for _ in range(8):
        x = (2 * x + a / x.square()) / 3
    return x


@example("fixed point of a layer", lambda: (randn(5, 5) / 6, randn(5)))
def fixed_point(w: Tensor, x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(25):
        z = torch.tanh(w @ z + x)
    return z


@example("conjugate gradients", lambda: (_definite(5), randn(5)))
def conjugate_gradients(a: Tensor, b: Tensor) -> Tensor:
    a = (a + a.T) / 2
    x, r = torch.zeros_like(b), b
    p = r
    for _ in range(3):
        step = (r @ r) / (p @ a @ p)
        x, new = x + step * p, r - step * (a @ p)
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


@example("Rosenbrock", lambda: randn(10))
def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


@example("log barrier", lambda: (rand(4) / 4, rand(7, 4), randn(4)), ("x",))
def barrier(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    return c @ x - 0.1 * torch.log(3 - a @ x).sum() - 0.1 * torch.log(x + 0.01).sum()
