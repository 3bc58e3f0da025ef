"""Losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.studies.corpus import example

rand, randn, randint = torch.rand, torch.randn, torch.randint


@example("cross-entropy, confident", lambda: (6 * randn(8, 5), randint(5, (8,))))
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


@example("focal loss", lambda: (2 * randn(9, 4), randint(4, (9,))))
def focal(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


@example("contrastive loss", lambda: (randn(6, 4), randn(6, 4)))
def info_nce(left: Tensor, right: Tensor) -> Tensor:
    similar = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.1
    labels = torch.arange(6)
    return (F.cross_entropy(similar, labels) + F.cross_entropy(similar.T, labels)) / 2


@example("triplet margin", lambda: (randn(7, 3), randn(7, 3), randn(7, 3)))
def triplet(anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
    return F.triplet_margin_loss(anchor, near, far)


@example("connectionist temporal classification", lambda: (randn(8, 2, 4), randint(1, 4, (2, 3))))
def ctc(logits: Tensor, labels: Tensor) -> Tensor:
    lengths = torch.tensor([8, 8]), torch.tensor([3, 3])
    return F.ctc_loss(F.log_softmax(logits, 2), labels, *lengths)


@example("distillation", lambda: (2 * randn(6, 5), 2 * randn(6, 5)), ("student",))
def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    wanted = F.softmax(teacher / 2, 1)
    return F.kl_div(F.log_softmax(student / 2, 1), wanted, reduction="batchmean")


@example("Huber loss", lambda: (3 * randn(20), randn(20)), ("x",))
def huber(x: Tensor, y: Tensor) -> Tensor:
    return F.huber_loss(x, y)


@example("hinge loss", lambda: (randn(5), randn(16, 5), 2 * randint(2, (16,)) - 1))
def hinge(w: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    return torch.clamp(1 - sign * (x @ w), min=0).mean() + 0.01 * w.square().sum()


@example("binary cross-entropy, wide", lambda: (8 * randn(20), rand(20).round()), ("logits",))
def binary(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels)


@example("Dice loss", lambda: (2 * randn(6, 6), rand(6, 6).round()), ("logits",))
def dice(logits: Tensor, mask: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)


@example("quantile regression", lambda: (randn(3), randn(25, 3), randn(25)), ("w",))
def pinball(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    apart = y - x @ w
    return torch.maximum(0.9 * apart, -0.1 * apart).mean()


@example("soft dynamic time warping", lambda: (randn(6, 2), randn(5, 2)))
def soft_dtw(left: Tensor, right: Tensor) -> Tensor:
    cost = (left[:, None] - right).square().sum(2)
    far = cost.new_full((), 1e4)
    above = [cost.new_zeros(())] + [far] * len(right)
    for row in cost:
        line = [far]
        for j, here in enumerate(row):
            ways = torch.stack([above[j], above[j + 1], line[j]])
            line.append(here - torch.logsumexp(-ways, 0))
        above = line
    return above[-1]


@example("optimal transport, Sinkhorn", lambda: (randn(5, 2), randn(6, 2)))
def sinkhorn(left: Tensor, right: Tensor) -> Tensor:
    cost = (left[:, None] - right).square().sum(2)
    f, g = cost.new_zeros(5), cost.new_zeros(6)
    for _ in range(12):
        f = -torch.logsumexp(g - cost, 1) - 1.609
        g = -torch.logsumexp(f[:, None] - cost, 0) - 1.792
    return (torch.exp(f[:, None] + g - cost) * cost).sum()


@example("heteroscedastic regression", lambda: (randn(12), randn(12), randn(12)), ("mean", "s"))
def gaussian_nll(mean: Tensor, s: Tensor, y: Tensor) -> Tensor:
    return F.gaussian_nll_loss(mean, y, F.softplus(s))


@example("label smoothing", lambda: (3 * randn(7, 5), randint(5, (7,))))
def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")


@example("cosine embedding", lambda: (randn(8, 5), randn(8, 5), 2 * randint(2, (8,)) - 1))
def cosine(left: Tensor, right: Tensor, sign: Tensor) -> Tensor:
    return F.cosine_embedding_loss(left, right, sign)
