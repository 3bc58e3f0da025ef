"""Functions, classes and modules that measured code may replace, and how they are restored."""

from __future__ import annotations

import builtins
import gc
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.func
import torch.library
from torch.autograd import forward_ad


class Namespace:
    """A copy of the variables of one module or class."""

    def __init__(self, owner: Any, label: str) -> None:
        self.owner = owner
        self.label = label
        self.values = dict(vars(owner))

    def replaced_in(self, later: Namespace) -> list[str]:
        """Functions and classes that are replaced or missing in a later copy, and methods that
        now hide an inherited one."""
        missing = object()
        # torch.Storage is torch's own business: it follows the default dtype.
        replaced = [
            f"{self.label}.{key}"
            for key, value in self.values.items()
            if later.values.get(key, missing) is not value and callable(value) and key != "Storage"
        ]
        if isinstance(self.owner, type):
            for key in later.values.keys() - self.values.keys():
                if any(key in vars(base) for base in self.owner.__mro__[1:]):
                    replaced.append(f"{self.label}.{key}")
        return replaced

    def restore(self) -> None:
        for label in self.replaced_in(Namespace(self.owner, self.label)):
            key = label.rpartition(".")[2]
            if key in self.values:
                setattr(self.owner, key, self.values[key])
            else:
                delattr(self.owner, key)


class NamespaceReader:
    """Reads namespaces, which are found on first use: the package is imported by then."""

    def __init__(self, find: Callable[[], Iterable[Any]]) -> None:
        self.find = find
        self.owners: list[tuple[Any, str]] = []

    def read(self) -> tuple[Namespace, ...]:
        if not self.owners:
            found = [owner for owner in self.find() if hasattr(owner, "__dict__")]
            self.owners = [(owner, _label(owner)) for owner in found]
        return tuple([Namespace(*owner) for owner in self.owners])


def restore_namespaces(before: tuple[Namespace, ...]) -> None:
    for namespace in before:
        namespace.restore()


def namespaces_unchanged(before: tuple[Namespace, ...]) -> bool:
    """Whether no value has changed. Nearly always all are the same objects, so that comparing
    them runs none of their code."""
    try:
        return all(vars(namespace.owner) == namespace.values for namespace in before)
    except Exception:
        return False


def gate_namespaces() -> list[Any]:
    """The modules of the gate and their classes."""
    return _with_classes(
        (
            "gradbench.worker.gate",
            "gradbench.worker.contestant",
            "gradbench.worker.allowance",
            "gradbench.worker.rounding",
            "gradbench.problems.arguments",
        )
    )


def shared_namespaces() -> list[Any]:
    """Modules and classes whose functions all modes and the harness use."""
    import torch.autograd.functional
    import torch.nn.functional

    owners: list[Any] = [builtins, time, json, os, math, gc, threading, torch, torch.Tensor]
    owners += [torch.autograd, torch.autograd.functional, torch.autograd.graph, torch.func]
    owners += [forward_ad, torch.autograd.Function, torch.nn.functional, torch.nn.Module]
    owners += [torch.linalg, torch.special, torch.optim, torch.library]
    below = ("_VariableFunctions", "_functorch", "_nn", "_linalg", "_special", "_autograd")
    owners += [torch._C, *(getattr(torch._C, n) for n in below if hasattr(torch._C, n))]
    transforms = ("torch._functorch.eager_transforms", "torch._functorch.apis")
    owners += [sys.modules[name] for name in transforms if name in sys.modules]
    ours = [name for name in sys.modules if name.startswith("gradbench.")]
    return owners + _with_classes(n for n in ours if not n.startswith("gradbench.modes."))


def _with_classes(names: Iterable[str]) -> list[Any]:
    """Those of the named modules that are loaded, and their classes."""
    owners: list[Any] = []
    for name in names:
        if name in sys.modules:
            module = sys.modules[name]
            owners.append(module)
            owners += [
                value
                for value in vars(module).values()
                if isinstance(value, type) and value.__module__ == name
            ]
    return owners


def _label(owner: Any) -> str:
    if isinstance(owner, type):
        prefix = "" if owner.__module__ == "builtins" else f"{owner.__module__}."
        return f"{prefix}{owner.__qualname__}".replace("torch._tensor.", "torch.")
    return str(getattr(owner, "__name__", owner))


_BASIC = (
    *((torch.autograd, name) for name in ("grad", "backward")),
    *((torch.Tensor, name) for name in ("backward", "detach", "requires_grad_", "sum")),
    *((torch.func, name) for name in ("grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "vmap")),
    *((torch, name) for name in ("ones_like", "zeros_like", "ones", "zeros", "stack", "eye")),
    *((torch, name) for name in ("empty", "matmul", "einsum", "no_grad", "enable_grad", "compile")),
    *((time, name) for name in ("perf_counter_ns", "perf_counter", "monotonic", "time")),
)
"""The functions that modes use most, few enough to compare around each visit."""


def read_basic() -> tuple[Any, ...]:
    return tuple([getattr(owner, name, None) for owner, name in _BASIC])


def write_basic(before: tuple[Any, ...]) -> None:
    for (owner, name), value in zip(_BASIC, before):
        if getattr(owner, name, None) is not value:
            setattr(owner, name, value)


class LoadedModules(Namespace):
    """The modules in sys.modules; loading more is no change."""

    def __init__(self) -> None:
        self.values = dict(sys.modules)

    def replaced_in(self, later: Namespace) -> list[str]:
        missing = object()
        return [
            name
            for name, module in self.values.items()
            if later.values.get(name, missing) is not module
        ]

    def restore(self) -> None:
        sys.modules.update(self.values)


def modules_unchanged(before: LoadedModules) -> bool:
    try:
        return before.values == sys.modules
    except Exception:
        return False
