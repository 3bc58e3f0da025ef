"""What is measured: a file per instrument, behind one small interface."""

from __future__ import annotations

from gradbench.instruments.device_time import DeviceTime
from gradbench.instruments.dispatches import Dispatches
from gradbench.instruments.flops import Flops
from gradbench.instruments.instructions import Instructions
from gradbench.instruments.instrument import Instrument
from gradbench.instruments.peak_memory import PeakMemory

WALL_TIME = "wall_time"
"""The clock, which is read in visits by the sessions of a run rather than by a reading."""

INSTRUMENTS: dict[str, type[Instrument]] = {
    made.name: made for made in (PeakMemory, Instructions, Dispatches, Flops, DeviceTime)
}
"""All others, by name, in the order in which they are shown."""
