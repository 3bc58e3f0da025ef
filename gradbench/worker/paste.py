"""The code to paste: a mode's own source, written out for a function of the user's.

The text needs torch alone. It computes what the mode computes, and takes tensors that need not
require grad.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import keyword
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.problems.function import Tensors
from gradbench.problems.mode import Mode
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.problems.written import FUNCTION, NotWritable, Written, joined
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
    structures: Sequence[Structure] = (),
    pattern: str = "",
) -> str:
    """Python code that computes the problem's derivative in the way of the mode.

    The code defines a function named like the operator. It takes the differentiated inputs first,
    then the other tensors; before them a vjp takes the seed `v`, a jvp and an hvp the tangent `t`
    (a tuple of them for several inputs). It returns one tensor per differentiated input (a hessian
    one per pair of them, row by row), a bare one for one input.

    `target` is what the subject was loaded from. `structures` are for the modes that use them;
    `pattern` is the file that has them, empty where they can be written down. A mode that cannot be
    written out for one problem comes as it stands. Raises Unsupported where the mode does.
    """
    # On the CPU, as this process may not be able to use another device.
    timed = mode.build(dataclasses.replace(problem, device=torch.device("cpu")))
    operator = problem.operator
    try:
        written = Written(mode.build, problem)
        builder = written.build.__name__
        if operator in written.known.keys() - {builder}:
            raise NotWritable(f"it has a helper called {operator}")
    except NotWritable as error:
        return f"# The mode as it is measured; {error}.\n{mode.source()}"
    parts = list(written.functions.values())
    whole = None if builder == operator else joined(parts[-1])
    call = "call" if whole is None else builder
    if whole is None:
        takes_structures = "structures" in inspect.signature(written.build).parameters
        if takes_structures:
            written.imports.add("from types import SimpleNamespace")
            parts.insert(0, _structures(structures, pattern))
        parts.append(f"call = {builder}({'structures' * takes_structures})\n")
    else:
        parts[-1] = whole
    taken = {operator, "call", *written.known}
    names = identifiers(subject.names, {*taken, "torch", "v", "seeds", "t", "wrt"})
    imports, function = _function(subject, target, names, taken)
    first = SEEDS.get(operator)
    returns_tuple = _annotation(timed) in ("Tensors", Tensors)
    adapter = _adapter(subject, names, call, mode.leaves, first, returns_tuple)
    lines = sorted(written.imports | imports, key=lambda line: (line.startswith("from"), line))
    header = "\n".join([*lines, *written.constants])
    signature = ", ".join([*([first] if first else []), *names])
    parts = [header + "\n", function, *parts, f"def {operator}({signature}):\n{adapter}"]
    return "\n\n".join(part for part in parts if part)


def _annotation(call: Callable[..., Any]) -> Any:
    return getattr(call, "__annotations__", {}).get("return")


def _adapter(
    subject: Subject,
    names: Sequence[str],
    call: str,
    leaves: bool,
    first: str | None,
    returns_tuple: bool,
) -> str:
    """The body of the function that the user calls: from its arguments to those that are timed."""
    n = subject.differentiated
    wrt, constants = names[:n], names[n:]
    lines = ""
    inputs = _tuple(names)
    if leaves and n == 1:
        inputs = _tuple([f"{wrt[0]}.detach().requires_grad_()", *constants])
    elif leaves:
        lines = f"    wrt = tuple(x.detach().requires_grad_() for x in {_tuple(wrt)})\n"
        inputs = _tuple(["*wrt", *constants]) if constants else "wrt"
    if first:
        inputs += ", (t,)" if first == "t" and n == 1 else f", {first}"
    bare = "[0]" if returns_tuple and n == 1 else ""
    return f"{lines}    return {call}({inputs}){bare}\n"


def _function(
    subject: Subject, target: str, names: Sequence[str], taken: Collection[str]
) -> tuple[set[str], str]:
    """The imports and the code that make the user's function a map from tensors to one tensor."""
    place, _, name = target.rpartition(":")
    called = dict(zip(subject.names, names))
    called |= {name: literal(value) for name, value in subject.plain.items()}
    tree = not isinstance(subject.value(*subject.values), Tensor)
    plain = not (subject.parameters or subject.plain or tree) and subject.order == subject.names
    root, _, rest = name.partition(".")
    imports: set[str] = set()
    if not place:
        name = FUNCTION if plain else PASSED
        said = f"# {name} is the function that was compared\n"
    else:
        module = place.removesuffix(".py").replace("\\", "/").rpartition("/")[2]
        own = FUNCTION if plain and not rest else _free(root, [*taken, *names])
        imports.add(f"from {module} import {root}" + (f" as {own}" if own != root else ""))
        name = f"{own}.{rest}" if rest else own
        said = ""
    if plain:
        return imports, said or ("" if name == FUNCTION else f"{FUNCTION} = {name}\n")
    given = [f"{o}={called[o]}" if subject.by_name else called[o] for o in subject.order]
    value = f"{name}({', '.join(given)})"
    if subject.parameters:
        weights = ", ".join(f'"{p}": {called[p]}' for p in subject.parameters)
        values = _tuple([called[o] for o in subject.order])
        if subject.by_name:
            values = ", ".join(f'"{o}": {called[o]}' for o in subject.order)
            values = f"(), {{{values}}}"
        value = f"torch.func.functional_call({name}, {{{weights}}}, {values})"
    if tree:
        imports.add("from torch.utils._pytree import tree_flatten")
        value = f"tree_flatten({value})[0]"
        value = f"torch.cat([y.reshape(-1) for y in {value} if isinstance(y, torch.Tensor)])"
    return imports, f"{said}def {FUNCTION}({', '.join(names)}):\n    return {value}\n"


def _structures(structures: Sequence[Structure], pattern: str) -> str:
    """The code of what a compressed mode knows: where the entries of the jacobian are."""
    if pattern:
        entries = f"SimpleNamespace(**kept) for kept in torch.load({pattern!r})"
    else:
        entries = "".join(
            f"""
    SimpleNamespace(
        rows=torch.arange({s.outputs}),
        columns=torch.arange({s.outputs}),
        row_colours=torch.zeros({s.outputs}, dtype=torch.int64),
        column_colours=torch.zeros({s.outputs}, dtype=torch.int64),
        input={s.input},
        output={s.output},
    ),
"""
            for s in structures
        )
    said = "# The rows and columns of the entries, and the colour of each row and column.\n"
    return f"{said}structures = [{entries}]\n"


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


def _tuple(words: Sequence[str]) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
