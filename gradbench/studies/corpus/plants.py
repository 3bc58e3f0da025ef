"""Planted errors: derivatives that are wrong in a known way, as modes and as backwards."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

SMALL = 1e-6
"""The smallest entry to plant an error in, as a share of the largest."""

ZERO = 16
"""What is no larger than so many roundings of the largest entry is taken for zero."""

INPUTS = -1
"""The place of an error that is in none of the operations."""

current: Any = None
"""The function with an error in it that the study asks about: a target like any other."""


class Absent(Exception):
    """The error cannot be planted here, or would change nothing."""


def _entry(g: Tensor) -> Tensor:
    """A factor 2 in one entry."""
    mask = torch.ones(g.numel(), dtype=g.dtype)
    mask[g.numel() // 2] = 2
    return g * mask.reshape(g.shape)


def _rows(g: Tensor) -> Tensor:
    order = [1, 0, *range(2, len(g))] if g.dim() and len(g) > 1 else [0]
    return g[order] if g.dim() else g


def _column(g: Tensor) -> Tensor:
    mask = torch.ones(g.shape[-1], dtype=g.dtype)
    mask[0] = 0
    return g * mask


def _transposed(g: Tensor) -> Tensor:
    return g.mT if g.dim() > 1 and g.shape[-1] == g.shape[-2] else g


def _clipped(g: Tensor) -> Tensor:
    most = g.abs().amax() / 2
    return torch.maximum(torch.minimum(g, most), -most)


CORRUPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "factor 2 in one entry": _entry,
    "sign": torch.neg,
    "swapped rows": _rows,
    "zero column": _column,
    "transposed square": _transposed,
    "shifted by one": lambda g: g.roll(1, -1),
    "off by 1e-3": lambda g: g * 1.001,
    "clipped": _clipped,
    "mean for a sum": lambda g: g / g.numel(),
}
"""What a wrong backward makes of the gradient, or a wrong mode of a block."""

STATEFUL = ("stale state", "right once")
DETACHING = ("missing term", "detached branch")
KINDS = (*CORRUPTIONS, *STATEFUL, *DETACHING)


class _Wrong(torch.autograd.Function):
    """The identity, whose backward applies a corruption."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, corruption: Any) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.corruption = inputs[1]

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return ctx.corruption(g[0]), None


class _Stale:
    """A slope that is computed from the first values that the function ever had."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        now = float(x.detach().double().square().mean())
        if self.first is None:
            self.first = now
        factor = (1 + self.first) / (1 + now)
        return _apply(x, lambda g: g * factor)


class _RightOnce:
    """A backward that is right the first time it is called."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def __call__(self, x: Tensor) -> Tensor:
        return _apply(x, lambda g: g * 1.5 if next(self.calls) else g)


def _apply(x: Tensor, corruption: Callable[[Tensor], Tensor]) -> Tensor:
    wrong: Tensor = _Wrong.apply(x, corruption)
    return wrong


class _Planting(TorchFunctionMode):
    """Changes one operation of a function: the one with the number `site` among those that return
    a tensor of several floating-point numbers."""

    def __init__(self, kind: str, state: Any, site: int) -> None:
        super().__init__()
        self.kind, self.state, self.site = kind, state, site
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.count == self.site and self.kind == "missing term":
            args = _last_detached(args)
        out = func(*args, **kwargs)
        if not (isinstance(out, Tensor) and out.is_floating_point() and out.numel() > 1):
            return out
        self.count += 1
        if self.count - 1 != self.site or self.kind == "missing term":
            return out
        if self.kind == "detached branch":
            return out.detach()
        return self.state(out) if self.state else _apply(out, CORRUPTIONS[self.kind])


def _last_detached(args: Any) -> Any:
    """The arguments, the last of several tensors detached."""
    flat, tree = tree_flatten(args)
    tensors = [i for i, x in enumerate(flat) if isinstance(x, Tensor) and x.is_floating_point()]
    if len(tensors) > 1:
        flat[tensors[-1]] = flat[tensors[-1]].detach()
    return tree_unflatten(flat, tree)


def planted(function: Callable[..., Any], kind: str, site: int) -> Callable[..., Any]:
    """The function with an error of a kind in the backward of one operation, or of taking its
    inputs where `site` is `INPUTS`."""
    state: Any = {"stale state": _Stale, "right once": _RightOnce}.get(kind, lambda: None)()

    def taken(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 1):
            return x
        return state(x) if state else _apply(x, CORRUPTIONS[kind])

    @functools.wraps(function)
    def wrong(*args: Any, **kwargs: Any) -> Any:
        if site == INPUTS and kind not in DETACHING:
            args, kwargs = tree_map(taken, (args, kwargs))
        with _Planting(kind, state, site):
            return function(*args, **kwargs)

    return wrong


def sites(function: Callable[..., Any], inputs: Any) -> list[int]:
    """The numbers of the operations in which an error can be planted, the middle ones first."""
    counting = _Planting("", None, INPUTS)
    with counting:
        call(function, inputs)
    middle = counting.count // 2
    return [*sorted(range(counting.count), key=lambda site: abs(site - middle)), INPUTS]


def call(function: Callable[..., Any], inputs: Any) -> Any:
    """The function's value at what its `inputs` returns."""
    if isinstance(inputs, dict):
        return function(**inputs)
    return function(*inputs) if isinstance(inputs, tuple) else function(inputs)


def block(kind: str, result: Tensor) -> Tensor:
    """A block of a mode's result with an error of a kind. Raises Absent where it is none."""
    if kind == "factor 2 in one entry":
        sizes = result.detach().double().abs().flatten()
        usable = sizes.where(sizes > SMALL * sizes.max(), torch.inf)
        if not sizes.numel() or not bool(usable.isfinite().any()):
            raise Absent("it is zero")
        mask = torch.ones_like(sizes)
        mask[int(usable.argmin())] = 2
        return result * mask.reshape(result.shape).to(result.dtype)
    if not result.numel() or (kind == "zero column" and not result.dim()):
        raise Absent("it is too small")
    if kind == "shifted by one" and not result.dim():
        raise Absent("it is too small")
    return CORRUPTIONS[kind](result)


def deviation(wrong: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest relative error of an entry; entries that should be zero or as good as zero are
    measured by the largest one of their block."""
    worst = 0.0
    for w, r in zip(wrong, right):
        apart, sizes = (w.double() - r.double()).abs(), r.double().abs()
        if bool((apart > 0).any()):
            scale = float(sizes.max()) or float(apart.max())
            zero = ZERO * torch.finfo(r.dtype).eps * scale
            worst = max(worst, float((apart / sizes.where(sizes > zero, scale)).max()))
    return worst
