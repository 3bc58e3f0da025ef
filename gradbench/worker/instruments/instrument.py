"""The interface of the instruments, other than the clock.

`core/instruments.py` declares their names and units, which the driver needs too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from gradbench.core.instruments import Instrument
from gradbench.problems import registry
from gradbench.problems.mode import Mode
from gradbench.worker.contestant import Contestant


class Unreadable(Exception):
    """An instrument cannot read a contestant; the message says why.

    `status` is "unsupported" if it never can, and "refused" if a reading would cost too much.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Reader(ABC):
    """Reads an instrument for contestants that have passed the gate."""

    declared: ClassVar[Instrument]

    def unavailable(self) -> str | None:
        """Why the instrument is unavailable and what to do, in one line; None if it works."""
        return None

    @abstractmethod
    def read(self, contestant: Contestant, call: int) -> list[float]:
        """Readings per call: one, or several if they vary.

        `call` is the approximate time of a call in nanoseconds. Raises Unreadable.
        """


def require_dispatched(contestant: Contestant) -> None:
    """Raises Unreadable if the operations of a contestant bypass torch's dispatcher."""
    mode = _mode(contestant)
    if mode is not None and mode.opt_in:
        raise Unreadable("unsupported", "compiled or recorded code bypasses the dispatcher")


def replays_graph(contestant: Contestant) -> bool:
    """Whether the mode of a contestant replays a CUDA graph."""
    mode = _mode(contestant)
    return mode is not None and mode.opt_in and mode.cuda


def _mode(contestant: Contestant) -> Mode | None:
    return registry.MODES.get((contestant.gate.problem.operator, contestant.mode))
