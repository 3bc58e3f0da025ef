"""Functions, classes and modules that someone may have replaced."""

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


class Names:
    """The functions and classes in one module or class, by name."""

    def __init__(self, owner: Any, told: str) -> None:
        self.owner = owner
        self.told = told
        self.values = dict(vars(owner))

    def differing(self, later: Names) -> list[str]:
        """The names of those that were replaced or removed, and of those that now come before an
        inherited one."""
        found = []
        missing = object()
        for key, value in self.values.items():
            if later.values.get(key, missing) is not value and callable(value):
                if key == "Storage":
                    # Torch's own, which goes with the default dtype.
                    continue
                found.append(f"{self.told}.{key}")
        if isinstance(self.owner, type):
            for key in later.values.keys() - self.values.keys():
                if any(key in vars(base) for base in self.owner.__mro__[1:]):
                    found.append(f"{self.told}.{key}")
        return found

    def put_back(self) -> None:
        now = Names(self.owner, self.told)
        for name in self.differing(now):
            key = name.rpartition(".")[2]
            if key in self.values:
                setattr(self.owner, key, self.values[key])
            else:
                delattr(self.owner, key)


def put_names_back(before: tuple[Names, ...]) -> None:
    for names in before:
        names.put_back()


def judges() -> list[tuple[Any, str]]:
    """The modules of the gate, and their classes."""
    return _told(_gradbench(("gradbench.worker.gate", "gradbench.problems.arguments")))


def owners() -> list[tuple[Any, str]]:
    """Modules and classes on whose functions every mode and the harness rest."""
    import torch.autograd.functional
    import torch.nn.functional

    here: list[Any] = [builtins, time, json, os, math, gc, threading, torch, torch.Tensor]
    here += [torch.autograd, torch.autograd.functional, torch.autograd.graph, torch.func]
    here += [forward_ad, torch.autograd.Function, torch.nn.functional, torch.nn.Module]
    here += [torch.linalg, torch.special, torch.optim, torch.library]
    below = ("_VariableFunctions", "_functorch", "_nn", "_linalg", "_special", "_autograd")
    here += [torch._C, *(getattr(torch._C, n) for n in below if hasattr(torch._C, n))]
    for name in ("torch._functorch.eager_transforms", "torch._functorch.apis"):
        if name in sys.modules:
            here.append(sys.modules[name])
    ours = [name for name in sys.modules if name.startswith("gradbench.")]
    here += _gradbench([name for name in ours if not name.startswith("gradbench.modes.")])
    return _told(here)


def _gradbench(names: Iterable[str]) -> list[Any]:
    """Modules of this package, as far as they are loaded, and their classes."""
    found = []
    for name in names:
        if name in sys.modules:
            module = sys.modules[name]
            found += [module, *(v for v in vars(module).values() if _class_of(v, name))]
    return found


def _told(owners: Iterable[Any]) -> list[tuple[Any, str]]:
    return [(owner, _path(owner)) for owner in owners if hasattr(owner, "__dict__")]


def _class_of(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _path(owner: Any) -> str:
    if isinstance(owner, type):
        prefix = "" if owner.__module__ == "builtins" else f"{owner.__module__}."
        return f"{prefix}{owner.__qualname__}".replace("torch._tensor.", "torch.")
    return str(getattr(owner, "__name__", owner))


def same_names(before: tuple[Names, ...]) -> bool:
    """Whether nothing at all has changed: values are the same objects in nearly every case, and
    then comparing them takes no code of theirs."""
    try:
        return all(vars(names.owner) == names.values for names in before)
    except Exception:
        return False


class Namespaces:
    """Reads all owners, which are found on first use: the package is imported by then."""

    def __init__(self, find: Callable[[], list[tuple[Any, str]]]) -> None:
        self.find = find
        self.owners: list[tuple[Any, str]] = []

    def read(self) -> tuple[Names, ...]:
        if not self.owners:
            self.owners = self.find()
        return tuple([Names(*owner) for owner in self.owners])


_BASIC = (
    *((torch.autograd, name) for name in ("grad", "backward")),
    *((torch.Tensor, name) for name in ("backward", "detach", "requires_grad_", "sum")),
    *((torch.func, name) for name in ("grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "vmap")),
    *((torch, name) for name in ("ones_like", "zeros_like", "ones", "zeros", "stack", "eye")),
    *((torch, name) for name in ("empty", "matmul", "einsum", "no_grad", "enable_grad", "compile")),
    *((time, name) for name in ("perf_counter_ns", "perf_counter", "monotonic", "time")),
)
"""What the modes rest on most: looked at around each visit."""


def read_basic() -> tuple[Any, ...]:
    return tuple([getattr(owner, name, None) for owner, name in _BASIC])


def write_basic(before: tuple[Any, ...]) -> None:
    for (owner, name), value in zip(_BASIC, before):
        if getattr(owner, name, None) is not value:
            setattr(owner, name, value)


def same_modules(before: Modules) -> bool:
    try:
        return before.values == sys.modules
    except Exception:
        return False


class Modules(Names):
    """The modules that are loaded; those that come later are no change."""

    def __init__(self) -> None:
        self.values = dict(sys.modules)

    def differing(self, later: Names) -> list[str]:
        missing = object()
        return [
            name
            for name, module in self.values.items()
            if later.values.get(name, missing) is not module
        ]

    def put_back(self) -> None:
        sys.modules.update(self.values)
