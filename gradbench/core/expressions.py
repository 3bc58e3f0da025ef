"""The small language in which inputs are given on the command line: no code is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOAD = "load"
MAKERS = ("randn", "rand", "zeros", "ones", "arange", "linspace", "randint", "full", "tensor")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")


@dataclass(frozen=True)
class Expression:
    """What an expression says: a call of one of `MAKERS` or of `LOAD`, or a literal."""

    maker: str = ""
    """The function that is called; empty for a literal."""
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    """The arguments by name; a dtype as its name."""
    value: Any = None
    """The value of a literal."""


def read(text: str) -> Expression:
    """What an expression such as ``randn(1000, 2)`` or ``load(w.pt)`` says.

    Raises ValueError with one line for anything else.
    """
    text = text.strip()
    if text.startswith(f"{LOAD}(") and text.endswith(")"):
        return Expression(LOAD, (text[len(LOAD) + 1 : -1].strip().strip("\"'"),))
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{_short(text)} is no expression") from error
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id not in MAKERS:
                known = ", ".join((*MAKERS, LOAD))
                raise ValueError(f"{node.func.id}() is not known; there are {known}")
            positional = tuple(_literal(argument, text) for argument in node.args)
            named = {k.arg or "": _keyword(k, text) for k in node.keywords}
            return Expression(node.func.id, positional, named)
        return Expression(value=_literal(node, text))
    except RecursionError as error:
        raise ValueError(f"{_short(text)} is nested too deeply") from error


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError) as error:
        known = ", ".join((*MAKERS, LOAD))
        raise ValueError(
            f"{_short(text)} is neither a literal nor one of {known} of literals"
        ) from error


def _keyword(keyword: ast.keyword, text: str) -> Any:
    if keyword.arg != "dtype":
        return _literal(keyword.value, text)
    name = ast.unparse(keyword.value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return name


def _short(text: str) -> str:
    """A text as a message quotes it."""
    return repr(text if len(text) <= 60 else f"{text[:40]}…{text[-15:]}")
