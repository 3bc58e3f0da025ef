"""Inspects a user's function before it is measured: side effects, derivatives, zeros.

`python -m gradbench.worker.probe SPEC DRIVER`, with the number of the process that asks, answers
with one JSON object on standard output; whatever the function prints goes to standard error. The
key `refused` holds one line where no advice can be given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from gradbench.core import process

if __name__ == "__main__":
    # Before torch is imported: that takes seconds, in which the driver can be killed.
    process.bind(int(sys.argv[2]))

import torch
from torch import Tensor

from gradbench import state
from gradbench.core.cases import FORWARD
from gradbench.core.deadline import Deadline
from gradbench.modes.local import checked_jacobian
from gradbench.problems import registry
from gradbench.problems.mode import Call, Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.worker import paste, patterns
from gradbench.worker.cost import explain, refuse
from gradbench.worker.evidence import Refused, gather
from gradbench.worker.loading import Unusable
from gradbench.worker.settling import settle
from gradbench.worker.structures import hessian_structure, per_sample, structure
from gradbench.worker.subject import Subject, declare


@contextlib.contextmanager
def _restoring() -> Iterator[None]:
    """Puts back what calls of the function change in the process. Raises Refused where results or
    times depend on that."""
    changes = state.Changes()
    try:
        with state.preserve(changes):
            yield
    except state.StateLost as error:
        raise Refused(f"it {error}") from error
    if changes.harmful:
        raise Refused(f"it changes {state.summarize(changes.harmful)} and does not put it back")


def _manners(subject: Subject, inputs: tuple[Tensor, ...]) -> Tensor:
    """The value, from calls that must not change the inputs and must agree."""
    copies = tuple(x.clone() for x in inputs)
    with _restoring():
        y = subject.forward(*copies)
    for name, now, before in zip(subject.names, copies, inputs):
        if not torch.equal(now, before):
            raise Refused(f"it changes its input {name} in place: work on a copy")
    if y.is_complex():
        raise Refused(
            f"it returns {y.dtype}: return real numbers, such as torch.view_as_real(result) or "
            "result.abs()"
        )
    if not y.numel():
        raise Refused(f"it returns no numbers: the value has shape {tuple(y.shape)}")
    if not y.is_floating_point():
        raise Refused(f"it returns {y.dtype}: only floating-point values have derivatives")
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise Refused(f"it returns NaN or infinity in {bad} of {y.numel()} values at this input")
    if not torch.equal(subject.forward(*(x.clone() for x in inputs)), y):
        raise Refused("two calls with the same input differ: it is random, or keeps state")
    return y.detach()


def probe(spec: dict[str, Any]) -> dict[str, Any]:
    """The findings on a function. Raises Refused, or whatever the function raises."""
    with state.preserve(state.Changes(), loading=True):
        subject = Subject(spec)
    with _restoring():
        settle(subject, spec["device"] == "cpu")
    with subject.wide:
        return _findings(subject, spec)


def _findings(subject: Subject, spec: dict[str, Any]) -> dict[str, Any]:
    """What is found of the function in float64."""
    inputs = subject.values
    y = _manners(subject, inputs)
    wrt = inputs[: subject.differentiated]
    outputs, coordinates = y.numel(), sum(x.numel() for x in wrt)
    asked = spec["operator"]
    evidence = gather(subject, inputs, y, asked, Deadline(math.inf), spec["definition"])
    found = None
    if subject.manner.forward_only:
        found = None
    elif y.dim():
        found = structure(subject)
    elif asked == "hessian":
        found = hessian_structure(subject)
    width = torch.finfo(subject.dtype).bits // 8
    limit = spec["memory_limit"]
    operators, refusals = _operators(subject, y, found, width, limit)
    samples = per_sample(subject)
    said = []
    if found:
        extent = "for every input" if found.is_global else "near this input"
        said = [f"{found.kind}, {extent}: {found.evidence}"]
    said += [samples] * bool(samples)
    structured = found is not None and found.kind != "dense"
    pattern = written = ""
    if found is not None and structured and spec["pattern"]:
        # The measuring processes need not look again; the code to paste loads it where it is too
        # long to be written down.
        torch.save({"structure": dataclasses.asdict(found)}, spec["pattern"])
        written, loaded = patterns.code(found, spec["pattern"])
        pattern = spec["pattern"] if loaded else ""
    operator = asked or operators[0]
    code = {}
    if operator in operators and operator not in refusals:
        registry.load()
        function = declare(
            subject, spec["target"], [operator], found if structured else None, bool(samples)
        )
        shapes = tuple(tuple(x.shape) for x in inputs)
        device = torch.device(spec["device"])
        problem = Problem(function, operator, shapes, tuple(y.shape), subject.dtype, device)
        check = None if found is None or found.is_global else checked_jacobian
        code = _code(subject, spec["target"], problem, written, check)
    return {
        "code": code,
        "pattern": pattern,
        "operators": operators,
        "refusals": refusals,
        "wrt": subject.names[: subject.differentiated],
        "evidence": [*subject.notes, *evidence.sentences],
        "hints": evidence.hints,
        "manner": dataclasses.asdict(subject.manner),
        "structured": structured,
        "per_sample": bool(samples),
        "structure": said,
        "own": {name: _source(way) for name, way in subject.ways.items()},
        "cost": list(explain(outputs, coordinates, width, limit, found if y.dim() else None)),
    }


def _code(
    subject: Subject,
    target: str,
    problem: Problem,
    pattern: str,
    check: Callable[[Problem, Call], Call] | None,
) -> dict[str, str]:
    """The code to paste of every mode that can be measured."""
    code = {}
    for mode in registry.modes_of(problem.operator):
        if mode.opt_in or mode.by_hand or mode.name == FORWARD or mode.name in subject.ways:
            continue
        try:
            code[mode.name] = paste.code(subject, target, mode, problem, pattern, check)
        except Unsupported:
            continue
        except Exception:
            # The mode cannot be built: the measuring process says why.
            code[mode.name] = mode.source()
    return code


def _source(way: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(way)
    except (OSError, TypeError):
        return ""


def _operators(
    subject: Subject, y: Tensor, structure: Structure | None, width: int, limit: int
) -> tuple[list[str], dict[str, str]]:
    """The operators that apply, the one that is measured by default first, and why some must not
    be measured."""
    wrt = subject.values[: subject.differentiated]
    coordinates = sum(x.numel() for x in wrt)
    products = ["vjp", "jvp"]
    if y.dim() == 0:
        operators, square = ["gradient", *products, "hvp", "hessian"], coordinates
    else:
        operators, square = ["jacobian", *products, "hessian"], y.numel()
        if structure is not None and len(wrt) == 1:
            own = {"batched": "batch_jacobian"}.get(structure.kind, "")
            if structure.kind == "diagonal" and y.shape == wrt[0].shape:
                own = "diagonal"
            # Without a check of its own, an operator that leaves entries out must hold everywhere.
            if own:
                operators.insert(0 if structure.is_global else len(operators) - 1, own)
    if subject.manner.forward_only:
        operators = [name for name in operators if name in ("gradient", "jacobian", "jvp")]
    refusals: dict[str, str] = {}
    if reason := refuse(square, coordinates, width, limit):
        # The reference of a pushforward is the dense jacobian.
        dense = ("hessian",) if y.dim() == 0 else ("jacobian", "jvp")
        refusals = dict.fromkeys(dense, reason)
    hessians = refuse(y.numel() * coordinates, coordinates, width, limit)
    if y.dim() and hessians:
        refusals["hessian"] = hessians
    return operators, refusals


def _line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = os.path.dirname(os.path.abspath(torch.__file__))
    theirs = [f for f in frames if not f.filename.startswith((here, beside, "<"))]
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if theirs and os.sep + "lib" + os.sep + "python" not in theirs[-1].filename:
        text += f" (at {theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line})"
    return text


def main() -> None:
    pid = os.getpid()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    torch.set_num_threads(1)
    faulthandler.enable()
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
    if os.getpid() != pid:
        # The function forks, and this is the child.
        os._exit(0)
    out.write(json.dumps(answer))
    out.flush()


if __name__ == "__main__":
    main()
