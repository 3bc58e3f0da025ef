"""The process that looks at a user's function first: manners, evidence, structure.

`python -m gradbench.advise.probe SPEC` answers with one JSON object on standard output; whatever
the function prints goes to standard error. The key `refused` holds one line where no advice can
be given.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from typing import Any

import torch
from torch import Tensor

from gradbench.advise.cost import explain
from gradbench.advise.subject import Subject, Unusable, structures

DENSE = 4_000_000
"""Entries beyond which a jacobian is not formed as a reference."""

STEP = 1e-3
TOLERANCE = 1e-6


class Refused(Exception):
    """No advice can be given; the message says why."""


def _manners(subject: Subject, inputs: tuple[Tensor, ...]) -> Tensor:
    """The value, from calls that must not change the inputs and must agree."""
    given = tuple(x.clone() for x in inputs)
    y = subject.forward(*given)
    for name, now, before in zip(subject.names, given, inputs):
        if not torch.equal(now, before):
            raise Refused(f"it changes its input {name} in place: work on a copy")
    if not y.is_floating_point():
        raise Refused(f"it returns {y.dtype}: only floating-point values have derivatives")
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise Refused(f"it returns NaN or infinity in {bad} of {y.numel()} values at this input")
    if not torch.equal(subject.forward(*(x.clone() for x in inputs)), y):
        raise Refused("two calls with the same input differ: it is random, or keeps state")
    return y.detach()


def _differences(subject: Subject, inputs: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    """Central differences by one input with one Richardson step, and their error by estimate;
    both of shape (outputs, coordinates of the input). float64."""
    x = inputs[number]
    columns, errors = [], []
    for j in range(x.numel()):
        found = []
        for halving in (1.0, 0.5):
            h = STEP * halving * max(1.0, abs(float(x.reshape(-1)[j])))
            ends = []
            for sign in (1, -1):
                moved = x.clone()
                moved.reshape(-1)[j] += sign * h
                ends.append(subject.forward(*inputs[:number], moved, *inputs[number + 1 :]))
            found.append(((ends[0] - ends[1]) / (2 * h)).reshape(-1))
        columns.append((4 * found[1] - found[0]) / 3)
        errors.append((found[1] - found[0]).abs())
    return torch.stack(columns, 1), torch.stack(errors, 1)


def _evidence(subject: Subject, inputs: tuple[Tensor, ...], reverse: Any) -> list[str]:
    """What the reverse-mode jacobian was held against. Raises Refused where they disagree."""
    said = []
    names = subject.names[: subject.differentiated]
    with torch.no_grad():
        for number, (name, block) in enumerate(zip(names, reverse)):
            exact, error = _differences(subject, inputs, number)
            scale = float(exact.abs().max()) or 1.0
            excess = (block - exact).abs() - (TOLERANCE * scale + 2 * error)
            if not bool((excess <= 0).all()):
                i, j = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), block.shape[1])
                place = f"output {i} by {name} entry {j}"
                got, wanted = float(block[i, j]), float(exact[i, j])
                hint = (
                    "something is detached inside"
                    if got == 0
                    else "a backward formula is wrong, or this point has a kink"
                )
                raise Refused(
                    f"autograd gives {got:.6g} for {place}, finite differences {wanted:.6g}: {hint}"
                )
    said.append("reverse mode agrees with float64 finite differences in every entry")
    try:
        wrt = inputs[: subject.differentiated]
        rest = inputs[subject.differentiated :]
        tangents = tuple(torch.randn_like(x) for x in wrt)
        pushed = torch.func.jvp(lambda *w: subject.forward(*w, *rest), wrt, tangents)[1]
    except Exception as error:
        said.append(f"forward mode could not be asked ({type(error).__name__})")
        return said
    product = torch.stack([b @ t.reshape(-1) for b, t in zip(reverse, tangents)]).sum(0)
    if torch.allclose(
        pushed.reshape(-1), product, rtol=1e-8, atol=1e-8 * float(product.abs().max())
    ):
        said.append("forward mode agrees with reverse mode along a random tangent")
    else:
        said.append("forward mode DISAGREES with reverse mode: its modes will be found wrong")
    return said


def probe(spec: dict[str, Any]) -> dict[str, Any]:
    """What is found out of a function. Raises Refused, or whatever the function raises."""
    subject = Subject(spec)
    inputs = subject.values
    y = _manners(subject, inputs)
    wrt = inputs[: subject.differentiated]
    outputs, coordinates = y.numel(), sum(x.numel() for x in wrt)
    if outputs * coordinates > DENSE:
        gib = outputs * coordinates * 8 / 2**30
        raise Refused(
            f"its jacobian has {outputs} by {coordinates} entries ({gib:.3g} GiB in float64), too "
            "many to check: give a smaller input of the same structure"
        )
    leaves = tuple(x.clone().requires_grad_() for x in wrt)
    if not subject.forward(*leaves, *inputs[len(wrt) :]).requires_grad:
        raise Refused("its value does not depend on the inputs for autograd: is it detached?")
    reverse = subject.rows(*inputs)[1]
    if not all(bool(torch.isfinite(b).all()) for b in reverse):
        raise Refused("its value is finite, but its derivative is NaN or infinite at this input")
    evidence = _evidence(subject, inputs, reverse)
    operators = ["gradient"] if y.dim() == 0 else ["jacobian"]
    found = structures(subject) if y.dim() else []
    if len(found) == 1 and found[0].kind == "diagonal" and y.shape == wrt[0].shape:
        operators.append("diagonal")
    if len(found) == 1 and found[0].kind == "batched":
        operators.append("batch_jacobian")
    width = torch.finfo(subject.dtype).bits // 8
    shared = found[0] if len(found) == 1 else None
    structured = bool(found) and all(s.kind != "dense" for s in found)
    pattern = ""
    if structured and any(s.kind != "diagonal" for s in found) and spec["pattern"]:
        pattern = spec["pattern"]
        fields = ("rows", "columns", "row_colours", "column_colours")
        torch.save([{f: getattr(s, f) for f in fields} for s in found], pattern)
    return {
        "form": subject.form(spec["target"], pattern),
        "operators": operators,
        "wrt": subject.names[: subject.differentiated],
        "evidence": evidence,
        "structured": structured,
        "structure": [f"{s.kind}: {s.evidence}" for s in found],
        "cost": list(explain(outputs, coordinates, width, spec["memory_limit"], shared)),
    }


def _line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    here = os.path.dirname(os.path.abspath(__file__))
    beside = os.path.dirname(os.path.abspath(torch.__file__))
    theirs = [f for f in frames if not f.filename.startswith((here, beside, "<"))]
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if theirs and os.sep + "lib" + os.sep + "python" not in theirs[-1].filename:
        text += f" (at {theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line})"
    return text


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = spec["memory_limit"] + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        answer = probe(spec)
    except (Refused, Unusable) as error:
        answer = {"refused": str(error)}
    except BaseException as error:
        answer = {"refused": "it raises " + _line(error)}
    out.write(json.dumps(answer))
    out.flush()


if __name__ == "__main__":
    main()
