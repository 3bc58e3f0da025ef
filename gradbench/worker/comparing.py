"""A result against the exact one: the first difference that is too large, and the worst errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench.core.operators import Shape


@dataclass(frozen=True)
class Finding:
    """The outcome of checks: the reason of the first failure, and the worst errors.

    `error` is a share of the allowed error; `ulps` is in units in the last place of the block's
    largest entry.
    """

    reason: str = ""
    error: float = 0.0
    ulps: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.reason

    def and_then(self, later: Finding) -> Finding:
        """This finding combined with a later one."""
        error, ulps = max(self.error, later.error), max(self.ulps, later.ulps)
        return Finding(self.reason or later.reason, error, ulps)


def mismatch(
    block: Any,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.layout = torch.strided,
    coarsest: float = 0.0,
) -> str:
    """How a block's type, shape, layout, dtype or device is wrong; empty if it is not.

    `coarsest` is the unit in the last place of the coarsest dtype that the function computes in.
    """
    if not isinstance(block, Tensor):
        return f"is a {type(block).__name__}, not a tensor"
    if tuple(block.shape) != shape:
        return f"has shape {tuple(block.shape)} instead of {shape}"
    if block.layout != layout:
        return f"has the layout {block.layout} instead of {layout}"
    # A function may compute in a wider dtype than that of its inputs, or return a narrower one.
    fits = block.is_floating_point() and (
        torch.promote_types(block.dtype, dtype) == block.dtype
        or torch.finfo(dtype).eps < torch.finfo(block.dtype).eps <= coarsest
    )
    if not fits:
        return f"is {block.dtype} instead of {dtype}"
    if block.device.type != device.type:
        return f"is on {block.device} instead of {device}"
    return ""


def compare(
    name: Callable[[list[int]], str], values: Tensor, exact: Tensor, allowed: Tensor, unit: float
) -> Finding:
    """The finding of a block in float64; `name` says what the number at some indices is."""
    if values.numel() == 0:
        return Finding()
    # The difference of equal infinities is NaN, and the allowed error of an exact zero may be zero.
    difference = torch.where(values == exact, 0.0, (values - exact).abs())
    share = torch.where(difference == 0, 0.0, difference / allowed).nan_to_num(nan=torch.inf)
    worst = int(share.argmax())
    error = float(share.flatten()[worst])
    largest = float(difference.nan_to_num(nan=torch.inf).max())
    scale = float(exact.abs().max())
    ulps = largest / (unit * scale) if scale else largest and torch.inf
    if error <= 1:
        return Finding("", error, ulps)
    wrong = int((share > 1).sum())
    found, wanted = told_apart(float(values.flatten()[worst]), float(exact.flatten()[worst]))
    reason = (
        f"{name(unravelled(worst, tuple(values.shape)))}: {found} instead of {wanted}, "
        f"{error:.3g} times the error allowed ({wrong} of {values.numel()} entries)"
    )
    return Finding(reason, error, ulps)


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers with as many digits as show that they differ, six at least."""
    shown = (f"{a:.6g}", f"{b:.6g}")
    for digits in range(7, 18):
        if shown[0] != shown[1] or a == b:
            break
        shown = (f"{a:.{digits}g}", f"{b:.{digits}g}")
    return shown


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is the same as NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def unravelled(flat: int, shape: Shape) -> list[int]:
    """The indices of a flat index (`torch.unravel_index` is missing before torch 2.2)."""
    indices = []
    for length in reversed(shape):
        flat, index = divmod(flat, length)
        indices.append(index)
    return indices[::-1]
