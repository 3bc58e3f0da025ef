"""Real functions from many fields with random inputs, to try the machinery of advice on.

Each file declares functions of a few fields. A function's inputs are its attribute `inputs`, which
draws from torch's global generator, so that

    gradbench advise gradbench.studies.corpus.losses:focal \\
        --inputs gradbench.studies.corpus.losses:focal.inputs

asks about the first of the study's points. All derivatives here are right, but for modes that torch
itself gets wrong.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FILES = (
    "networks",
    "blocks",
    "losses",
    "physics",
    "models",
    "statistics",
    "geometry",
    "algebra",
    "programs",
)
"""The modules that declare functions, in the order of tables."""


@dataclass(frozen=True)
class Example:
    """A function of the corpus: its target and inputs as advice takes them."""

    name: str
    field: str
    target: str
    wrt: tuple[str, ...] = ()
    """The differentiated inputs; empty: all floating-point ones, or a module's parameters."""
    torch_errs: tuple[str, ...] = ()
    """The modes that torch computes wrong: the gate has to refuse them."""

    @property
    def maker(self) -> str:
        return f"{self.target}.inputs"


EXAMPLES: dict[str, Example] = {}


def declare(
    name: str,
    field: str,
    target: Any,
    inputs: Callable[[], Any],
    wrt: tuple[str, ...] = (),
    torch_errs: tuple[str, ...] = (),
) -> Any:
    """Registers a function or a module under the name that it has in the declaring file.

    `inputs` returns its arguments: a tuple, a dict by name, or one tensor. Returns the target.
    """
    if name in EXAMPLES:
        raise ValueError(f"there are two functions named {name!r}")
    target.inputs = inputs
    EXAMPLES[name] = Example(name, field, f"{inputs.__module__}:{name}", wrt, torch_errs)
    return target


def example(
    field: str,
    inputs: Callable[[], Any],
    wrt: tuple[str, ...] = (),
    torch_errs: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the decorated function; see `declare`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        declare(function.__name__, field, function, inputs, wrt, torch_errs)
        return function

    return register


def load() -> dict[str, Example]:
    """All functions by name."""
    for file in FILES:
        importlib.import_module(f"{__name__}.{file}")
    return EXAMPLES
