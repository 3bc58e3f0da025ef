"""Ways of writing: branches, buffers filled in place, dicts of parameters, own backwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gradbench.studies.corpus import example

rand, randn, randint = torch.rand, torch.randn, torch.randint


@example("branch on a value", lambda: randn(6))
def branch(x: Tensor) -> Tensor:
    return x.sin() * x if x.sum() > 0 else x.exp().cumsum(0)


@example("loop until it converges", lambda: rand(1) * 8 + 1)
def converging(a: Tensor) -> Tensor:
    x, tries = a, 0
    while float((x * x - a).abs().max()) > 1e-3 and tries < 20:
        x, tries = (x + a / x) / 2, tries + 1
    return x * a.log()


@example("buffer filled in place", lambda: randn(5))
def filled(x: Tensor) -> Tensor:
    out = torch.zeros(5, dtype=x.dtype)
    for i in range(5):
        out[i] = x[i] * x[: i + 1].sum()
    return out


@example("buffer of the default dtype", lambda: randn(4))
def default_buffer(x: Tensor) -> Tensor:
    out = torch.zeros(4)
    out[1:] += x[:3].sin()
    out[0] = x[3] ** 2
    return out + x


# `torch.func.linearize` traces one call and folds what is constant in it, so what the function
# adds to a buffer in place is added anew in each call of the linear map.
@example(
    "buffer, index_put",
    lambda: (randn(6), randn(4, 3)),
    torch_errs=("linearize_vmap", "linearize_loop"),
)
def scattered(values: Tensor, base: Tensor) -> Tensor:
    table = base.clone()
    rows, columns = torch.tensor([0, 1, 2, 3, 0, 0]), torch.tensor([0, 1, 2, 0, 0, 2])
    table.index_put_((rows, columns), values, accumulate=True)
    return table.prod(0)


@example(
    "parameters in a dict",
    lambda: ({"a": randn(4, 6) / 2, "b": randn(6, 1) / 2}, randn(9, 4)),
    ("weights",),
)
def dict_network(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return (torch.tanh(x @ weights["a"]) @ weights["b"]).square().mean()


@example(
    "parameters in a list",
    lambda: ([randn(3, 4) / 2, randn(4, 4) / 2, randn(4, 2) / 2], randn(7, 3)),
    ("layers",),
)
def list_network(layers: list[Tensor], x: Tensor) -> Tensor:
    for layer in layers:
        x = F.silu(x @ layer)
    return x.square().mean()


@example("transposed input", lambda: randn(3, 5).T)
def transposed(x: Tensor) -> Tensor:
    return (x * x).sum(0).sqrt()


@example("strided input", lambda: randn(10, 2)[::2, 0])
def strided(x: Tensor) -> Tensor:
    return torch.outer(x, x).triu().sum() + x.prod()


@example("derivative of zero", lambda: randn(6))
def softmax_total(x: Tensor) -> Tensor:
    return torch.softmax(x, 0).sum()


@example("saturated units", lambda: 6 * randn(12))
def saturated(x: Tensor) -> Tensor:
    return torch.tanh(x) * torch.sigmoid(2 * x)


@example("bell curves", lambda: 3 * randn(20))
def bells(x: Tensor) -> Tensor:
    return torch.exp(-x * x) * x


@example("batch of fields", lambda: randn(8, 3))
def fields(x: Tensor) -> Tensor:
    a, b, c = x.unbind(1)
    return torch.stack([a * b + c.sin(), (a - c).exp()], 1)


@example("clamped", lambda: 2 * randn(10))
def clamped(x: Tensor) -> Tensor:
    return x.clamp(-1, 1.5) ** 3 + F.hardtanh(x)


@example("product with cumulative terms", lambda: randn(7))
def cumulative(x: Tensor) -> Tensor:
    return torch.cumprod(x, 0) + x.cummax(0).values


@example("largest of windows", lambda: randn(1, 1, 12))
def windows(x: Tensor) -> Tensor:
    return F.max_pool1d(x, 3, 2)[0, 0] * x.unfold(2, 4, 3).sum(-1).mean()


@example("guarded division", lambda: randn(9))
def guarded(x: Tensor) -> Tensor:
    safe = torch.where(x.abs() > 0.3, x, torch.ones_like(x))
    return torch.where(x.abs() > 0.3, safe.sin() / safe, 1 - x.square() / 6)


@example("masked selection", lambda: (randn(12), randint(2, (12,))))
def masked(x: Tensor, mask: Tensor) -> Tensor:
    return x[mask == 1].square().sum() + x.masked_fill(mask == 1, 0).exp().sum()


@example("norms", lambda: randn(4, 3))
def norms(x: Tensor) -> Tensor:
    return x.norm(dim=1).sum() + x.abs().amax(0).sum() + x.norm(p=3)


@example("checkpointed layers", lambda: (randn(3, 3), randn(3)))
def checkpointed(w: Tensor, x: Tensor) -> Tensor:
    def layer(x: Tensor) -> Tensor:
        return torch.sin(w @ x)

    for _ in range(3):
        x = checkpoint(layer, x, use_reentrant=False)
    return x.square().sum()


class Swish(torch.autograd.Function):
    """x σ(x) with its own backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g[0] * s * (1 + x * (1 - s))


@example("an own backward", lambda: randn(8))
def own_backward(x: Tensor) -> Tensor:
    return Swish.apply(x).cumsum(0)


class LogSumExp(torch.autograd.Function):
    """log Σ exp x with its own backward, in the older style."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.logsumexp(x, 0)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        x, y = ctx.saved_tensors
        return g[0] * torch.exp(x - y)


@example("an own backward, older style", lambda: 3 * randn(7))
def older_backward(x: Tensor) -> Tensor:
    return LogSumExp.apply(x) * x.square().mean()


_base = torch.tensor([0.3, -1.0, 0.5, 2.0])


@example("tangent kernel", lambda: randn(4))
def tangent_kernel(v: Tensor) -> Tensor:
    return torch.func.vjp(torch.sin, _base.to(v))[1](v)[0]


@example("vector field, divergence", lambda: (randn(3, 3), randn(3)))
def divergence(w: Tensor, x: Tensor) -> Tensor:
    return torch.func.jacrev(lambda x: torch.tanh(w @ x))(x).trace()


@example("several outputs", lambda: (randn(4), randn(4)))
def several(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"product": x * y, "norm": (x.square().sum() + y.square().sum()).sqrt()}


@example("argument by keyword only", lambda: {"x": randn(5), "width": rand(1) + 0.5})
def keyword_only(*, x: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-((x / width) ** 2)).sum()


@example("polynomial of large values", lambda: 40 * randn(6))
def large_values(x: Tensor) -> Tensor:
    return 1e4 * x[0] ** 3 + (x[1:] * 1e-3).sin().sum()


@example("cancelling terms", lambda: rand(8) * 1e-2)
def cancelling(x: Tensor) -> Tensor:
    return ((1 + x).log() - x + x.square() / 2).sum()
