"""What is measured: a file per instrument, behind one small interface."""

from __future__ import annotations

from gradbench.worker.instruments.device_time import DeviceTime
from gradbench.worker.instruments.dispatches import Dispatches
from gradbench.worker.instruments.flops import Flops
from gradbench.worker.instruments.instructions import Instructions
from gradbench.worker.instruments.instrument import Instrument
from gradbench.worker.instruments.peak_memory import PeakMemory

WALL_TIME = "wall_time"
"""The clock, which is read in visits by the sessions of a run rather than by a reading."""

INSTRUMENTS: dict[str, type[Instrument]] = {
    made.name: made for made in (PeakMemory, Instructions, Dispatches, Flops, DeviceTime)
}
"""All others, by name, in the order in which they are shown."""
