"""A user's functions and inputs, found by name: every file is executed once in a process."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import pickle
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gradbench.core.arguments import argument_names, signature
from gradbench.core.suggest import hint

_files: dict[str, ModuleType] = {}
"""The modules of files by their real paths."""


SENT = "<dynamic-code>"
"""The file of functions that were sent by cloudpickle: their lines are those of their source."""


class Unusable(Exception):
    """The function or an input is not there, or is not what it should be; the message says how."""


def seed_everything(seed: int) -> None:
    """Seeds torch, `random` and, where it is loaded, NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def resolve(target: str) -> Any:
    """The object that ``module:name`` or ``file.py:name`` names. Raises Unusable where there
    is none, and whatever importing the module raises."""
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise Unusable(f"{target!r} is not of the form module:function or file.py:function")
    if place.endswith(".py"):
        module = _file(place)
    else:
        findable(os.getcwd())
        module = importlib.import_module(place)
    member: Any = module
    for part in name.split("."):
        if not hasattr(member, part):
            near = hint(part, [known for known in dir(member) if not known.startswith("_")])
            raise Unusable(f"{place} has no {part!r}" + (f"; {near}" if near else ""))
        member = getattr(member, part)
    return member


def importable(place: str) -> str:
    """The name under which a module or file that was resolved can be imported."""
    if not place.endswith(".py"):
        return place
    path = os.path.realpath(place)
    root, name = _package(path)
    return name if root else os.path.basename(path).removesuffix(".py")


def findable(folder: str) -> None:
    """Has modules in a folder found first."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _package(path: str) -> tuple[str, str]:
    """The folder from which a file is imported as part of a package, and its dotted name there;
    empty for a file that is part of none.

    A file that imports relatively counts as part of the current folder's packages.
    """
    folder, file = os.path.split(path)
    parts = [file.removesuffix(".py")]
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder, last = os.path.split(folder)
        parts.insert(0, last)
    if len(parts) == 1:
        here = os.path.realpath(os.getcwd())
        inside = os.path.relpath(path, here).removesuffix(".py").split(os.sep)
        if len(inside) == 1 or inside[0] == os.pardir or not _imports_relatively(path):
            return "", ""
        folder, parts = here, inside
    return (folder, ".".join(parts)) if all(part.isidentifier() for part in parts) else ("", "")


def _imports_relatively(path: str) -> bool:
    with open(path, "rb") as file:
        try:
            tree = ast.parse(file.read())
        except (SyntaxError, ValueError):
            return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _file(place: str) -> ModuleType:
    """The module of a file, executed if it was not yet."""
    if not os.path.isfile(place):
        raise Unusable(f"there is no file {place}")
    path = os.path.realpath(place)
    if path in _files:
        return _files[path]
    for loaded in list(sys.modules.values()):
        file = getattr(loaded, "__file__", None)
        # Asking for the real path of each would take a while.
        if (
            isinstance(file, str)
            and file.endswith(os.path.basename(path))
            and (os.path.realpath(file) == path)
        ):
            # Another of the user's files has imported it.
            return _files.setdefault(path, loaded)
    root, name = _package(path)
    if root:
        findable(root)
        module = importlib.import_module(name)
        if os.path.realpath(str(module.__file__)) == path:
            return _files.setdefault(path, module)
    # As Python does for a script: its folder comes first.
    findable(os.path.dirname(path))
    return _files.setdefault(path, _executed(path))


def _executed(path: str) -> ModuleType:
    """A new module of a file, under the name by which a file beside it would import it."""
    name = os.path.basename(path).removesuffix(".py")
    if not name.isidentifier() or name in sys.modules or name in sys.builtin_module_names:
        name = f"gradbench_subject_{len(_files)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def inputs_from(maker: str, target: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The inputs by name that ``module:function`` returns as a dict, or as a tuple in the order of
    the target's arguments; and where each is in what it returns, as code.

    Raises Unusable if it returns neither, or is no function, and whatever it raises itself.
    """
    made = resolve(maker)
    if not callable(made):
        raise Unusable(f"--inputs {maker}: it is a {type(made).__name__}, no function")
    inputs = made()
    if isinstance(inputs, dict) and all(isinstance(name, str) for name in inputs):
        known = signature(target)
        if known is None or known.accepts(inputs) or len(known.required) != 1:
            return inputs, {name: f"[{name!r}]" for name in inputs}
        # The only argument is a dict itself.
        return {known.required[0]: inputs}, {known.required[0]: ""}
    if isinstance(inputs, (tuple, list)):
        names = argument_names(target, len(inputs))
        return dict(zip(names, inputs)), {name: f"[{i}]" for i, name in enumerate(names)}
    if isinstance(inputs, (Tensor, torch.nn.Module)):
        (name,) = argument_names(target, 1)
        return {name: inputs}, {name: ""}
    raise Unusable(
        f"--inputs {maker}: it returns a {type(inputs).__name__}, not a dict of inputs by name or "
        "a tuple of them"
    )


Passed = tuple[Any, dict[str, Any], dict[str, Callable[..., Any]]]
"""A function, its inputs by name, and the user's own derivatives by name."""


def passed(path: str | Passed) -> Passed:
    """What `gradbench.compare` wrote to a file, or what is of this process already.

    Raises Unusable where they cannot be made again in this process.
    """
    if not isinstance(path, str):
        return path
    with open(path, "rb") as file:
        folders, dtype, content = pickle.load(file)
    torch.set_default_dtype(getattr(torch, dtype))
    # What the caller could import can be imported here.
    sys.path += [folder for folder in folders if folder not in sys.path]
    try:
        target, inputs, ways = pickle.loads(content)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise Unusable(
            f"it cannot be sent to the measuring process: {type(error).__name__}: {line}"
        ) from error
    return target, inputs, ways
