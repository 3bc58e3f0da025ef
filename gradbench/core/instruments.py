"""What can be measured, in names and units. Who reads it is in `worker/instruments/`."""

from __future__ import annotations

from dataclasses import dataclass

WALL_TIME = "wall_time"
"""The clock, which is read in visits by the sessions of a run rather than by a reading."""


@dataclass(frozen=True)
class Instrument:
    """One way of measuring a contestant that has passed the gate."""

    name: str
    unit: str
    summary: str
    deterministic: bool = True
    """Whether a reading repeats: such an instrument is read once a run, others in each session."""
    cuda: bool = False
    """Whether it reads on CUDA devices alone: other comparisons are left out."""
    own_process: bool = False
    """Whether it reads in processes of its own (`runner/callgrind.py`), where no gate is passed
    again."""


PEAK_MEMORY = Instrument("peak_memory", "bytes", "peak of tensor memory above the start of a call")
INSTRUCTIONS = Instrument(
    "instructions", "instructions", "instructions of a call, counted by Callgrind", own_process=True
)
DISPATCHES = Instrument("dispatches", "operations", "ATen operations dispatched by a call")
FLOPS = Instrument("flops", "operations", "floating-point operations of a call's matrix products")
DEVICE_TIME = Instrument(
    "device_time", "seconds", "time on the device, by CUDA events", deterministic=False, cuda=True
)

INSTRUMENTS = {
    declared.name: declared
    for declared in (PEAK_MEMORY, INSTRUCTIONS, DISPATCHES, FLOPS, DEVICE_TIME)
}
"""All but the clock, by name, in the order in which they are shown."""

CALLGRIND_LOG = "GRADBENCH_CALLGRIND"
"""The environment variable that names the folder of Valgrind's log, a file called by its pid."""
