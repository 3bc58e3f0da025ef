"""The instruments by name and unit. `worker/instruments/` has the code that reads them."""

from __future__ import annotations

from dataclasses import dataclass

WALL_TIME = "wall_time"
"""The clock. Sessions read it in visits; the other instruments take single readings."""


@dataclass(frozen=True)
class Instrument:
    """A quantity that is measured of a mode, besides its time."""

    name: str
    unit: str
    deterministic: bool = True
    """Whether readings repeat exactly: read once a run if they do, else in each session."""
    cuda: bool = False
    """Whether it reads CUDA devices only."""
    own_process: bool = False
    """Whether it needs processes of its own (`runner/callgrind.py`), which skip the gate."""


PEAK_MEMORY = Instrument("peak_memory", "bytes")
INSTRUCTIONS = Instrument("instructions", "instructions", own_process=True)
DISPATCHES = Instrument("dispatches", "operations")
FLOPS = Instrument("flops", "operations")
DEVICE_TIME = Instrument("device_time", "seconds", deterministic=False, cuda=True)

INSTRUMENTS = {
    instrument.name: instrument
    for instrument in (PEAK_MEMORY, INSTRUCTIONS, DISPATCHES, FLOPS, DEVICE_TIME)
}
"""All instruments but the clock, by name, in the order in which they are shown."""

CALLGRIND_LOG = "GRADBENCH_CALLGRIND"
"""The environment variable with the folder of Valgrind's log; the file's name is the pid."""
