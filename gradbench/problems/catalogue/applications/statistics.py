"""Statistics: a Gaussian mixture, k-means, log-sum-exp, least squares, a Gaussian process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems.catalogue.applications.declaring import declare
from gradbench.problems.function import Tensors, normal, scalar_valued, uniform

# The log-posterior of a Gaussian mixture, as in ADBench (F. Šrajer, Z. Kukelova, A. Fitzgibbon, A
# benchmark of selected algorithmic differentiation tools, 2018, section 3.2). Component k has the
# weight softmax(α)ₖ, the mean μₖ and the inverse covariance QₖᵀQₖ; Qₖ is lower triangular, with
# the diagonal exp(qₖ) and the entries lₖ below it, row by row.

GAMMA, EXTRA = 1.0, 0
"""Wishart's γ and m, as in ADBench's data."""


def _factors(q: Tensor, lower: Tensor) -> Tensor:
    """Qₖ, of shape (K, d, d)."""
    d = q.shape[-1]
    rows, columns = torch.tril_indices(d, d, -1, device=q.device)
    below = q.new_zeros(*q.shape, d).index_put(
        (torch.arange(len(q), device=q.device)[:, None], rows, columns), lower
    )
    return below + torch.diag_embed(torch.exp(q))


def _constant(k: int, n: int, d: int) -> float:
    """What no parameter changes: the normal densities', and the Wishart prior's."""
    freedom = d + EXTRA + 1
    log_gamma = d * (d - 1) / 4 * math.log(math.pi) + sum(
        math.lgamma((freedom - j) / 2) for j in range(d)
    )
    prior = k * (freedom * d * math.log(GAMMA / math.sqrt(2)) - log_gamma)
    return prior - n * d * 0.5 * math.log(2 * math.pi)


def gmm(alpha: Tensor, mu: Tensor, q: Tensor, lower: Tensor, x: Tensor) -> Tensor:
    """The log-posterior of K components with x (n, d): alpha (K,), mu and q (K, d)."""
    Q = _factors(q, lower)
    scaled = torch.einsum("kij,nkj->nki", Q, x[:, None] - mu)
    terms = alpha + q.sum(1) - 0.5 * (scaled**2).sum(2)
    likelihood = torch.logsumexp(terms, 1).sum() - len(x) * torch.logsumexp(alpha, 0)
    sizes = (torch.exp(2 * q).sum() + (lower**2).sum()) * (0.5 * GAMMA**2)
    return likelihood - sizes + EXTRA * q.sum() + _constant(len(mu), *x.shape)


def _gmm_gradient(alpha: Tensor, mu: Tensor, q: Tensor, lower: Tensor, x: Tensor) -> Tensors:
    Q = _factors(q, lower)
    d = q.shape[-1]
    rows, columns = torch.tril_indices(d, d, -1, device=q.device)
    centred = x[:, None] - mu
    scaled = torch.einsum("kij,nkj->nki", Q, centred)
    share = torch.softmax(alpha + q.sum(1) - 0.5 * (scaled**2).sum(2), 1)
    d_alpha = share.sum(0) - len(x) * torch.softmax(alpha, 0)
    weighted = share[:, :, None] * scaled
    d_mu = torch.einsum("kij,ki->kj", Q, weighted.sum(0))
    # ∂/∂Qₖ of −‖Qₖ(x − μₖ)‖²/2, weighted by the shares.
    dQ = -torch.einsum("nki,nkj->kij", weighted, centred)
    diagonal = torch.exp(q)
    d_q = share.sum(0)[:, None] + dQ.diagonal(dim1=1, dim2=2) * diagonal
    d_q = d_q - GAMMA**2 * diagonal**2 + EXTRA
    return d_alpha, d_mu, d_q, dQ[:, rows, columns] - GAMMA**2 * lower


def _draw_gmm(size: Size, generator: torch.Generator) -> Tensors:
    k, n, d = size["k"], size["n"], size["d"]
    return (
        normal(generator, k),
        normal(generator, k, d),
        0.3 * normal(generator, k, d),
        0.3 * normal(generator, k, d * (d - 1) // 2),
        normal(generator, n, d),
    )


declare(
    "gmm",
    formula="Σᵢ log Σₖ exp(αₖ + Σqₖ − ‖Qₖ(xᵢ − μₖ)‖²/2) − n log Σₖ exp αₖ + log Wishart(Q), "
    "Qₖ lower triangular with diagonal exp qₖ, x (n, d) constant",
    derivative="rᵢₖ = softmaxₖ; dα = Σᵢ rᵢ − n softmax(α), dμₖ = Σᵢ rᵢₖ QₖᵀQₖ(xᵢ − μₖ), "
    "dQₖ = −Σᵢ rᵢₖ Qₖ(xᵢ − μₖ)(xᵢ − μₖ)ᵀ, and the prior's −γ²Q",
    forward=gmm,
    draw=_draw_gmm,
    derivatives=scalar_valued(_gmm_gradient),
    inputs=("alpha", "mu", "q", "l"),
    constants=("x",),
    example={"k": 3, "n": 4, "d": 2},
    sizes=({"k": 5, "n": 200, "d": 2}, {"k": 10, "n": 1000, "d": 10}),
    large_sizes=({"k": 25, "n": 1000, "d": 64}, {"k": 50, "n": 10000, "d": 20}),
)


# The cost of k-means: the squared distance of each point from the nearest centre (L. Bottou, Y.
# Bengio, Convergence properties of the k-means algorithms, 1994). Where no point is as far from two
# centres it is quadratic in each centre, with a diagonal hessian of twice the number of its points.


def kmeans(centres: Tensor, x: Tensor) -> Tensor:
    return _distances(centres, x).min(1).values.sum()


def _distances(centres: Tensor, x: Tensor) -> Tensor:
    return (x * x).sum(1, keepdim=True) + (centres * centres).sum(1) - 2 * x @ centres.T


def _assigned(centres: Tensor, x: Tensor) -> Tensor:
    """Which centre each point belongs to, as ones and zeros (n, k)."""
    k = torch.arange(len(centres), device=x.device)
    return (_distances(centres, x).argmin(1)[:, None] == k).to(x.dtype)


def _kmeans_gradient(centres: Tensor, x: Tensor) -> Tensor:
    own = _assigned(centres, x)
    return 2 * (own.sum(0)[:, None] * centres - own.T @ x)


def _kmeans_hvp(t: Tensors, centres: Tensor, x: Tensor) -> Tensor:
    return 2 * _assigned(centres, x).sum(0)[:, None] * t[0]


def _kmeans_hessian(centres: Tensor, x: Tensor) -> Tensor:
    slopes = _kmeans_hvp((torch.ones_like(centres),), centres, x)
    return torch.diag(slopes.reshape(-1)).reshape(*centres.shape, *centres.shape)


def _draw_kmeans(size: Size, generator: torch.Generator) -> Tensors:
    k, n, d = size["k"], size["n"], size["d"]
    centres = normal(generator, k, d)
    # Nearer to one centre than rounding could hide, and every centre has points.
    own = torch.arange(n) % k
    return centres, 0.8 * centres[own] + 0.2 * normal(generator, n, d)


declare(
    "kmeans",
    formula="Σᵢ minₖ ‖xᵢ − cₖ‖², x (n, d) constant",
    derivative="2 Σ (cₖ − xᵢ) over the points nearest to cₖ; hessian diagonal, twice their number",
    forward=kmeans,
    draw=_draw_kmeans,
    derivatives={
        **scalar_valued(_kmeans_gradient, hessian=_kmeans_hessian, hvp=_kmeans_hvp),
        "hessian_diagonal": lambda c, x: _kmeans_hvp((torch.ones_like(c),), c, x),
    },
    inputs=("c",),
    constants=("x",),
    example={"k": 3, "n": 7, "d": 2},
    sizes=({"k": 10, "n": 1000, "d": 5}, {"k": 25, "n": 10000, "d": 10}),
    large_sizes=({"k": 200, "n": 50000, "d": 20},),
)


# log Σᵢ exp xᵢ by the trick of the largest entry, as in GradBench: not one operation of torch's.


def lse(x: Tensor) -> Tensor:
    largest = x.max()
    return largest + torch.log(torch.exp(x - largest).sum())


def _lse_hvp(t: Tensors, x: Tensor) -> Tensor:
    p = torch.softmax(x, 0)
    return p * (t[0] - (p * t[0]).sum())


def _lse_hessian(x: Tensor) -> Tensor:
    p = torch.softmax(x, 0)
    return torch.diag(p) - torch.outer(p, p)


def _lse_diagonal(x: Tensor) -> Tensor:
    p = torch.softmax(x, 0)
    return p * (1 - p)


declare(
    "lse",
    formula="a + log Σᵢ exp(xᵢ − a), a = maxᵢ xᵢ",
    derivative="p = softmax(x); hessian diag(p) − ppᵀ",
    forward=lse,
    draw=lambda size, generator: (normal(generator, size["n"]),),
    derivatives={
        **scalar_valued(lambda x: torch.softmax(x, 0), hessian=_lse_hessian, hvp=_lse_hvp),
        "hessian_diagonal": _lse_diagonal,
    },
    inputs=("x",),
    example={"n": 4},
    sizes=({"n": 100}, {"n": 1000}),
    large_sizes=({"n": 1000000},),
)


# Linear least squares: half the squared length of Ax − b. As in GradBench, A has the powers of n
# points on [−1, 1] and b their signs; here both are inputs, and the powers are Chebyshev's, which
# are better conditioned.


def least_squares(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return 0.5 * ((A @ x - b) ** 2).sum()


def _draw_least_squares(size: Size, generator: torch.Generator) -> Tensors:
    m, n = size["m"], size["n"]
    t = torch.sort(uniform(generator, m)).values
    A = torch.cos(torch.arange(n) * torch.arccos(t)[:, None])
    return normal(generator, n), A, torch.sign(t)


declare(
    "least_squares",
    formula="‖Ax − b‖²/2, A (m, n) of Chebyshev polynomials at m points, b their signs: constant",
    derivative="Aᵀ(Ax − b); hessian AᵀA",
    forward=least_squares,
    draw=_draw_least_squares,
    derivatives={
        **scalar_valued(
            lambda x, A, b: A.T @ (A @ x - b),
            hessian=lambda x, A, b: A.T @ A,
            hvp=lambda t, x, A, b: A.T @ (A @ t[0]),
        ),
        "hessian_diagonal": lambda x, A, b: (A * A).sum(0),
    },
    inputs=("x",),
    constants=("A", "b"),
    example={"m": 5, "n": 3},
    sizes=({"m": 1000, "n": 16}, {"m": 10000, "n": 64}),
    large_sizes=({"m": 100000, "n": 512},),
)


# The negative log marginal likelihood of a Gaussian process with a squared exponential kernel, by
# the logarithms of its hyperparameters (C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for
# Machine Learning, 2006, equations 5.8 and 5.9).

JITTER = 1e-3


def _kernel(lengths: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    scaled = x / torch.exp(lengths)
    apart = scaled[:, None] - scaled
    return torch.exp(scale - 0.5 * (apart * apart).sum(2))


def _covariance(lengths: Tensor, scale: Tensor, noise: Tensor, x: Tensor) -> Tensor:
    one = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return _kernel(lengths, scale, x) + (torch.exp(noise) + JITTER) * one


def gaussian_process(lengths: Tensor, scale: Tensor, noise: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The likelihood of y (n,) at x (n, d): a logarithm of a length per dimension."""
    factor = torch.linalg.cholesky(_covariance(lengths, scale, noise, x))
    z: Tensor = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    constant = 0.5 * len(y) * math.log(2 * math.pi)
    return 0.5 * (z * z).sum() + torch.log(factor.diagonal()).sum() + constant


def _gaussian_process_gradient(
    lengths: Tensor, scale: Tensor, noise: Tensor, x: Tensor, y: Tensor
) -> Tensors:
    inverse = torch.linalg.inv(_covariance(lengths, scale, noise, x))
    a = inverse @ y
    # ∂/∂θ = tr((K⁻¹ − aaᵀ) ∂K/∂θ)/2
    outer = 0.5 * (inverse - torch.outer(a, a))
    kernel = _kernel(lengths, scale, x)
    weighed = outer * kernel
    scaled = x / torch.exp(lengths)
    by_lengths = torch.stack(
        [(weighed * (column[:, None] - column) ** 2).sum() for column in scaled.T]
    )
    return by_lengths, weighed.sum(), torch.exp(noise) * outer.diagonal().sum()


def _draw_gaussian_process(size: Size, generator: torch.Generator) -> Tensors:
    n, d = size["n"], size["d"]
    x = normal(generator, n, d)
    y = torch.sin(2 * x.sum(1)) + 0.3 * normal(generator, n)
    return (
        uniform(generator, d, low=-0.5, high=0.5) + 0.5 * math.log(d),
        uniform(generator, low=-0.5, high=0.5),
        uniform(generator, low=-2.5, high=-1.5),
        x,
        y,
    )


declare(
    "gaussian_process",
    formula="yᵀK⁻¹y/2 + log det K/2 + n log(2π)/2, Kᵢⱼ = exp(s − Σ_c (xᵢ_c − xⱼ_c)² exp(−2ℓ_c)/2) "
    "+ (exp v + 0.001) δᵢⱼ, x (n, d) and y constant",
    derivative="tr((K⁻¹ − aaᵀ) ∂K/∂θ)/2, a = K⁻¹y",
    forward=gaussian_process,
    draw=_draw_gaussian_process,
    derivatives=scalar_valued(_gaussian_process_gradient),
    inputs=("lengths", "scale", "noise"),
    constants=("x", "y"),
    example={"n": 5, "d": 2},
    sizes=({"n": 64, "d": 3}, {"n": 256, "d": 4}),
    large_sizes=({"n": 1024, "d": 8},),
)
