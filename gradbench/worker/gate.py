"""The gate: compares each mode with the analytic derivative, before and after it is timed.

*Exact* is the analytic derivative in float64 at the mode's own inputs. The error that an entry may
have is that of rounding in the dtype: see `gradbench.worker.allowance`, and docs/correctness.md for
the errors of the catalogue's modes. A result that rounding alone might explain is right only if the
error goes away where the same mode computes in float64.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench import state
from gradbench.core.cases import FORWARD
from gradbench.core.deadline import Deadline
from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import OPERATORS, Problem
from gradbench.worker.allowance import FURTHER, REVERSE, Allowance, Path, computed_by
from gradbench.worker.comparing import Finding, compare, mismatch
from gradbench.worker.devices import synchronizer
from gradbench.worker.interference import look, own_time
from gradbench.worker.products import ALLOWED, Products
from gradbench.worker.urgency import Late, until

REFERENCE_SHARE = 0.5
"""The share of the time that is left which the exact derivative may take, where products of it can
stand in."""

AGAIN = 2
"""How many times longer than the first check the time that is left has to be for another one."""

SLOW = 10_000_000
"""Nanoseconds of a call from which on it is checked with fewer repeats."""

FIRST = 50
"""How many times longer a first call may take than later ones, since it loads code."""

CLOCK = time.perf_counter_ns


class TooSlow(Exception):
    """A call takes longer than the time budget allows."""

    def __init__(self, nanoseconds: int) -> None:
        self.seconds = nanoseconds * 1e-9
        super().__init__(f"a call takes {nanoseconds * 1e-9:.2g} s, too long for this budget")


class NoTime(Exception):
    """There is no time left to find out whether a result is right; the message says what for."""


@dataclass(frozen=True)
class _Values:
    """What is compared: the blocks of a result, or products of them, in float64."""

    blocks: Sequence[Tensor]
    sizes: Sequence[Tensor] = ()
    """Of products: the size of the terms of each."""


class Gate:
    """Checks the modes of one problem against its exact results.

    `timed` and `more` are the arguments that are timed in turn; `fresh` are others of the same
    shapes. Exact results are computed once, on first use. With `transfer`, arguments and results
    are on the CPU and their copies are timed. Results with too many entries are compared by random
    products: see `gradbench.worker.products`.
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
        self.argument_sets = (*self.timed, *self.fresh)
        self._expected: dict[tuple[bool, int, bool], Allowance] = {}
        self.products = Products.of(problem)
        self.deadline = Deadline()
        """Until when a check has to end: what it then lacks raises NoTime, or is left out."""
        self._wider: dict[tuple[str, int], Finding | None] = {}
        self._slow: dict[str, int] = {}
        """The modes that are slow in float64, and the set that they were evaluated at."""
        self.snapshot = state.snapshot()
        """The state of the process that each mode starts from."""
        self.changes = state.Changes()
        """Changes of the state by the function's own formula."""
        self.after_call: Callable[[], None] = lambda: None
        """Called after each call of a mode that is checked. A process that the call has forked ends
        there: were it to go on, it would fork again, and come back when nobody waits for it."""

    def _expect(self, forward: bool, index: int, wide: bool = False) -> Allowance:
        """The exact result for an argument set, with the errors allowed in the dtype; with `wide`,
        those of a mode that computes in float64. Raises NoTime."""
        try:
            with until(self.deadline.share(REFERENCE_SHARE)):
                return self._expectation(forward, index, wide)
        except Late:
            pass
        if not forward and self.products is None:
            self.products = Products.of(self.problem, always=True)
        if forward or self.products is None:
            raise NoTime("its exact derivative takes longer than the time that is left")
        self._expected = {key: kept for key, kept in self._expected.items() if key[0]}
        try:
            with until(self.deadline):
                return self._expectation(forward, index, wide)
        except Late:
            raise NoTime("products of its exact derivative take longer than is left") from None

    def _expectation(self, forward: bool, index: int, wide: bool) -> Allowance:
        key = (forward, index, wide)
        if key not in self._expected:
            problem = self.problem
            ways: list[Path] = [self._forward]
            further: list[Path] = []
            rows: Sequence[int] = (len(problem.output),)
            if not forward:
                rows = OPERATORS[problem.operator].rows(problem)
                ways, further = [self._derivative], [computed_by(FURTHER, problem)]
                if self.products is not None:
                    with self._undone():
                        self.products.begin(self.timed[0].cast(torch.float64))
                    rows = self.products.dimensions
                    ways, further = [self.products.exact], []
                elif not problem.function.reverse:
                    ways.append(computed_by(REVERSE, problem))
            with self._undone():
                expected = Allowance(
                    ways,
                    further,
                    self.argument_sets[index],
                    problem.differentiated,
                    rows,
                    unit=float(torch.finfo(torch.float64).eps) if wide else problem.unit,
                    dtype=torch.float64 if wide else problem.dtype,
                    entry_unit=problem.unit,
                    blocks=self._expect(forward, index).blocks if wide else None,
                    library=problem.function.reverse,
                )
            self._require_range(expected.blocks)
            self._expected[key] = expected
        return self._expected[key]

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Undoes changes of the state by the function's own code, and records them."""
        try:
            with torch.no_grad():
                yield
        finally:
            self.changes.add(state.restore(self.snapshot))

    def _require_range(self, blocks: Tensors) -> None:
        """Raises Unsupported if exact values exceed the dtype's range."""
        largest = float(torch.finfo(self.problem.dtype).max)
        for block in blocks:
            sizes = block.abs()
            beyond = sizes[sizes.isfinite() & (sizes > largest)]
            if beyond.numel():
                name = str(self.problem.dtype).removeprefix("torch.")
                raise Unsupported(
                    f"overflows {name}: its maximum is {largest:.3g}, "
                    f"and the exact result has {float(beyond.max()):.3g}"
                )

    def _forward(self, arguments: Arguments) -> Tensors:
        exact = self.problem.function.exact or self.problem.forward
        return (exact(*arguments.inputs),)

    def _derivative(self, arguments: Arguments) -> Tensors:
        formula = self.problem.function.derivatives[self.problem.operator]
        seed = () if arguments.seed is None else (arguments.seed,)
        return as_tuple(formula(*seed, *arguments.inputs))

    def enter(self, mode: str, call: Callable[..., Any], leaves: bool) -> Contestant:
        """A contestant with private copies of the timed arguments, not yet checked."""
        if self.transfer:
            call = transferred(call, self.problem, leaves)
        sets = tuple(self.deliver(arguments, leaves) for arguments in self.timed)
        return Contestant(self, mode, call, leaves, sets)

    def deliver(self, arguments: Arguments, leaves: bool) -> tuple[Any, ...]:
        """A private copy of the arguments on the device where the contestant expects them."""
        device = torch.device("cpu") if self.transfer else None
        return arguments.deliver(self.problem, leaves, device)

    def bytes_needed(self, numbers_at_peak: int) -> int:
        """An estimate of the memory to run and check a mode: its own numbers, the timed arguments,
        and the float64 blocks of the check (exact, allowed, moved, difference) per argument set."""
        compared = self.problem.result_numel if self.products is None else self.products.numel
        blocks = (2 * len(self.argument_sets) + 4) * 8 * compared
        sets = sum(arguments.bytes for arguments in self.timed)
        return numbers_at_peak * self.problem.width + blocks + sets

    def judge(self, mode: str, index: int, result: Any) -> Finding:
        """Compares a result with the exact one for the argument set of that index."""
        forward = mode == FORWARD
        shapes = (self.problem.output,) if forward else self.problem.result
        blocks = as_tuple(result)
        if len(blocks) != len(shapes):
            return Finding(f"returned {len(blocks)} blocks instead of {len(shapes)}")
        device = torch.device("cpu") if self.transfer else self.problem.device
        for number, (block, shape) in enumerate(zip(blocks, shapes)):
            if reason := mismatch(block, shape, self.problem.dtype, device):
                return Finding(f"{self._block_name(forward, number)}: {reason}")
        # What is compared by products needs to know whether forward mode is right.
        self._expect(forward, index)
        finding = self._judged(mode, forward, index, self._values(forward, blocks))
        if finding.passed and any(
            block.dtype == torch.float64 != self.problem.dtype for block in blocks
        ):
            # Forward mode does, of a Python number times a tensor of no dimensions.
            raise Unsupported(f"returns torch.float64 for {self.problem.dtype}")
        return finding

    def _values(self, forward: bool, blocks: Tensors) -> _Values:
        if forward or self.products is None:
            return _Values([block.detach().to("cpu", torch.float64) for block in blocks])
        return _Values(*self.products.reduced(blocks))

    def _judged(self, mode: str, forward: bool, index: int, values: _Values) -> Finding:
        expected = self._expect(forward, index)
        finding = self._compare(forward, values, expected, expected.allowed(0))
        if finding.passed:
            return finding
        if not forward and self.problem.dtype != torch.float64:
            wide = self._in_float64(mode, index)
            if wide is not None:
                if not wide.passed:
                    return Finding(f"{wide.reason}, in float64 too", finding.error, finding.ulps)
                # What goes away in float64 and is no more than the rounding of a sum need not be
                # looked at in Monte Carlo arithmetic, which is slow.
                summed = self._compare(forward, values, expected, expected.in_a_row())
                if summed.passed:
                    return summed
        return self._compared(forward, values, expected)

    def _compared(self, forward: bool, values: _Values, expected: Allowance) -> Finding:
        """The finding of the first level that passes, or of the last one."""
        finding, level = Finding(), 0
        while level < expected.levels:
            try:
                undone = contextlib.nullcontext() if expected.known(level) else self._undone()
                with undone, until(self.deadline):
                    allowed = expected.allowed(level)
            except Late:
                reason = f"{finding.reason}; no time is left to see whether that is rounding"
                raise NoTime(reason) from None
            finding = self._compare(forward, values, expected, allowed)
            if finding.passed:
                return finding
            level += 1
        if expected.trouble:
            reason = f"{finding.reason}; its intermediates cannot be rounded: {expected.trouble}"
            return dataclasses.replace(finding, reason=reason)
        return finding

    def _compare(
        self, forward: bool, values: _Values, expected: Allowance, allowed: Tensors
    ) -> Finding:
        finding = Finding()
        if values.sizes:
            pairs = zip(allowed, values.sizes)
            allowed = tuple(a + ALLOWED * expected.unit * size for a, size in pairs)
        for number, value in enumerate(values.blocks):
            name = self._name(forward, number)
            exact, unit = expected.blocks[number], self.problem.unit
            finding = finding.and_then(compare(name, value, exact, allowed[number], unit))
        return finding

    def _name(self, forward: bool, number: int) -> str:
        """What is compared, in words."""
        if forward or self.products is None:
            return self._block_name(forward, number)
        return self.products.name(number, self.problem.function.inputs)

    def _in_float64(self, mode: str, index: int) -> Finding | None:
        """How far the mode is off where it computes in float64; None if it cannot.

        Like a slow call, a slow evaluation is not repeated: that of the first set stands for all.
        """
        key = (mode, self._slow.get(mode, index))
        if key not in self._wider:
            way = computed_by({self.problem.operator: mode}, self.problem)
            began = CLOCK()
            try:
                with self._undone(), until(self.deadline):
                    values = way(self.argument_sets[index].cast(torch.float64))
                self._wider[key] = self._compared(
                    False, self._values(False, values), self._expect(False, index, wide=True)
                )
            except Exception:
                # Whatever it cannot do in float64 says nothing about the dtype that is measured.
                self._wider[key] = None
            if CLOCK() - began > SLOW:
                self._slow[mode] = index
        return self._wider[key]

    def _block_name(self, forward: bool, number: int) -> str:
        if forward or self.problem.operator == "jvp":
            return "value"
        names = self.problem.function.inputs[: self.problem.differentiated]
        if len(self.problem.result) == len(names):
            return f"by {names[number]}"
        return f"by {names[number // len(names)]}, {names[number % len(names)]}"


def transferred(call: Callable[..., Any], problem: Problem, leaves: bool) -> Callable[..., Any]:
    """The call, with the copies of its arguments to the device and of its result back."""
    device = problem.device

    def to_device(tensors: Tensors) -> Tensors:
        return tuple(t.detach().to(device) for t in tensors)

    def call_with_copies(inputs: Tensors, *seed: Any) -> Tensors:
        copies = to_device(inputs)
        if leaves:
            for x in copies[: problem.differentiated]:
                x.requires_grad_()
        seeds = [to_device(s) if isinstance(s, tuple) else to_device((s,))[0] for s in seed]
        return tuple(b.to("cpu") for b in as_tuple(call(copies, *seeds)))

    return call_with_copies


@dataclass(eq=False)
class Contestant:
    """A mode's callable with private copies of the timed arguments, for gate and clock alike."""

    gate: Gate
    mode: str
    call: Callable[..., Any]
    leaves: bool
    sets: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        self.turns = itertools.cycle(self.sets)
        """The arguments of successive calls."""
        self.synchronize = synchronizer(self.gate.problem.device)
        self.fastest = 0
        """Nanoseconds of the fastest call of the checks."""
        self.work = 0
        """The same, in processor time where the call ran in this thread alone."""
        self.changes = state.Changes()
        """Changes of the state by its calls."""
        self.left_out = False
        """Whether there was no time for a check at other inputs than the timed ones."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first set, for instruments that read a single call."""
        return self.sets[0]

    def check(self, fresh: Sequence[int], again: bool | None = None, patience: int = 0) -> Finding:
        """Checks calls on the timed arguments, on the fresh ones of these indices, and on the timed
        ones again.

        The second call on the timed arguments detects side effects: an accumulated `.grad`, a
        changed input, a cached result. By default a slow call is repeated only after it was timed;
        `again` overrides that. Where the gate's deadline is near, the first check is the only one.
        Raises TooSlow if a call takes longer than `patience` nanoseconds, unless that is 0, and
        NoTime where it cannot be told in time whether a result is right.
        """
        try:
            finding = self._checked(fresh, again, patience)
        finally:
            changes = state.restore(self.gate.snapshot)
            self.changes.add(changes)
        if changes.by_torch and not changes:
            # Torch replaced functions that the gate uses while it checked the mode.
            finding = self._checked(fresh, again, patience)
        return finding

    def _checked(self, fresh: Sequence[int], again: bool | None, patience: int) -> Finding:
        began = time.perf_counter()
        finding = self._check(0, self.arguments)
        first = time.perf_counter() - began
        # A first call may load code, so it alone does not show that the mode is too slow.
        if patience and self.fastest > FIRST * patience:
            raise TooSlow(self.fastest)
        finding = self._check_timed(finding, 1)
        for index in fresh:
            if not finding.passed:
                return finding
            if self.gate.deadline.left < AGAIN * first:
                self.left_out = True
                return finding
            arguments = self.gate.deliver(self.gate.fresh[index], self.leaves)
            finding = finding.and_then(self._check(len(self.sets) + index, arguments))
            if patience and self.fastest > patience:
                raise TooSlow(self.fastest)
        if again is None:
            again = self.fastest < SLOW
        return self._check_timed(finding, 0) if again else finding

    def _check_timed(self, finding: Finding, first: int) -> Finding:
        """The finding, combined with those of the timed sets from `first` on until one fails."""
        for index in range(first, len(self.sets)):
            if finding.passed:
                finding = finding.and_then(self._check(index, self.sets[index]))
        return finding

    def _check(self, index: int, arguments: tuple[Any, ...]) -> Finding:
        before = look()
        try:
            start = CLOCK()
            result = self.call(*arguments)
            if self.synchronize is not None:
                self.synchronize()
            spent = CLOCK() - start
            work = own_time(spent, before, look())
        finally:
            self.gate.after_call()
            # Before the result is compared; `check` restores the slower items after all calls.
            self.changes.add(state.restore(self.gate.snapshot[: len(state.PER_CALL)]))
        self.fastest = min(self.fastest or spent, spent)
        self.work = min(self.work or work, work)
        finding = self.gate.judge(self.mode, index, result)
        return finding.and_then(self._side_effects(index, arguments))

    def _side_effects(self, index: int, arguments: tuple[Any, ...]) -> Finding:
        """Whether the call has changed its arguments."""
        gate = self.gate
        names = gate.problem.function.inputs
        tensors = arguments[0] + (as_tuple(arguments[1]) if len(arguments) > 1 else ())
        original = gate.argument_sets[index].tensors()
        for number, (now, before) in enumerate(zip(tensors, original)):
            name = names[number] if number < len(names) else "the seed"
            if now.shape != before.shape or not torch.equal(now.detach().cpu(), before):
                return Finding(f"changes {name} in place")
            if now.grad is not None:
                return Finding(f"leaves a gradient in {name}.grad, which the next call adds to")
            if now.requires_grad != (self.leaves and number < gate.problem.differentiated):
                return Finding(f"changes whether {name} requires grad")
        return Finding()
