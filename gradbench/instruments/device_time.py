"""Time on the device, by its own events.

A small kernel is over before the host has launched the next, so events around a call would time
the host's launching. The device is therefore first kept busy for as long as the host needs to
queue everything: what the events then enclose runs back to back. Where the launching cannot get
ahead (a call that waits for its own results, or launches more than the queue holds) the gaps
remain in the reading, which is then an upper bound.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gradbench.instruments.instrument import Instrument, Unreadable

if TYPE_CHECKING:
    import torch

    from gradbench.gate import Contestant

BLOCK = 1_000_000
"""The host's nanoseconds aimed at for the calls between two events."""

MOST = 50
"""Calls between two events at most: the queue of launches holds about a thousand."""

BLOCKS = 5
UNTIMED = 3

HEAD_START = 2.0
"""The device is kept busy for so many times what the host needs, as far as that is known."""

LONGEST_HOLD = 0.1
"""Seconds that the device is kept busy at most."""


class Event(Protocol):
    """A point on the device's time line."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Any) -> float: ...


class Device(Protocol):
    """What is needed of a device; replaced in tests."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        """Makes it the one that the other methods speak of."""

    def event(self) -> Event: ...

    def synchronize(self) -> None: ...

    def hold(self, seconds: float) -> None:
        """Keeps the device busy for at least so long, without waiting for it."""


class Cuda:
    """CUDA, through torch."""

    CYCLES: ClassVar[float] = 2.5e9
    """A second's clock cycles, on the fast side."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        from torch import cuda

        return cuda.device(device)

    def event(self) -> Event:
        from torch import cuda

        made: Event = cuda.Event(enable_timing=True)
        return made

    def synchronize(self) -> None:
        from torch import cuda

        cuda.synchronize()

    def hold(self, seconds: float) -> None:
        from torch import cuda

        # Torch has no public way to do this; its own tests do it so.
        sleep = getattr(cuda, "_sleep", None)
        if sleep is not None:
            sleep(int(seconds * self.CYCLES))


class DeviceTime(Instrument):
    name = "device_time"
    unit = "seconds"
    summary = "time on the device, by CUDA events"
    deterministic = False

    def __init__(self, device: Device | None = None) -> None:
        self.device: Device = device or Cuda()

    def unavailable(self) -> str | None:
        import torch

        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no CUDA device here"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        device = contestant.gate.problem.device
        if device.type == "cpu":
            raise Unreadable("unsupported", "runs on the processor, so there is no device time")
        with self.device.chosen(device):
            return [self._block(contestant, call) for _ in repeat(None, BLOCKS)]

    def _block(self, contestant: Contestant, call: int) -> float:
        """Seconds on the device per call, over one block of calls."""
        function, arguments = contestant.call, contestant.arguments
        number = max(1, min(MOST, BLOCK // max(call, 1)))
        device = self.device
        for _ in repeat(None, UNTIMED):
            function(*arguments)
        start, end = device.event(), device.event()
        device.synchronize()
        device.hold(min(LONGEST_HOLD, HEAD_START * number * call * 1e-9))
        start.record()
        for _ in repeat(None, number):
            function(*arguments)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / number
