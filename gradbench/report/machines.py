"""Which machine a run or a track was measured on, and which of them this one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradbench.core.units import counted


def named(facts: Mapping[str, Any]) -> str:
    """A machine by its facts: processor, cores that may be used, and memory in GiB.

    Two machines of one name are alike for a reader; a host's name says nothing about times.
    """
    parts = [str(facts.get("cpu") or "unknown processor")]
    cores = facts.get("usable_cores") or facts.get("logical_cores") or facts.get("cores")
    if cores:
        parts.append(counted(cores, "core"))
    if facts.get("memory"):
        parts.append(f"{facts['memory'] / 2**30:.0f} GiB")
    return ", ".join(parts)


def here() -> str:
    """The name of this machine."""
    from gradbench.runner.machine import facts

    return named(facts())


def default(names: Sequence[str], this: str) -> str:
    """The machine that a report is about, of those of its runs from the oldest on: this one, or
    that of the newest run where this one has none; empty without any run."""
    return this if this in names else names[-1] if names else ""
