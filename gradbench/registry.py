"""The one registry of functions and modes, which every face of the suite reads."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbench.catalogue.function import Function
    from gradbench.modes.mode import Mode

FUNCTIONS: dict[str, Function] = {}
MODES: dict[tuple[str, str], Mode] = {}
"""By operator and name, in the order of their registration."""


def function(declared: Function) -> Function:
    """Registers a function. Raises ValueError where its name is taken."""
    if declared.name in FUNCTIONS:
        raise ValueError(f"a function named {declared.name!r} is registered already")
    FUNCTIONS[declared.name] = declared
    return declared


def mode(*operators: str, **fields: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the decorated builder as a mode of each operator named.

    The fields are those of `gradbench.modes.mode.Mode`; the name is the builder's own unless
    `name` is given, the summary the first line of its docstring. Raises ValueError where an
    operator has a mode of that name already.
    """
    from gradbench.modes.mode import Mode

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        summary = (build.__doc__ or "").strip().splitlines()
        declared = Mode(
            name=fields.pop("name", build.__name__),
            operators=operators,
            build=build,
            summary=summary[0] if summary else "",
            **fields,
        )
        for operator in operators:
            key = (operator, declared.name)
            if key in MODES:
                raise ValueError(f"{operator} has a mode named {declared.name!r} already")
            MODES[key] = declared
        return build

    return register


def modes_of(operator: str) -> list[Mode]:
    """The modes of an operator in the order in which they are shown."""
    found = [mode for (of, _), mode in MODES.items() if of == operator]
    return sorted(found, key=lambda mode: mode.rank(operator))


def load_builtin() -> None:
    """Imports every family of the catalogue and of the modes: a new file is found by itself."""
    for package in ("gradbench.catalogue", "gradbench.modes"):
        path = importlib.import_module(package).__path__
        for module in sorted(entry.name for entry in pkgutil.iter_modules(path)):
            importlib.import_module(f"{package}.{module}")


def load_file(path: str) -> None:
    """Imports a user's file, whose declarations join the registry."""
    name = "gradbench_from_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
