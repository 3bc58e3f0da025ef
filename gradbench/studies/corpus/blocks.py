"""Attention, the blocks of transformers, and normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.studies.corpus import declare, example

rand, randn, randint = torch.rand, torch.randn, torch.randint


class Encoder(nn.Module):
    """A transformer's encoder layer as a loss of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.add_(0.3 * randn(parameter.shape, generator=generator))

    def forward(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        return (self.layer(tokens) - wanted).square().mean()


encoder_layer = declare(
    "encoder_layer", "transformer layer", Encoder(), lambda: (randn(2, 5, 4), randn(2, 5, 4))
)


@example("attention", lambda: (randn(5, 4), randn(6, 4), randn(6, 3)))
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.softmax(q @ k.T / 2, 1) @ v).square().sum()


@example(
    "attention, torch's own kernel",
    lambda: (randn(1, 2, 5, 4), randn(1, 2, 5, 4), randn(1, 2, 5, 4)),
)
def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v).square().mean()


@example(
    "causal language model",
    lambda: (randn(7, 4), randn(4, 12), randint(7, (9,))),
    ("vectors", "project"),
)
def language_model(vectors: Tensor, project: Tensor, words: Tensor) -> Tensor:
    x = vectors[words[:-1]]
    q, k, v = (x @ project).chunk(3, 1)
    later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    weights = torch.softmax((q @ k.T / 2).masked_fill(later, -torch.inf), 1)
    return F.cross_entropy((x + weights @ v) @ vectors.T, words[1:])


@example("rotary positions", lambda: (randn(6, 4), randn(6, 4)))
def rotary(q: Tensor, k: Tensor) -> Tensor:
    angle = torch.arange(6).to(q)[:, None] * torch.tensor([1.0, 0.1]).to(q)

    def turned(x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left * angle.cos() - right * angle.sin(), left * angle.sin()], 1)

    return F.log_softmax(turned(q) @ turned(k).T, 1).diagonal().sum()


@example("layer normalisation", lambda: (3 * randn(4, 6) + 2, randn(6), randn(6)))
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (6,), gain, bias).square().mean()


@example("root mean square normalisation", lambda: (randn(3, 5), 1 + randn(5) / 5))
def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain


@example("gated linear unit", lambda: (randn(4, 5), randn(8, 5) / 2, randn(5, 4) / 2))
def swiglu(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = (x @ up.T).chunk(2, 1)
    return ((F.silu(gate) * value) @ down.T).square().mean()


@example("feed-forward block, GELU", lambda: (randn(4, 5), randn(7, 5) / 2, randn(5, 7) / 2))
def gelu_block(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (x + F.gelu(F.layer_norm(x, (5,)) @ up.T) @ down.T).square().mean()


@example(
    "mixture of experts",
    lambda: (randn(4, 3), randn(4, 3, 3) / 2, randn(9, 3)),
    ("gate", "experts"),
)
def experts_mixture(gate: Tensor, experts: Tensor, x: Tensor) -> Tensor:
    best = (x @ gate.T).topk(2, 1)
    share = torch.softmax(best.values, 1)
    each = torch.einsum("nd,nkde->nke", x, experts[best.indices])
    return (share[..., None] * torch.tanh(each)).sum(1).square().mean()


@example("low-rank adaptation", lambda: (randn(2, 6) / 2, randn(5, 2), randn(5, 6), randn(8, 6)))
def lora(a: Tensor, b: Tensor, frozen: Tensor, x: Tensor) -> Tensor:
    return F.gelu(x @ (frozen + b @ a).T, approximate="tanh").square().mean()


@example("weight normalisation", lambda: (randn(4, 5), 1 + rand(4), randn(9, 5)), ("v", "g"))
def weight_norm(v: Tensor, g: Tensor, x: Tensor) -> Tensor:
    return torch.sin(x @ (g[:, None] * v / v.norm(dim=1, keepdim=True)).T).sum(0)


@example("state space model", lambda: (-rand(4) - 0.2, randn(4), randn(4), randn(12)))
def state_space(decay: Tensor, inward: Tensor, outward: Tensor, signal: Tensor) -> Tensor:
    powers = torch.exp(decay[:, None] * torch.arange(12).to(signal))
    kernel = (outward[:, None] * inward[:, None] * powers).sum(0)
    return F.conv1d(signal[None, None], kernel.flip(0)[None, None], padding=11)[0, 0, :12]
