"""How processes under Callgrind are started, and for which cases.

Only such a process can read `instructions`; what it does in there is in
`worker/instruments/instructions.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gradbench.core.instruments import CALLGRIND_LOG

SLOWER = 200
"""How many times longer a call takes under Callgrind, roughly: 100 to 250 were seen."""

LONGEST = 40.0
"""Seconds under Callgrind beyond which a case is refused, by estimate."""

FEWEST_CALLS = 2
"""Every case takes so many calls at least: a cold one and a counted one."""


def prefix(scratch: Path) -> tuple[str, ...]:
    """What stands before a process's command; `scratch` is an empty folder for it alone."""
    return (
        shutil.which("valgrind") or "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--callgrind-out-file=/dev/null",
        f"--log-file={scratch}/%p",
        "--vgdb=no",
    )


def environment(scratch: Path) -> Mapping[str, str]:
    """What its environment has besides."""
    # A hash seed moves a count by as much as a small change of the code does.
    return {CALLGRIND_LOG: str(scratch), "PYTHONHASHSEED": "0"}


def refusal(call: int, compiles: bool) -> str | None:
    """Why a case whose call takes so many nanoseconds is refused; None if it is not."""
    if compiles:
        return "compiling takes minutes under Callgrind"
    seconds = call * 1e-9 * SLOWER * FEWEST_CALLS
    if seconds <= LONGEST:
        return None
    return (
        f"{FEWEST_CALLS} calls of {call * 1e-6:.0f} ms would take about {seconds:.0f} s "
        f"under Callgrind, more than {LONGEST:.0f} s"
    )
