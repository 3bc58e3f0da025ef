"""Functions of a user's as they are in the wild: state, random numbers, dtypes, parameters."""

import random as python_random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

IMPORTED = [0]
IMPORTED[0] += 1

torch.manual_seed(0)
base = torch.tensor([0.3, -1.0, 0.5, 2.0])
halves = base[:2]
matrix = torch.linspace(-1, 1, 9).reshape(3, 3)
network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def filled_by_index(x):
    out = torch.zeros(3)
    for i in range(3):
        out[i] = x[i] ** (i + 1)
    return out


def filled_by_copy(x):
    out = torch.empty(2, 3)
    out[0].copy_(x.sin())
    out[1] = 0
    out[1].add_(x * 2)
    return out


def filled_by_put(x):
    out = torch.ones(4)
    out.index_put_((torch.tensor([0, 2]),), x[:2] * x[2], accumulate=True)
    return out.masked_fill(torch.eye(4)[1].bool(), 0.0) + torch.arange(4.0)


def with_vjp_inside(v):
    return torch.func.vjp(torch.sin, base)[1](v)[0]


def with_grad_inside(x):
    return torch.func.grad(lambda t: (t * base[:3]).sin().sum())(x)


def with_autograd_inside(x):
    z = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad((z**3).sum(), z, create_graph=True)
    return (slope * x).sum()


def potential(x):
    return (x**4).sum() + x.prod()


def force(x):
    """Differentiates by its own input, which has to require grad."""
    return -torch.autograd.grad(potential(x), x, create_graph=True)[0]


def without_graph(x):
    """Differentiates what does not depend on its input."""
    return torch.autograd.grad(base.sum(), x)[0]


def adapted(weights, x):
    """Two steps of training by the weights that it is called with, and the loss then."""
    for _ in range(2):
        loss = (torch.tanh(x @ weights["a"]) @ weights["b"]["c"]).square().mean()
        slopes = torch.autograd.grad(loss, [weights["a"], weights["b"]["c"]], create_graph=True)
        weights = {"a": weights["a"] - slopes[0], "b": {"c": weights["b"]["c"] - slopes[1]}}
    return (torch.tanh(x @ weights["a"]) @ weights["b"]["c"]).square().mean()


def with_missing(x, data):
    """Of a table in which NaN stands for what is missing."""
    return torch.where(data.isnan(), 0.0, data) @ x.sin()


def missing_inputs():
    return torch.tensor([0.5, -1.0]), torch.tensor([[1.0, float("nan")], [2.0, 3.0]])


def with_casts(x):
    return (x.float() @ matrix.float()).to(torch.float32) * torch.ones(3, dtype=torch.float32)


def of_numpy(x):
    import numpy

    table = torch.from_numpy(numpy.arange(9, dtype=numpy.float32).reshape(3, 3))
    return x @ table


def with_constants(x):
    return x * torch.tensor([1.0, 0.1, 0.3]).to(x) + torch.linspace(0, 1, 3)


def only_single(x):
    if x.dtype != torch.float32:
        raise TypeError("single precision only")
    return x.sin()


def changed_by_dtype(x):
    return x * (2.0 if x.dtype == torch.float64 else 3.0)


def changed_by_a_little(x):
    """Far more than rounding."""
    return x.sin() * (1.0 if x.dtype == torch.float64 else 1.01)


def drawn_inside(x):
    """Draws its weights from a generator with a seed of its own."""
    generator = torch.Generator().manual_seed(3)
    return torch.tanh(torch.randn(4, 3, generator=generator) @ x)


def cancelling(x):
    """Single precision has no digit of it right."""
    return (torch.exp(x * 1e-7) - 1) / (x * 1e-7)


def absorbing(x):
    """Nothing but rounding where x is 1."""
    return (x / x + 1e-12).log()


def underflowing(x):
    """Is zero in float32, as is its derivative."""
    return (x * 1e-30).prod()


def seeded_inside(x):
    """Makes a layer in every call, with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layer = torch.nn.Linear(3, 4)
        noise = torch.empty(4).exponential_()
        mixed = torch.rand_like(x) * torch.bernoulli(torch.full((3,), 0.5))
    return layer(x * mixed) + noise


def under_autocast(x):
    """Returns bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.tanh(torch.outer(x, x) @ torch.linspace(-1, 1, 3)[:, None])[:, 0]


def of_half(x):
    """Returns float16."""
    return x.half().exp() * x[0].half()


def of_single(x):
    """Returns float32."""
    return torch.sin(x.float()) * x[0].float()


def of_double(x):
    """Returns float64: it adds up in that."""
    return (x.sin().double().cumsum(0) * x[0].double()).exp()


def small_slopes(x):
    """In single precision only, and so flat that differences see little of it."""
    return 1.0 + 1e-4 * only_single(x)


def sharing_memory(x):
    """Writes into a tensor, and reads the write by a view of it."""
    base[0] = 0.5
    return x * halves[0]


def noisy(x):
    return x * torch.randn(3) + torch.rand_like(x)


def noisy_by_python(x):
    return x * python_random.random()


def dropped(x):
    return nn.functional.dropout(x, 0.5).sum() + (x**2).sum()


iterated = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4), n_power_iterations=1)
with torch.no_grad():
    iterated.parametrizations.weight[0]._u.copy_(torch.tensor([1.0, 0, 0, 0]))


def by_iterated(x):
    return iterated(x).square().mean()


def by_network(x):
    """In training mode, as it was made."""
    return network(x).square().mean()


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return self.net(x).square().mean() * self.frozen.sum()

    def scaled(self, x, scale):
        return self(x) * scale


loss = Loss()


def loss_of_net(net, x, *, weight=1.0):
    return weight * net(x).square().mean()


def loss_by_dict(weights, x):
    return (torch.tanh(x @ weights["a"]) @ weights["b"]["c"]).square().mean()


def loss_by_list(layers, x):
    for w, b in layers:
        x = torch.tanh(x @ w + b)
    return x.sum()


@dataclass
class Pendulum:
    length: torch.Tensor
    mass: torch.Tensor
    name: str = "pendulum"


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


def energy(pendulum, angle):
    return (pendulum.mass * pendulum.length * (1 - angle.cos())).sum()


def of_pair(pair):
    return (pair.a * pair.b.exp()).sum()


def by_keyword(x, /, *, scale, offset=0.0):
    return (x * scale + offset).sum()


def of_complex(z):
    return (z * z.conj()).real.sum() + z.imag.sum()


def several(*points):
    return sum((p**2).sum() for p in points)


def with_count(x):
    return (x**2).sum(), (x > 0).sum()


class OnlyForward(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.saved_tensors[0]


def written_over(x):
    """Reverse mode needs numbers that are overwritten; forward mode does not."""
    y = x.clone()
    for i in range(1, len(y)):
        y[i] += torch.sin(y[i - 1])
    y[::2].mul_(2)
    return y


def only_forward(x):
    return OnlyForward.apply(x).cumsum(0)


def two_values(x, scale):
    return torch.stack([(x**3).sum() * scale.sum(), x.prod() * scale[0]])


def dict_inputs():
    return {"a": torch.ones(3, 2), "b": {"c": torch.ones(2, 1)}}, torch.ones(5, 3)


def net_inputs():
    return {"net": network, "x": torch.linspace(-1, 1, 15).reshape(5, 3)}


def list_inputs():
    return [(torch.ones(3, 3) / 3, torch.zeros(3)) for _ in range(2)], torch.ones(2, 3)


def pendulum_inputs():
    return Pendulum(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), torch.tensor([0.1, 0.2])


def pair_inputs():
    return {"pair": Pair(torch.ones(2), torch.zeros(2))}


def complex_inputs():
    return (torch.tensor([1 + 2j, 3 - 1j]),)
