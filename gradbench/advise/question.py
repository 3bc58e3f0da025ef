"""A request for advice, and the refusal of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradbench.core.cases import MOST_THREADS, TORCH_DTYPES, Place
from gradbench.core.operators import ADVISED
from gradbench.core.suggest import hint


class Refusal(Exception):
    """gradbench cannot advise on the function; the message says why, in one line."""


@dataclass(frozen=True)
class Question:
    """A request for advice. `inputs` are pairs of a name and an expression; times in seconds.

    `budget` is what the whole answer may take: looking at the function, starting processes,
    checking and timing. `memory_limit` is in bytes.
    `passed` is the file that the function and its inputs were written to, where they are objects
    of the caller's; `inputs` is empty then.
    """

    target: str
    inputs: tuple[tuple[str, str], ...]
    wrt: tuple[str, ...] = ()
    operator: str = ""
    dtype: str = "float32"
    budget: float = 30.0
    timeout: float = 60.0
    memory_limit: int = 4 << 30
    seed: int = 0
    passed: str = ""
    maker: str = ""
    """A function, as ``module:function``, that returns further inputs."""
    device: str = "cpu"
    also: tuple[str, ...] = ()
    """Derivatives of the user's own to measure beside, as ``module:function``."""
    definition: str = "differences"
    """What the derivative is where autograd and finite differences disagree: "differences" refuses
    the function, "autograd" takes autograd's derivative as the definition."""
    threads: int = 1
    identify: bool = False
    """Whether the look tells what the function is, for a history of it."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Of inputs that were passed: their names, and how many floating-point numbers each has."""
    modes: tuple[str, ...] = ()
    """Globs of the modes to measure beside the usual choice and the user's own; none are all."""

    def spec(self, pattern: str = "") -> dict[str, Any]:
        """The request, for the processes that load the function."""
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "wrt": list(self.wrt),
            "dtype": self.dtype,
            "memory_limit": self.memory_limit,
            "seed": self.seed,
            "passed": self.passed,
            "maker": self.maker,
            "also": list(self.also),
            "device": self.device,
            "pattern": pattern,
            "operator": self.operator,
            "definition": self.definition,
            "identify": self.identify,
        }

    def require_valid(self) -> None:
        """Raises Refusal where something can be seen to be wrong without looking at anything."""
        # With TF32 the code to paste would lack what switches it on.
        if self.dtype not in TORCH_DTYPES:
            raise Refusal(f"dtype {self.dtype!r} is none of {', '.join(TORCH_DTYPES)}")
        if self.operator and self.operator not in ADVISED:
            near = hint(self.operator, ADVISED)
            raise Refusal(
                f"operator {self.operator!r} is none of {', '.join(ADVISED)}"
                + (f"; {near}" if near else "")
            )
        if not 1 <= self.threads <= MOST_THREADS:
            raise Refusal(f"--threads {self.threads}: from 1 to {MOST_THREADS}")
        try:
            place = Place.parse(self.device)
        except ValueError as error:
            raise Refusal(f"--device: {error}") from error
        if str(place) != place.device:
            raise Refusal(
                f"--device {self.device}: advice is given on a device alone, as {place.device}"
            )
