"""One part of the process's state: how it is read, written, compared and described."""

from __future__ import annotations

import operator
import os
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gradbench.core.text import line
from gradbench.state.namespaces import Namespace

LONGEST = 60
"""Characters of a value in a message."""


class Item(NamedTuple):
    """One part of the state; `write` restores a value that `read` returned."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    harmful: bool = True
    """Whether a change affects what a call computes or how long it takes."""
    by_torch: bool = False
    """Whether torch changes it too when it loads a part of itself; no mode is blamed for that."""
    unchanged: Callable[[Any], bool] | None = None
    """Whether an earlier value is still the present one, for items that are slow to read."""


def summarize(names: list[str]) -> str:
    """The first few names as part of a sentence: ``a, b, c and 3 more``."""
    shown = names[:4]
    if len(names) > len(shown):
        shown = [*shown[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def module_values(module: Any, names: tuple[str, ...]) -> tuple[Callable[[], Any], Any]:
    """Functions that read and write those of the named variables that a module has."""
    variables = vars(module)
    present = tuple(name for name in names if name in variables)

    def read() -> tuple[Any, ...]:
        return tuple([variables.get(name) for name in present])

    def write(before: tuple[Any, ...]) -> None:
        variables.update(zip(present, before))

    return read, write


_PLAIN = frozenset((int, float, str, bytes, bool, set, frozenset, types.NoneType))


def same(then: Any, now: Any) -> bool:
    """Whether two values are the same; objects of unknown types are compared by identity."""
    kind = type(then)
    if then is now:
        return True
    if kind is not type(now):
        return False
    if kind in _PLAIN:
        return bool(then == now)
    if kind is tuple:
        return len(then) == len(now) and (
            all(map(operator.is_, then, now)) or all(map(same, then, now))
        )
    if kind is dict:
        if len(then) != len(now):
            return False
        pairs = ((then, now), (then.values(), now.values()))
        if all(all(map(operator.is_, *pair)) for pair in pairs):
            return True
        return then.keys() == now.keys() and all(same(then[key], now[key]) for key in then)
    if isinstance(then, Namespace):
        return not then.replaced_in(now)
    return kind.__module__.startswith("torch") and bool(then == now)


def describe_change(name: str, then: Any, now: Any) -> str:
    """The item's name, with what was replaced or with both values where they are short."""
    if isinstance(then, Namespace):
        return f"{name} ({summarize(then.replaced_in(now))})"
    if type(then) is tuple and then and isinstance(then[0], Namespace):
        replaced = [label for a, b in zip(then, now) for label in a.replaced_in(b)]
        return f"{name} ({summarize(replaced)})"
    if type(then) is dict:
        return f"{name} ({summarize(_changed_keys(then, now))})"
    short = (int, float, str, bool, torch.dtype)
    if isinstance(then, short) and isinstance(now, short):
        return f"{name} ({line(str(then), LONGEST)} → {line(str(now), LONGEST)})"
    return name


def _changed_keys(then: dict[Any, Any], now: dict[Any, Any]) -> list[str]:
    missing = object()
    return [
        line(os.fsdecode(key) if isinstance(key, bytes) else str(key), LONGEST)
        for key in dict.fromkeys([*then, *now])
        if not same(then.get(key, missing), now.get(key, missing))
    ]
