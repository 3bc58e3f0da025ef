"""Sequences: the loss of an LSTM, attention."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems.catalogue.applications.declaring import declare
from gradbench.problems.function import Tensors, normal, scalar_valued

# ADBench's LSTM, whose weight matrices are diagonal: l layers of h cells predict the next of T
# vectors. The gates forget and output see the layer's input, the others its hidden state.


def lstm(
    weights: Tensor, biases: Tensor, ends: Tensor, hidden: Tensor, cell: Tensor, x: Tensor
) -> Tensor:
    """The loss of weights and biases (l, 4, h) and of the scales and biases of input and output,
    ends (3, h): hidden and cell (l, h) at the start, a sequence x (T, h)."""
    loss, _ = _lstm(weights, biases, ends, hidden, cell, x)
    return loss


Step = tuple[Tensor, ...]


def _lstm(
    weights: Tensor, biases: Tensor, ends: Tensor, hidden: Tensor, cell: Tensor, x: Tensor
) -> tuple[Tensor, list[tuple[list[Step], Tensor, Tensor]]]:
    """The loss; for each step each layer's gates and states, the last layer's output and the
    prediction."""
    h, c = list(hidden), list(cell)
    total = torch.zeros_like(x[0, 0])
    steps: list[tuple[list[Step], Tensor, Tensor]] = []
    for now, after in itertools.pairwise(x):
        added, layers, y, predicted = _lstm_step(weights, biases, ends, h, c, now, after)
        total = total + added
        steps.append((layers, y, predicted))
    return -total / (len(x) - 1) / x.shape[1], steps


def _lstm_step(
    weights: Tensor,
    biases: Tensor,
    ends: Tensor,
    h: list[Tensor],
    c: list[Tensor],
    now: Tensor,
    after: Tensor,
) -> tuple[Tensor, list[Step], Tensor, Tensor]:
    """What a step adds to the score; each layer's gates and states, the last layer's output and the
    prediction. Sets hidden and cell states of the layers."""
    y: Tensor = now * ends[0]
    layers: list[Step] = []
    for k in range(len(weights)):
        seen = torch.stack((y, h[k], y, h[k]))
        forget, enter, leave, change = (seen * weights[k] + biases[k]).unbind(0)
        f, i, o = torch.sigmoid(forget), torch.sigmoid(enter), torch.sigmoid(leave)
        a, before = torch.tanh(change), c[k]
        c[k] = before * f + i * a
        out = torch.tanh(c[k])
        h[k] = y = o * out
        layers.append((seen, before, f, i, o, a, out))
    predicted = y * ends[1] + ends[2]
    added = (after * (predicted - torch.log(torch.exp(predicted).sum() + 2))).sum()
    return added, layers, y, predicted


def _lstm_steps(
    weights: Tensor, biases: Tensor, ends: Tensor, hidden: Tensor, cell: Tensor, x: Tensor
) -> tuple[Step, list[Callable[[Any], Any]]]:
    """The score and the states at the start, and the steps to the loss, for checkpoints."""

    def step(state: Step, now: Tensor, after: Tensor) -> Step:
        total, h, c = state[0], list(state[1]), list(state[2])
        added, *_ = _lstm_step(weights, biases, ends, h, c, now, after)
        return total + added, torch.stack(h), torch.stack(c)

    def loss(state: Step) -> Tensor:
        return -state[0] / (len(x) - 1) / x.shape[1]

    pairs = itertools.pairwise(x)
    steps = [functools.partial(step, now=now, after=after) for now, after in pairs]
    return (torch.zeros_like(x[0, 0]), hidden, cell), [*steps, loss]


def _lstm_gradient(
    weights: Tensor, biases: Tensor, ends: Tensor, hidden: Tensor, cell: Tensor, x: Tensor
) -> Tensors:
    """Backpropagation through time, written out."""
    _, steps = _lstm(weights, biases, ends, hidden, cell, x)
    scale = -1 / (len(x) - 1) / x.shape[1]
    d_weights, d_biases, d_ends = map(torch.zeros_like, (weights, biases, ends))
    d_h, d_c = list(torch.zeros_like(hidden)), list(torch.zeros_like(cell))
    for t in range(len(steps) - 1, -1, -1):
        layers, y, predicted = steps[t]
        grown = torch.exp(predicted)
        d_predicted = scale * (x[t + 1] - x[t + 1].sum() * grown / (grown.sum() + 2))
        d_ends[1] += d_predicted * y
        d_ends[2] += d_predicted
        d_y = d_predicted * ends[1]
        for k in range(len(weights) - 1, -1, -1):
            seen, before, f, i, o, a, out = layers[k]
            d_out = d_h[k] + d_y
            d_cell = d_c[k] + d_out * o * (1 - out * out)
            d_gates = torch.stack(
                (
                    d_cell * before * f * (1 - f),
                    d_cell * a * i * (1 - i),
                    d_out * out * o * (1 - o),
                    d_cell * i * (1 - a * a),
                )
            )
            d_c[k] = d_cell * f
            d_weights[k] += d_gates * seen
            d_biases[k] += d_gates
            back = d_gates * weights[k]
            d_y, d_h[k] = back[0] + back[2], back[1] + back[3]
        d_ends[0] += d_y * x[t]
    return d_weights, d_biases, d_ends


def _draw_lstm(size: Size, generator: torch.Generator) -> Tensors:
    layers, h, T = size["l"], size["h"], size["T"]
    return (
        normal(generator, layers, 4, h),
        normal(generator, layers, 4, h),
        normal(generator, 3, h),
        0.5 * normal(generator, layers, h),
        0.5 * normal(generator, layers, h),
        normal(generator, T, h),
    )


declare(
    "lstm",
    formula="−Σₜ xₜ₊₁·(zₜ − log(2 + Σ exp zₜ))/((T − 1)h), zₜ of l layers of h cells with diagonal "
    "weights, from xₜ; states at the start and x constant",
    derivative="backpropagation through time, gate by gate: df = dc∘c₋, di = dc∘a, do = dh∘tanh c, "
    "da = dc∘i",
    forward=lstm,
    steps=_lstm_steps,
    draw=_draw_lstm,
    derivatives=scalar_valued(_lstm_gradient),
    inputs=("weights", "biases", "ends"),
    constants=("hidden", "cell", "x"),
    example={"l": 1, "h": 2, "T": 3},
    sizes=({"l": 1, "h": 8, "T": 8}, {"l": 2, "h": 16, "T": 24}),
    large_sizes=({"l": 4, "h": 64, "T": 200},),
)


# Attention of h heads on T tokens with d features each (A. Vaswani et al., 2017, equation 1), in
# matmuls and a softmax.


def attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """The values (h, T, d) that queries, keys and values of the same shape give."""
    return _shares(Q, K) @ V


def _shares(Q: Tensor, K: Tensor) -> Tensor:
    return torch.softmax(Q @ K.transpose(-1, -2) / Q.shape[-1] ** 0.5, -1)


def _attention_vjp(v: Tensor, Q: Tensor, K: Tensor, V: Tensor) -> Tensors:
    P = _shares(Q, K)
    dP = v @ V.transpose(-1, -2)
    dS = P * (dP - (P * dP).sum(-1, keepdim=True)) / Q.shape[-1] ** 0.5
    return dS @ K, dS.transpose(-1, -2) @ Q, P.transpose(-1, -2) @ v


def _attention_jvp(t: Tensors, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    dQ, dK, dV = t
    P = _shares(Q, K)
    dS = (dQ @ K.transpose(-1, -2) + Q @ dK.transpose(-1, -2)) / Q.shape[-1] ** 0.5
    dP: Tensor = P * (dS - (P * dS).sum(-1, keepdim=True))
    return dP @ V + P @ dV


declare(
    "attention",
    formula="softmax(QKᵀ/√d) V of h heads on T tokens",
    derivative="P = softmax(S); dV = Pᵀv, dS = P∘(vVᵀ − Σ(P∘vVᵀ)), dQ = dS K/√d, dK = dSᵀQ/√d",
    forward=attention,
    draw=lambda size, generator: tuple(
        normal(generator, size["h"], size["T"], size["d"]) for _ in range(3)
    ),
    derivatives={"vjp": _attention_vjp, "jvp": _attention_jvp},
    inputs=("Q", "K", "V"),
    dtype="float32",
    example={"h": 2, "T": 3, "d": 4},
    sizes=({"h": 2, "T": 16, "d": 8}, {"h": 4, "T": 64, "d": 32}),
    large_sizes=({"h": 8, "T": 1024, "d": 64},),
)
