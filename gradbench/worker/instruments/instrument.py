"""The interface of every instrument but the clock, whose visits are a matter of their own.

Both sides of the wire import these files: the driver to know names and units, the worker to read.
So no file here imports torch before a method is called that reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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


@dataclass(frozen=True)
class Launch:
    """How a measuring process is started for an instrument: what stands before its command, and
    what its environment has besides."""

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Instrument(ABC):
    """One way of measuring a contestant that has passed the gate."""

    name: ClassVar[str]
    unit: ClassVar[str]
    summary: ClassVar[str]
    deterministic: ClassVar[bool] = True
    """Whether a reading repeats: such an instrument is read once a run, others in each session."""
    cuda: ClassVar[bool] = False
    """Whether it reads on CUDA devices alone: other comparisons are left out."""
    own_process: ClassVar[bool] = False
    """Whether it reads in a process that `launch` describes, where no gate is passed again."""

    def unavailable(self) -> str | None:
        """Why it cannot be used here, in one line with what to do; None where it can."""
        return None

    def launch(self, scratch: Path) -> Launch:
        """How to start its process; `scratch` is an empty folder for that process alone."""
        return Launch()

    def refusal(self, call: int, compiles: bool) -> str | None:
        """Why a contestant whose call takes so many nanoseconds is refused before it is built in
        a process of the instrument's own; None if it is not."""
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
