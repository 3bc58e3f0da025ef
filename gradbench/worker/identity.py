"""What a user's function is, as a digest: its source and that of what it calls, and its inputs.

Formatting, comments and what else is in the file do not count; names that the code reads from
outside do: functions and classes of the user's by their source, plain values as they are, tensors
by shape and dtype, modules by their printed form.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from gradbench.worker.loading import resolve
from gradbench.worker.owned import is_users, names_in, tops
from gradbench.worker.subject import Subject

MOST = 2000
"""Objects that are looked at."""

LONGEST = 2000
"""Characters of a printed value that count."""

_PLAIN = (str, bytes, int, float, complex, type(None))


def identity(subject: Subject, spec: dict[str, Any]) -> tuple[str, list[str]]:
    """The digest, 64 hexadecimal digits, and the files of the user's in which the source is."""
    roots = [subject.target, *subject.ways.values()]
    if spec["maker"]:
        roots.append(resolve(spec["maker"]))
    sources, files = _sources(roots)
    given = [f"{name}={_expression(text)}" for name, text in spec["inputs"]]
    tensors = [
        f"{leaf.name} {tuple(leaf.tensor.shape)} {leaf.tensor.dtype}" for leaf in subject.leaves
    ]
    wrt = subject.names[: subject.differentiated]
    plain = [f"{name} {_printed(value)}" for name, value in subject.binding.plain.items()]
    told = [*sources, *given, *tensors, *plain, f"by {', '.join(wrt)}"]
    return hashlib.sha256("\n".join(told).encode()).hexdigest(), files


def _expression(text: str) -> str:
    """An input's expression in one form; of a file, its content."""
    text = text.strip()
    if text.startswith("load(") and text.endswith(")"):
        with open(text[5:-1].strip().strip("\"'"), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    return ast.unparse(ast.parse(text, mode="eval"))


def _sources(roots: Iterable[Any]) -> tuple[list[str], list[str]]:
    """What tells the code of objects and of all that they call, and the files that it is in."""
    roots = list(roots)
    own = tops(*roots)
    told: list[str] = []
    files: dict[str, None] = {}
    seen: set[int] = set()
    todo = [("", root) for root in roots]
    while todo and len(seen) < MOST:
        name, found = todo.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        text, file, more = _told(found, own)
        told.append(f"{name}: {text}")
        if file:
            files[file] = None
        todo += more
    return told, list(files)


def _told(found: Any, own: frozenset[str]) -> tuple[str, str, list[tuple[str, Any]]]:
    """What tells an object, the file it is in if that is the user's, and what it refers to."""
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if isinstance(found, property):
        return "property", "", [("get", found.fget)]
    bound = getattr(found, "__self__", None)
    if inspect.ismethod(found):
        return found.__name__, "", [("function", found.__func__), ("self", bound)]
    if isinstance(found, FunctionType):
        return _function(found, own)
    if isinstance(found, type):
        if not is_users(found.__module__, own):
            return f"{found.__module__}.{found.__qualname__}", "", []
        members = [(name, value) for name, value in vars(found).items() if _is_code(value)]
        bases = [("base", base) for base in found.__bases__ if base is not object]
        return _source(found), _file(found), [*bases, *sorted(members, key=lambda pair: pair[0])]
    if isinstance(found, ModuleType):
        return found.__name__, "", []
    if isinstance(found, torch.nn.Module):
        kinds = {type(module): None for module in found.modules()}
        return _printed(found), "", [("class", kind) for kind in kinds]
    wrapped = getattr(found, "__wrapped__", None) or getattr(found, "func", None)
    if wrapped is not None and callable(wrapped):
        return type(found).__name__, "", [("wrapped", wrapped)]
    kind = type(found)
    more = [("class", kind)] if is_users(kind.__module__, own) else []
    return _printed(found), "", more


def _function(found: FunctionType, own: frozenset[str]) -> tuple[str, str, list[tuple[str, Any]]]:
    if not is_users(found.__module__, own):
        # A decorator of a library's holds the user's function.
        inside = getattr(found, "__wrapped__", None)
        return f"{found.__module__}.{found.__qualname__}", "", [("wrapped", inside)] * bool(inside)
    names = sorted(set(names_in(found.__code__)))
    read = [(name, found.__globals__[name]) for name in names if name in found.__globals__]
    for name, value in list(read):
        if isinstance(value, ModuleType) and is_users(value.__name__, own):
            read += [(f"{name}.{n}", vars(value)[n]) for n in names if n in vars(value)]
    cells = zip(found.__code__.co_freevars, found.__closure__ or ())
    held = [(name, cell.cell_contents) for name, cell in cells if _filled(cell)]
    defaults = [("default", value) for value in found.__defaults__ or ()]
    inside = getattr(found, "__wrapped__", None)
    more = [*read, *held, *defaults, *([("wrapped", inside)] if inside else [])]
    return _source(found), _file(found), more


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, staticmethod, classmethod, property))


def _source(found: Any) -> str:
    """The code without comments and formatting; its bytes where there is no source."""
    try:
        text = textwrap.dedent(inspect.getsource(found))
    except (OSError, TypeError):
        code = getattr(found, "__code__", None)
        return code.co_code.hex() if code is not None else str(getattr(found, "__qualname__", ""))
    try:
        return ast.unparse(_without_docstrings(ast.parse(text)))
    except SyntaxError:
        # A lambda's line may be a part of a statement.
        return text.strip()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.Pass()
    return tree


def _file(found: Any) -> str:
    try:
        return inspect.getsourcefile(found) or ""
    except TypeError:
        return ""


def _printed(value: Any) -> str:
    """A value as text that is the same in every process."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype}"
    if isinstance(value, _PLAIN):
        return repr(value)[:LONGEST]
    if isinstance(value, (list, tuple, set, frozenset)):
        ordered = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return f"{type(value).__name__}[{', '.join(_each(ordered))}]"[:LONGEST]
    if isinstance(value, dict):
        pairs = zip(_each(value), _each(value.values()))
        return f"{{{', '.join(f'{key}: {part}' for key, part in pairs)}}}"[:LONGEST]
    if isinstance(value, torch.nn.Module):
        shapes = [f"{name} {tuple(p.shape)}" for name, p in value.named_parameters()]
        return "\n".join([str(value), *shapes])
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _each(values: Iterable[Any]) -> Iterator[str]:
    return (_printed(value) for _, value in zip(range(LONGEST), values))
