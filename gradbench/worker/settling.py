"""How a user's function has to be called, found by calling it.

Random numbers come from a fixed seed; modules that update their buffers work on copies; the
evidence is in float64 where that does not change what the function does.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradbench.modes.capability import unsupported_reason
from gradbench.worker.comparing import same
from gradbench.worker.failures import line_of, where
from gradbench.worker.loading import Unusable, seed_everything
from gradbench.worker.owned import reached
from gradbench.worker.precision import FORCED, MEASURED, PLAIN, WIDE, Narrow, agree, quietly
from gradbench.worker.reference import pullback, value_and_tangent
from gradbench.worker.rounding import Rounding

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

TORCH, ALL = "torch", "all"
"""The generators that a random function draws from."""

SEED = 0

DRAWS, EXPLAINS = 8, 8.0
"""Draws in Monte Carlo arithmetic that a difference between two dtypes is held against, and how
many times the largest it may be."""

UNTRACKED = "does not require grad"
"""What torch says where a function differentiates by an input that does not require grad."""


@dataclass
class Manner:
    """How a function is called, in every process."""

    random: str = ""
    """The generators that are seeded before each call; empty for a function that draws nothing."""
    draws: bool = False
    """Whether it draws random numbers from torch, if only from a generator of its own."""
    buffers: list[list[str]] = field(default_factory=list)
    """The buffers that a call updates: the module's place among the inputs, and the name in it."""
    tracked: bool = False
    """Whether inputs require grad in every call: it differentiates by them itself."""
    precision: str = PLAIN
    forward_only: str = ""
    """Why reverse mode fails where forward mode does not; empty for most functions."""
    unit: float = 2.0**-52
    """The unit in the last place of the coarsest dtype that a measured call computes in."""


def seed_again(generators: str) -> None:
    """What precedes every call of a random function."""
    torch.default_generator.manual_seed(SEED)
    if generators == ALL:
        random.seed(SEED)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(SEED)


@contextlib.contextmanager
def _unchanged(modules: Sequence[torch.nn.Module]) -> Iterator[list[tuple[int, str]]]:
    """Puts the buffers of modules back; afterwards the list names those that were changed."""
    buffers = [
        (number, name, buffer, buffer.detach().clone())
        for number, module in enumerate(modules)
        for name, buffer in module.named_buffers(remove_duplicate=False)
    ]
    changed: list[tuple[int, str]] = []
    try:
        yield changed
    finally:
        for number, name, buffer, before in buffers:
            owner, _, last = name.rpartition(".")
            held = modules[number].get_submodule(owner)._buffers
            # Batch normalization writes without counting a version up.
            if held.get(last) is not buffer or not same(buffer, before):
                changed.append((number, name))
                held[last] = buffer
                with torch.no_grad():
                    buffer.copy_(before)


@dataclass(frozen=True)
class Settled:
    """What calling a function has shown beside its manner."""

    seconds: float
    """The shortest call in the measured dtype."""
    steady: bool
    """Whether calls agree when they start from the same seed."""


Called = Callable[[Tensor, float], None]
"""Told the value of the first call and its seconds."""


def settle(
    subject: Subject, on_cpu: bool = True, called: Called = lambda value, seconds: None
) -> Settled:
    """Finds the manner in which the subject is called, and what to say of it.

    Measured on another device, the dtype need not work here: then the function is only looked at
    in float64. Raises whatever the function raises, and what `called` raises.
    """
    manner = Manner()
    subject.settle(manner)
    kind = subject.dtype if on_cpu else torch.float64
    narrow = tuple(_copied(x, kind) for x in subject.values)
    places = list(subject.binding.modules)
    own = [subject.binding.modules[place] for place in places]
    roots = (subject.target, *subject.binding.plain.values())
    others = [m for m in reached(*roots)[1] if not any(m is o for o in own)]

    taken: list[float] = []

    def measured(call: Callable[..., Tensor] | None = None) -> Tensor:
        inputs = [x.clone() for x in narrow]
        began = time.perf_counter()
        result: Tensor = quietly(call or subject.measured, *inputs).detach()
        taken.append(time.perf_counter() - began)
        return result

    with _unchanged([*own, *others]):
        with _unchanged(own) as changed, Narrow() as seen:
            seed_everything(SEED)
            try:
                first = measured(subject.looked_at)
            except RuntimeError as error:
                if UNTRACKED not in str(error):
                    raise
                manner.tracked = True
                subject.settle(manner)
                first = measured(subject.looked_at)
        updated = [[places[number], name] for number, name in changed]
        manner.buffers = [own for own in updated if own[0] not in subject.outside]
        manner.unit = max(torch.finfo(d).eps for d in (*seen.dtypes, kind))
        manner.draws = seen.drawn
        subject.settle(manner)
        called(first, taken[0])
        # Neither seeded nor as the first call drew.
        again = measured()
        if len(manner.buffers) < len(updated) and not same(again, measured()):
            # Its value depends on what its calls leave in a module outside of it.
            manner.buffers = updated
            subject.settle(manner)
            first, again = measured(), measured()
        if not same(first, again):
            # What is compiled may differ in its first call alone.
            first, again = again, measured()
        if not same(first, again):
            for generators in (TORCH, ALL):
                subject.settle(replace(manner, random=generators))
                first = measured()
                again = measured()
                if same(first, again):
                    manner.random = generators
                    break
        steady = same(first, again)
        if subject.dtype == torch.float64:
            # It is measured in float64, with whatever else it computes in: constants, or all that
            # its value is made of.
            manner.precision = MEASURED
            if first.dtype == torch.float64:
                manner.unit = torch.finfo(torch.float64).eps
        else:
            manner.precision = _precision(subject, manner, narrow, first)
    subject.settle(manner)
    manner.forward_only = _forward_only(subject, first.shape)
    subject.notes += _said(subject, manner)
    return Settled(min(taken), steady)


def _copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _precision(subject: Subject, manner: Manner, narrow: Sequence[Tensor], measured: Tensor) -> str:
    """The first way of evaluating in float64 that gives what is measured."""
    for precision in (PLAIN, FORCED):
        subject.settle(replace(manner, precision=precision))
        inputs = tuple(_copied(x, torch.float64).clone() for x in narrow)
        try:
            with subject.wide, Narrow() as seen:
                value = quietly(subject.measured, *inputs).detach()
        except Exception:
            continue
        if seen.dtypes:
            continue
        if agree(measured, value, manner.unit) or _is_rounding(subject, inputs, measured, value):
            return precision
    return MEASURED


def _is_rounding(
    subject: Subject, inputs: Sequence[Tensor], measured: Tensor, exact: Tensor
) -> bool:
    """Whether a value in the measured dtype is off that in float64 by what rounding inside does:
    where a function cancels, that is more than half of the digits."""
    if measured.shape != exact.shape or not bool(exact.isfinite().all()):
        return False
    largest = torch.zeros_like(exact)
    unit = torch.finfo(subject.dtype).eps
    for seed in range(DRAWS):
        try:
            with subject.wide, Rounding(unit, subject.dtype, seed):
                drawn = quietly(subject.measured, *(x.clone() for x in inputs)).detach()
        except Exception:
            return False
        largest = torch.maximum(largest, (drawn - exact).abs().nan_to_num(nan=0.0, posinf=0.0))
    return bool(((measured.double() - exact).abs() <= EXPLAINS * largest).all())


def _forward_only(subject: Subject, shape: torch.Size) -> str:
    """Why the function has a derivative in forward mode alone; empty if it has one in reverse mode.

    Raises Unusable where it has neither.
    """
    inputs = subject.values
    with subject.wide:
        seed = torch.ones(shape, dtype=torch.float64)
        try:
            pullback(subject, seed, *inputs)
        except Exception as error:
            place = where(error)
            why = unsupported_reason(error) or line_of(error) + f" at {place}" * bool(place)
            tangents = tuple(torch.ones_like(x) for x in inputs[: subject.differentiated])
            other = ""
            try:
                if value_and_tangent(subject, tangents, *inputs)[1] is None:
                    other = "nothing of the inputs reaches the value"
            except Exception as forward:
                other = unsupported_reason(forward) or line_of(forward)
            if other:
                raise Unusable(
                    f"no derivative: in reverse mode, {why}; in forward mode, {other}"
                ) from error
            return why
    return ""


def _said(subject: Subject, manner: Manner) -> list[str]:
    said = []
    if manner.random:
        said.append("it draws random numbers: every call starts from the same seed")
    if manner.tracked:
        said.append("it differentiates by its own inputs: they require grad in every call")
    if manner.buffers:
        place, name = manner.buffers[0]
        more = f" and {len(manner.buffers) - 1} more" if len(manner.buffers) > 1 else ""
        full = f"{place}.{name}" if place else name
        said.append(f"its forward pass updates buffers ({full}{more}): every call works on copies")
    if manner.forward_only:
        said.append(
            f"reverse mode fails ({manner.forward_only}): its derivatives are those of forward mode"
        )
    if manner.precision == MEASURED and subject.dtype in WIDE:
        kind = str(subject.dtype).removeprefix("torch.")
        said.append(
            f"evidence and references are in {kind}: it computes something else, or fails, on "
            "float64 inputs"
        )
    return said
