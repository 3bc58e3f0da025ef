"""Checks of the arguments of public functions: type and range, or an error that names both.

Python itself would accept a string as a sequence of letters, NaN as a number and 5 as a share, and
the result would be a wrong answer rather than an error.
"""

from __future__ import annotations

import inspect
import math
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from gradbench.core.suggest import hint

METHODS = ("benjamini-hochberg", "holm")
"""Corrections for multiple comparisons, which control the false positives of a table."""


def folder(name: str, value: Any) -> Path:
    """A folder's path. Raises TypeError, or ValueError for an empty one and for a file."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a path, not {kind_of(value)}")
    path = os.fsdecode(value)
    if not path.strip():
        raise ValueError(f"{name} is empty: it should be a path")
    if os.path.isfile(path):
        raise ValueError(f"{name} is {path!r}, a file, and should be a folder")
    return Path(path)


def text(name: str, value: Any) -> str:
    """A string that is not empty, or a path as a string."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} should be a string, not {kind_of(value)}")
    string = os.fsdecode(value)
    if not string.strip():
        raise ValueError(f"{name} is empty: it should be a name")
    return string


def optional(name: str, value: Any) -> str:
    """A string or a path as a string; empty for None too."""
    return "" if value is None or (isinstance(value, str) and not value) else text(name, value)


def texts(name: str, value: Any, needed: bool = False) -> tuple[str, ...] | None:
    """A tuple of strings, also for a single string or path; None for None, unless it is needed."""
    if value is None and not needed:
        return None
    strings = _strings(name, value)
    if not strings:
        raise ValueError(f"{name} is empty: name one, or leave it out for all")
    return strings


def several(name: str, value: Any) -> tuple[str, ...]:
    """A tuple of strings, also for a single string or path; empty for None and an empty list."""
    return () if value is None else _strings(name, value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, os.PathLike)):
        return (text(name, value),)
    # Tables and matrices are iterable too, a column or a vector of names is a list.
    is_list = isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1
    if not is_list or isinstance(value, (bytes, Mapping)):
        raise TypeError(f"{name} should be a string or a list of strings, not {kind_of(value)}")
    return tuple(text(name, item) for item in value)


def flag(name: str, value: Any) -> bool:
    """True or False, also as NumPy's. Raises TypeError."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} should be True or False, not {kind_of(value)}")
    return bool(value)


def number(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False
) -> float:
    """A finite number from `low` to `high`; `low_open` and `high_open` exclude the ends."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} should be a number, not {kind_of(value)}")
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
        raise TypeError(f"{name} should be a string, not {kind_of(value)}")
    if value not in options:
        suggestion = hint(value, options)
        message = f"{name} is {value!r}, and should be one of {', '.join(options)}"
        raise ValueError(f"{message}; {suggestion}" if suggestion else message)
    return value


def dtype(name: str, value: Any) -> str:
    """The name of a dtype, also of one of torch's own, such as torch.float32."""
    own = type(value).__module__ == "torch" and type(value).__name__ == "dtype"
    return str(value).removeprefix("torch.") if own else text(name, value)


def callables(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """Functions, also for a single one; none for None."""
    if value is None or callable(value):
        return () if value is None else (value,)
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} should be a function or a list of functions, not {kind_of(value)}")
    for item in value:
        if not callable(item):
            raise TypeError(f"{name} should be a list of functions, and has {kind_of(item)}")
    return tuple(value)


_OPTION = re.compile(r"(?<![\w'-])--([a-z][a-z-]*[a-z])\b(?:=(\w+))?")
_QUOTED = re.compile(r"('(?:gradbench|pip|pytest|asv) [^']*')")


def of_options(said: str, several: Collection[str] = ()) -> str:
    """A message of the command line, where an option is an argument: ``--wrt x`` is ``wrt x``, and
    ``--wrt=x`` is ``wrt='x'``.

    `several` are the options whose argument is in the plural. Commands in quotes stay as they are.
    """

    def argument(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
        value = "" if option[2] is None else f"={option[2]!r}"
        return (plural if option[1] in several else name) + value

    parts = _QUOTED.split(said)
    parts[::2] = [_OPTION.sub(argument, part) for part in parts[::2]]
    return "".join(parts)


def kind_of(value: Any) -> str:
    """The kind of a value, for an error: "a str", "an int", "None"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


@dataclass(frozen=True)
class Signature:
    """The arguments that a function takes, by name."""

    positional_only: tuple[str, ...]
    either: tuple[str, ...]
    """Arguments that can be passed by position or by name."""
    keyword_only: tuple[str, ...]
    required: tuple[str, ...]
    """Arguments without a default."""
    any_position: bool
    """Whether there is an argument like ``*args``."""
    any_name: bool
    """Whether there is an argument like ``**kwargs``."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.positional_only + self.either + self.keyword_only

    def accepts(self, names: Iterable[str]) -> bool:
        """Whether there is an argument for each name."""
        return self.any_name or set(names) <= set(self.names)

    def refusal(self, names: Sequence[str]) -> str:
        """Why the function cannot be called with inputs of these names; empty if it can."""
        for name in names:
            if not (name in self.names or self.any_name or self.any_position):
                near = hint(name, self.names)
                return f"it has no argument {name!r}, but {', '.join(self.names) or 'none'}" + (
                    f"; {near}" if near else ""
                )
        missing = [name for name in self.required if name not in names]
        if missing and not (self.any_position and set(names) - set(self.names)):
            return f"there is no input for its argument {missing[0]!r}"
        return ""

    def split(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which inputs to pass by position, in this order, and which by name."""
        by_name = [n for n in names if n in self.keyword_only]
        others = [n for n in names if n not in by_name]
        if all(n in self.either or (self.any_name and n not in self.names) for n in others):
            return [], list(names)
        known = [n for n in self.positional_only + self.either if n in others]
        extra = [n for n in others if n not in known]
        if self.any_name and not self.any_position:
            return known, extra + by_name
        return known + extra, by_name


def signature(function: Any) -> Signature | None:
    """The arguments of a function, or of a module's `forward`; None where they cannot be known, as
    of functions written in C."""
    try:
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        return None

    def of(*kinds: Any) -> tuple[str, ...]:
        return tuple(p.name for p in parameters if p.kind in kinds)

    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return Signature(
        of(Parameter.POSITIONAL_ONLY),
        of(Parameter.POSITIONAL_OR_KEYWORD),
        of(Parameter.KEYWORD_ONLY),
        tuple(p.name for p in parameters if p.kind not in variable and p.default is p.empty),
        bool(of(Parameter.VAR_POSITIONAL)),
        bool(of(Parameter.VAR_KEYWORD)),
    )


def argument_names(function: Any, count: int) -> list[str]:
    """Names of the first `count` inputs: from the signature if it has them, else x0, x1, …

    Those of ``*args`` are x1, x2, … by their position.
    """
    known = signature(function)
    if known is None:
        return [f"x{i}" for i in range(count)]
    names = [*known.positional_only, *known.either][:count]
    return names + [f"x{i}" for i in range(len(names), count)]
