"""Correctness: no mode is timed before, or believed after, it has passed this gate.

A result is accepted where every entry is within

    ENTRY · u · |exact|  +  ROW · u · max |exact row|  +  INPUT · (change under rounding the inputs)
    + ENTRY · (the smallest number above zero of the dtype)

of the exact derivative. u is the unit in the last place of what is computed with: that of the
dtype (`torch.finfo(dtype).eps`), or of TF32. *Exact* is the analytic derivative in float64 at the
very inputs that the mode got. *Row* is the derivative of one output by one input, so a small block
is never judged by a large one beside it. The *change* is what the exact derivative itself does when
every input is moved by up to one unit in its last place: a mode may not be blamed for that. This is
the mixed forward-backward error of N. Higham, Accuracy and Stability of Numerical Algorithms
(2002), section 1.5: an answer is right if it is nearly the exact answer to nearly the question.
docs/correctness.md states the errors that the catalogue's modes really have.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench import state
from gradbench.core.cases import FORWARD
from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors, as_tuple, uniform
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import OPERATORS, Problem, Shape
from gradbench.worker.devices import synchronizer

ENTRY = 32
ROW = 16
INPUT = 16
SLOW = 10_000_000
"""Calls of so many nanoseconds are checked with fewer repeats."""

FIRST = 50
"""How many times longer than later ones a first call may take, which loads what they find."""

PERTURBATIONS = 5

SMALLEST_STEP = 2.0**-46
"""Inputs are moved by no less, relative to themselves, for below it the float64 of the exact
derivative rounds too; the change is then scaled down to the unit that is asked for."""

CLOCK = time.perf_counter_ns


class TooSlow(Exception):
    """A call took longer than there is time for."""

    def __init__(self, nanoseconds: int) -> None:
        super().__init__(f"a call takes {nanoseconds * 1e-9:.2g} s, too long for this budget")


@dataclass(frozen=True)
class Finding:
    """What the gate found.

    `error` is the worst error as a share of what is allowed; `ulps` the worst error in units in
    the last place of its block's largest entry. Both are the worst of all checks made.
    """

    reason: str = ""
    error: float = 0.0
    ulps: float = 0.0

    @property
    def right(self) -> bool:
        return not self.reason

    def and_then(self, later: Finding) -> Finding:
        """This finding and a later one: the first reason and the worst errors."""
        return Finding(
            self.reason or later.reason,
            max(self.error, later.error),
            max(self.ulps, later.ulps),
        )


@dataclass(frozen=True)
class Expected:
    """The exact result of one argument set: float64 blocks and allowed errors."""

    blocks: Tensors
    allowed: Tensors


def _row_scale(block: Tensor, rows: int) -> Tensor:
    """The largest magnitude in each row, in a shape that broadcasts against the block."""
    if block.dim() == rows or block.numel() == 0:
        return block.abs()
    return block.abs().amax(dim=tuple(range(rows, block.dim())), keepdim=True)


def _expected(
    exact: Callable[[Arguments], Tensors],
    given: Arguments,
    rows: Sequence[int],
    unit: float,
    smallest: float,
) -> Expected:
    wide = given.cast(torch.float64)
    blocks = exact(wide)
    change = [torch.zeros_like(block) for block in blocks]
    generator = torch.Generator().manual_seed(0)
    step = max(unit, SMALLEST_STEP)
    for _ in range(PERTURBATIONS):
        # Moves of random length: with signs alone, two of a sum cancel half of the time.
        moved = tuple(_moved(tensor, step, generator) for tensor in wide.tensors())
        for found, block, other in zip(change, blocks, exact(wide.replaced(moved))):
            torch.maximum(found, (other - block).abs() * (unit / step), out=found)
    allowed = tuple(
        ENTRY * (unit * block.abs() + smallest)
        + ROW * unit * _row_scale(block, lead)
        + INPUT * moved
        for block, lead, moved in zip(blocks, rows, change)
    )
    return Expected(blocks, allowed)


def _moved(tensor: Tensor, step: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor * (1 + step * uniform(generator, *tensor.shape))


class Gate:
    """The reference results of one problem, against which every contestant is checked.

    `timed` are the arguments that are timed, and `more` are timed in turn with them; `fresh` are
    others of the same shapes. The exact results are worked out once, on first use, and serve every
    mode of the comparison.
    """

    def __init__(
        self,
        problem: Problem,
        timed: Arguments,
        fresh: Sequence[Arguments],
        transfer: bool = False,
        more: Sequence[Arguments] = (),
    ) -> None:
        self.problem = problem
        self.transfer = transfer
        self.timed = (timed, *more)
        self.fresh = tuple(fresh)
        self.given = (*self.timed, *self.fresh)
        """All sets of arguments, by number: what is timed and then what is fresh."""
        self._known: dict[tuple[bool, int], Expected] = {}
        self.snapshot = state.snapshot()
        """The state of the process that each mode finds."""
        self.changes = state.Changes()
        """What the function's own formula has changed in it."""

    def _expect(self, forward: bool, index: int) -> Expected:
        key = (forward, index)
        if key not in self._known:
            given = self.given[index]
            if forward:
                rows: Sequence[int] = (len(self.problem.output),)
                exact = self._forward
            else:
                rows = OPERATORS[self.problem.operator].rows(self.problem)
                exact = self._derivative
            try:
                with torch.no_grad():
                    found = _expected(exact, given, rows, self.problem.unit, self.problem.smallest)
            finally:
                self.changes.add(state.restore(self.snapshot))
            self._require_range(found.blocks)
            self._known[key] = found
        return self._known[key]

    def _require_range(self, blocks: Tensors) -> None:
        """Raises Unsupported where the dtype is too narrow for the exact values."""
        most = float(torch.finfo(self.problem.dtype).max)
        for block in blocks:
            sizes = block.abs()
            beyond = sizes[sizes.isfinite() & (sizes > most)]
            if beyond.numel():
                name = str(self.problem.dtype).removeprefix("torch.")
                raise Unsupported(
                    f"{name} ends at {most:.3g}, and the exact result has {float(beyond.max()):.3g}"
                )

    def _forward(self, given: Arguments) -> Tensors:
        exact = self.problem.function.exact or self.problem.forward
        return (exact(*given.inputs),)

    def _derivative(self, given: Arguments) -> Tensors:
        formula = self.problem.function.derivatives[self.problem.operator]
        if given.seed is None:
            return as_tuple(formula(*given.inputs))
        return as_tuple(formula(given.seed, *given.inputs))

    def enter(self, mode: str, call: Callable[..., Any], leaves: bool) -> Contestant:
        """A contestant with its private copies of the timed arguments, not yet checked."""
        if self.transfer:
            call = transferred(call, self.problem, leaves)
        sets = tuple(self.deliver(given, leaves) for given in self.timed)
        return Contestant(self, mode, call, leaves, sets)

    def deliver(self, given: Arguments, leaves: bool) -> tuple[Any, ...]:
        """A private copy of arguments where a contestant expects them."""
        return given.deliver(self.problem, leaves, torch.device("cpu") if self.transfer else None)

    def bytes_needed(self, numbers_at_peak: int) -> int:
        """Memory of a mode and of checking it, by estimate: its own numbers, the sets of arguments
        that are timed, and the float64 blocks (exact, allowed, moved and the difference) of each
        set."""
        blocks = (2 * len(self.given) + 4) * 8 * self.problem.result_numel
        sets = sum(given.bytes for given in self.timed)
        return numbers_at_peak * self.problem.width + blocks + sets

    def judge(self, mode: str, index: int, result: Any) -> Finding:
        """Holds one result against the exact one of an argument set."""
        forward = mode == FORWARD
        shapes = (self.problem.output,) if forward else self.problem.result
        blocks = as_tuple(result)
        if len(blocks) != len(shapes):
            return Finding(f"returned {len(blocks)} blocks instead of {len(shapes)}")
        expected = self._expect(forward, index)
        finding = Finding()
        for number, (block, shape) in enumerate(zip(blocks, shapes)):
            name = self._block_name(forward, number)
            where = torch.device("cpu") if self.transfer else self.problem.device
            flaw = _form(block, shape, self.problem.dtype, where)
            if flaw:
                return finding.and_then(Finding(f"{name}: {flaw}"))
            finding = finding.and_then(
                _values(
                    name,
                    block.detach().to("cpu", torch.float64),
                    expected.blocks[number],
                    expected.allowed[number],
                    self.problem.unit,
                )
            )
        return finding

    def _block_name(self, forward: bool, number: int) -> str:
        if forward or self.problem.operator == "jvp":
            return "value"
        names = self.problem.function.inputs[: self.problem.differentiated]
        if len(self.problem.result) == len(names):
            return f"by {names[number]}"
        return f"by {names[number // len(names)]}, {names[number % len(names)]}"


def transferred(call: Callable[..., Any], problem: Problem, leaves: bool) -> Callable[..., Any]:
    """The call with both copies around it: arguments to the problem's device, the result back."""
    device = problem.device

    def moved(tensors: Tensors) -> Tensors:
        return tuple(t.detach().to(device) for t in tensors)

    def whole(inputs: Tensors, *seed: Any) -> Tensors:
        there = moved(inputs)
        if leaves:
            for x in there[: problem.differentiated]:
                x.requires_grad_()
        seeds = [moved(s) if isinstance(s, tuple) else moved((s,))[0] for s in seed]
        return tuple(b.to("cpu") for b in as_tuple(call(there, *seeds)))

    return whole


def _form(block: Any, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    """What is wrong with a block's type, shape, dtype or device; empty where nothing is."""
    if not isinstance(block, Tensor):
        return f"is a {type(block).__name__}, not a tensor"
    if tuple(block.shape) != shape:
        return f"has shape {tuple(block.shape)} instead of {shape}"
    if block.dtype != dtype:
        return f"is {block.dtype} instead of {dtype}"
    if block.device.type != device.type:
        return f"is on {block.device} instead of {device}"
    return ""


def _values(name: str, got: Tensor, exact: Tensor, allowed: Tensor, unit: float) -> Finding:
    if got.numel() == 0:
        return Finding()
    difference = (got - exact).abs()
    # Equal infinities differ by NaN, and a zero that is exact has nothing allowed.
    difference = torch.where(got == exact, 0.0, difference)
    share = torch.where(difference == 0, 0.0, difference / allowed).nan_to_num(nan=torch.inf)
    worst = int(share.argmax())
    error = float(share.flatten()[worst])
    off = float(difference.nan_to_num(nan=torch.inf).max())
    scale = float(exact.abs().max())
    finding = Finding("", error, off / (unit * scale) if scale else off and torch.inf)
    if error <= 1:
        return finding
    place = _place(worst, tuple(got.shape))
    wrong = int((share > 1).sum())
    reason = (
        f"{name}{place}: {float(got.flatten()[worst]):.6g} instead of "
        f"{float(exact.flatten()[worst]):.6g}, {error:.3g} times the error allowed "
        f"({wrong} of {got.numel()} entries)"
    )
    return finding.and_then(Finding(reason))


def _place(flat: int, shape: Shape) -> list[int]:
    """The indices of a flat position (`torch.unravel_index` is missing before torch 2.2)."""
    place = []
    for length in reversed(shape):
        flat, index = divmod(flat, length)
        place.append(index)
    return place[::-1]


class Contestant:
    """A mode's callable with the sets of arguments that it is timed on. `call` and `sets` are what
    the clock sees; the gate calls the very same objects."""

    def __init__(
        self,
        gate: Gate,
        mode: str,
        call: Callable[..., Any],
        leaves: bool,
        sets: tuple[tuple[Any, ...], ...],
    ) -> None:
        self.gate = gate
        self.mode = mode
        self.call = call
        self.leaves = leaves
        self.sets = sets
        self.turns = itertools.cycle(sets)
        """The arguments of one call after the other."""
        self.waits = synchronizer(gate.problem.device)
        self.fastest = 0
        """Nanoseconds of the fastest call while it was checked."""
        self.changes = state.Changes()
        """What its calls have changed in the process."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first set: what instruments take that read a single call."""
        return self.sets[0]

    def check(self, fresh: Sequence[int], again: bool | None = None, patience: int = 0) -> Finding:
        """Calls on the timed arguments, on fresh ones by number, and on the timed ones again.

        The second look at the timed arguments catches what a call leaves behind: an
        accumulated `.grad`, a changed input, a cached result. Unless `again` says otherwise, a
        slow call has that look only after it was timed. Raises TooSlow where a call takes longer
        than `patience` nanoseconds, unless that is 0.
        """
        try:
            finding = self._checked(fresh, again, patience)
        finally:
            late = state.restore(self.gate.snapshot)
            self.changes.add(late)
        if late.by_torch and not late:
            # Torch replaced functions while it was judged by them.
            finding = self._checked(fresh, again, patience)
        return finding

    def _checked(self, fresh: Sequence[int], again: bool | None, patience: int) -> Finding:
        finding = self._check(0, self.arguments)
        # A first call may have loaded much that later ones find: it alone does not tell.
        if patience and self.fastest > FIRST * patience:
            raise TooSlow(self.fastest)
        finding = self._check_timed(finding, 1)
        for index in fresh:
            if not finding.right:
                return finding
            given = self.gate.deliver(self.gate.fresh[index], self.leaves)
            finding = finding.and_then(self._check(len(self.sets) + index, given))
            if patience and self.fastest > patience:
                raise TooSlow(self.fastest)
        if again is None:
            again = self.fastest < SLOW
        return self._check_timed(finding, 0) if again else finding

    def _check_timed(self, finding: Finding, first: int) -> Finding:
        """The finding and those of the timed sets from `first` on, up to one that is wrong."""
        for index in range(first, len(self.sets)):
            if finding.right:
                finding = finding.and_then(self._check(index, self.sets[index]))
        return finding

    def _check(self, index: int, arguments: tuple[Any, ...]) -> Finding:
        try:
            start = CLOCK()
            result = self.call(*arguments)
            if self.waits is not None:
                self.waits()
            spent = CLOCK() - start
        finally:
            # Before anything is judged by it; `check` looks at the rest, and what is found there
            # fails the mode, whatever the finding.
            self.changes.add(state.restore(self.gate.snapshot[: len(state.PER_CALL)]))
        self.fastest = min(self.fastest or spent, spent)
        finding = self.gate.judge(self.mode, index, result)
        return finding.and_then(self._traces(index, arguments))

    def _traces(self, index: int, arguments: tuple[Any, ...]) -> Finding:
        """What the call left behind in its arguments."""
        gate = self.gate
        given = gate.given[index]
        names = gate.problem.function.inputs
        inputs = arguments[0]
        used = inputs + (as_tuple(arguments[1]) if len(arguments) > 1 else ())
        for number, (now, before) in enumerate(zip(used, given.tensors())):
            name = names[number] if number < len(names) else "the seed"
            if now.shape != before.shape or not torch.equal(now.detach().cpu(), before):
                return Finding(f"changes {name} in place")
            if now.grad is not None:
                return Finding(f"leaves a gradient in {name}.grad, which the next call adds to")
            if now.requires_grad != (self.leaves and number < gate.problem.differentiated):
                return Finding(f"changes whether {name} requires grad")
        return Finding()
