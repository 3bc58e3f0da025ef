"""The code to paste of a function that has no name: its source, or what to put there."""

from __future__ import annotations

import ast
import inspect
import re
from types import CodeType, ModuleType
from typing import Any

LAMBDA = "<lambda>"
UNNAMED = "the_function"
"""What the code to paste calls a function without a name of its own, or whose name it uses."""

LONGEST = 2000
"""Characters of a source that is worth writing down."""


COMPARED = re.compile(r"^# (\w+) is the function that was compared$", re.MULTILINE)
"""The line of the code to paste that stands for a function that was passed as an object."""


def with_lambda(code: str, function: Any) -> str:
    """The code with the source of the lambda that was passed, or with what to put there; as it is
    for a function that has a name where the code goes."""
    if getattr(function, "__name__", "") != LAMBDA:
        return code
    source = lambda_source(function)
    used = inspect.getclosurevars(function) if source else None
    names = {**used.globals, **used.nonlocals} if used else {}
    if names.keys() & _bound(code):
        source = ""
    modules = {name: value for name, value in names.items() if isinstance(value, ModuleType)}
    others = [name for name in names if name not in modules]

    def defined(line: re.Match[str]) -> str:
        if not source:
            return f"# Put the function that was compared in place of the dots\n{line[1]} = ..."
        lines = [
            f"import {value.__name__}" + f" as {name}" * (name != value.__name__)
            for name, value in modules.items()
            if name != "torch"
        ]
        lines += [f"# {', '.join(others)}: as where this was compared"] if others else []
        return "\n".join([*lines, f"{line[1]} = {source}"])

    return COMPARED.sub(defined, code)


def _bound(code: str) -> set[str]:
    """The names that code defines at its top, but for those of torch's modules."""
    names = set()
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return names


def lambda_source(function: Any) -> str:
    """The source of a lambda as an expression; empty where it cannot be told, for any other
    function, and for one of more than `LONGEST` characters or with defaults that are computed."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code.co_name != LAMBDA:
        return ""
    try:
        source = "".join(inspect.findsource(function)[0])
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        return ""
    alike = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == code.co_firstlineno
        and all(isinstance(one, (ast.Constant, type(None))) for one in _defaults(node))
        and {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)} == _arguments(code)
    ]
    texts = {ast.get_source_segment(source, node) or "" for node in alike if _holds(node, code)}
    text = texts.pop() if len(texts) == 1 else ""
    if not text or len(text) > LONGEST:
        return ""
    return f"({text})" if "\n" in text else text


def _defaults(node: ast.Lambda) -> list[ast.expr | None]:
    return [*node.args.defaults, *node.args.kw_defaults]


def _arguments(code: CodeType) -> set[str]:
    number = code.co_argcount + code.co_kwonlyargcount
    number += bool(code.co_flags & inspect.CO_VARARGS)
    number += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return set(code.co_varnames[:number])


def _holds(node: ast.Lambda, code: CodeType) -> bool:
    """Whether the code's instructions lie in this lambda, as far as Python keeps their places."""
    if not hasattr(code, "co_positions"):
        return True
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    places = [p for p in code.co_positions() if None not in p and p[2:] != (0, 0)]
    return all(begin <= (line, column) and (last, to) <= end for line, last, column, to in places)
