"""The base of the modes that see every operation, and the tensors that one takes or returns."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


class DispatchMode(TorchDispatchMode):
    """A `TorchDispatchMode` that costs nothing but its calls.

    Torch wraps the handler of every such mode so that torch.compile leaves it alone, and the first
    call of a wrapped one imports torch._dynamo: 2.4 s of a process on its own, 6 s on a busy
    machine. Handlers here are wrapped only if that has been imported already.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return "torch._dynamo" in sys.modules
