"""The memory that measured code may take: a limit of this process that its system enforces."""

from __future__ import annotations

import contextlib


def limit_memory(room: int | None) -> None:
    """Lets this process allocate `room` bytes beyond what it has now; None lifts the limit.

    An allocation beyond it fails like one on a full machine: torch raises, Python raises
    MemoryError. Only Linux counts what is limited, the memory that is writable and not shared
    (RLIMIT_DATA); elsewhere nothing happens. Reserved addresses, of which CUDA takes many, do not
    count.
    """
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        # The soft limit alone, so that it can be lifted again.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = resource.RLIM_INFINITY if room is None else _writable() + room
        if hard != resource.RLIM_INFINITY:
            limit = hard if limit == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _writable() -> int:
    """The bytes that RLIMIT_DATA counts of this process. Raises OSError where Linux is not."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("no VmData in /proc/self/status")
