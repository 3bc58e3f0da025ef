"""The peak of tensor memory above the start of a call, in bytes.

On the CPU torch's profiler has an event for each allocation and free, from Python and C++, so the
peak is exact and repeats. Memory that libraries allocate otherwise (MKL's scratch space, Python
objects) is not counted. On CUDA the caching allocator reports the peak, in blocks of 512 bytes.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.autograd import profiler

from gradbench.core.instruments import PEAK_MEMORY
from gradbench.worker.contestant import Contestant
from gradbench.worker.devices import Cuda
from gradbench.worker.instruments.instrument import Reader, Unreadable, replays_graph


class PeakMemory(Reader):
    declared = PEAK_MEMORY

    def __init__(self, device: Cuda | None = None) -> None:
        self.device = device or Cuda()

    def unavailable(self) -> str | None:
        kineto = getattr(torch.autograd, "kineto_available", None)
        if kineto is None or not kineto():
            return f"torch {torch.__version__} was built without Kineto, which reports allocations"
        return None

    def read(self, contestant: Contestant, call: int) -> list[float]:
        place = contestant.gate.problem.device
        call_and_arguments = (contestant.call, contestant.arguments)
        if place.type == "cpu":
            return [on_cpu(*call_and_arguments)]
        if replays_graph(contestant):
            raise Unreadable("unsupported", "a CUDA graph keeps its memory after it is recorded")
        return [on_device(self.device, place, *call_and_arguments)]


def on_cpu(call: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The peak of one call, including its result."""
    # A first call fills caches, and garbage may remain: neither counts as memory of the call.
    call(*arguments)
    gc.collect()
    with profiler.profile(profile_memory=True) as profiled:
        # Kept until the profiler has stopped, as a caller would keep it.
        result = call(*arguments)
    del result
    events = all_events(profiled.kineto_results.experimental_event_tree())
    allocations = [event for event in events if event.tag.name == "Allocation"]
    allocations.sort(key=lambda event: event.start_time_ns)
    return float(peak(event.extra_fields.alloc_size for event in allocations))


def all_events(events: Iterable[Any]) -> Iterator[Any]:
    """All events of a profiler's event tree."""
    stack = list(events)
    while stack:
        event = stack.pop()
        yield event
        stack.extend(event.children)


def peak(changes: Iterable[int]) -> int:
    """The largest running sum of allocations and frees, which starts from 0."""
    return max(itertools.accumulate(changes, initial=0))


def on_device(
    device: Cuda, place: torch.device, call: Callable[..., Any], arguments: tuple[Any, ...]
) -> float:
    """The peak of one call on the device, including its result, in the allocator's blocks."""
    with device.chosen(place):
        call(*arguments)
        gc.collect()
        device.synchronize()
        device.reset_peak()
        before = device.allocated()
        result = call(*arguments)
        device.synchronize()
        highest = device.peak()
    del result
    return float(highest - before)
