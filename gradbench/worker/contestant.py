"""A mode's callable under the gate: what a check calls, and what it must leave alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradbench import state
from gradbench.problems.function import as_tuple
from gradbench.worker.comparing import Finding, same
from gradbench.worker.devices import synchronizer
from gradbench.worker.interference import look, own_time

if TYPE_CHECKING:
    from gradbench.worker.gate import Gate

AGAIN = 2
"""How many times longer than the first check the time that is left has to be for another one."""

SLOW = 10_000_000
"""Nanoseconds of a call from which on it is checked with fewer repeats: of its own time, so that a
busy machine makes no call a slow one."""

FIRST = 50
"""How many times longer a first call may take than later ones, since it loads code."""

CLOCK = time.perf_counter_ns


class TooSlow(Exception):
    """A call takes longer than the time budget allows."""

    def __init__(self, nanoseconds: int) -> None:
        self.seconds = nanoseconds * 1e-9
        super().__init__(f"a call takes {nanoseconds * 1e-9:.2g} s, too long for this budget")


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
        """Whether there was no time for all checks but the first."""

    @property
    def slow(self) -> bool:
        """Whether its calls are checked with fewer repeats."""
        return self.work >= SLOW

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first set, for instruments that read a single call."""
        return self.sets[0]

    def check(self, fresh: Sequence[int], again: bool | None = None, patience: int = 0) -> Finding:
        """Checks calls on the timed arguments, on the fresh ones of these indices, and on the timed
        ones again.

        The second call on the timed arguments detects side effects: an accumulated `.grad`, a
        changed input, a cached result. By default a slow call is repeated only after it was timed;
        `again` overrides that. Where the gate's deadline is near, none follows the first.
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
            if self._short_of_time(first):
                return finding
            arguments = self.gate.deliver(self.gate.fresh[index], self.leaves)
            finding = finding.and_then(self._check(len(self.sets) + index, arguments))
            if patience and self.fastest > patience:
                raise TooSlow(self.fastest)
        if again is None:
            again = not self.slow
        if not again or not finding.passed or self._short_of_time(first):
            return finding
        return self._check_timed(finding, 0)

    def _short_of_time(self, first: float) -> bool:
        """Whether another check may not end in time, where the first took so many seconds."""
        self.left_out = self.left_out or self.gate.deadline.left < AGAIN * first
        return self.left_out

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
        finding = self.gate.judge(self.mode, index, result, spent * 1e-9)
        return finding.and_then(self._side_effects(index, arguments))

    def _side_effects(self, index: int, arguments: tuple[Any, ...]) -> Finding:
        """Whether the call has changed its arguments."""
        gate = self.gate
        names = gate.problem.function.inputs
        tensors = arguments[0] + (as_tuple(arguments[1]) if len(arguments) > 1 else ())
        original = gate.argument_sets[index].tensors()
        for number, (now, before) in enumerate(zip(tensors, original)):
            name = names[number] if number < len(names) else "the seed"
            if not same(now.detach().cpu(), before):
                return Finding(f"changes {name} in place")
            if now.grad is not None:
                return Finding(f"leaves a gradient in {name}.grad, which the next call adds to")
            if now.requires_grad != (self.leaves and number < gate.problem.differentiated):
                return Finding(f"changes whether {name} requires grad")
        return Finding()
