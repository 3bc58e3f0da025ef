"""The tensors and modules that a function reaches on its own: by closure, globals, attributes."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

MOST_OBJECTS = 200_000
"""Objects that are looked at."""

LARGEST_CONTAINER = 100_000
"""Items of a container, beyond which it holds numbers rather than tensors."""

_SKIPPED = (str, bytes, int, float, complex, CodeType, FrameType, torch.Generator)


@functools.cache
def _foreign_folders() -> tuple[str, ...]:
    """Where Python and installed packages are."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({sysconfig.get_paths()[name] for name in names})


def _top(name: object) -> str:
    return str(name or "").partition(".")[0]


def is_users(module: object, own: frozenset[str]) -> bool:
    """Whether a module, by name, is code of the user's: in the packages of what was asked about,
    or not installed."""
    if _top(module) in own:
        return True
    if _top(module) in ("torch", "gradbench", "builtins"):
        return False
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    if file is None:
        # Of a notebook, or passed by value; what is built in has no tensors.
        return str(module) not in sys.builtin_module_names
    return not str(file).startswith(_foreign_folders())


def names_in(code: CodeType) -> Iterator[str]:
    """The names that code reads, with those of functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _members(found: Any, names: frozenset[str], own: frozenset[str]) -> Iterable[Any]:
    """What is reached from an object in one step; `names` are what code there reads."""
    if isinstance(found, FunctionType):
        if not is_users(found.__module__, own):
            # A decorator of a library's holds the user's function in its closure.
            return [found.__closure__, found.__dict__]
        read = [found.__globals__.get(name) for name in set(names_in(found.__code__))]
        held = [found.__closure__, found.__defaults__, found.__kwdefaults__, found.__dict__]
        return [*read, *held]
    if isinstance(found, ModuleType):
        if not is_users(found.__name__, own):
            return ()
        return [value for name, value in vars(found).items() if name in names]
    if isinstance(found, type):
        return list(vars(found).values()) if is_users(found.__module__, own) else ()
    return gc.get_referents(found)


def tops(*roots: Any) -> frozenset[str]:
    """The top packages of objects and of their classes, but for the usual libraries'."""
    return frozenset(
        name
        for root in roots
        for kind in (root, type(root))
        if (name := _top(getattr(kind, "__module__", "")))
        and name not in ("torch", "builtins", "functools", "collections")
    )


def variable(function: Any, name: str) -> Any:
    """The value of a variable that a function, or one in it, reads from outside; None if none."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(plain, FunctionType):
        return None
    if name in plain.__code__.co_freevars:
        return inspect.getclosurevars(plain).nonlocals.get(name)
    return plain.__globals__.get(name) if name in set(names_in(plain.__code__)) else None


def modules_read(function: Any) -> dict[str, torch.nn.Module]:
    """The modules among the variables that a function reads from outside, by name."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(plain, FunctionType):
        return {}
    names = dict.fromkeys([*plain.__code__.co_freevars, *names_in(plain.__code__)])
    values = {name: variable(function, name) for name in names}
    return {name: v for name, v in values.items() if isinstance(v, torch.nn.Module)}


def reached(*roots: Any) -> tuple[list[Tensor], list[torch.nn.Module]]:
    """The tensors and the modules that code of the user's reaches from the roots, each once."""
    tensors: list[Tensor] = []
    modules: list[torch.nn.Module] = []
    unwrapped = [getattr(root, "__func__", getattr(root, "func", root)) for root in roots]
    own = tops(*roots, *unwrapped)
    seen: set[int] = set()
    todo: list[tuple[Any, frozenset[str]]] = [(root, frozenset()) for root in roots]
    while todo and len(seen) < MOST_OBJECTS:
        found, names = todo.pop()
        if found is None or id(found) in seen or isinstance(found, _SKIPPED):
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            tensors.append(found)
            continue
        if isinstance(found, torch.nn.Module):
            modules.append(found)
        if isinstance(found, (list, tuple, set, dict)) and len(found) > LARGEST_CONTAINER:
            continue
        if isinstance(found, FunctionType):
            names = frozenset(names_in(found.__code__))
        todo += ((member, names) for member in _members(found, names, own))
    return tensors, modules
