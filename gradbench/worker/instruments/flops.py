"""The floating-point operations of one call's matmuls: an exact count at almost no cost.

torch's own counter counts below autograd and the function transforms: two operations per product of
two numbers, in matmuls (with vectors too) and convolutions. Elementwise maps and reductions do not
count: memory bandwidth limits them.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from gradbench.core.instruments import FLOPS
from gradbench.problems.mode import available
from gradbench.worker.contestant import Contestant
from gradbench.worker.instruments.instrument import Reader, require_dispatched


class Flops(Reader):
    declared = FLOPS

    def unavailable(self) -> str | None:
        if not available("torch.utils.flop_counter.FlopCounterMode"):
            return f"torch {torch.__version__} has no torch.utils.flop_counter.FlopCounterMode"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        require_dispatched(contestant)
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False, custom_mapping=_vectors()) as counter:
            contestant.call(*contestant.arguments)
        return [float(counter.get_total_flops())]


def _vectors() -> dict[Any, Any]:
    """Products with vectors, which torch's counter ignores."""

    def product(matrix: Any, *_: Any, **__: Any) -> Any:
        return 2 * math.prod(matrix)

    def added(start: Any, matrix: Any, *_: Any, **__: Any) -> Any:
        return 2 * math.prod(matrix)

    aten = torch.ops.aten
    return {aten.mv: product, aten.dot: product, aten.addmv: added}
