"""Inspects a user's function before it is measured: side effects, derivatives, zeros.

`python -m gradbench.worker.probe SPEC DRIVER`, with the number of the process that asks, answers
with JSON objects on standard output, a line for each, as soon as it knows something; whatever the
function prints goes to standard error. The key `doing` names the step that begins, `found` holds
findings, of which later ones replace earlier ones, `refused` one line where no advice can be given,
and `done` stands in the last.
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
import time
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
from gradbench.core.cases import FORWARD, YOURS
from gradbench.core.deadline import Deadline
from gradbench.core.operators import OPERATORS, SHARED
from gradbench.problems import registry
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.worker import paste, patterns
from gradbench.worker.applicable import askable, operators_of
from gradbench.worker.comparing import same
from gradbench.worker.cost import explain
from gradbench.worker.evidence import Evidence, Refused, gather
from gradbench.worker.identity import identity
from gradbench.worker.known import Known, known
from gradbench.worker.loading import SENT, Unusable
from gradbench.worker.memory import limit_memory
from gradbench.worker.settling import settle
from gradbench.worker.structures import hessian_structure, per_sample, structure
from gradbench.worker.subject import Subject, declare

LOOKING_SHARE = 0.4
"""The part of the time left when the function has been called that evidence and structure take."""

EVIDENCE_SHARE = 0.6
"""The part of that after which no further evidence is gathered."""

SLOW = 0.05
"""The part of the time to look in which a call is not repeated to see what was seen before."""


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


def _manners(
    subject: Subject, inputs: tuple[Tensor, ...], twice: bool
) -> tuple[Tensor, float | None]:
    """The value, from a call that must not change the inputs, and the seconds of the second, which
    must agree with it; None without a second."""
    for name, x in zip(subject.names, inputs[: subject.differentiated]):
        if bad := int((~torch.isfinite(x)).sum()):
            raise Refused(
                f"its input {name} holds NaN or infinity in {bad} of {x.numel()} entries, where it "
                "has no derivative: pass other numbers, or name the inputs to differentiate by "
                "with --wrt"
            )
    copies = tuple(x.clone() for x in inputs)
    with _restoring():
        y = subject.forward(*copies)
    for name, now, before in zip(subject.names, copies, inputs):
        if not same(now, before):
            raise Refused(f"it changes its input {name} in place: work on a copy")
    if not y.numel():
        raise Refused(f"it returns no numbers: the value has shape {tuple(y.shape)}")
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise Refused(f"it returns NaN or infinity in {bad} of {y.numel()} values at this input")
    if not twice:
        return y.detach(), None
    copies = tuple(x.clone() for x in inputs)
    began = time.perf_counter()
    again = subject.forward(*copies)
    seconds = time.perf_counter() - began
    if not same(again, y):
        raise Refused("two calls with the same input differ: it is random, or keeps state")
    return y.detach(), seconds


class Look:
    """The look at a function, step by step; each step tells what it found.

    `tell` writes one line of the answer. The steps after the first take a part of the time that is
    left of the budget (`until` in the spec, by the monotonic clock that all processes share). What
    the first call shows is told before anything else is tried: a second may take long, or hang.
    """

    def __init__(self, spec: dict[str, Any], tell: Callable[..., None]) -> None:
        self.spec = spec
        self.tell = tell
        self.deadline = Deadline()
        self.structure: Structure | None = None
        self.zeros = Known()
        self.samples = self.pattern = ""
        self.written: dict[str, str] = {}

    def run(self) -> None:
        """Takes every step. Raises Refused, or whatever the function raises."""
        self._load()
        with self.subject.wide:
            self._look()

    def _look(self) -> None:
        self._call()
        self._tell_ways()
        self.tell(found={"manner": dataclasses.asdict(self.subject.manner)})
        self.tell(doing="holding its derivatives against finite differences")
        self._evidence()
        self.tell(doing="looking for structure")
        self.tell(found={"structure": self._structure()})
        if self.structure is not None or self.samples:
            self._tell_ways()

    def _load(self) -> None:
        if broken := registry.load():
            self.tell(found={"broken": broken})
        self.tell(doing="loading the function")
        with state.preserve(state.Changes(), loading=True):
            self.subject = Subject(self.spec)
        if self.spec.get("identify"):
            digest, files = identity(self.subject, self.spec)
            self.tell(found={"identity": digest, "files": files})
        self.tell(doing="calling the function")
        self.inputs = self.subject.values
        with _restoring():
            self.settled = settle(self.subject, self.spec["device"] == "cpu", self._called)

    def _called(self, value: Tensor, seconds: float) -> None:
        """Tells what the first call shows."""
        left = self.spec["until"] - time.monotonic()
        self.deadline = Deadline(left * LOOKING_SHARE)
        if value.numel():
            self.y, self.seconds = value, seconds
            self._require_operator()
            self._tell_ways()
        self.tell(doing="calling the function again, to see what a call changes")

    def _call(self) -> None:
        settled = self.settled
        slow = settled.steady and settled.seconds > SLOW * self.deadline.left
        self.y, seconds = _manners(self.subject, self.inputs, not slow)
        self.seconds = settled.seconds if seconds is None else min(seconds, settled.seconds)
        self._require_operator()

    def _require_operator(self) -> None:
        """Raises Refused where the operator asked for cannot be had, whatever the structure."""
        asked, y = self.spec["operator"], self.y
        operators, refusals = self._operators()
        if asked in refusals:
            raise Refused(refusals[asked])
        if asked and asked not in (*operators, *askable(y)):
            there = [name for name in operators if name not in refusals]
            raise Refused(f"operator {asked}: for this function there are {', '.join(there)}")

    def _operators(self) -> tuple[list[str], dict[str, str]]:
        width, limit = torch.finfo(self.subject.dtype).bits // 8, self.spec["memory_limit"]
        found = self.structure, self.zeros.is_sparse, bool(self.samples)
        return operators_of(self.subject, self.y, *found, width, limit)

    def _tell_ways(self) -> None:
        """Tells the operators, and of one the cost, the passes and the code of its modes."""
        subject, y = self.subject, self.y
        operators, refusals = self._operators()
        operator = self.spec["operator"] or operators[0]
        outputs = y.numel()
        coordinates = sum(x.numel() for x in self.inputs[: subject.differentiated])
        width, limit = torch.finfo(subject.dtype).bits // 8, self.spec["memory_limit"]
        code: dict[str, str] = {}
        passes: dict[str, tuple[int, bool]] = {}
        needing: dict[str, list[str]] = {"transforms": [], "traced": []}
        of_value = self.structure if y.dim() else None
        if operator in operators and operator not in refusals:
            before = dict(registry.MODES)
            problem = self._problem(operator)
            code = _code(subject, self.spec["target"], problem, self.written, self.zeros.local)
            passes = _passes(problem)
            needing = {
                "transforms": _needing("torch.func.", operator),
                "traced": _needing("torch.func.linearize", operator),
            }
            registry.MODES.clear()
            registry.MODES.update(before)
            registry.FUNCTIONS.pop(YOURS)
        self.tell(
            found={
                "code": code,
                "passes": passes,
                **needing,
                "seconds": self.seconds,
                "pattern": self.pattern,
                "operators": operators,
                "refusals": refusals,
                "wrt": subject.names[: subject.differentiated],
                "structured": bool(self.zeros),
                "per_sample": bool(self.samples),
                "own": {name: _source(way) for name, way in subject.ways.items()},
                "cost": list(explain(outputs, coordinates, width, limit, of_value)),
            }
        )

    def _problem(self, operator: str) -> Problem:
        """The problem, whose function and modes join the registry."""
        function = declare(
            self.subject,
            self.spec["target"],
            [operator],
            self.zeros,
            bool(self.samples),
        )
        shapes = tuple(tuple(x.shape) for x in self.inputs)
        device, dtype = torch.device(self.spec["device"]), self.subject.dtype
        return Problem(function, operator, shapes, tuple(self.y.shape), dtype, device)

    def _evidence(self) -> None:
        """Tells sentences and hints as they come. Raises Refused where autograd is contradicted."""
        notes = self.subject.notes

        def tell(evidence: Evidence) -> None:
            said = [*notes, *evidence.sentences]
            self.tell(found={"evidence": said, "hints": evidence.hints})

        def lacking(why: str) -> None:
            self.tell(found={"evidence": [*notes, why]})

        if self.deadline.over:
            lacking("no time was left to hold its derivatives against finite differences")
            return
        try:
            tell(
                gather(
                    self.subject,
                    self.inputs,
                    self.y,
                    self.spec["operator"],
                    self.deadline.share(EVIDENCE_SHARE),
                    self.spec["definition"],
                    tell,
                )
            )
        except Refused:
            raise
        except Exception as error:
            lacking(f"finite differences could not be taken near this input: {_line(error)}")

    def _structure(self) -> list[str]:
        scalar, asked = not self.y.dim(), self.spec["operator"]
        of_samples = bool(asked) and SHARED in OPERATORS[asked].applies
        unasked = scalar and not of_samples and not (asked and OPERATORS[asked].from_zeros)
        if unasked or self.subject.manner.forward_only:
            return []
        if self.deadline.over:
            return ["no time was left to look for zeros in the jacobian"]
        if scalar and of_samples:
            self.samples = per_sample(self.subject)
            return [self.samples] if self.samples else []
        try:
            found = (hessian_structure if scalar else structure)(self.subject, self.deadline)
            self.samples = "" if self.deadline.over else per_sample(self.subject)
        except Exception as error:
            return [f"looking for zeros in the jacobian failed: {_line(error)}"]
        self.structure = found
        self.zeros = Known(found, of_gradient=scalar)
        if not scalar:
            self.zeros = known(self.subject, found, self.deadline)
        if self.zeros and self.spec["pattern"]:
            # The measuring processes need not look again; the code to paste loads it where it is
            # too long to be written down.
            self.zeros.save(self.spec["pattern"])
            self.written, loaded = patterns.codes(self.zeros, self.spec["pattern"])
            self.pattern = self.spec["pattern"] if loaded else ""
        return [*self.zeros.sentences, *([self.samples] if self.samples else [])]


def probe(spec: dict[str, Any]) -> dict[str, Any]:
    """All findings on a function, however long it takes. Raises what `Look.run` does."""
    found: dict[str, Any] = {}

    def tell(**fields: Any) -> None:
        found.update(fields.get("found", {}))

    Look({"until": math.inf} | spec, tell).run()
    return found


def _passes(problem: Problem) -> dict[str, tuple[int, bool]]:
    """How often the modes that count their passes go through the function, and whether at once."""
    counts = {}
    for mode in registry.modes_of(problem.operator):
        if mode.passes is not None:
            with contextlib.suppress(Unsupported):
                made = mode.passes(problem)
                counts[mode.name] = made.number, made.batched
    return counts


def _needing(beginning: str, operator: str) -> list[str]:
    """The modes of an operator that need an API whose dotted name begins so."""
    return [
        mode.name
        for mode in registry.modes_of(operator)
        if any(name.startswith(beginning) for name in mode.needs)
    ]


def _code(
    subject: Subject,
    target: str,
    problem: Problem,
    written: dict[str, str],
    local: list[str],
) -> dict[str, str]:
    """The code to paste of every mode that can be measured."""
    code = {}
    for mode in registry.modes_of(problem.operator):
        if mode.opt_in or mode.by_hand or mode.name == FORWARD or mode.name in subject.ways:
            continue
        try:
            code[mode.name] = paste.code(subject, target, mode, problem, written, local)
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


def _line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = os.path.dirname(os.path.abspath(torch.__file__))
    theirs = [f for f in frames if not f.filename.startswith((here, beside, "<"))]
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if theirs and os.sep + "lib" + os.sep + "python" not in theirs[-1].filename:
        text += f" (at {theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line})"
    elif sent := [f for f in frames if f.filename == SENT]:
        text += f" (at line {sent[-1].lineno})"
    return text


def main() -> None:
    pid = os.getpid()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    torch.set_num_threads(1)
    faulthandler.enable()

    def tell(**fields: Any) -> None:
        if os.getpid() != pid:
            # The function forks, and this is the child.
            os._exit(0)
        out.write(json.dumps(fields) + "\n")
        out.flush()

    limit_memory(spec["memory_limit"])
    try:
        Look(spec, tell).run()
    except (Refused, Unusable) as error:
        tell(refused=str(error))
    except BaseException as error:
        memory = f" (--memory-limit is {spec['memory_limit'] / 2**30:.3g} GiB)"
        tell(refused="it raises " + _line(error) + memory * isinstance(error, MemoryError))
    tell(done=True)


if __name__ == "__main__":
    main()
