"""Where and under which conditions a case is measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradbench.core.text import line


def is_number(digits: str) -> bool:
    """Whether these are digits, and no more of them than a count in a name has."""
    return re.fullmatch("[0-9]{1,9}", digits) is not None


@dataclass(frozen=True)
class Place:
    """Where and under which conditions a case is measured, as the `device` of a comparison says it.

    ``cuda:0``, or with conditions ``cuda:0+cold``, ``cpu+8sets``, ``cuda:0+cold+transfer``.
    """

    device: str
    """As torch names it, with its number: ``cpu``, ``cuda:0``."""
    cold: bool = False
    """Whether the caches are emptied of the data before every timed call."""
    transfer: bool = False
    """Whether the inputs start on the processor and the result ends there, both copies timed."""
    sets: int = 1
    """How many sets of inputs the calls go through in turn."""

    MOST_SETS: ClassVar[int] = 1000

    def __str__(self) -> str:
        several = f"+{self.sets}sets" * (self.sets > 1)
        return self.device + "+cold" * self.cold + "+transfer" * self.transfer + several

    def name(self, environment: Mapping[str, Any]) -> str:
        """What a worker's environment calls the device, as ``NVIDIA H200``; empty for the
        processor."""
        kind, _, number = self.device.partition(":")
        names = environment.get("device_names") or []
        known = kind == "cuda" and int(number) < len(names)
        return str(names[int(number)]) if known else ""

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def conditions(self) -> tuple[bool, int]:
        """What two devices must have in common to be held against each other."""
        return self.cold, self.sets

    @classmethod
    def parse(cls, label: str) -> Place:
        """The place that a label stands for; ``cuda`` is ``cuda:0``.

        Raises ValueError with one line for anything else.
        """
        device, *conditions = label.split("+")
        kind, colon, number = device.partition(":")
        if kind == "cuda" and not colon:
            device, number = "cuda:0", "0"
        known = device == "cpu" or (
            kind == "cuda" and re.fullmatch(r"0|[1-9][0-9]{0,3}", number) is not None
        )
        sets = 1
        for condition in conditions:
            digits = condition.removesuffix("sets")
            if digits != condition and is_number(digits):
                sets = int(digits)
                if not 1 < sets <= cls.MOST_SETS:
                    raise ValueError(f"device {label!r}: sets go from 2 to {cls.MOST_SETS}")
            elif condition not in ("cold", "transfer"):
                raise ValueError(f"device {label!r}: {condition!r} is not cold, transfer or 8sets")
        place = cls(device, "cold" in conditions, "transfer" in conditions, sets)
        if not known:
            raise ValueError(f"device {line(label, 60)!r} is not cpu, cuda, cuda:1, …")
        if place.transfer and place.on_cpu:
            raise ValueError(f"device {label!r}: nothing is transferred on the processor")
        return place
