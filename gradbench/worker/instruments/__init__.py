"""Who reads the instruments: a file each, behind one small interface."""

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
"""By the instrument's name; the clock is none of them (`wall.py`)."""
