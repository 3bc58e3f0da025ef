"""The readers of the instruments, one file each; `wall.py` is the clock."""

from __future__ import annotations

from gradbench.worker.instruments.device_time import DeviceTime
from gradbench.worker.instruments.dispatches import Dispatches
from gradbench.worker.instruments.flops import Flops
from gradbench.worker.instruments.instructions import Instructions
from gradbench.worker.instruments.instrument import Reader
from gradbench.worker.instruments.peak_memory import PeakMemory

READERS: dict[str, type[Reader]] = {
    reader.declared.name: reader
    for reader in (PeakMemory, Instructions, Dispatches, Flops, DeviceTime)
}
"""Readers by the name of the instrument, without the clock."""
