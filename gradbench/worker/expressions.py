"""The small language in which inputs are given on the command line: no code is evaluated."""

from __future__ import annotations

import ast
from typing import Any

import torch

MAKERS = ("randn", "rand", "zeros", "ones", "arange", "linspace", "randint", "full", "tensor")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")


def evaluate(text: str) -> Any:
    """The tensor or plain value of an expression such as ``randn(1000, 2)`` or ``load(w.pt)``.

    Draws come from torch's default generator. Raises ValueError with one line for anything else,
    or where a file cannot be loaded; files are loaded with ``weights_only=True``.
    """
    text = text.strip()
    if text.startswith("load(") and text.endswith(")"):
        path = text[5:-1].strip().strip("\"'")
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:
            raise ValueError(f"load({path}): {' '.join(str(error).split())[:200]}") from error
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no expression") from error
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id not in MAKERS:
            raise ValueError(f"{node.func.id}() is not known; there are {', '.join(MAKERS)}, load")
        try:
            positional = [ast.literal_eval(a) for a in node.args]
            named = {k.arg or "": _keyword(k) for k in node.keywords}
            return getattr(torch, node.func.id)(*positional, **named)
        except (TypeError, ValueError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"{text!r}: {first}") from error
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is neither a literal nor one of {', '.join(MAKERS)}, load"
        ) from error


def _keyword(keyword: ast.keyword) -> Any:
    if keyword.arg != "dtype":
        return ast.literal_eval(keyword.value)
    name = ast.unparse(keyword.value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return getattr(torch, name)
