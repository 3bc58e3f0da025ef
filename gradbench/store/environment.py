"""The environment of a worker: its build of torch, and what else its times depend on.

A log keeps all that a worker states about itself; this is the part that gradbench reads. Facts that
it does not know are ignored, and those that an older worker did not state are None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gradbench.store.fields import Index, Label, Text, converted

LIBRARIES = ("cpu_capability", "python", "numpy")
BUILD = ("torch", "torch_git", "torch_cuda", *LIBRARIES)
"""What tells one build of torch and its surroundings from another."""

COLUMNS = (*BUILD, "gradbench", "node")
"""The columns of data frames."""

COMPARED = (*BUILD, "mkl", "device_names")
"""What is named where it differs between two runs."""

RESUMED = ("torch", "torch_git", *LIBRARIES, "gradbench", "device_names")
"""What must be the same where a run, a track or a study is resumed."""

BESIDES = ("cpu_capability", "numpy", "python", "mkl", "malloc", "device_names")
"""What times depend on besides the release."""

IDENTITY = ("torch", "torch_git", *BESIDES)
"""What tells builds apart that have the same name."""


class WorkerEnvironment(msgspec.Struct, frozen=True):
    gradbench: Label | None = None
    torch: Label | None = None
    torch_git: Label | None = None
    torch_cuda: Label | None = None
    cpu_capability: Label | None = None
    mkl: bool | None = None
    python: Label | None = None
    numpy: Label | None = None
    malloc: Text | None = None
    """The libraries that replace its allocator."""
    interop_threads: Index | None = None
    pid: int | None = None
    devices: tuple[Label, ...] | None = None
    device_names: tuple[Label, ...] | None = None
    device_uuids: dict[Label, Label] | None = None
    node: Label | None = None
    """The node of a cluster that it is a process of."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> WorkerEnvironment:
        """What a worker stated about itself. Raises ValueError where a fact is of the wrong type
        or out of range."""
        return converted("environment", facts, cls)

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in IDENTITY)

    def differences(
        self, other: WorkerEnvironment, names: Iterable[str]
    ) -> list[tuple[str, str, str]]:
        """The facts of these names that differ: the name, this value and the other."""
        values = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [(name, _shown(one), _shown(two)) for name, one, two in values if one != two]


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
