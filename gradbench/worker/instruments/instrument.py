"""The interface of every instrument but the clock, whose visits are a matter of their own.

Names and units are declared in `core/instruments.py`, for the driver to know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from gradbench.core.instruments import Instrument

if TYPE_CHECKING:
    from gradbench.problems.mode import Mode
    from gradbench.worker.gate import Contestant


class Unreadable(Exception):
    """A contestant that an instrument does not read, and the message says why.

    `status` is "unsupported" where it cannot be read and "refused" where it would cost too much.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Reader(ABC):
    """Reads an instrument, of a contestant that has passed the gate."""

    declared: ClassVar[Instrument]

    def unavailable(self) -> str | None:
        """Why it cannot be used here, in one line with what to do; None where it can."""
        return None

    @abstractmethod
    def read(self, contestant: Contestant, call: int) -> list[float]:
        """The reading per call, or several where they scatter.

        `call` is about how many nanoseconds one call takes. Raises Unreadable.
        """


def require_dispatched(contestant: Contestant) -> None:
    """Raises Unreadable where a contestant's operations go past torch's dispatcher."""
    declared = _declared(contestant)
    if declared is not None and declared.opt_in:
        raise Unreadable("unsupported", "what is compiled or recorded goes past the dispatcher")


def replays(contestant: Contestant) -> bool:
    """Whether a contestant's mode replays a CUDA graph."""
    declared = _declared(contestant)
    return declared is not None and declared.opt_in and declared.cuda


def _declared(contestant: Contestant) -> Mode | None:
    from gradbench.problems import registry

    return registry.MODES.get((contestant.gate.problem.operator, contestant.mode))
