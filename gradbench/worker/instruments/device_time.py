"""Time on the device, by CUDA events.

A small kernel ends before the host has launched the next, so events around a call would time the
launch overhead. The device is therefore first kept busy until the host has queued all kernels,
which then run back to back. If the host cannot get ahead (a call waits for its own results, or
launches more than fits the queue), the reading includes the gaps and is an upper bound.
"""

from __future__ import annotations

from itertools import islice, repeat

import torch

from gradbench.core.instruments import DEVICE_TIME
from gradbench.worker.contestant import Contestant
from gradbench.worker.devices import Cuda
from gradbench.worker.instruments.instrument import Reader, Unreadable

BLOCK = 1_000_000
"""Target of host time for the calls between two events, in nanoseconds."""

MOST = 50
"""The most calls between two events: the launch queue fits about a thousand kernels."""

BLOCKS = 5
UNTIMED = 3

HEAD_START = 2.0
"""How many times the estimated launch time the device is kept busy."""

LONGEST_HOLD = 0.1
"""The most seconds that the device is kept busy."""


class DeviceTime(Reader):
    declared = DEVICE_TIME

    def __init__(self, device: Cuda | None = None) -> None:
        self.device = device or Cuda()

    def unavailable(self) -> str | None:
        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no CUDA device"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        device = contestant.gate.problem.device
        if device.type == "cpu":
            raise Unreadable("unsupported", "runs on the CPU, which has no device time")
        with self.device.chosen(device):
            return [self._block(contestant, call) for _ in repeat(None, BLOCKS)]

    def _block(self, contestant: Contestant, call: int) -> float:
        """Seconds on the device per call, averaged over a block of calls."""
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
        return float(start.elapsed_time(end)) * 1e-3 / number
