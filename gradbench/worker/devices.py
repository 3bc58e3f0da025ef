"""Devices: synchronization, events, memory, cache sizes, TF32, and an audit of the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import cuda

MIB = 1 << 20

LARGEST_CACHE = 64 * MIB
"""Bytes of the last-level cache if the system does not report them."""

SYNCHRONISED = 0.5
"""A clock that shows less than this share of the device's time did not wait for the device."""


class Cuda:
    """CUDA by way of torch; tests replace it by fakes."""

    CYCLES: ClassVar[float] = 2.5e9
    """Clock cycles per second, of a fast device."""

    chosen = cuda.device
    """A context that selects the device for the other methods."""
    synchronize = staticmethod(cuda.synchronize)
    allocated = staticmethod(cuda.memory_allocated)
    """Bytes of live tensors."""
    reset_peak = staticmethod(cuda.reset_peak_memory_stats)
    peak = staticmethod(cuda.max_memory_allocated)
    """The peak of `allocated` since the last reset."""

    def event(self) -> cuda.Event:
        """A point on the device's timeline."""
        return cuda.Event(enable_timing=True)

    def hold(self, seconds: float) -> None:
        """Keeps the device busy for at least that long, without waiting for it."""
        # Private, as in torch's own tests: there is no public way.
        sleep = getattr(cuda, "_sleep", None)
        if sleep is not None:
            sleep(int(seconds * self.CYCLES))


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """A function that waits for the device; None on the CPU, whose calls are synchronous."""
    if device.type == "cpu":
        return None
    return lambda: cuda.synchronize(device)


def flusher(device: torch.device) -> Callable[[], None]:
    """A function that evicts measured data from the caches: it writes twice their size."""
    buffer = torch.empty(2 * largest_cache(device) // 4, dtype=torch.int32, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush


def largest_cache(device: torch.device) -> int:
    """Bytes of the device's largest cache; `LARGEST_CACHE` if unknown."""
    if device.type == "cpu":
        return last_level_cache()
    properties = cuda.get_device_properties(device)
    return int(getattr(properties, "L2_cache_size", 0)) or LARGEST_CACHE


def set_tf32(device: torch.device, tf32: bool) -> None:
    """Lets float32 products on a CUDA device round their factors to TF32, or forbids it: torch's
    default allows it in convolutions."""
    if device.type == "cuda":
        # Not the settings of torch 2.9: with them set, reading the older ones raises an error.
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the processor's largest cache as Linux reports it, else `LARGEST_CACHE`."""
    sizes = []
    for path in root.glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": MIB}.get(text[-1:], 0)
        if unit and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=LARGEST_CACHE)


def audit(
    device: Cuda,
    place: torch.device,
    synchronize: Callable[[], None] | None,
    clock: Callable[[], int],
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> str:
    """Why the clock is wrong for this call: it stopped before the device did, by events around the
    same call. Empty if it is right."""
    with device.chosen(place):
        start, end = device.event(), device.event()
        device.synchronize()
        start.record()
        began = clock()
        call(*arguments)
        # Events must not make the clock wait: only the harness's own synchronization may.
        if synchronize is not None:
            synchronize()
        spent = (clock() - began) * 1e-9
        end.record()
        end.synchronize()
        busy = start.elapsed_time(end) * 1e-3
    if spent >= SYNCHRONISED * busy:
        return ""
    return (
        f"the clock stopped before the device did: {spent * 1e6:.3g} µs on the clock, "
        f"{busy * 1e6:.3g} µs on the device"
    )
