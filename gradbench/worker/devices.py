"""What the harness needs of a device beyond running the measured code on it.

Torch is imported by the methods, so that both sides of the wire can know the interface. The fakes
of `tests/test_devices.py` keep to it too.
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
"""The last-level cache where the system does not say its size."""

SYNCHRONISED = 0.5
"""A block took less than this share of the device's time for it on a clock that did not wait."""


class Event(Protocol):
    """A point on the device's time line."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Any) -> float: ...


class Device(Protocol):
    """What is needed of a device; replaced in tests."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        """Makes it the one that the other methods speak of."""

    def event(self) -> Event: ...

    def synchronize(self) -> None: ...

    def hold(self, seconds: float) -> None:
        """Keeps the device busy for at least so long, without waiting for it."""

    def allocated(self) -> int:
        """Bytes of tensors that are alive now."""

    def reset_peak(self) -> None: ...

    def peak(self) -> int:
        """The most bytes of tensors that were alive at once since the last reset."""


class Cuda:
    """CUDA, through torch."""

    CYCLES: ClassVar[float] = 2.5e9
    """A second's clock cycles, on the fast side."""

    def chosen(self, device: torch.device) -> AbstractContextManager[Any]:
        from torch import cuda

        return cuda.device(device)

    def event(self) -> Event:
        from torch import cuda

        made: Event = cuda.Event(enable_timing=True)
        return made

    def synchronize(self) -> None:
        from torch import cuda

        cuda.synchronize()

    def hold(self, seconds: float) -> None:
        from torch import cuda

        # Torch has no public way to do this; its own tests do it so.
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
    """What waits for a device's work; None where a call is over when it returns."""
    if device.type == "cpu":
        return None
    from torch import cuda

    return lambda: cuda.synchronize(device)


def flusher(device: torch.device) -> Callable[[], None]:
    """What empties the device's caches of the measured data: it writes to twice their size."""
    import torch

    size = largest_cache(device)
    buffer = torch.empty(2 * size // 4, dtype=torch.int32, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush


def largest_cache(device: torch.device) -> int:
    """Bytes of a device's largest cache; `LARGEST_CACHE` where neither system nor torch tells."""
    if device.type == "cpu":
        return last_level_cache()
    from torch import cuda

    known = cuda.get_device_properties(device)
    return int(getattr(known, "L2_cache_size", 0)) or LARGEST_CACHE


def exactness(device: torch.device, tf32: bool) -> None:
    """Has a CUDA device round the factors of float32 products to TF32, or never do so: torch by
    itself does it in convolutions."""
    import torch

    if device.type == "cuda":
        # The settings of before torch 2.9: those who read them with the new ones set get an error.
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the processor's largest cache, as Linux has it, else `LARGEST_CACHE`."""
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
    """Why the clock cannot be trusted with this call: it stopped before the device had done its
    work. Empty where it can.

    Events around the same call tell what the device did.
    """
    with device.chosen(place):
        start, end = device.event(), device.event()
        device.synchronize()
        start.record()
        began = clock()
        call(*arguments)
        # Only what the harness does itself may make the clock wait.
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
