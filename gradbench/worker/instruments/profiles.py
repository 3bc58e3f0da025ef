"""What one call executes, function by function: profiles by Callgrind, and what Python sees.

The profiles are files that the driver reads (`analysis/callgraphs.py`). Operations and Python
calls are counted in an ordinary process.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from gradbench.problems.dispatch import DispatchMode
from gradbench.worker.contestant import Contestant
from gradbench.worker.instruments.callgrind import Callgrind
from gradbench.worker.instruments.instructions import ENOUGH, WARM
from gradbench.worker.instruments.instrument import Unreadable, require_dispatched

REPEATS = 5
"""Profiles of a contestant, each of the same number of calls."""

CALLS = 10
"""The most calls of one profile."""

LONGEST_NAME = 300


def write(contestant: Contestant) -> int:
    """Writes a profile to throw away, one of no call (what marking the calls costs) and `REPEATS`
    profiles of some calls; returns the number of these calls."""
    call, arguments, counter = contestant.call, contestant.arguments, Callgrind()
    first = counter.count(call, arguments, 1)
    calls = max(1, min(CALLS, ENOUGH // first))
    for _ in repeat(None, WARM if calls > 1 else 1):
        call(*arguments)
    # The first one is not read: marking its calls costs more than marking later ones.
    counter.profile(call, arguments, 1)
    counter.profile(call, arguments, 0)
    for _ in range(REPEATS):
        counter.profile(call, arguments, calls)
    return calls


def traced(contestant: Contestant) -> dict[str, dict[str, int]]:
    """The operations that one call dispatches, and the Python functions that it enters."""
    return {
        "operations": operations(contestant),
        "python_calls": python_calls(contestant.call, contestant.arguments),
    }


def operations(contestant: Contestant) -> dict[str, int]:
    """The ATen operations that one call dispatches, by name: empty where they cannot be seen."""
    counted: Counter[str] = Counter()

    class Counting(DispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            counted[str(func)] += 1
            return func(*args, **(kwargs or {}))

    try:
        require_dispatched(contestant)
    except Unreadable:
        return {}
    with Counting():  # type: ignore[no-untyped-call]
        contestant.call(*contestant.arguments)
    return dict(counted)


def python_calls(call: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, int]:
    """The Python functions that one call enters, as ``torch/autograd/__init__.py grad``."""
    counted: Counter[CodeType] = Counter()

    def entered(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counted[frame.f_code] += 1

    before = sys.getprofile()
    sys.setprofile(entered)
    try:
        call(*arguments)
    finally:
        sys.setprofile(before)
    named: Counter[str] = Counter()
    for code, number in counted.items():
        named[_name(code)] += number
    return dict(named)


def _name(code: CodeType) -> str:
    """A function's file, from its package on, and its name: the same in every environment."""
    name = getattr(code, "co_qualname", code.co_name)
    parts = Path(code.co_filename).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            parts = parts[parts.index(folder) + 1 :]
    if "gradbench" in parts:
        parts = parts[len(parts) - 1 - parts[::-1].index("gradbench") :]
    shown = "/".join(parts) if not Path(*parts).is_absolute() else parts[-1]
    return f"{shown} {name}"[:LONGEST_NAME]
