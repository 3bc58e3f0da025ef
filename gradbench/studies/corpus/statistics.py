"""Statistics: likelihoods, clusters, robust estimates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.studies.corpus import example

rand, randn, randint = torch.rand, torch.randn, torch.randint


@example(
    "Gaussian mixture",
    lambda: (randn(3), 2 * randn(3, 2), randn(3, 2) / 2, 2 * randn(15, 2)),
    ("logits", "means", "log_scales"),
)
def mixture(logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor) -> Tensor:
    apart = (x[:, None] - means) * torch.exp(-log_scales)
    each = F.log_softmax(logits, 0) - log_scales.sum(1) - apart.square().sum(2) / 2
    return -torch.logsumexp(each, 1).mean()


@example(
    "full-covariance mixture",
    lambda: (randn(2), randn(2, 3), randn(2, 3, 3) / 2, 2 * randn(9, 3)),
    ("logits", "means", "factors"),
)
def full_mixture(logits: Tensor, means: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    diagonal = factors.diagonal(0, 1, 2)
    lower = factors.tril(-1) + torch.diag_embed(diagonal.exp())
    white = torch.einsum("kij,nkj->nki", lower, x[:, None] - means)
    each = F.log_softmax(logits, 0) + diagonal.sum(1) - white.square().sum(2) / 2
    return -torch.logsumexp(each, 1).sum()


@example("logistic regression", lambda: (randn(5), 2 * randn(30, 5), rand(30).round()), ("w",))
def logistic(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    z = x @ w
    return (F.softplus(z) - y * z).mean() + 0.05 * w.square().sum()


@example("lasso", lambda: (randn(6), randn(20, 6), randn(20)), ("w",))
def lasso(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ w - y).square().mean() / 2 + 0.1 * w.abs().sum()


@example("Poisson regression", lambda: (randn(4) / 2, randn(25, 4), randint(6, (25,))), ("w",))
def poisson(w: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    z = x @ w
    return (z.exp() - counts * z).mean()


@example("survival, Cox's likelihood", lambda: (randn(3), randn(14, 3)), ("w",))
def cox(w: Tensor, x: Tensor) -> Tensor:
    risk = x @ w
    return (torch.logcumsumexp(risk, 0) - risk).sum()


@example("survival, Weibull", lambda: (randn(2) / 2, rand(16) * 3 + 0.1), ("logs",))
def weibull(logs: Tensor, times: Tensor) -> Tensor:
    shape, scale = logs.exp()
    ratio = times / scale
    return -(shape.log() - scale.log() + (shape - 1) * ratio.log() - ratio**shape).mean()


@example("Student's t, robust fit", lambda: (randn(3), 3 * randn(20)), ("theta",))
def student(theta: Tensor, y: Tensor) -> Tensor:
    freedom, scale = F.softplus(theta[1]) + 1, theta[2].exp()
    z = (y - theta[0]) / scale
    norm = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2) - freedom.log() / 2
    return ((freedom + 1) / 2 * torch.log1p(z.square() / freedom)).mean() - norm + scale.log()


@example("Dirichlet–multinomial", lambda: (randn(4), randint(9, (8, 4))))
def dirichlet(logs: Tensor, counts: Tensor) -> Tensor:
    a = logs.exp()
    total = torch.lgamma(a.sum()) - torch.lgamma(a.sum() + counts.sum(1))
    return -(total + (torch.lgamma(a + counts) - torch.lgamma(a)).sum(1)).mean()


@example("hidden Markov model", lambda: (randn(3, 3), randn(3, 4), randint(4, (14,))))
def hidden_markov(moves: Tensor, shows: Tensor, seen: Tensor) -> Tensor:
    steps, emissions = F.log_softmax(moves, 1), F.log_softmax(shows, 1)
    belief = emissions[:, seen[0]]
    for symbol in seen[1:]:
        belief = torch.logsumexp(belief[:, None] + steps, 0) + emissions[:, symbol]
    return -torch.logsumexp(belief, 0)


@example("conditional random field", lambda: (randn(8, 4), randn(4, 4), randint(4, (8,))))
def random_field(scores: Tensor, moves: Tensor, tags: Tensor) -> Tensor:
    total = scores[0]
    for score in scores[1:]:
        total = torch.logsumexp(total[:, None] + moves, 0) + score
    path = scores.gather(1, tags[:, None]).sum() + moves[tags[:-1], tags[1:]].sum()
    return torch.logsumexp(total, 0) - path


@example("hierarchical model", lambda: (randn(10), 10 * randn(8)), ("theta",))
def schools(theta: Tensor, y: Tensor) -> Tensor:
    mean, log_spread, raw = theta[0], theta[1], theta[2:]
    effect = mean + log_spread.exp() * raw
    fit = ((y - effect) / 12).square().sum() / 2
    return fit + raw.square().sum() / 2 + mean.square() / 50 + log_spread.square() / 2


@example("directions, von Mises", lambda: (randn(2), 6 * rand(18)), ("theta",))
def von_mises(theta: Tensor, angles: Tensor) -> Tensor:
    strength = theta[1].exp()
    norm = torch.special.i0e(strength).log() + strength
    return norm - strength * torch.cos(angles - theta[0]).mean()


@example(
    "covariance, log-likelihood", lambda: (torch.eye(4) * 2 + randn(4, 4) / 3, randn(20, 4)), ("p",)
)
def covariance(p: Tensor, x: Tensor) -> Tensor:
    precision = p @ p.T
    return (x @ precision * x).sum() / 40 - torch.logdet(precision) / 2


@example("kernel density", lambda: (randn(8), randn(6) / 2, randn(1)))
def density(centres: Tensor, x: Tensor, log_width: Tensor) -> Tensor:
    z = (x[:, None] - centres) * torch.exp(-log_width)
    return torch.logsumexp(-z.square() / 2, 1) - log_width


@example("k-means", lambda: (randn(4, 2), randn(40, 2)), ("centres",))
def k_means(centres: Tensor, points: Tensor) -> Tensor:
    return (points[:, None] - centres).square().sum(2).min(1).values.sum()


@example("quantiles", lambda: (randn(3), randn(15, 3)), ("w",))
def residual_quantiles(w: Tensor, x: Tensor) -> Tensor:
    return torch.quantile((x @ w).abs(), torch.tensor([0.25, 0.5, 0.9]).to(w))


@example("median of residuals", lambda: (randn(3), randn(15, 3), randn(15)), ("w",))
def median_residual(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ w - y).abs().median()


@example("sorted differences", lambda: (randn(12), randn(12)))
def sorted_distance(left: Tensor, right: Tensor) -> Tensor:
    return (left.sort().values - right.sort().values).square().sum()


@example(
    "evidence lower bound", lambda: (randn(4), randn(4) / 2, randn(6, 4), randn(12, 4)), ("m", "s")
)
def lower_bound(m: Tensor, s: Tensor, noise: Tensor, x: Tensor) -> Tensor:
    drawn = m + s.exp() * noise
    return (
        F.softplus(-(drawn @ x.T)).sum(1).mean() + (m.square() + (2 * s).exp()).sum() / 2 - s.sum()
    )


@example(
    "item response",
    lambda: (randn(8), randn(5), randn(5) / 3, rand(8, 5).round()),
    ("skill", "hard", "steep"),
)
def item_response(skill: Tensor, hard: Tensor, steep: Tensor, right: Tensor) -> Tensor:
    z = steep.exp() * (skill[:, None] - hard)
    return F.binary_cross_entropy(torch.sigmoid(z), right, reduction="sum")
