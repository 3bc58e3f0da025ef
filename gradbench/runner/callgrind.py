"""Starting processes under Callgrind, and refusing cases that take too long there.

Only such a process can read `instructions`, by `worker/instruments/instructions.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gradbench.core.instruments import CALLGRIND_LOG

SLOWER = 200
"""The rough slowdown of a call under Callgrind: 100 to 250 were observed."""

LONGEST = 40.0
"""Seconds under Callgrind beyond which a case is refused, by estimate."""

FEWEST_CALLS = 2
"""The calls of a case at least: a cold one and a counted one."""


PROFILE = "profile"
"""The file in a process's folder whose name, with a number behind it, is that of a profile."""


def prefix(scratch: Path, profiles: bool = False) -> tuple[str, ...]:
    """The start of a process's command; `scratch` is an empty folder of its own. With `profiles`
    the process can write some there."""
    return (
        shutil.which("valgrind") or "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={scratch / PROFILE if profiles else '/dev/null'}",
        f"--log-file={scratch}/%p",
        "--vgdb=no",
    )


def environment(scratch: Path) -> Mapping[str, str]:
    """Additional environment variables."""
    # A random hash seed changes a count as much as a small change of the code.
    return {CALLGRIND_LOG: str(scratch), "PYTHONHASHSEED": "0"}


def refusal(
    call: int, compiles: bool, calls: int = FEWEST_CALLS, longest: float = LONGEST
) -> str | None:
    """Why a case is refused, of which so many calls of `call` nanoseconds are needed; None if it is
    not."""
    if compiles:
        return "compiling takes minutes under Callgrind"
    seconds = call * 1e-9 * SLOWER * calls
    if seconds <= longest:
        return None
    return (
        f"{calls} calls of {call * 1e-6:.0f} ms would take about {seconds:.0f} s "
        f"under Callgrind, more than {longest:.0f} s"
    )
