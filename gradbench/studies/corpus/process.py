"""The process that tries advice's machinery on the corpus: one JSON request a line, one answer a
line.

`python -m gradbench.studies.corpus.process DRIVER`, with the number of the process that asks. It
looks at a function as `gradbench advise` does (`worker.probe`), and gates every way of
differentiating it as the measuring processes do (`worker.session`), without timing them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gradbench.core import process

if __name__ == "__main__":
    # Before torch is imported: that takes seconds, in which the driver can be killed.
    process.bind(int(sys.argv[1]))

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from gradbench.core.arguments import argument_names
from gradbench.core.cases import YOURS
from gradbench.problems import registry
from gradbench.problems.function import as_tuple
from gradbench.problems.mode import Mode
from gradbench.problems.operators import Problem
from gradbench.studies import corpus
from gradbench.studies.corpus import plants
from gradbench.worker.evidence import Refused
from gradbench.worker.gate import Gate
from gradbench.worker.judging import MOVE, Contradiction
from gradbench.worker.loading import resolve
from gradbench.worker.probe import probe
from gradbench.worker.session import Session
from gradbench.worker.subject import register

FRESH = (0,)
"""The fresh sets of inputs that a mode is checked on, as before it is timed."""

WHOLE = "float32"
"""The dtype that every function of the corpus can be computed in."""

PATIENCE = 90_000_000
"""Nanoseconds that a call may take, as in an answer of 30 s."""

NOISY = 0.1
"""A derivative whose error is larger than this share of its largest entry is all rounding."""

LOOPS = ("forward_loop", "loop_jvp")
"""The modes that take a pass for each coordinate: left out if those would take longer."""

EFFECT = 1e-5
"""The smallest planted error that counts, relative to an entry of the derivative."""

TRIES = 8
"""Operations in which it is tried to plant an error of a kind."""


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Puts the registry back at the end."""
    registry.load()
    functions, modes = dict(registry.FUNCTIONS), dict(registry.MODES)
    try:
        yield
    finally:
        registry.FUNCTIONS.clear()
        registry.FUNCTIONS.update(functions)
        registry.MODES.clear()
        registry.MODES.update(modes)


def tried(
    spec: dict[str, Any], plant: bool = False, torch_errs: Sequence[str] = ()
) -> dict[str, Any]:
    """What comes of a request for advice, except for the times.

    `refused`: why there is no advice, and `contradicted` if the evidence says so. `unsupported`:
    why the function cannot be computed in this dtype. Else the modes by status, each with its
    reason. With `plant`, `planted` has the errors planted in results, and how the gate took them.
    Of the modes `torch_errs`, which torch computes wrong, `wrong_in_torch` are those that the gate
    refused, with its reasons, and `passed_in_error` the others.
    """
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        spec = {**spec, "pattern": os.path.join(scratch, "pattern.pt")}
        try:
            with registered():
                findings = probe(spec)
        except Refused as error:
            contradicted = isinstance(error.__cause__, Contradiction)
            return {"refused": str(error), "contradicted": contradicted}
        except Exception as error:
            other = {} if spec["dtype"] == WHOLE else tried({**spec, "dtype": WHOLE})
            if "ok" in other:
                return {"unsupported": _line(error)}
            return {"refused": f"it raises {_line(error)}", "contradicted": False}
        operator = findings["operators"][0]
        if operator in findings["refusals"]:
            return {"refused": findings["refusals"][operator], "contradicted": False}
        with registered():
            register(findings | spec | {"operators": [operator]})
            judged = _judged(spec, operator, plant)
        for mode in torch_errs:
            if mode in judged.get("ok", ()):
                judged["ok"].remove(mode)
                judged.setdefault("passed_in_error", []).append(mode)
            elif reason := judged.get("wrong", {}).pop(mode, ""):
                judged.setdefault("wrong_in_torch", {})[mode] = reason
        return {"operator": operator, "evidence": findings["evidence"]} | judged


def _judged(spec: dict[str, Any], operator: str, plant: bool) -> dict[str, Any]:
    """What the gate says of the registered function's modes."""
    session = Session(spec["memory_limit"])
    name = f"{operator}/{YOURS}/documents/{spec['dtype']}/cpu/1"
    try:
        session.open(name, spec["seed"], [1])
    except Exception as error:
        return {"unsupported": _line(error)}
    answer = _gated(session)
    if plant and answer.get("ok"):
        answer["planted"] = _planted_modes(session, answer["ok"][0])
    session.close()
    return answer


def _gated(session: Session) -> dict[str, Any]:
    """The modes of the open problem by status; `unsupported` where the value is not finite."""
    assert session.gate is not None
    problem = session.gate.problem
    began = time.perf_counter_ns()
    value = problem.forward(*session.gate.timed[0].inputs)
    by_columns = problem.coordinates * (time.perf_counter_ns() - began)
    if not bool(value.isfinite().all()):
        kind = str(problem.dtype).removeprefix("torch.")
        return {"unsupported": f"its value is NaN or infinite in {kind}"}
    found: dict[str, Any] = {"ok": []}
    worst = 0.0
    for handle, mode in enumerate(registry.modes_of(problem.operator)):
        if mode.opt_in or mode.by_hand or (mode.name in LOOPS and by_columns > PATIENCE):
            continue
        answer = session.prepare(mode.name, handle, 0, list(FRESH), PATIENCE)
        status = answer["status"]
        if status == "ok":
            found["ok"].append(mode.name)
            worst = max(worst, answer["error"])
        else:
            found.setdefault(status, {})[mode.name] = answer["reason"]
    found.pop("refused", None)
    found["ok"] = [name for name in found["ok"] if name != "forward"]
    if not found["ok"] and found.keys() == {"ok", "unsupported"}:
        return {"unsupported": next(iter(found["unsupported"].values()))}
    if "unsupported" in found:
        found["lacking"] = len(found.pop("unsupported"))
    return {**found, "error": worst}


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# ── planted errors ────────────────────────────────────────────────────────────────────────────


def _planted_modes(session: Session, name: str) -> list[dict[str, Any]]:
    """Each kind of error, planted in the result of a mode that passes."""
    assert session.gate is not None
    gate = session.gate
    right = registry.MODES[gate.problem.operator, name]
    if _only_rounding(gate, right):
        return []
    found = []
    for kind in plants.KINDS:
        try:
            call = _wrong_mode(gate.problem, right, kind)
            size = _size(gate, right, call)
        except plants.Absent:
            continue
        contestant = gate.enter(name, _wrong_mode(gate.problem, right, kind), right.leaves)
        try:
            finding = contestant.check(FRESH, again=True)
        except Exception as error:
            found.append({"kind": kind, "size": size, "caught": True, "detail": _line(error)})
            continue
        told = {"kind": kind, "size": size, "caught": not finding.passed}
        found.append(told | ({"share": finding.error} if finding.passed else {}))
    return found


def _only_rounding(gate: Gate, right: Mode) -> bool:
    """Whether the derivative is zero but for rounding: then an error in it is none."""
    problem, arguments = gate.problem, gate.timed[0]
    exact = problem.function.derivatives[problem.operator](*arguments.cast(torch.float64).inputs)
    result = right.build(problem)(*gate.deliver(arguments, right.leaves))
    return all(
        bool((r.detach().double() - e).abs().max() > NOISY * e.abs().max())
        for r, e in zip(as_tuple(result), as_tuple(exact))
        if e.numel()
    )


def _size(gate: Gate, right: Mode, call: Any) -> float:
    """The size of the error in a mode's results for the timed inputs and the fresh ones. Raises
    Absent where it changes nothing."""
    size = 0.0
    built = right.build(gate.problem)
    for arguments in (*gate.timed, *gate.fresh):
        blocks = [as_tuple(c(*gate.deliver(arguments, right.leaves))) for c in (call, built)]
        size = max(size, plants.deviation(*blocks))
    if size < EFFECT:
        raise plants.Absent
    return size


def _wrong_mode(problem: Problem, right: Mode, kind: str) -> Any:
    """The callable of a mode with an error of a kind."""
    if kind in plants.DETACHING:
        raise plants.Absent("it belongs inside the function")
    built = right.build(problem)
    kept: list[tuple[Tensor, ...]] = []

    def call(*arguments: Any) -> tuple[Tensor, ...]:
        blocks = as_tuple(built(*arguments))
        if kind == "stale state":
            kept.append(kept[0] if kept else tuple(b.detach().clone() for b in blocks))
            return kept[0]
        if kind == "right once":
            kept.append(blocks)
            return blocks if len(kept) == 1 else tuple(1.5 * b for b in blocks)
        changed, wrong = False, []
        for b in blocks:
            with contextlib.suppress(plants.Absent):
                b, changed = plants.block(kind, b), True
            wrong.append(b)
        if not changed:
            raise plants.Absent("no block has such an entry")
        return tuple(wrong)

    return call


def planted(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    """A function with an error of a kind in the backward of one of its operations: what advice's
    machinery makes of it. `absent` if it cannot be planted there."""
    function = resolve(spec["target"])
    torch.manual_seed(spec["seed"])
    inputs = function.inputs()
    places = plants.sites(function, inputs)
    for site in [*places[:-1][:TRIES], places[-1]]:
        size = effect(function, inputs, kind, site, spec["wrt"])
        if size >= EFFECT:
            break
    else:
        return {"absent": True}
    plants.current = plants.planted(function, kind, site)
    answer = tried(spec | {"target": f"{plants.__name__}:current"})
    caught = "evidence" if "refused" in answer else "" if answer.get("ok") else "gate"
    detail = answer.get("refused") or "; ".join(answer.get("evidence", ()))
    return {"kind": kind, "site": site, "size": size, "caught": caught, "detail": detail}


def effect(function: Any, inputs: Any, kind: str, site: int, wrt: Sequence[str] = ()) -> float:
    """The size of a planted error in a pullback by the inputs `wrt` (default: all), there and at a
    point nearby."""
    wrong = plants.planted(function, kind, site)
    size = 0.0
    for step in (0.0, MOVE):
        moved = leaves(inputs, torch.float64, step)
        by = differentiated(function, moved, wrt)
        try:
            pulled = [_pulled(each, moved, by) for each in (wrong, function)]
        except RuntimeError:
            return 0.0
        size = max(size, plants.deviation(*pulled))
    return size


def leaves(inputs: Any, dtype: torch.dtype, step: float = 0.0) -> Any:
    """The inputs, the floating-point ones as leaves of a dtype and moved by a relative step."""

    def leaf(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return x
        return (x.detach().to(dtype) * (1 + step)).requires_grad_()

    return tree_map(leaf, inputs)


def differentiated(function: Any, inputs: Any, wrt: Sequence[str]) -> list[Tensor]:
    """The leaves that belong to the inputs of these names, or all."""
    named = inputs
    if wrt and not isinstance(inputs, dict):
        each = inputs if isinstance(inputs, tuple) else (inputs,)
        named = dict(zip(argument_names(function, len(each)), each))
    if wrt:
        named = [named[name] for name in wrt]
    return [x for x in tree_flatten(named)[0] if isinstance(x, Tensor) and x.requires_grad]


def _pulled(function: Any, inputs: Any, wrt: Sequence[Tensor]) -> list[Tensor]:
    """The pullback of a fixed seed by these leaves."""
    values = tree_flatten(plants.call(function, inputs))[0]
    flat = torch.cat([v.double().reshape(-1) for v in values])
    seed = torch.linspace(0.5, 1.5, flat.numel(), dtype=torch.float64)
    grads = torch.autograd.grad(flat, wrt, seed, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, grads)]


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    kind = asked.pop("op")
    functions = corpus.load()
    if kind == "list":
        return {"functions": [vars(each) for each in functions.values()]}
    return planted(**asked) if kind == "planted" else tried(**asked)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:
            found = {"broken": _line(error)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
