"""Functions of a user to differentiate, good and bad."""

import dataclasses
import os
import sys
import time

import numpy as np
import torch


class OffInOneEntry(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        wrong = 2 * x * g
        factor = torch.ones_like(wrong)
        factor[..., 2] = 1.5
        return wrong * factor


def elementwise(x):
    return torch.sin(x) * x


def scaled(x, index, power=2):
    return {"a": x[index] ** power, "b": (x.sum(), x.prod())}


def wrong_backward(x):
    return OffInOneEntry.apply(x)


def of_complex(x):
    return torch.fft.rfft(x)


def partly_complex(x):
    return x.sum(), {"spectrum": torch.fft.rfft(x)}


def of_integers(x):
    return x.argsort()


def of_python(x):
    return float(x.sum())


@dataclasses.dataclass
class Fields:
    sine: torch.Tensor


def of_dataclass(x):
    return Fields(x.sin())


def through_numpy(x):
    return torch.from_numpy(np.sin(x.numpy()))


def partly_through_numpy(x):
    return x.sum() + torch.from_numpy(np.sin(x.numpy())).sum()


def of_nothing(x):
    return {"mean": None}


def detached(x):
    return x * x.detach()


def all_detached(x):
    return x.detach() * 2


def not_a_number(x):
    return torch.log(-(x**2))


def random(x):
    return x * torch.rand_like(x)


def mutating(x):
    x += 1
    return x * 2


def raising(x):
    raise KeyError("no such key")


def dying(x):
    os._exit(3)


def endless(x):
    while True:
        pass


def eating(x):
    return x + torch.ones(1 << 40)[0]


def napping(x):
    time.sleep(0.1)
    return x.cumsum(0).sin()


def hanging_nearby(x):
    """Hangs at any input but that of `at_start`, where finite differences are taken."""
    if float((x.detach() - START).abs().max()) > 1e-6:
        time.sleep(1000)
    return x.cumsum(0).sin()


def dying_nearby(x):
    if float((x.detach() - START).abs().max()) > 1e-6:
        os._exit(3)
    return x.cumsum(0).sin()


DEATHS = []


def dying_again(x):
    """Ends its process at its second call."""
    DEATHS.append(0)
    if len(DEATHS) > 1:
        os._exit(3)
    return x.cumsum(0).sin()


START = torch.tensor([0.5, 0.25, 1.0])


def at_start():
    return (START,)


def chatty(x):
    print("chatter\n" * 10_000)
    return x**3


module = torch.nn.Linear(3, 2)


def stencil(u, k):
    return k * (u[2:] - 2 * u[1:-1] + u[:-2]) + u[1:-1] ** 3


def affine(w, x):
    return torch.tanh(w @ x)


def pendulum(c, x):
    return torch.stack([x[:, 1] * c[0], torch.sin(x[:, 0]) * c[1], x.prod(1) * c[2]], 1)


def loss(x, scale):
    return (scale * torch.exp(-(x**2))).sum()


def product(a, b):
    """Two inputs, with mixed second derivatives and a block of zeros."""
    return (torch.sin(a) * b).sum()


def energies(x):
    """One number per sample."""
    return (x**3).sum(1)


def sample_losses(w, x, labels):
    """Samples that share their weights."""
    return torch.nn.functional.cross_entropy(torch.tanh(x @ w), labels, reduction="none")


def mean_loss(w, x, labels):
    return torch.nn.functional.cross_entropy(x @ w, labels)


def neighbours(x):
    """Each number depends on five; past the largest dense jacobian for long inputs."""
    around = sum(x.roll(k) for k in (-2, -1, 1, 2))
    return 4 * x - around + x**3


def layered(x):
    """Layers that checkpoints can be put between."""
    return layers(x).square().sum()


layers = torch.nn.Sequential(*[torch.nn.Tanh(), torch.nn.Linear(3, 3)] * 3).double()


def spread(w, x):
    """Of the whole batch: no mean of what its samples make alone."""
    return (x @ w).var()


def branching(x):
    """A data-dependent branch, which vmap does not support."""
    return x * 2 if float(x.detach().sum()) > -1e9 else x


def switching(x):
    """Two branches with jacobians of different patterns."""
    return x * x.roll(1) if x[0] > 0 else x * x.sum()


def switching_energy(x):
    """Two branches with hessians of different patterns."""
    return (x**3).sum() if x[0] > 0 else (x * x.roll(1)).pow(2).sum()


def late(x):
    """Kills the worker when a function transform calls it."""
    measuring = sys.argv[0].endswith("worker/__main__.py")
    if measuring and torch._C._functorch.is_functorch_wrapped_tensor(x):
        os._exit(7)
    return (x**2).cumsum(0)


def own_jacobian(x):
    """A hand-written derivative of elementwise."""
    return torch.diag(torch.cos(x) * x + torch.sin(x))


def wrong_jacobian(x):
    """One entry is wrong."""
    found = own_jacobian(x).clone()
    found[1, 1] *= 1.5
    return found


def not_finite():
    return torch.tensor([0.5, float("nan"), 2.0, -float("inf"), 1.0])


def made_inputs():
    return {"x": torch.linspace(0.1, 1.0, 6)}


def no_inputs():
    return 3


CALLS = [0.0]


def stateful(x):
    CALLS[0] += 1.0
    return x * CALLS[0]


def dense(x):
    return torch.softmax(x, 0)


WEIGHTS = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))


def holding(x):
    """Has weights in float32."""
    return torch.tanh(x @ WEIGHTS + torch.zeros(3))


def by_module(x):
    """Has a module in float32, and is differentiated with respect to the points."""
    return network(x).squeeze(-1)


_FIRST, _SECOND = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 2, 3, 0, 2, 3])


def distances(places, size):
    "Each value depends on two places and one size, which are gathered."
    apart = places[_FIRST] - places[_SECOND]
    return torch.cat([(apart**2).sum(1) * size[_FIRST % 3], size**2])


def arrow(x):
    "The first row and the first column of the jacobian are full."
    return torch.cat([(x * x).sum()[None], x[1:] ** 3 + x[0] * x[1:]])
