"""What a mode is: one way of computing an operator."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradbench.operators import Problem

Call = Callable[..., Any]
"""``call(inputs)`` or, where the operator takes a seed, ``call(inputs, seed)``. Both are exactly
what is timed and what is gated. The result is one tensor per block, or a bare tensor for one."""


class Unsupported(Exception):
    """This mode cannot do this problem, and the message says why in a few words."""


@dataclass(frozen=True)
class Mode:
    """One way of computing an operator.

    `build` is called outside the timed region with the problem and returns the callable that is
    timed: everything a user must execute to get from the inputs to the derivative, each time.
    It raises Unsupported where the problem is none for this mode.
    """

    name: str
    operators: tuple[str, ...]
    build: Callable[[Problem], Call]
    summary: str
    leaves: bool = False
    """Whether the differentiated inputs arrive as leaves that require grad."""
    needs: tuple[str, ...] = ()
    """Dotted names of the APIs used, looked up in the torch that is installed."""
    document: str = ""
    """Letters of the documents that use it; empty for an added one."""
    opt_in: bool = False
    """Measured only when asked for: compiling takes seconds."""
    memory: Callable[[Problem], int] | None = None
    """How many numbers are alive at the peak, estimated; None: three times the result."""

    def missing(self) -> str | None:
        """The first API that the installed torch lacks, or None."""
        for name in self.needs:
            if not available(name):
                return name
        return None

    def numbers_at_peak(self, problem: Problem) -> int:
        """How many numbers are alive at once, by estimate: the basis of a refusal."""
        if self.memory is None:
            return 3 * problem.result_numel
        return self.memory(problem)

    def source(self) -> str:
        """The code of the mode, for a reader who wants to copy it."""
        return inspect.getsource(self.build)


def available(name: str) -> bool:
    """Whether a dotted name such as ``torch.func.jacrev`` exists here."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def jacobian_by_rows(problem: Problem) -> int:
    """Peak of the vectorised reverse modes: the rows, their parts and one-hot seeds."""
    return 3 * problem.result_numel + problem.outputs**2


def jacobian_by_columns(problem: Problem) -> int:
    """Peak of the vectorised forward modes: the columns, their parts and one-hot tangents."""
    return 3 * problem.result_numel + problem.coordinates**2


def full_batch_jacobian(problem: Problem) -> int:
    """Peak of the modes that form every block between samples, zeros included."""
    return 3 * problem.outputs * problem.coordinates
