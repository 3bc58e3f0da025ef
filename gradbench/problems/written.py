"""A mode's own source, written out for one problem: the code that is timed becomes code to paste.

The builder and every helper of it are copied as they stand, with three changes. What they read of
`problem` becomes a constant: `problem.forward` the name of the user's function, and
`problem.differentiated` or `argnums(problem)` its value. Annotations are dropped. So are the guards
that raise Unsupported, which the problem has passed.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import re
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch

from gradbench.problems.operators import Problem

FUNCTION = "your_function"
"""The name of the user's function in the code."""

PROBLEM = "problem"
"""The name that builders and their helpers have for the problem."""


class NotWritable(Exception):
    """The mode cannot be written out; the message says why."""


class Written:
    """The source of a builder and of all that it uses.

    `functions` has the source of each function by name, the builder's last. Raises NotWritable
    where the code uses the problem, or an object, that has no code.
    """

    def __init__(self, build: Callable[..., Any], problem: Problem) -> None:
        self.problem, self.build = problem, inspect.unwrap(build)
        self.imports = {"import torch"}
        self.constants: list[str] = []
        self.functions: dict[str, str] = {}
        if not isinstance(self.build, FunctionType):
            raise NotWritable("its builder is no function")
        self.name, self._home = self.build.__name__, self.build.__module__
        self.known: dict[str, Any] = {FUNCTION: problem.forward}
        self.add(self.name, self.build)

    def add(self, name: str, value: Any) -> None:
        """Makes a global name of the source known to the code."""
        if name in self.known:
            if self.known[name] is not value:
                raise NotWritable(f"{name} has two meanings")
            return
        self.known[name] = value
        module = getattr(value, "__module__", None) or ""
        own_name = getattr(value, "__name__", "")
        if isinstance(value, ModuleType):
            self.imports.add(import_line(own_name, name))
        elif isinstance(value, (FunctionType, type)) and self._is_own(module):
            if own_name != name:
                raise NotWritable(f"{own_name} is called {name}")
            source = _Source(self, value)
            self.functions[name] = source.text
        elif own_name and getattr(sys.modules.get(module), own_name, None) is value:
            self.imports.add(import_line(own_name, name, module))
        elif (code := self.code(value)) is not None:
            self.constants.append(f"{name} = {code}")
        else:
            raise NotWritable(f"{name} has no code")

    def _is_own(self, module: str) -> bool:
        """Whether what is defined in a module is copied rather than imported."""
        return module == self._home or module.partition(".")[0] == "gradbench"

    def code(self, value: Any) -> str | None:
        """The code of a value, None where it has none."""
        if value is self.problem.forward:
            return FUNCTION
        if isinstance(value, (tuple, list)):
            parts = [self.code(part) for part in value]
            if None in parts:
                return None
            inner = ", ".join(str(part) for part in parts)
            if isinstance(value, list):
                return f"[{inner}]"
            return f"({inner},)" if len(parts) == 1 else f"({inner})"
        if isinstance(value, torch.dtype):
            return str(value)
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        if isinstance(value, FunctionType) and self._is_own(value.__module__):
            name: str = value.__name__
            if getattr(sys.modules.get(value.__module__), name, None) is not value:
                return None
            self.add(name, value)
            return name
        plain = value is None or isinstance(value, (bool, int, str))
        return repr(value) if plain or (isinstance(value, float) and math.isfinite(value)) else None


def import_line(target: str, name: str, module: str = "") -> str:
    """The import of a target, from a module or as one, under a name."""
    line = f"from {module} import {target}" if module else f"import {target}"
    return line if target == name else f"{line} as {name}"


SIGNATURE = re.compile(r"^( *def \w+\()\n\s+([^()\n]+?),?\n\s*(\).*)$", re.MULTILINE)
"""A signature whose parameters stand on a line of their own."""

WIDTH = 100


def _on_one_line(signature: re.Match[str]) -> str:
    """The signature on one line where it fits there, now that its annotations are gone."""
    line = "".join(signature.groups())
    return line if len(line) <= WIDTH else signature.group()


class _Source(ast.NodeVisitor):
    """The source of one function, changed at its places; `text` is the result."""

    def __init__(self, written: Written, function: Any) -> None:
        self.written = written
        try:
            source = textwrap.dedent(inspect.getsource(function))
            tree = ast.parse(source)
        except (OSError, TypeError, SyntaxError):
            raise NotWritable(f"the source of {function.__name__} is not there") from None
        (definition, *more) = tree.body
        if more or not isinstance(definition, (ast.FunctionDef, ast.ClassDef)):
            raise NotWritable(f"{function.__name__} is not a function of its own")
        if definition.decorator_list and function is not written.build:
            raise NotWritable(f"{function.__name__} is decorated")
        # Columns in the tree count bytes.
        self.bytes = source.encode()
        self.lines = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.names = _names(function)
        self.bound = set(_bound(tree))
        self.edits: list[tuple[int, int, bytes]] = []
        self.visit(definition)
        self.edits.append((0, self.lines[definition.lineno - 1], b""))
        self.text = self._edited()
        for name in _globals(self.text):
            if name in self.names:
                self.written.add(name, self.names[name])
            elif not (hasattr(builtins, name) or name in written.known):
                raise NotWritable(f"{name} is not defined")

    def _edited(self) -> str:
        text, end = b"", 0
        for begin, stop, code in sorted(self.edits):
            text += self.bytes[end:begin] + code
            end = stop
        return SIGNATURE.sub(_on_one_line, (text + self.bytes[end:]).decode())

    def begin(self, node: Any) -> int:
        return int(self.lines[node.lineno - 1] + node.col_offset)

    def end(self, node: Any) -> int:
        return int(self.lines[node.end_lineno - 1] + node.end_col_offset)

    def replace(self, begin: int, end: int, code: str = "") -> None:
        self.edits.append((begin, end, code.encode()))

    def drop(self, dropped: list[Any], listed: list[Any]) -> None:
        """Drops entries of a list with the commas that follow them, or precede the last."""
        for node in dropped:
            i = listed.index(node)
            if i + 1 < len(listed):
                self.replace(self.begin(node), self.begin(listed[i + 1]))
            else:
                self.replace(self.end(listed[i - 1]) if i else self.begin(node), self.end(node))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr) and (code := self.fact(node)) is not None:
            self.replace(self.begin(node), self.end(node), code)
        else:
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.drop([one for one in listed if one.arg == PROBLEM], listed)
        defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]
        others = [one for one in (arguments.vararg, arguments.kwarg) if one]
        for one in [*listed, *others]:
            if one.annotation and one.arg != PROBLEM:
                end = self.end(one.annotation)
                # Without an annotation there are no spaces around the equals sign.
                for default in defaults:
                    if self.bytes[end : self.begin(default)].strip() == b"=":
                        self.replace(end, self.begin(default), "=")
                self.replace(self.begin(one) + len(one.arg.encode()), end)
        if node.returns:
            arrow = self.bytes.rindex(b"->", 0, self.begin(node.returns))
            self.replace(len(self.bytes[:arrow].rstrip()), self.end(node.returns))
        nested = node.decorator_list if node.col_offset else []
        for part in [*nested, *defaults, *node.body]:
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.replace(self.end(node.target), self.end(node.annotation))
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        code = self.fact(node.value)
        if code is not None and code.startswith("(") and isinstance(node.targets[0], ast.Tuple):
            self.replace(self.begin(node.value), self.end(node.value), code[1:-1])
        else:
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        raised = node.body[0].exc if isinstance(node.body[0], ast.Raise) else None
        guard = isinstance(raised, ast.Call) and ast.unparse(raised.func) == "Unsupported"
        if guard and not node.orelse:
            self.replace(self.lines[node.lineno - 1], self.lines[node.end_lineno or 0])
        else:
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        code = self.fact(node.test)
        if code not in ("True", "False"):
            self.generic_visit(node)
            return
        chosen = node.body if code == "True" else node.orelse
        self.replace(self.begin(node), self.begin(chosen))
        self.replace(self.end(chosen), self.end(node))
        self.visit(chosen)

    def visit_Call(self, node: ast.Call) -> None:
        listed = [*node.args, *node.keywords]
        passed = [
            one for one in listed if _is_problem(one.value if isinstance(one, ast.keyword) else one)
        ]
        self.drop(passed, listed)
        for part in [node.func, *(one for one in listed if one not in passed)]:
            self.visit(part)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        # Before Python 3.12 the tree does not say where the parts of an f-string are.
        if any(_is_problem(inside) for inside in ast.walk(node)):
            raise NotWritable("an f-string uses the problem")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id == PROBLEM:
            raise NotWritable("it uses the problem itself")

    def fact(self, node: ast.expr) -> str | None:
        """The code of the value of an expression about the problem alone."""
        inside = list(ast.walk(node))
        own = {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        read = {n.id for n in inside if isinstance(n, ast.Name)} - own
        if PROBLEM not in read or _is_problem(node) or read & (self.bound - {PROBLEM}):
            return None
        if isinstance(node, ast.Tuple) or any(isinstance(n, ast.Lambda) for n in inside):
            return None
        modules = [self.names[n] for n in read if isinstance(self.names.get(n), ModuleType)]
        if any(module.__name__.partition(".")[0] == "torch" for module in modules):
            return None
        try:
            code = compile(ast.Expression(node), "<mode>", "eval")
            value = eval(code, {**self.names, PROBLEM: self.written.problem})
        except Exception:
            return None
        return self.written.code(value)


def _is_problem(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == PROBLEM


def _names(function: Any) -> dict[str, Any]:
    """The values of the global names of a function or class."""
    if isinstance(function, type):
        return vars(sys.modules[function.__module__])
    return {**function.__globals__, **inspect.getclosurevars(function).nonlocals}


def _bound(tree: ast.AST) -> Iterator[str]:
    """The names that a source binds anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def _globals(text: str) -> list[str]:
    """The global names that a source reads, in their order."""
    try:
        tables = [symtable.symtable(text, "<mode>", "exec")]
    except SyntaxError as error:
        raise NotWritable(f"its source does not stand alone: {error.msg}") from None
    names: dict[str, None] = {}
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {s.get_name(): None for s in table.get_symbols() if s.is_global()}
    return list(names)


def joined(source: str) -> str | None:
    """A builder that prepares nothing but names, joined with the call that it returns.

    None for one that prepares more: it should run once.
    """
    (builder,) = ast.parse(source).body
    assert isinstance(builder, ast.FunctionDef)
    if len(builder.body) < 2:
        return None
    *prepared, call, last = builder.body
    if not (isinstance(call, ast.FunctionDef) and isinstance(last, ast.Return)):
        return None
    returned = last.value.id if isinstance(last.value, ast.Name) else ""
    if returned != call.name or builder.args.args or call.decorator_list:
        return None
    if not all(_is_docstring(statement) or _names_only(statement) for statement in prepared):
        return None
    begin, end = call.body[0].lineno - 1, call.end_lineno
    if begin < call.lineno or any(isinstance(node, ast.Nonlocal) for node in ast.walk(call)):
        return None
    lines = source.splitlines()
    header = [line.removeprefix("    ") for line in lines[call.lineno - 1 : begin]]
    header[0] = header[0].replace(f"def {call.name}(", f"def {builder.name}(", 1)
    names = lines[prepared[0].lineno - 1 : prepared[-1].end_lineno] if prepared else []
    body = [line.removeprefix("    ") for line in lines[begin:end]]
    return "\n".join([*header, *names, *body]) + "\n"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names_only(node: ast.stmt) -> bool:
    plain = (ast.Name, ast.Constant, ast.Tuple, ast.expr_context)
    return isinstance(node, ast.Assign) and all(isinstance(n, plain) for n in ast.walk(node.value))
