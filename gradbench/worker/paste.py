"""The code that `advise` shows: a mode's own source, rewritten for the user's function.

The text needs torch alone. It computes what the mode computes, and takes tensors that need not
require grad.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import keyword
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.problems.function import Tensors
from gradbench.problems.mode import Mode
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.problems.written import FUNCTION, NotWritable, Written, import_line, joined
from gradbench.worker.subject import Subject

SEEDS = {"vjp": "v", "vjp_sum": "seeds", "jvp": "t", "hvp": "t"}
"""The first argument of the operators that take a seed or tangents."""

PASSED = "original"
"""The name of a function that was passed as an object, where the code wraps it."""


def code(
    subject: Subject,
    target: str,
    mode: Mode,
    problem: Problem,
    structure: Structure | None = None,
    pattern: str = "",
) -> str:
    """Python code that computes the problem's derivative in the way of the mode.

    The code defines a function named like the operator. It takes the differentiated inputs first,
    then the other tensors; before them a vjp takes the seed `v`, a jvp and an hvp the tangent `t`
    (a tuple of them for several inputs). It returns one tensor per differentiated input (a hessian
    one per pair of them, row by row), a bare one for one input.

    `target` is what the subject was loaded from. `structure` is for the modes that use it;
    `pattern` is the file that has it, empty where it can be written down. A mode that cannot be
    written out for one problem comes as it stands. Raises Unsupported where the mode does.
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
    call, functions = _mode(written, operator, structure, pattern)
    taken = {operator, "call", *written.known}
    names = identifiers(subject.names, {*taken, "torch", "v", "seeds", "t", "wrt"})
    function = _function(written, subject, target, names, taken)
    # A bare result for one input: what is annotated as a tuple is one.
    bare = _annotation(timed) in ("Tensors", Tensors) and subject.differentiated == 1
    parts = [
        _header(written),
        *function,
        *functions,
        _adapter(operator, names, subject.differentiated, call, mode.leaves, bare),
    ]
    return "\n\n".join(parts)


def _annotation(call: Callable[..., Any]) -> Any:
    return getattr(call, "__annotations__", {}).get("return")


def _header(written: Written) -> str:
    imports = sorted(written.imports, key=lambda line: (line.startswith("from"), line))
    blocks = [imports, written.constants] if written.constants else [imports]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _mode(
    written: Written, operator: str, structure: Structure | None, pattern: str
) -> tuple[str, list[str]]:
    """The name of the callable that is timed, and the code that defines it."""
    *helpers, builder = written.functions.values()
    if written.name != operator and (whole := joined(builder)) is not None:
        return written.name, [*helpers, whole]
    if structure is not None and "structure" in inspect.signature(written.build).parameters:
        written.imports.add("from types import SimpleNamespace")
        code = _structure(structure, pattern)
        return "call", [code, *helpers, builder, f"call = {written.name}(structure)\n"]
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
    if operator in SEEDS:
        first = SEEDS[operator]
        parameters.insert(0, first)
        arguments.append("(t,)" if first == "t" and differentiated == 1 else first)
    returned = f"    return {call}({', '.join(arguments)}){'[0]' * bare}\n"
    return "".join([f"def {operator}({', '.join(parameters)}):\n", *lines, returned])


def _function(
    written: Written,
    subject: Subject,
    target: str,
    names: Sequence[str],
    taken: Collection[str],
) -> list[str]:
    """The code that makes the user's function a map from tensors to one tensor, if it takes any
    beyond the imports, which are added to those of the mode."""
    place, _, name = target.rpartition(":")
    arguments = dict(zip(subject.names, names))
    arguments |= {plain: literal(value) for plain, value in subject.plain.items()}
    tree = not isinstance(subject.value(*subject.values), Tensor)
    as_it_is = subject.order == subject.names and not (subject.parameters or subject.plain or tree)
    comment = ""
    if place:
        module = place.removesuffix(".py").replace("\\", "/").rpartition("/")[2]
        root, *rest = name.split(".")
        imported = FUNCTION if as_it_is and not rest else _free(root, [*taken, *names])
        written.imports.add(import_line(root, imported, module))
        name = ".".join([imported, *rest])
    else:
        name = FUNCTION if as_it_is else PASSED
        comment = f"# {name} is the function that was compared\n"
    if as_it_is:
        code = comment or (f"{FUNCTION} = {name}\n" if name != FUNCTION else "")
        return [code] if code else []
    pairs = [(argument, arguments[argument]) for argument in subject.order]
    values = [f"{argument}={value}" if subject.by_name else value for argument, value in pairs]
    value = f"{name}({', '.join(values)})"
    if subject.parameters:
        weights = _dict((parameter, arguments[parameter]) for parameter in subject.parameters)
        passed = f"(), {_dict(pairs)}" if subject.by_name else _tuple(values)
        value = f"torch.func.functional_call({name}, {weights}, {passed})"
    if tree:
        written.imports.add("from torch.utils._pytree import tree_flatten")
        value = f"tree_flatten({value})[0]"
        value = f"torch.cat([y.reshape(-1) for y in {value} if isinstance(y, torch.Tensor)])"
    return [f"{comment}def {FUNCTION}({', '.join(names)}):\n    return {value}\n"]


def _structure(structure: Structure, pattern: str) -> str:
    """The code of what a compressed mode knows: where the entries of the jacobian are."""
    if pattern:
        entries = f"**torch.load({pattern!r})"
    else:
        inputs, outputs = len(structure.inputs), structure.outputs
        entries = f"""
    rows=torch.arange({outputs}).repeat({inputs}),
    columns=torch.arange({structure.coordinates}),
    row_colours=torch.zeros({outputs}, dtype=torch.int64),
    column_colours=torch.arange({inputs}).repeat_interleave({outputs}),
    inputs={structure.inputs},
    output={structure.output},
"""
    said = "# The rows and columns of the entries, and the colour of each row and column.\n"
    return f"{said}structure = SimpleNamespace({entries})\n"


def identifiers(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """The names as Python's own: a module's parameter ``0.weight`` is ``p0_weight``."""
    words: list[str] = []
    for name in names:
        word = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
        word = word if word.isidentifier() and not keyword.iskeyword(word) else f"p{word}"
        words.append(_free(word, [*words, *taken]))
    return words


def _free(word: str, taken: Collection[str]) -> str:
    while word in taken:
        word += "_"
    return word


def literal(value: Any) -> str:
    """The value as code, or three dots where it has none."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError, MemoryError):
        return "..."
    return repr(value)


def _dict(pairs: Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"


def _tuple(words: Sequence[str]) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
