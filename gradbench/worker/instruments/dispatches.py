"""How many ATen operations one call dispatches: exact, and nearly free.

Counted below autograd and the function transforms, where every operation that computes, allocates
or makes a view goes by, those of the C++ backward pass included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradbench.core.instruments import DISPATCHES
from gradbench.worker.instruments.instrument import Reader, require_dispatched

if TYPE_CHECKING:
    from gradbench.worker.gate import Contestant


class Dispatches(Reader):
    declared = DISPATCHES

    def read(self, contestant: Contestant, call: int) -> list[float]:
        require_dispatched(contestant)
        return [float(count(contestant.call, contestant.arguments))]


def count(call: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """The operations of one call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        operations: int = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.operations += 1
            return func(*args, **(kwargs or {}))

    counter: Any = Counter()  # type: ignore[no-untyped-call]
    with counter:
        call(*arguments)
    operations: int = counter.operations
    return operations
