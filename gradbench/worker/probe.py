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
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from gradbench.core import process

if __name__ == "__main__":
    # Before torch is imported: that takes seconds, in which the driver can be killed.
    process.bind(int(sys.argv[2]))

import torch
from torch import Tensor

from gradbench import state
from gradbench.core.cases import FORWARD
from gradbench.problems import registry
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.worker import paste
from gradbench.worker.cost import explain, refuse
from gradbench.worker.reference import hessian_product, pullback, rows
from gradbench.worker.structures import per_sample, structures
from gradbench.worker.subject import Subject, Unusable, declare, promoted

ENTRIES, COORDINATES = 1_000_000, 1_000
"""Jacobians of so many entries and of so few coordinates are held against differences entry by
entry, others along `DIRECTIONS` random ones."""
DIRECTIONS = 8
TANGENTS = 3

STEP = 1e-3
TOLERANCE = 1e-6


class Refused(Exception):
    """No advice can be given; the message says why."""


def _manners(subject: Subject, inputs: tuple[Tensor, ...]) -> Tensor:
    """The value, from calls that must not change the inputs and must agree."""
    copies = tuple(x.clone() for x in inputs)
    changes = state.Changes()
    try:
        with state.preserve(changes):
            y = subject.forward(*copies)
    except state.StateLost as error:
        raise Refused(f"it {error}") from error
    if changes.harmful:
        raise Refused(f"it changes {state.summarize(changes.harmful)} and does not put it back")
    for name, now, before in zip(subject.names, copies, inputs):
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
        estimates = []
        for halving in (1.0, 0.5):
            h = STEP * halving * max(1.0, abs(float(x.reshape(-1)[j])))
            ends = []
            for sign in (1, -1):
                moved = x.clone()
                moved.reshape(-1)[j] += sign * h
                ends.append(subject.forward(*inputs[:number], moved, *inputs[number + 1 :]))
            estimates.append(((ends[0] - ends[1]) / (2 * h)).reshape(-1))
        columns.append((4 * estimates[1] - estimates[0]) / 3)
        errors.append((estimates[1] - estimates[0]).abs())
    return torch.stack(columns, 1), torch.stack(errors, 1)


def _entry_by_entry(subject: Subject, inputs: tuple[Tensor, ...], reverse: Sequence[Tensor]) -> str:
    """Holds every entry against differences. Raises Refused where one disagrees."""
    for number, (name, block) in enumerate(zip(subject.names, reverse)):
        exact, error = _differences(subject, inputs, number)
        scale = float(exact.abs().max()) or 1.0
        excess = (block - exact).abs() - (TOLERANCE * scale + 2 * error)
        if not bool((excess <= 0).all()):
            i, j = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), block.shape[1])
            place = f"output {i} by {name} entry {j}"
            raise _disagree(place, float(block[i, j]), float(exact[i, j]))
    return "reverse mode agrees with float64 finite differences in every entry"


def _disagree(place: str, got: float, wanted: float) -> Refused:
    hint = (
        "something is detached inside"
        if got == 0
        else "a backward formula is wrong, or this point has a kink"
    )
    return Refused(f"autograd gives {got:.6g} for {place}, finite differences {wanted:.6g}: {hint}")


def _along(
    value: Callable[..., Tensor], inputs: Sequence[Tensor], number: int, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """Central differences of a value along a tangent of one input with one Richardson step, and
    their error by estimate."""
    estimates = []
    for h in (STEP, STEP / 2):
        ends = [
            value(*inputs[:number], inputs[number] + sign * h * tangent, *inputs[number + 1 :])
            for sign in (1, -1)
        ]
        estimates.append((ends[0] - ends[1]) / (2 * h))
    return (4 * estimates[1] - estimates[0]) / 3, (estimates[1] - estimates[0]).abs()


def _random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def _by_directions(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """Holds pullbacks of random seeds against differences along random tangents, by each input.

    Raises Refused where they disagree.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        with torch.no_grad():
            seed = _random(subject.forward(*inputs).shape, generator)
        pulled = pullback(subject, seed, *inputs)
        for number, (name, block) in enumerate(zip(subject.names, pulled)):
            x = inputs[number]
            tangent = _random(x.shape, generator) * x.abs().clamp(min=1.0)
            with torch.no_grad():
                parts, error = _along(subject.forward, inputs, number, tangent)
            exact, got = float((parts * seed).sum()), float((block * tangent).sum())
            scale = float((parts * seed).abs().sum()) or 1.0
            if not abs(got - exact) <= TOLERANCE * scale + 2 * float((error * seed.abs()).sum()):
                raise _disagree(f"a product of random vectors by {name}", got, exact)
    return (
        f"reverse mode agrees with float64 finite differences along {DIRECTIONS} random tangents "
        "of each input (too many entries to try each)"
    )


def _forward_mode(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """What forward mode says beside reverse mode."""
    wrt, rest = inputs[: subject.differentiated], inputs[subject.differentiated :]
    generator = torch.Generator().manual_seed(1)
    for _ in range(TANGENTS):
        tangents = tuple(_random(x.shape, generator) for x in wrt)
        try:
            pushed = torch.func.jvp(lambda *w: subject.forward(*w, *rest), wrt, tangents)[1]
        except Exception as error:
            return f"forward mode failed ({type(error).__name__})"
        for _ in range(TANGENTS):
            seed = _random(pushed.shape, generator)
            pulled = pullback(subject, seed, *inputs)
            products = [(b * t).sum() for b, t in zip(pulled, tangents)]
            there, scale = torch.stack(products).sum(), sum(float(p.abs()) for p in products)
            if not float(((pushed * seed).sum() - there).abs()) <= 1e-8 * (scale or 1.0):
                return "forward mode DISAGREES with reverse mode: its modes will be found wrong"
    return f"forward mode agrees with reverse mode along {TANGENTS} random tangents"


def _second(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """Holds products with the hessian against differences of the gradient. Raises Refused."""
    generator = torch.Generator().manual_seed(2)
    one = torch.ones((), dtype=torch.float64)
    for number in range(subject.differentiated):
        for _ in range(TANGENTS):
            tangent = _random(inputs[number].shape, generator)
            tangents = [torch.zeros_like(x) for x in inputs[: subject.differentiated]]
            tangents[number] = tangent
            got = hessian_product(subject, tuple(tangents), *inputs)

            def gradient(*at: Tensor) -> Tensor:
                return torch.cat([g.reshape(-1) for g in pullback(subject, one, *at)])

            exact, error = _along(gradient, inputs, number, tangent)
            flat = torch.cat([g.reshape(-1) for g in got])
            scale = float(exact.abs().max()) or 1.0
            if not bool(((flat - exact).abs() <= TOLERANCE * scale + 2 * error).all()):
                worst = int((flat - exact).abs().argmax())
                place = f"entry {worst} of a product with the hessian"
                raise _disagree(place, float(flat[worst]), float(exact[worst]))
    return "reverse mode twice agrees with float64 finite differences of the gradient"


def probe(spec: dict[str, Any]) -> dict[str, Any]:
    """The findings on a function. Raises Refused, or whatever the function raises."""
    with state.preserve(state.Changes(), loading=True):
        subject = Subject(spec)
    inputs = subject.values
    y = _manners(subject, inputs)
    wrt = inputs[: subject.differentiated]
    outputs, coordinates = y.numel(), sum(x.numel() for x in wrt)
    leaves = tuple(x.clone().requires_grad_() for x in wrt)
    if not subject.forward(*leaves, *inputs[len(wrt) :]).requires_grad:
        raise Refused("its value does not depend on the inputs for autograd: is it detached?")
    pulled = pullback(subject, torch.ones_like(y), *inputs)
    if not all(bool(torch.isfinite(b).all()) for b in pulled):
        raise Refused("its value is finite, but its derivative is NaN or infinite at this input")
    if outputs * coordinates <= ENTRIES and coordinates <= COORDINATES:
        reverse = rows(subject, *inputs)[1]
        with torch.no_grad():
            evidence = [_entry_by_entry(subject, inputs, reverse)]
    else:
        evidence = [_by_directions(subject, inputs)]
    evidence.append(_forward_mode(subject, inputs))
    asked = spec["operator"]
    if asked in ("hessian", "hvp") and y.dim() == 0:
        evidence.append(_second(subject, inputs))
    by_input = structures(subject) if y.dim() else []
    shared = by_input[0] if len(by_input) == 1 else None
    width = torch.finfo(subject.dtype).bits // 8
    limit = spec["memory_limit"]
    operators, refusals = _operators(subject, y, shared, width, limit)
    samples = per_sample(subject)
    structured = bool(by_input) and all(s.kind != "dense" for s in by_input)
    pattern = ""
    if structured and spec["pattern"]:
        # The measuring processes need not look again; the code to paste needs it where the
        # places cannot be written down.
        torch.save([dataclasses.asdict(s) for s in by_input], spec["pattern"])
        if any(s.kind != "diagonal" for s in by_input):
            pattern = spec["pattern"]
    operator = asked or operators[0]
    code = {}
    if operator in operators and operator not in refusals:
        registry.load()
        function = declare(
            subject, spec["target"], [operator], by_input if structured else [], bool(samples)
        )
        shapes = tuple(tuple(x.shape) for x in inputs)
        device = torch.device(spec["device"])
        problem = Problem(function, operator, shapes, tuple(y.shape), subject.dtype, device)
        code = _code(subject, spec["target"], problem, by_input, pattern)
    return {
        "code": code,
        "pattern": pattern,
        "operators": operators,
        "refusals": refusals,
        "wrt": subject.names[: subject.differentiated],
        "evidence": evidence,
        "structured": structured,
        "per_sample": bool(samples),
        "structure": [f"{s.kind}: {s.evidence}" for s in by_input] + [samples] * bool(samples),
        "own": {name: _source(way) for name, way in subject.ways.items()},
        "cost": list(explain(outputs, coordinates, width, limit, shared)),
    }


def _code(
    subject: Subject, target: str, problem: Problem, structures: Sequence[Structure], pattern: str
) -> dict[str, str]:
    """The code to paste of every mode that can be measured."""
    code = {}
    for mode in registry.modes_of(problem.operator):
        if mode.opt_in or mode.by_hand or mode.name == FORWARD or mode.name in subject.ways:
            continue
        try:
            code[mode.name] = paste.code(subject, target, mode, problem, structures, pattern)
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
    subject: Subject, y: Tensor, shared: Structure | None, width: int, limit: int
) -> tuple[list[str], dict[str, str]]:
    """The operators that apply, the one that is measured by default first, and why some must not
    be measured."""
    wrt = subject.values[: subject.differentiated]
    coordinates = sum(x.numel() for x in wrt)
    products = ["vjp", "jvp"]
    if y.dim() == 0:
        operators, square = ["gradient", *products, "hvp", "hessian"], coordinates
    else:
        operators, square = ["jacobian", *products], y.numel()
        if shared is not None and shared.kind == "diagonal" and y.shape == wrt[0].shape:
            operators.insert(0, "diagonal")
        if shared is not None and shared.kind == "batched":
            operators.insert(0, "batch_jacobian")
    refusals: dict[str, str] = {}
    if reason := refuse(square, coordinates, width, limit):
        # The reference of a pushforward is the dense jacobian.
        dense = ("hessian",) if y.dim() == 0 else ("jacobian", "jvp")
        refusals = dict.fromkeys(dense, reason)
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
        answer = promoted(probe)(spec)
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
