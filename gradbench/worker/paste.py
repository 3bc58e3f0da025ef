"""The code that `advise` shows: a mode's own source, rewritten for the user's function.

The text needs torch alone. It computes what the mode computes, and takes tensors that need not
require grad.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from gradbench.core.operators import OPERATORS
from gradbench.core.source import UNNAMED
from gradbench.modes.local import CHECKS
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Mode
from gradbench.problems.operators import Problem
from gradbench.problems.written import FUNCTION, NotWritable, Written, joined
from gradbench.worker.calling import Calling, identifiers
from gradbench.worker.subject import Subject

BY_INPUT = ("t", "signs")
"""The seeds that are a tuple, of a tensor for each differentiated input."""


def code(
    subject: Subject,
    target: str,
    mode: Mode,
    problem: Problem,
    patterns: Mapping[str, str] = {},
    local: Collection[str] = (),
) -> str:
    """Python code that computes the problem's derivative in the way of the mode.

    The code defines a function named like the operator. It takes the differentiated inputs first,
    then the other tensors; before them a vjp takes the seed `v`, a jvp and an hvp the tangent `t`
    (a tuple of them for several inputs), a laplacian_estimate its `signs`. It returns one tensor
    per differentiated input (a hessian one per pair of them, row by row), a bare one for one input.

    `target` is what the subject was loaded from. `patterns` has the code of what modes know of the
    zeros, by the name of their argument; calls of modes that use a `local` one are checked.
    A mode that cannot be written out for one problem comes as it stands. Raises Unsupported where
    the mode does.
    """
    operator = problem.operator
    # On the CPU, as this process may not be able to use another device.
    timed = mode.build(dataclasses.replace(problem, device=torch.device("cpu")))
    try:
        written = Written(mode.build, problem)
        if operator in written.known.keys() - {written.name}:
            raise NotWritable(f"it has a helper called {operator}")
    except NotWritable as error:
        return f"# The mode as it is measured; {error}.\n{mode.source()}"
    call, functions = _mode(written, operator, patterns, local)
    taken = {operator, "call", *written.known}
    seeds = {known.seed for known in OPERATORS.values()}
    names = identifiers(subject.names, {*taken, *seeds, "torch", "wrt"})
    calling = Calling(written, subject, target, names, taken)
    function = calling.code()
    # A bare result for one input: what is annotated as a tuple is one.
    bare = _annotation(timed) in ("Tensors", Tensors) and subject.differentiated == 1
    parts = [
        _header(written),
        *function,
        *functions,
        _usage(operator, calling.usage()),
        _adapter(operator, names, subject.differentiated, call, mode.leaves, bare),
    ]
    return named("\n\n".join(filter(None, parts)), target)


def named(code: str, target: str) -> str:
    """The code with the function under its own name, where nothing else in the code has that."""
    name = target.rpartition(":")[2].rpartition(".")[2]
    alias = f"import {name} as {FUNCTION}"
    own = code.replace(alias, f"import {name}")
    rest = own.replace(f"import {name}\n", "")
    if name.isidentifier() and not re.search(rf"\b{name}\b", rest):
        return own.replace(FUNCTION, name)
    return code.replace(FUNCTION, UNNAMED)


def _usage(operator: str, places: Sequence[str]) -> str:
    """A comment on the arguments, where they are parts of the function's own."""
    if not places:
        return ""
    listed = ", ".join(filter(None, [OPERATORS[operator].seed, *places]))
    return f"# Call it as {operator}({listed})\n"


def _annotation(call: Callable[..., Any]) -> Any:
    return getattr(call, "__annotations__", {}).get("return")


def _header(written: Written) -> str:
    imports = sorted(written.imports, key=lambda line: (line.startswith("from"), line))
    blocks = [imports, written.constants] if written.constants else [imports]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _mode(
    written: Written, operator: str, patterns: Mapping[str, str], local: Collection[str]
) -> tuple[str, list[str]]:
    """The name of the callable that is timed, and the code that defines it."""
    *helpers, builder = written.functions.values()
    if written.name != operator and (whole := joined(builder)) is not None:
        return written.name, [*helpers, whole]
    for name in inspect.signature(written.build).parameters:
        if name in patterns:
            written.imports.add("from types import SimpleNamespace")
            made, more = f"{written.name}({name})", []
            if name in local:
                check, copied = CHECKS[operator], len(written.functions)
                written.add(check.__name__, check)
                more = list(written.functions.values())[copied:]
                made = f"{check.__name__}({made})"
            return "call", [patterns[name], *helpers, builder, *more, f"call = {made}\n"]
    return "call", [*helpers, builder, f"call = {written.name}()\n"]


def _adapter(
    operator: str, names: Sequence[str], differentiated: int, call: str, leaves: bool, bare: bool
) -> str:
    """The function that the user calls: from its arguments to those of what is timed."""
    wrt, constants = names[:differentiated], names[differentiated:]
    lines = []
    inputs = _tuple(names)
    if leaves and differentiated == 1:
        inputs = _tuple([f"{wrt[0]}.detach().requires_grad_()", *constants])
    elif leaves:
        lines = [f"    wrt = tuple(x.detach().requires_grad_() for x in {_tuple(wrt)})\n"]
        inputs = _tuple(["*wrt", *constants]) if constants else "wrt"
    parameters, arguments = list(names), [inputs]
    if first := OPERATORS[operator].seed:
        parameters.insert(0, first)
        arguments.append(f"({first},)" if first in BY_INPUT and differentiated == 1 else first)
    returned = f"    return {call}({', '.join(arguments)}){'[0]' * bare}\n"
    return "".join([f"def {operator}({', '.join(parameters)}):\n", *lines, returned])


def _tuple(words: Sequence[str]) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
