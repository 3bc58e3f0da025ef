"""Peak of tensor memory above the start of a call, in bytes.

On the CPU each allocation and each free is an event of torch's profiler, whichever side of the
language boundary made it, so the peak is exact and repeats. What libraries allocate behind
torch's back (MKL's scratch space, Python's own objects) is no tensor and is not counted. On CUDA
the caching allocator keeps the peak, in its blocks of 512 bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gradbench.core.instruments import PEAK_MEMORY
from gradbench.worker.devices import Cuda, Device
from gradbench.worker.instruments.instrument import Reader, Unreadable, replays

if TYPE_CHECKING:
    import torch

    from gradbench.worker.gate import Contestant


class PeakMemory(Reader):
    declared = PEAK_MEMORY

    def __init__(self, device: Device | None = None) -> None:
        self.device: Device = device or Cuda()

    def unavailable(self) -> str | None:
        import torch

        kineto = getattr(torch.autograd, "kineto_available", None)
        if kineto is None or not kineto():
            return f"torch {torch.__version__} was built without Kineto, which reports allocations"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        place = contestant.gate.problem.device
        made = (contestant.call, contestant.arguments)
        if place.type == "cpu":
            return [on_cpu(*made)]
        if replays(contestant):
            raise Unreadable("unsupported", "a graph holds its memory from its recording on")
        return [on_device(self.device, place, *made)]


def on_cpu(call: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The peak of one call, its result included."""
    from torch.autograd import profiler

    # Caches that a first call fills are none of a later call's memory, nor is earlier garbage.
    call(*arguments)
    gc.collect()
    with profiler.profile(profile_memory=True) as profiled:
        # Held until the profiler has stopped: who asked for the result has not dropped it yet.
        result = call(*arguments)
    del result
    tree = profiled.kineto_results.experimental_event_tree()
    changes = [
        (event.start_time_ns, event.extra_fields.alloc_size)
        for event in every(tree)
        if event.tag.name == "Allocation"
    ]
    return float(peak(size for _, size in sorted(changes, key=lambda change: change[0])))


def every(events: Iterable[Any]) -> Iterator[Any]:
    """All events of a profiler's tree."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting.extend(event.children)


def peak(changes: Iterable[int]) -> int:
    """The largest running sum of allocations and frees, at least the 0 it starts from."""
    now = highest = 0
    for change in changes:
        now += change
        highest = max(highest, now)
    return highest


def on_device(
    device: Device, place: torch.device, call: Callable[..., Any], arguments: tuple[Any, ...]
) -> float:
    """The peak of one call on the device, its result included, in the allocator's blocks."""
    with device.chosen(place):
        call(*arguments)
        gc.collect()
        device.synchronize()
        device.reset_peak()
        before = device.allocated()
        result = call(*arguments)
        device.synchronize()
        peak_of_all = device.peak()
    del result
    return float(peak_of_all - before)
