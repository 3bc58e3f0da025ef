"""Time on the device, by its own events.

A small kernel is over before the host has launched the next, so events around a call would time
the host's launching. The device is therefore first kept busy for as long as the host needs to
queue everything: what the events then enclose runs back to back. Where the launching cannot get
ahead (a call that waits for its own results, or launches more than the queue holds) the gaps
remain in the reading, which is then an upper bound.
"""

from __future__ import annotations

from itertools import islice, repeat
from typing import TYPE_CHECKING

from gradbench.core.instruments import DEVICE_TIME
from gradbench.worker.devices import Cuda, Device
from gradbench.worker.instruments.instrument import Reader, Unreadable

if TYPE_CHECKING:
    from gradbench.worker.gate import Contestant

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


class DeviceTime(Reader):
    declared = DEVICE_TIME

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
        function, turns = contestant.call, contestant.turns
        number = max(1, min(MOST, BLOCK // max(call, 1)))
        device = self.device
        for arguments in islice(turns, UNTIMED):
            function(*arguments)
        start, end = device.event(), device.event()
        device.synchronize()
        device.hold(min(LONGEST_HOLD, HEAD_START * number * call * 1e-9))
        start.record()
        for arguments in islice(turns, number):
            function(*arguments)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / number
