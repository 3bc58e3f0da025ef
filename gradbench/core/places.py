"""Where code from outside of this package is: its file and line, to name in a message."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

IMPORTING = ("importlib", "importlib_metadata")


def of_code(build: Callable[..., Any]) -> str:
    """``file.py:line`` of a function, or of what a partial or an object calls; empty for one of
    this package, and where there is none."""
    called = inspect.unwrap(getattr(build, "func", build))
    code = getattr(called, "__code__", None) or getattr(type(called).__call__, "__code__", None)
    if code is None or code.co_filename.startswith((_HERE, "<")):
        return ""
    return f"{short(code.co_filename)}:{code.co_firstlineno}"


def of_error(error: BaseException) -> str:
    """``file.py:line`` where an error was raised: the last line outside of Python's own importing,
    torch and this package; empty where all of it is inside."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{short(error.filename)}:{error.lineno}"
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    outside = (_HERE, "<", *([os.path.dirname(torch) + os.sep] if torch else []))
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_code.co_filename
        module = frame.f_globals.get("__name__", "")
        if not (name.startswith(outside) or module.partition(".")[0] in IMPORTING):
            return f"{short(name)}:{number}"
    return ""


def short(path: str) -> str:
    """A file's name as it is imported or, in the current folder, as it is typed."""
    path = os.path.abspath(path)
    folders = {os.path.abspath(folder) for folder in (os.curdir, *sys.path)}
    inside = [folder for folder in folders if path.startswith(folder.rstrip(os.sep) + os.sep)]
    return os.path.relpath(path, max(inside, key=len)) if inside else path
