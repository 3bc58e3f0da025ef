"""What installing releases takes: disk and time, judged by what is installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from gradbench.core.releases import ReleaseError
from gradbench.releases import environments
from gradbench.releases.environments import Request

GIB = 1 << 30

CUDA_BYTES = 6 * GIB
"""The most that an environment with torch's CUDA packages takes, if none is installed yet."""

CPU_BYTES = 2 * GIB
"""The same without them."""

INSTALLING = 60.0
"""Seconds that installing a release takes about, if none is installed yet."""


def estimate(requests: Sequence[Request], cpu: bool = False) -> int:
    """Bytes that installing these takes at most, judged by the installed ones of their kind: with
    torch's CUDA packages or, with `cpu`, without."""
    ours = [e for e in environments.installed() if e.ours and e.torch.endswith("+cpu") == cpu]
    each = max((e.size for e in ours), default=CPU_BYTES if cpu else CUDA_BYTES)
    return each * sum(request.interpreter is None for request in requests)


def seconds(requests: Sequence[Request]) -> float:
    """Seconds that installing these takes, by what the installed ones took."""
    known = [e.seconds for e in environments.installed() if e.ours and e.seconds]
    each = max(known, default=INSTALLING)
    return each * sum(request.interpreter is None for request in requests)


def free_bytes() -> int:
    """Bytes free where environments go."""
    place = environments.home()
    try:
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free
    except OSError as error:
        raise ReleaseError(f"cannot read {place}: {error.strerror}") from error
