"""Checks of the arguments of public functions: type and range, or an error that names both.

Python itself would accept a string as a sequence of letters, NaN as a number and 5 as a share, and
the result would be a wrong answer rather than an error.
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
"""Corrections for multiple comparisons, which control the false positives of a table."""


def folder(name: str, value: Any) -> Path:
    """A folder's path. Raises TypeError, or ValueError for an empty one."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a path, not {_kind(value)}")
    if not str(value).strip():
        raise ValueError(f"{name} is empty: it should be a path")
    return Path(value)


def text(name: str, value: Any) -> str:
    """A string that is not empty, or a path as a string."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a string, not {_kind(value)}")
    string = os.fspath(value)
    if not isinstance(string, str) or not string.strip():
        raise ValueError(f"{name} is empty: it should be a name")
    return string


def texts(name: str, value: Any) -> tuple[str, ...] | None:
    """A tuple of strings, also for a single string; None for None."""
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return (text(name, value),)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, dict)):
        raise TypeError(f"{name} should be a string or a list of strings, not {_kind(value)}")
    strings = tuple(text(name, item) for item in value)
    if not strings:
        raise ValueError(f"{name} is empty: name one, or leave it out for all")
    return strings


def number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> float:
    """A finite number from `low` to `high`; `low_open` and `high_open` exclude the ends."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} should be a number, not {_kind(value)}")
    result = float(value)
    too_low = result <= low if low_open else result < low
    too_high = result >= high if high_open else result > high
    if not math.isfinite(result) or too_low or too_high:
        raise ValueError(
            f"{name} is {value!r}, and should be {'above' if low_open else 'from'} {low:g} "
            f"{'and below' if high_open else 'to'} {high:g}"
        )
    return result


def share(name: str, value: Any) -> float:
    """A threshold, as a share of a time: from 0 to below 1."""
    return number(name, value, 0, 1, high_open=True)


def confidence(name: str, value: Any) -> float:
    return number(name, value, 0.5, 1, high_open=True)


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """One of the options. Raises ValueError for another value, with the nearest option."""
    if not isinstance(value, str):
        raise TypeError(f"{name} should be a string, not {_kind(value)}")
    if value not in options:
        suggestion = hint(value, options)
        message = f"{name} is {value!r}, and should be one of {', '.join(options)}"
        raise ValueError(f"{message}; {suggestion}" if suggestion else message)
    return value


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def argument_names(function: Any, count: int) -> list[str]:
    """Names of the first `count` inputs: from the signature if it has them, else x0, x1, …"""
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(getattr(function, "forward", function))
        names = [
            p.name
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(names) >= count:
            return names[:count]
    return [f"x{i}" for i in range(count)]
