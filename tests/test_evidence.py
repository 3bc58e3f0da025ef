"""What the derivatives of a user's function are held against: right ones are never contradicted,
wrong ones are, and what differences cannot decide is said."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradbench.core.deadline import Deadline
from gradbench.worker.evidence import CONFIRMED, Refused, gather
from gradbench.worker.settling import Manner


def subject(function, *inputs, wrt=None):
    """A function with its inputs, as the inspection sees it."""
    wrt = len([x for x in inputs if x.is_floating_point()]) if wrt is None else wrt
    values = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return SimpleNamespace(
        forward=function,
        target=function,
        names=["x", "z", "w"][: len(values)],
        values=values,
        differentiated=wrt,
        dtype=torch.float32,
        unit=2.0**-52,
        manner=Manner(),
    )


def evidence(function, *inputs, operator="", wrt=None, seconds=math.inf, **options):
    one = subject(function, *inputs, wrt=wrt)
    y = one.forward(*one.values).detach()
    return gather(one, one.values, y, operator, Deadline(seconds), **options)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


torch.manual_seed(0)
RELU = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2)).double()
NORMED = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).double()
SAMPLES = randn(60, 3, seed=9)


def by_first_bias(bias):
    return torch.func.functional_call(NORMED, {"0.bias": bias}, (SAMPLES,)).square().mean()


RIGHT = {
    "sin": (torch.sin, (5,)),
    "tanh, saturated": (lambda x: torch.tanh(8 * x), (6,)),
    "sigmoid": (lambda x: torch.sigmoid(20 * x), (6,)),
    "softmax": (lambda x: torch.softmax(3 * x, 0), (5,)),
    "softmax sum": (lambda x: torch.softmax(x, 0).sum(), (4,)),
    "log softmax": (lambda x: F.log_softmax(10 * x, 0), (4,)),
    "logsumexp": (lambda x: torch.logsumexp(30 * x, 0), (5,)),
    "matmul": (lambda x: x @ x.T @ x, (3, 3)),
    "determinant": (torch.det, (4, 4)),
    "inverse": (lambda x: torch.linalg.inv(x + 5 * torch.eye(3)), (3, 3)),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(3)), (3, 3)),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(x + x.T), (3, 3)),
    "singular values": (torch.linalg.svdvals, (4, 3)),
    "norm": (lambda x: x.norm(), (5,)),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 2, 1])), (3, 4)),
    "layer norm": (lambda x: F.layer_norm(x, (4,)), (3, 4)),
    "bias before batch norm": (by_first_bias, (4,)),
    "convolution": (lambda x: F.conv1d(x.reshape(1, 1, -1), torch.ones(1, 1, 3).double()), (7,)),
    "relu network": (lambda x: RELU(x).square().mean(), (8, 6)),
    "relu": (torch.relu, (9,)),
    "abs": (lambda x: x.abs().sum(), (9,)),
    "max": (lambda x: x.max(), (9,)),
    "min over centres": (
        lambda x: (SAMPLES[:, None] - x).square().sum(2).min(1).values.sum(),
        (4, 3),
    ),
    "sort": (lambda x: x.sort().values * torch.arange(6), (6,)),
    "median": (lambda x: x.median(), (7,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), (9,)),
    "where": (lambda x: torch.where(x > 0, x**2, -3 * x), (9,)),
    "hinge": (lambda x: (1 - x).clamp(min=0).mean(), (12,)),
    "max pool": (lambda x: F.max_pool1d(x.reshape(1, 1, -1), 3), (9,)),
    "huber": (lambda x: F.huber_loss(x, torch.zeros(9).double()), (9,)),
    "product": (lambda x: x.prod(), (5,)),
    "cumulative product": (lambda x: x.cumprod(0), (5,)),
    "powers": (lambda x: x.abs() ** torch.linspace(0.5, 3, 5), (5,)),
    "logarithm": (lambda x: (x**2).log(), (5,)),
    "large beside small": (lambda x: 1e7 * x[0] + (x[1:] ** 2).sum(), (3,)),
    "rows of many sizes": (
        lambda x: torch.stack([1e8 * x.prod(), x.sum(), 1e-8 * x[0] ** 2]),
        (3,),
    ),
    "oscillating": (lambda x: torch.sin(300 * x), (4,)),
    "narrow": (lambda x: torch.exp(-((x / 1e-3) ** 2)).sum(), (4,)),
    "ill conditioned": (lambda x: (1e8 + x) - 1e8, (4,)),
    "single precision inside": (lambda x: (x.float() ** 2).sum().double(), (4,)),
    "complex inside": (lambda x: torch.fft.rfft(x).abs(), (6,)),
    "integers": (lambda x: x[torch.tensor([0, 2, 2])], (4,)),
    "loop": (lambda x: _iterated(x), (3,)),
    "constant part": (lambda x: torch.cat([x, torch.ones(2)]), (3,)),
    "rounding": (lambda x: torch.round(3 * x) + 0 * x, (5,)),
}


def _iterated(x):
    y = x
    for _ in range(20):
        y = y + 0.1 * torch.sin(y) * x
    return y


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_derivative_is_never_contradicted(name):
    function, shape = RIGHT[name]
    for seed in range(4):
        found = evidence(function, randn(*shape, seed=seed))
        assert found.verdict == CONFIRMED or name in ("ill conditioned", "single precision inside")
        assert any("forward mode agrees" in said for said in found.sentences)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_inputs_of_any_magnitude(size):
    for function in (
        lambda x: (x**2).sum(),
        lambda x: torch.sin(x),
        lambda x: torch.cos(x),
        lambda x: torch.log(x.abs()),
        lambda x: torch.exp(-x / size),
    ):
        x = size * randn(5)
        assert evidence(function, x).verdict == CONFIRMED
        x[2] = 0
        assert evidence(lambda x: torch.sin(x) * x, x).verdict == CONFIRMED
    mixed = torch.tensor([1e8, 1e-8, 0.0, 1.0])
    assert evidence(lambda x: torch.cos(x) * x, mixed).verdict == CONFIRMED


class Wrong(torch.autograd.Function):
    """The identity, with a backward that changes what comes back."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.change(g), None


def _one(g, factor):
    changed = g.contiguous().clone()
    changed.reshape(-1)[-1] *= factor
    return changed


ERRORS = {
    "factor in one entry": lambda g: _one(g, 2.0),
    "off by 1e-3 in one entry": lambda g: _one(g, 1.001),
    "off by 1e-3": lambda g: g * 1.001,
    "sign": lambda g: -g,
    "sign of one entry": lambda g: _one(g, -1.0),
    "zero in one entry": lambda g: _one(g, 0.0),
    "zero": torch.zeros_like,
    "order": lambda g: g.flip(0),
    "swapped": lambda g: torch.cat([g[1:2], g[:1], g[2:]]),
    "missing term": lambda g: g - g.mean(),
    "shifted": lambda g: g.roll(1, 0),
    "transposition": lambda g: g.T if g.dim() == 2 and len(g) == g.shape[1] else g.flip(0),
}
AROUND = {
    "quadratic": (lambda x, wrong: (torch.linspace(1, 2, 6) * wrong(x) ** 2).sum(), (6,)),
    "elementwise": (lambda x, wrong: torch.sin(wrong(x)) * x, (6,)),
    "large beside small": (
        lambda x, wrong: (wrong(x) ** 2 * torch.tensor([1e7, 1, 2, 3, 4, 5.0])).sum(),
        (6,),
    ),
    "small rows": (lambda x, wrong: torch.logspace(3, -6, 6) * wrong(x) ** 3, (6,)),
    "matrix": (lambda x, wrong: torch.tanh(wrong(x) @ randn(3, 3, seed=7)), (3, 3)),
    "kinks": (lambda x, wrong: (torch.relu(wrong(x)) * torch.arange(1, 10)).sum() + x.sum(), (9,)),
    "relu network": (lambda x, wrong: RELU(wrong(x)).square().mean(), (5, 6)),
    "saturated": (lambda x, wrong: (torch.tanh(4 * wrong(x)) * torch.arange(1, 6)).sum(), (5,)),
    "exponential": (lambda x, wrong: torch.exp(3 * wrong(x)).cumsum(0), (5,)),
    "loss": (lambda x, wrong: F.cross_entropy(wrong(x), torch.tensor([0, 2, 1])), (3, 3)),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("error", ERRORS)
def test_a_wrong_backward_is_contradicted(around, error):
    function, shape = AROUND[around]
    x = randn(*shape, seed=3)
    if around == "kinks":
        # An error in an entry that the function does not use is no error.
        x[-1] = x[-1].abs()

    def wrong(z):
        return Wrong.apply(z, ERRORS[error])

    right = torch.func.jacrev(lambda x: function(x, lambda z: z))(x)
    rows = right.reshape(-1, *shape)
    if all(torch.allclose(ERRORS[error](row), row, rtol=1e-5) for row in rows):
        pytest.skip("it changes nothing here")
    with pytest.raises(Refused, match="finite differences") as refused:
        evidence(lambda x: function(x, wrong), x)
    assert "by x[" in str(refused.value)
    assert "Wrong" in str(refused.value) or "detach" in str(refused.value)
