"""Inputs made of what their expressions say."""

from __future__ import annotations

from typing import Any

import torch

from gradbench.core.expressions import LOAD, read


def evaluate(text: str) -> Any:
    """The tensor or plain value of an expression.

    Draws come from torch's default generator. Raises ValueError with one line where it is none, or
    where a file cannot be loaded; files are loaded with ``weights_only=True``.
    """
    said = read(text)
    if not said.maker:
        return said.value
    if said.maker == LOAD:
        (path,) = said.positional
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:
            raise ValueError(f"load({path}): {' '.join(str(error).split())[:200]}") from error
    named = dict(said.named)
    if "dtype" in named:
        named["dtype"] = getattr(torch, named["dtype"])
    try:
        return getattr(torch, said.maker)(*said.positional, **named)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{text.strip()!r}: {first}") from error
