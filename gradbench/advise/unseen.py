"""What can be said of a function that there was no time to call: torch was not imported in time.

The inputs show how many numbers it is differentiated by. The code to paste looks at the value when
it runs, and picks by its size.
"""

from __future__ import annotations

import math
import os
from typing import Any

from gradbench.advise.question import Question
from gradbench.core.expressions import read
from gradbench.core.operators import OPERATORS
from gradbench.core.source import UNNAMED
from gradbench.core.units import counted

CODE = "by_size"
"""The name of the code that picks the way by the size of the value."""

LENGTHS = ("randn", "rand", "zeros", "ones")
"""The makers of inputs whose arguments are lengths."""

_ANY = """\
    value = {f}(*inputs)
    if value.dim() == 0:
        way = torch.func.grad
    elif value.numel() <= sum(inputs[i].numel() for i in by):
        way = torch.func.jacrev
    else:
        way = torch.func.jacfwd
    return way({f}, by)(*inputs)
"""
"""What differentiates where no operator is asked for: it depends on the value."""

_PART = """\
    wrt = tuple(inputs[i] for i in by)

    def part(*wrt):
        return {f}(*(wrt[by.index(i)] if i in by else x for i, x in enumerate(inputs)))

"""
"""The function of what it is differentiated by alone, for products."""


def findings(question: Question) -> dict[str, Any]:
    """The cost by theory and the code to paste, as findings of a look."""
    return {
        "wrt": _wrt(question),
        "cost": [_cost(question)],
        "code": {CODE: code} if (code := _code(question)) else {},
    }


def _sizes(question: Question) -> dict[str, int]:
    """The numbers to differentiate by in each input; 0 for none, -1 where that is not known."""
    return dict(question.sizes) or {name: numbers(text) for name, text in question.inputs}


def _wrt(question: Question) -> list[str]:
    """What it is differentiated by, as far as is known."""
    real = [name for name, size in _sizes(question).items() if size]
    return list(question.wrt) or ([] if question.maker else real)


def _name(question: Question) -> str:
    return question.target.rpartition(":")[2]


def _cost(question: Question) -> str:
    """The passes that each way takes."""
    sizes, wrt = _sizes(question), _wrt(question)
    known = [sizes.get(name, -1) for name in wrt]
    n = sum(known) if known and min(known) > 0 else 0
    what = f"{_name(question)} by {', '.join(wrt) or 'its inputs'}"
    what += f", {counted(n, 'number')}" if n else ""
    each = counted(n, "pass") if n else "a pass for each input number"
    if question.operator and (cost := OPERATORS[question.operator].unseen_cost):
        return f"{what}: {cost.format(each=each)}"
    fewer = f"if it returns up to {n}" if n else "if it returns fewer numbers than these"
    return (
        f"{what}: if it returns one number, torch.func.grad takes one pass; {fewer}, "
        f"torch.func.jacrev takes a pass for each that it returns; if more, torch.func.jacfwd "
        f"takes {each}."
    )


def _code(question: Question) -> str:
    """A function that differentiates; empty for operators that depend on structure."""
    operator = OPERATORS.get(question.operator)
    seed = operator.seed if operator else ""
    way = operator.unseen_code if operator else _ANY
    if not way:
        return ""
    place, _, name = question.target.rpartition(":")
    root, function = name.partition(".")[0], name
    imports = ["import torch"]
    if place:
        module = os.path.basename(place).removesuffix(".py") if place.endswith(".py") else place
        imports.append(f"from {module} import {root}")
    names = list(_sizes(question))
    if question.wrt:
        wrt = question.wrt if len(question.wrt) > 1 else f"({question.wrt[0]!r},)"
        imports.insert(0, "import inspect")
        by = f"    names = list(inspect.signature({function}).parameters)\n"
        by += f"    by = tuple(names.index(name) for name in {wrt})\n"
    else:
        real = "torch.is_tensor(x) and x.is_floating_point()"
        by = f"    by = tuple(i for i, x in enumerate(inputs) if {real})\n"
    header = "\n".join(imports) + "\n"
    if not place:
        # As the code to paste of a function that was looked at.
        function = name if name.isidentifier() else UNNAMED
        header += f"\n# {function} is the function that was compared\n"
    listed = f": {', '.join(names)}" if names else ""
    comment = f"    # The inputs in the order of the function's arguments{listed}\n"
    part = _PART if "part" in way else ""
    arguments = f"{seed}, *inputs" if seed else "*inputs"
    head = f"def {question.operator or 'derivative'}({arguments}):\n"
    body = (part + way).format(f=function)
    return f"{header}\n\n{head}{comment}{by}{body}"


def numbers(text: str) -> int:
    """How many floating-point numbers an input's expression makes; -1 where that does not show."""
    try:
        said = read(text)
    except ValueError:
        return -1
    values = said.positional
    if not said.maker:
        return 0
    try:
        if said.maker in LENGTHS:
            lengths = values[0] if isinstance(values[0], (tuple, list)) else values
            return math.prod(lengths)
        if said.maker == "full":
            return math.prod(values[0]) if isinstance(values[1], float) else 0
        if said.maker == "linspace":
            return int(values[2])
        if said.maker == "tensor":
            return _floats(values[0])
    except (ValueError, TypeError, IndexError):
        pass
    return 0 if said.maker in ("randint", "arange") else -1


def _floats(value: Any) -> int:
    """The numbers of a nested list, if any is a float."""
    flat: list[Any] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (list, tuple)):
            waiting += one
        else:
            flat.append(one)
    return len(flat) if any(isinstance(one, float) for one in flat) else 0
