"""The gate: compares each mode with the analytic derivative, before and after it is timed.

*Exact* is the analytic derivative in float64 at the mode's own inputs. The error that an entry may
have is that of rounding in the dtype: see `gradbench.worker.allowance`, and docs/correctness.md for
the errors of the catalogue's modes. A result that rounding alone might explain is right only if the
error goes away where the same mode computes in float64.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbench import state
from gradbench.core.cases import FORWARD
from gradbench.core.deadline import Deadline
from gradbench.core.operators import OPERATORS, like_value
from gradbench.problems import registry
from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.worker.allowance import LIBRARY, Allowance, Path, computed_by
from gradbench.worker.comparing import Finding, compare, mismatch
from gradbench.worker.contestant import CLOCK, SLOW, Contestant
from gradbench.worker.entries import SUSPECTS, suspects
from gradbench.worker.interference import look, own_time
from gradbench.worker.products import ALLOWED, Products, Row
from gradbench.worker.sparse import Entries
from gradbench.worker.urgency import Late, until

REFERENCE_SHARE = 0.5
"""The share of the time that is left which the exact derivative may take, where products of it can
stand in."""

MODES_ROOM = "gradbench.modes"
"""Modes that are declared there have no tables of their own."""

COARSE = 2.0**-16
"""The unit in the last place from which on a mode is always evaluated in float64 too: what the
dtype itself allows is too much to go by."""

SINGLE = 2.0**-23
"""The unit of float32: a mode of the user's own may have tables in it."""

FEW, FEWER = 32, 4
"""The rows that are drawn in Monte Carlo arithmetic one by one are at most so many, and so many
times fewer than all."""

TWICE = 4
"""How many times longer than a call the time that is left has to be for one in float64."""


class NoTime(Exception):
    """There is no time left to find out whether a result is right; the message says what for."""


@dataclass(frozen=True)
class _Values:
    """What is compared: the blocks of a result, or products or rows of them, in float64."""

    name: Callable[[int, list[int]], str]
    """What the number at some indices of a block is, in words."""
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
        self.entries: Entries | None = None
        """Where a sparse result has entries, from the first exact result on."""
        self.deadline = Deadline()
        """Until when a check has to end: what it then lacks raises NoTime, or is left out."""
        self.memory_limit = math.inf
        """Bytes that a mode may take: what needs more in float64 is not evaluated in it."""
        self._wider: dict[tuple[str, int], Finding | None] = {}
        self._suspects: dict[tuple[str, int], list[Row]] = {}
        """The rows of a large result that are off, by the mode's own result in float64."""
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
            problem, operator = self.problem, OPERATORS[self.problem.operator]
            ways: list[Path] = [self._forward]
            further: list[Path] = []
            rows: Sequence[int | Tensor] = (len(problem.output),)
            if not forward:
                rows = operator.rows(problem)
                ways, further = [self._derivative], [computed_by(operator.further, problem)]
                if self.products is not None:
                    with self._undone():
                        self.products.begin(self.timed[0].cast(torch.float64))
                    rows = self.products.dimensions
                    ways, further = [self.products.exact], []
                elif not problem.function.reverse:
                    ways.append(computed_by(operator.reverse, problem))
                if operator.sparse:
                    entries = self._entries()
                    ways, further = (list(map(entries.way, some)) for some in (ways, further))
                    rows = entries.rows
            with self._undone():
                expected = Allowance(
                    ways,
                    further,
                    self.argument_sets[index],
                    problem.differentiated,
                    rows,
                    unit=float(torch.finfo(torch.float64).eps) if wide else problem.unit,
                    dtype=torch.float64 if wide else problem.dtype,
                    entry_unit=min(problem.unit, SINGLE) if wide else problem.unit,
                    blocks=self._expect(forward, index).blocks if wide else None,
                    library=problem.function.reverse,
                )
            self._require_range(expected.blocks)
            self._expected[key] = expected
        return self._expected[key]

    def _entries(self) -> Entries:
        """Where the exact sparse results have entries."""
        if self.entries is None:
            with self._undone():
                results = [self._derivative(a.cast(torch.float64)) for a in self.argument_sets]
            self.entries = Entries.of(self.problem, results)
        return self.entries

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
        formula = self.problem.function.formulas[self.problem.operator]
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

    def judge(self, mode: str, index: int, result: Any, seconds: float = 0.0) -> Finding:
        """Compares a result, which took so many seconds, with the exact one for the argument set
        of that index."""
        forward = mode == FORWARD
        shapes = (self.problem.output,) if forward else self.problem.result
        blocks = as_tuple(result)
        if len(blocks) != len(shapes):
            return Finding(f"returned {len(blocks)} blocks instead of {len(shapes)}")
        device = torch.device("cpu") if self.transfer else self.problem.device
        sparse = not forward and OPERATORS[self.problem.operator].sparse
        layout = torch.sparse_coo if sparse else torch.strided
        for number, (block, shape) in enumerate(zip(blocks, shapes)):
            coarsest = self.problem.function.unit
            if reason := mismatch(block, shape, self.problem.dtype, device, layout, coarsest):
                return Finding(f"{self._block_name(forward, number)}: {reason}")
        # What is compared by products needs to know whether forward mode is right.
        self._expect(forward, index)
        if forward:
            finding = self._judged_forward(index, blocks)
        else:
            finding = self._judged(mode, index, blocks, seconds)
        wider = any(block.dtype == torch.float64 != self.problem.dtype for block in blocks)
        if finding.passed and wider and self.value_dtype != torch.float64:
            # Forward mode does, of a Python number times a tensor of no dimensions.
            raise Unsupported(f"returns torch.float64 for {self.problem.dtype}")
        return finding

    @functools.cached_property
    def value_dtype(self) -> torch.dtype:
        """The dtype of the function's value, which may be another one than that of its inputs."""
        return self.problem.forward(*self.timed[0].inputs).dtype

    def _values(self, blocks: Tensors, forward: bool = False) -> _Values:
        if self.entries is not None and not forward:
            return _Values(self.entries.name, self.entries.values(blocks))
        if forward or self.products is None:
            wide = [block.detach().to("cpu", torch.float64) for block in blocks]
            return _Values(lambda number, at: f"{self._block_name(forward, number)}{at}", wide)
        products, inputs = self.products, self.problem.function.inputs
        return _Values(
            lambda number, at: f"{products.name(number, inputs)}{at}", *products.reduced(blocks)
        )

    def _judged_forward(self, index: int, blocks: Tensors) -> Finding:
        return self._compared(self._values(blocks, forward=True), self._expect(True, index))

    def _judged(self, mode: str, index: int, blocks: Tensors, seconds: float) -> Finding:
        values, expected = self._values(blocks), self._expect(False, index)
        if self.entries is not None:
            finding = self.entries.elsewhere(blocks, expected.blocks)
            if not finding.passed:
                return finding
        finding = self._compare(values, expected, expected.allowed(0))
        narrow = self.problem.dtype != torch.float64
        large = self.products is not None
        wide = None
        if narrow and (large or not finding.passed or self.problem.unit > COARSE):
            wide = self._in_float64(mode, index, blocks, seconds, finding.passed)
            if wide is not None and not wide.passed:
                return Finding(f"{wide.reason}, in float64 too", wide.error, wide.ulps)
        if not finding.passed and wide is not None:
            # What goes away in float64 and is no more than the rounding of a sum need not be
            # looked at in Monte Carlo arithmetic, which is slow.
            summed = self._compare(values, expected, expected.in_a_row())
            if not summed.passed and not large:
                summed = self._judged_few(index, blocks, expected)
            finding = summed if summed.passed else finding
        if not finding.passed:
            finding = self._compared(values, expected)
        if finding.passed and large:
            finding = finding.and_then(self._judged_rows(mode, index, blocks, values, expected))
        return finding

    def _judged_rows(
        self, mode: str, index: int, blocks: Tensors, values: _Values, expected: Allowance
    ) -> Finding:
        """Compares the rows of a large result that are the most likely to be wrong with exact ones,
        entry by entry."""
        products = self.products
        assert products is not None
        rows = self._suspects.pop((mode, index), None)
        known = rows is not None
        if rows is None:
            rows = products.most_off(self._shares(values, expected), SUSPECTS)
        try:
            return self._by_rows(products, rows, index, blocks)
        except NoTime:
            if known:
                raise
            return Finding()

    def _judged_few(self, index: int, blocks: Tensors, expected: Allowance) -> Finding:
        """Compares the rows that rounding of sums does not explain with exact ones, where they are
        few: Monte Carlo arithmetic then takes a pass for each of them instead of all."""
        problem = self.problem
        products = Products.of(problem, always=True)
        if products is None:
            return Finding("there are no rows")
        most = min(FEW, products.rows // FEWER)
        unit, least = problem.unit, problem.smallest
        rows = suspects(products, blocks, expected.blocks, unit, least, most + 1)
        if not rows or len(rows) > most:
            return Finding("they are too many")
        return self._by_rows(products, rows, index, blocks, expected.blocks)

    def _by_rows(
        self,
        products: Products,
        rows: Sequence[Row],
        index: int,
        blocks: Tensors,
        known: Sequence[Tensor] = (),
    ) -> Finding:
        """Compares these rows with exact ones, of `known` blocks if there are any, entry by entry.
        Raises NoTime."""
        problem = self.problem
        if not rows:
            return Finding()
        try:
            with self._undone(), until(self.deadline):
                exact = Allowance(
                    [functools.partial(products.exact_rows, rows)],
                    [],
                    self.argument_sets[index],
                    problem.differentiated,
                    [1] * problem.differentiated,
                    unit=problem.unit,
                    dtype=problem.dtype,
                    blocks=products.rows_of(rows, known) if known else None,
                    library=problem.function.reverse,
                )
        except Late:
            raise NoTime("no time is left to see whether its rows are rounded right") from None

        def name(column: int, at: list[int]) -> str:
            row = rows[at[0]]
            block = self._block_name(False, row[0] * problem.differentiated + column)
            return f"{block}{[*products.index_of(row), *at[1:]]}"

        return self._compared(_Values(name, products.rows_of(rows, blocks)), exact)

    def _shares(self, values: _Values, expected: Allowance) -> list[Tensor]:
        """How far products are off, as shares of what is allowed."""
        allowed = self._noisy(values, expected, expected.allowed(0))
        triples = zip(values.blocks, expected.blocks, allowed)
        return [(value - exact).abs() / most for value, exact, most in triples]

    def _compared(self, values: _Values, expected: Allowance) -> Finding:
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
            finding = self._compare(values, expected, allowed)
            if finding.passed:
                return finding
            level += 1
        if expected.trouble:
            return dataclasses.replace(finding, reason=f"{finding.reason}; {expected.trouble}")
        return finding

    def _noisy(
        self, values: _Values, expected: Allowance, allowed: Tensors, unit: float = 0.0
    ) -> Tensors:
        """What is allowed, and what products are off by where entries are rounded, in units of the
        dtype or in those given."""
        if not values.sizes:
            return allowed
        library = LIBRARY if self.problem.function.reverse else 0.0
        noise = ALLOWED * (unit or expected.unit) + library
        return tuple(a + noise * size for a, size in zip(allowed, values.sizes))

    def _compare(
        self, values: _Values, expected: Allowance, allowed: Tensors, rounded: float = 0.0
    ) -> Finding:
        finding, unit = Finding(), self.problem.unit
        allowed = self._noisy(values, expected, allowed, rounded)
        for number, value in enumerate(values.blocks):
            name, exact = functools.partial(values.name, number), expected.blocks[number]
            finding = finding.and_then(compare(name, value, exact, allowed[number], unit))
        return finding

    def _in_float64(
        self, mode: str, index: int, blocks: Tensors, seconds: float, passed: bool
    ) -> Finding | None:
        """How far the mode is off where it computes in float64; None if it cannot.

        Like a slow call, a slow evaluation is not repeated: that of the first set stands for all.
        A large result is compared with it entry by entry. `passed` says whether the result in the
        dtype is right as far as is known.
        """
        key = (mode, self._slow.get(mode, index))
        if key not in self._wider:
            began, before = CLOCK(), look()
            try:
                self._wider[key] = self._evaluated(mode, index, blocks, seconds, passed)
            except Exception:
                # Whatever it cannot do in float64 says nothing about the dtype that is measured.
                self._wider[key] = None
            if own_time(CLOCK() - began, before, look()) > SLOW:
                self._slow[mode] = index
        return self._wider[key]

    def _evaluated(
        self, mode: str, index: int, blocks: Tensors, seconds: float, passed: bool
    ) -> Finding | None:
        """As `_in_float64`, once; raises whatever the mode raises in float64."""
        problem, products = self.problem, self.products
        declared = registry.MODES[problem.operator, mode]
        ours = declared.build.__module__.startswith(MODES_ROOM)
        if products is not None:
            needed = self.bytes_needed(0) + 8 * declared.numbers_at_peak(problem)
            if TWICE * seconds > self.deadline.left or needed > self.memory_limit:
                return None
        way = computed_by(mode, problem)
        with self._undone(), until(self.deadline):
            wide = way(self.argument_sets[index].cast(torch.float64))
        values, expected = self._values(wide), self._expect(False, index, wide=True)
        if passed and not ours:
            # The user's own may have tables in float32, which are no error of the dtype's.
            finding = self._compare(values, expected, expected.in_a_row(SINGLE), SINGLE)
        else:
            finding = self._compared(values, expected)
        if finding.passed and products is not None:
            least = problem.smallest
            self._suspects[mode, index] = suspects(products, blocks, wide, problem.unit, least)
        return finding

    def look_again(self, mode: str) -> None:
        """Has a mode evaluated in float64 anew at the timed inputs, or at those that stand for all,
        as something may have changed since: the function's own backward is part of it."""
        for index in {*range(len(self.timed)), self._slow.get(mode, 0)}:
            self._wider.pop((mode, index), None)

    def _block_name(self, forward: bool, number: int) -> str:
        if forward or OPERATORS[self.problem.operator].shapes is like_value:
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
