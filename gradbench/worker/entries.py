"""A large result in a narrow dtype, entry by entry, beside the same mode's own in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbench.worker.allowance import ENTRY, ROW
from gradbench.worker.products import CHUNK, Products, Row

SUSPECTS = 8
"""The most rows of a result that are compared with exact ones."""


def suspects(
    products: Products,
    blocks: Sequence[Tensor],
    exact: Sequence[Tensor],
    unit: float,
    least: float,
    most: int = SUSPECTS,
) -> list[Row]:
    """The rows of a result that have an entry further off than rounding the entry and the sums of
    its row explain, in a dtype of this `unit` and smallest number: the worst first, at most so
    many."""
    found: dict[Row, float] = {}
    for number, (block, wide) in enumerate(zip(blocks, exact)):
        source, width = products.place_of(number)
        ours, theirs = (b.detach().reshape(-1, width) for b in (block, wide))
        step = max(1, CHUNK // max(1, width))
        for start in range(0, len(theirs), step):
            part = slice(start, start + step)
            worst = _worst(ours[part], theirs[part], unit, least)
            for row in worst.topk(min(most, len(worst))).indices.tolist():
                key, share = (source, start + row), float(worst[row])
                if share > 1:
                    found[key] = max(share, found.get(key, 0.0))
    return sorted(found, key=lambda row: -found[row])[:most]


def _worst(ours: Tensor, exact: Tensor, unit: float, least: float) -> Tensor:
    """The largest error in each row as a share of what is allowed, of shapes (rows, columns)."""
    ours, exact = ours.to("cpu", torch.float64), exact.to("cpu", torch.float64)
    sizes = exact.abs()
    allowed = ENTRY * (unit * sizes + least) + ROW * unit * sizes.amax(1, keepdim=True)
    difference = torch.where(ours == exact, 0.0, (ours - exact).abs())
    return (difference / allowed).nan_to_num(nan=torch.inf).amax(1)
