"""One part of the state, and how two values of it are compared and told."""

from __future__ import annotations

import operator
import os
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gradbench.core.text import line
from gradbench.state.names import Names

LONGEST = 60
"""Characters of a value in a message."""


class Item(NamedTuple):
    """One part of the state: how it is read, and how a value that was read is put back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    measured: bool = True
    """Whether it changes what a call computes or how long it takes."""
    by_torch: bool = False
    """Whether torch changes it too, where it loads a part of itself on first use: no mode is named
    for that."""
    same: Callable[[Any], bool] | None = None
    """Whether a value that was read is still the present one, where reading it takes long."""


def listed(names: list[str]) -> str:
    """The first few of these as words of a sentence."""
    shown = names[:4]
    if len(names) > len(shown):
        shown = [*shown[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def module_values(module: Any, names: tuple[str, ...]) -> tuple[Callable[[], Any], Any]:
    """Reads and writes of plain variables of a module, as many as there are."""
    there = vars(module)
    known = tuple(name for name in names if name in there)

    def read() -> tuple[Any, ...]:
        return tuple([there.get(name) for name in known])

    def write(before: tuple[Any, ...]) -> None:
        there.update(zip(known, before))

    return read, write


_PLAIN = frozenset((int, float, str, bytes, bool, frozenset, types.NoneType))


def same(then: Any, now: Any) -> bool:
    """Whether two values read are the same; of what a user may have made only identity counts."""
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
    if isinstance(then, Names):
        return not then.differing(now)
    return kind.__module__.startswith("torch") and bool(then == now)


def told(name: str, then: Any, now: Any) -> str:
    """What has changed, with both values where they are short."""
    if isinstance(then, Names):
        return f"{name} ({listed(then.differing(now))})"
    if type(then) is tuple and then and isinstance(then[0], Names):
        replaced = [found for a, b in zip(then, now) for found in a.differing(b)]
        return f"{name} ({listed(replaced)})"
    if type(then) is dict:
        return f"{name} ({listed(_keys(then, now))})"
    shown = (int, float, str, bool, torch.dtype)
    if isinstance(then, shown) and isinstance(now, shown):
        return f"{name} ({line(str(then), LONGEST)} → {line(str(now), LONGEST)})"
    return name


def _keys(then: dict[Any, Any], now: Any) -> list[str]:
    keys = dict.fromkeys([*then, *now])
    missing = object()
    return [
        line(os.fsdecode(key) if isinstance(key, bytes) else str(key), LONGEST)
        for key in keys
        if not same(then.get(key, missing), now.get(key, missing))
    ]
