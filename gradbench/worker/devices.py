"""Devices: synchronization, events, memory, cache sizes, TF32, and an audit of the clock.

Methods import torch, so that importing this module does not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch

MIB = 1 << 20

LARGEST_CACHE = 64 * MIB
"""Bytes of the last-level cache if the system does not report them."""

SYNCHRONISED = 0.5
"""A clock that shows less than this share of the device's time did not wait for the device."""


class Event(Protocol):
    """A point on the device's timeline."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Any) -> float: ...


class Device(Protocol):
    """The interface that tests replace."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        """Selects the device that the other methods use."""

    def event(self) -> Event: ...

    def synchronize(self) -> None: ...

    def hold(self, seconds: float) -> None:
        """Keeps the device busy for at least that long, without waiting for it."""

    def allocated(self) -> int:
        """Bytes of live tensors."""

    def reset_peak(self) -> None: ...

    def peak(self) -> int:
        """The peak of `allocated` since the last reset."""


class Cuda:
    """CUDA by way of torch."""

    CYCLES: ClassVar[float] = 2.5e9
    """Clock cycles per second, of a fast device."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        from torch import cuda

        return cuda.device(device)

    def event(self) -> Event:
        from torch import cuda

        event: Event = cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        from torch import cuda

        cuda.synchronize()

    def hold(self, seconds: float) -> None:
        from torch import cuda

        # Private, as in torch's own tests: there is no public way.
        sleep = getattr(cuda, "_sleep", None)
        if sleep is not None:
            sleep(int(seconds * self.CYCLES))

    def allocated(self) -> int:
        from torch import cuda

        return cuda.memory_allocated()

    def reset_peak(self) -> None:
        from torch import cuda

        cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        from torch import cuda

        return cuda.max_memory_allocated()


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """A function that waits for the device; None on the CPU, whose calls are synchronous."""
    if device.type == "cpu":
        return None
    from torch import cuda

    return lambda: cuda.synchronize(device)


def flusher(device: torch.device) -> Callable[[], None]:
    """A function that evicts measured data from the caches: it writes twice their size."""
    import torch

    buffer = torch.empty(2 * largest_cache(device) // 4, dtype=torch.int32, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush


def largest_cache(device: torch.device) -> int:
    """Bytes of the device's largest cache; `LARGEST_CACHE` if unknown."""
    if device.type == "cpu":
        return last_level_cache()
    from torch import cuda

    properties = cuda.get_device_properties(device)
    return int(getattr(properties, "L2_cache_size", 0)) or LARGEST_CACHE


def set_tf32(device: torch.device, tf32: bool) -> None:
    """Lets float32 products on a CUDA device round their factors to TF32, or forbids it: torch's
    default allows it in convolutions."""
    import torch

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
    device: Device,
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
