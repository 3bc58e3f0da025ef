"""The number of ATen operations that one call dispatches: an exact count at almost no cost.

Operations are counted below autograd and the function transforms: all that compute, allocate or
make a view, including those of the C++ backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from gradbench.core.instruments import DISPATCHES
from gradbench.worker.contestant import Contestant
from gradbench.worker.instruments.instrument import Reader, require_dispatched


class Dispatches(Reader):
    declared = DISPATCHES

    def read(self, contestant: Contestant, call: int) -> list[float]:
        require_dispatched(contestant)
        return [float(count(contestant.call, contestant.arguments))]


def count(call: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """The number of operations of one call."""
    operations = 0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal operations
            operations += 1
            return func(*args, **(kwargs or {}))

    with Counter():  # type: ignore[no-untyped-call]
        call(*arguments)
    return operations
