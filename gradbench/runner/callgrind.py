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


def prefix(scratch: Path) -> tuple[str, ...]:
    """The start of a process's command; `scratch` is an empty folder of its own."""
    return (
        shutil.which("valgrind") or "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--callgrind-out-file=/dev/null",
        f"--log-file={scratch}/%p",
        "--vgdb=no",
    )


def environment(scratch: Path) -> Mapping[str, str]:
    """Additional environment variables."""
    # A random hash seed changes a count as much as a small change of the code.
    return {CALLGRIND_LOG: str(scratch), "PYTHONHASHSEED": "0"}


def refusal(call: int, compiles: bool) -> str | None:
    """Why a case whose call takes `call` nanoseconds is refused; None if it is not."""
    if compiles:
        return "compiling takes minutes under Callgrind"
    seconds = call * 1e-9 * SLOWER * FEWEST_CALLS
    if seconds <= LONGEST:
        return None
    return (
        f"{FEWEST_CALLS} calls of {call * 1e-6:.0f} ms would take about {seconds:.0f} s "
        f"under Callgrind, more than {LONGEST:.0f} s"
    )
