"""What the public functions are given from Python: of the right kind, or an error that says which.

A string is a sequence of its letters to Python, NaN is a float and a share may be 5: none of these
is noticed later than in a wrong answer.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradbench.core.suggest import hint

METHODS = ("benjamini-hochberg", "holm")
"""How false alarms are held down over a table."""


def folder(name: str, value: Any) -> Path:
    """A folder's path. Raises TypeError, or ValueError for an empty one."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a path, not {_kind(value)}")
    if not str(value).strip():
        raise ValueError(f"{name} is empty: it should be a path")
    return Path(value)


def text(name: str, value: Any) -> str:
    """A string that is not empty; a path is taken by what it is written as."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a string, not {_kind(value)}")
    written = os.fspath(value)
    if not isinstance(written, str) or not written.strip():
        raise ValueError(f"{name} is empty: it should be a name")
    return written


def texts(name: str, value: Any) -> tuple[str, ...] | None:
    """Several strings, or one for a sequence of it alone; None for None."""
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return (text(name, value),)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, dict)):
        raise TypeError(f"{name} should be a string or a list of strings, not {_kind(value)}")
    found = tuple(text(name, one) for one in value)
    if not found:
        raise ValueError(f"{name} is empty: name one, or leave it out for all")
    return found


def number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> float:
    """A finite number from `low` to `high`, whose ends may be left out."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} should be a number, not {_kind(value)}")
    given = float(value)
    too_low = given <= low if low_open else given < low
    too_high = given >= high if high_open else given > high
    if not math.isfinite(given) or too_low or too_high:
        raise ValueError(
            f"{name} is {value!r}, and should be {'above' if low_open else 'from'} {low:g} "
            f"{'and below' if high_open else 'to'} {high:g}"
        )
    return given


def share(name: str, value: Any) -> float:
    """A threshold as a share of a time."""
    return number(name, value, 0, 1, high_open=True)


def confidence(name: str, value: Any) -> float:
    return number(name, value, 0.5, 1, high_open=True)


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of some words. Raises ValueError for another, with the nearest."""
    if not isinstance(value, str):
        raise TypeError(f"{name} should be a string, not {_kind(value)}")
    if value not in known:
        near = hint(value, known)
        raise ValueError(
            f"{name} is {value!r}, which is none of {', '.join(known)}"
            + (f"; {near}" if near else "")
        )
    return value


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def argument_names(function: Any, count: int) -> list[str]:
    """What the first `count` inputs are called: as in the signature, else x0, x1, …"""
    with contextlib.suppress(TypeError, ValueError):
        called = getattr(function, "forward", function)
        known = [
            p.name
            for p in inspect.signature(called).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(known) >= count:
            return known[:count]
    return [f"x{i}" for i in range(count)]
