"""How many floating-point operations the matrix products of one call make: exact, and nearly free.

Counted by torch's own counter below autograd and the function transforms. Products of matrices and
vectors and convolutions count, two operations for each product of two numbers; elementwise maps and
reductions do not, for what limits them is the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradbench.core.instruments import FLOPS
from gradbench.worker.instruments.instrument import Reader, require_dispatched

if TYPE_CHECKING:
    from gradbench.worker.gate import Contestant


class Flops(Reader):
    declared = FLOPS

    def unavailable(self) -> str | None:
        import torch

        from gradbench.problems.mode import available

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
    """The products with vectors, which torch's counter leaves out."""
    from torch import ops

    def product(matrix: Any, vector: Any, *rest: Any, **named: Any) -> int:
        operations = 2
        for length in matrix:
            operations *= length
        return operations

    def added(start: Any, matrix: Any, vector: Any, *rest: Any, **named: Any) -> int:
        return product(matrix, vector)

    aten = ops.aten
    return {aten.mv: product, aten.dot: product, aten.addmv: added}
