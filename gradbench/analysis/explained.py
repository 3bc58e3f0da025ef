"""What differs between two sides of an explanation: groups of functions, functions, operations."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradbench.analysis.symbols import GROUPS, WORK
from gradbench.core.units import reading
from gradbench.store.environment import WorkerEnvironment
from gradbench.store.explanations import Explanation, FunctionCost, SideProfiled

SAME = 0.005
"""Counts of the same code in two processes differ by less than this share."""

MOSTLY = 0.8
"""A change is overhead, or work, where it is so to this share."""

NAMED = 3
"""Groups that a sentence names."""


@dataclass(frozen=True)
class Change:
    """Something on both sides, and how much of it there is in one call."""

    name: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class FunctionChange(Change):
    """A function; `before` and `after` are the instructions that it executes itself."""

    library: str
    group: str
    inclusive_before: float | None
    inclusive_after: float | None

    @property
    def inclusive(self) -> Change | None:
        """With all that it calls; None where that is unknown."""
        before, after = self.inclusive_before, self.inclusive_after
        return None if before is None or after is None else Change(self.name, before, after)


@dataclass(frozen=True)
class Explained:
    """One side, or two and their differences. With one side, `before` is it as well as `after`."""

    explanation: Explanation
    before: SideProfiled
    after: SideProfiled

    @property
    def alone(self) -> bool:
        """Whether there is one side only."""
        return self.before is self.after

    @property
    def of_releases(self) -> bool:
        return self.explanation.started.of == "releases"

    @cached_property
    def groups(self) -> list[Change]:
        """Every group of functions, in the order of `symbols.GROUPS`."""
        one, two = self.before.groups, self.after.groups
        return [
            Change(name, one.get(name, 0.0), two.get(name, 0.0))
            for name in GROUPS
            if one.get(name) or two.get(name)
        ]

    @cached_property
    def functions(self) -> list[FunctionChange]:
        """Every stored function: those that changed most first; of one side, the most costly."""
        one, two = (
            {(f.library, f.name): f for f in side.functions} for side in (self.before, self.after)
        )
        every = [_function(one.get(key), two.get(key)) for key in {**one, **two}]
        if self.alone:
            return sorted(every, key=lambda f: (-f.after, f.name))
        return sorted(every, key=lambda f: (-abs(f.change), f.name))

    @cached_property
    def operations(self) -> list[Change]:
        """The dispatched operations that differ; of one side, all."""
        return self._counts(self.before.operations, self.after.operations)

    @cached_property
    def python_calls(self) -> list[Change]:
        """The Python functions whose number of calls differs; of one side, all."""
        return self._counts(self.before.python_calls, self.after.python_calls)

    def _counts(self, one: Mapping[str, int], two: Mapping[str, int]) -> list[Change]:
        every = [Change(name, one.get(name, 0), two.get(name, 0)) for name in {**one, **two}]
        if self.alone:
            return sorted(every, key=lambda c: (-c.after, c.name))
        return sorted((c for c in every if c.change), key=lambda c: (-abs(c.change), c.name))

    @property
    def change(self) -> float:
        """Instructions more, or fewer, in a call."""
        return self.after.total - self.before.total

    @property
    def ratio(self) -> float:
        return self.after.total / self.before.total if self.before.total else 1.0

    @property
    def resolution(self) -> float:
        """The share of a count below which a difference is none."""
        return max(SAME, *(spread(side.repeats) for side in (self.before, self.after)))

    @property
    def differs(self) -> bool:
        return abs(self.ratio - 1) > self.resolution

    @cached_property
    def sentence(self) -> str:
        """What this is about, in one sentence with numbers."""
        if self.alone:
            return _composition(self)
        if self.of_releases:
            return _releases(self)
        return _modes(self)

    @property
    def notes(self) -> list[str]:
        """What a reader has to know to take the numbers for what they are."""
        found = []
        for side in dict.fromkeys((self.before.side, self.after.side)):
            own = self.before if side == self.before.side else self.after
            timed = str(own.environment.get("cpu_capability") or "")
            if own.capability and timed and own.capability != timed:
                found.append(
                    f"{side}: counted with {own.capability}, since Valgrind knows no other; "
                    f"outside of it torch uses {timed} here, whose kernels may differ"
                )
        one, two = self.before.capability, self.after.capability
        if one != two:
            found.append(
                f"the sides use different CPU instructions: {one} and {two} "
                "(--cpu-capability holds both to the same)"
            )
        found += [
            f"also differs: {name} {before} → {after}"
            for name, before, after in WorkerEnvironment.of(self.before.environment).differences(
                WorkerEnvironment.of(self.after.environment), ("python", "numpy", "torch_cuda")
            )
        ]
        return found


def spread(repeats: Sequence[float]) -> float:
    """How far apart the repeats of a count are, as a share of it."""
    middle = statistics.median(repeats)
    return (max(repeats) - min(repeats)) / middle if middle else 0.0


def of(explanation: Explanation) -> Explained | None:
    """What an explanation says; None where a side of it was lost."""
    sides = {side.side: side for side in explanation.sides}
    names = explanation.started.sides
    if not all(name in sides for name in names):
        return None
    return Explained(explanation, sides[names[0]], sides[names[-1]])


def _function(one: FunctionCost | None, two: FunctionCost | None) -> FunctionChange:
    there = two or one
    assert there is not None
    return FunctionChange(
        name=there.name,
        before=one.own if one else 0.0,
        after=two.own if two else 0.0,
        library=there.library,
        group=there.group,
        inclusive_before=one.inclusive if one else 0.0,
        inclusive_after=two.inclusive if two else 0.0,
    )


# ── sentences ─────────────────────────────────────────────────────────────────────────────────


def _releases(found: Explained) -> str:
    totals = _totals(found)
    if not found.differs:
        said = (
            f"{found.after.side} and {found.before.side} execute the same number of instructions "
            f"({totals}, {found.ratio - 1:+.1%}; counts resolve {found.resolution:.1%})"
        )
        if found.operations:
            return f"{said}; {len(found.operations)} dispatched operations differ in number."
        return f"{said}; nothing that executes differs by more."
    return (
        f"{found.after.side} executes {found.ratio:.3g}× the instructions of "
        f"{found.before.side} ({totals}), {_where(found)}."
    )


def _where(found: Explained) -> str:
    """In which group most of a change is, and in which of its functions."""
    sign = 1 if found.change > 0 else -1
    group = max(found.groups, key=lambda g: sign * g.change)
    share = group.change / found.change
    part = f"{percent(share)} of the change" if share <= 1.2 else signed(group.change)
    own = [f for f in found.functions if f.group == group.name]
    grown = [f for f in own if sign * f.change > 0]
    if not grown:
        return f"{part} in {group.name}"
    said = f"{part} in {group.name}: "
    kernel = _kernel(own, sign)
    if kernel is not None and kernel.inclusive is not None:
        said += f"{_inner(kernel.name)} {_step(kernel.inclusive)} with what it calls, above all "
    said += f"{grown[0].name} {_step(grown[0])}"
    gone = next((f for f in own if not f.after and sign * f.change < 0), None)
    return f"{said}, while {gone.name} {_step(gone)}" if gone else said


def _kernel(functions: Sequence[FunctionChange], sign: int) -> FunctionChange | None:
    """The function of at::native with which a change comes, where that is called by it."""
    native = [
        f
        for f in functions
        if "at::native::" in f.name
        and f.inclusive is not None
        and sign * f.inclusive.change > 2 * sign * f.change
    ]
    return max(
        native, key=lambda f: sign * f.inclusive.change if f.inclusive else 0.0, default=None
    )


def _inner(name: str) -> str:
    """The function that a wrapper wraps."""
    return name.partition("<")[2].rstrip(">") or name


def _step(change: Change) -> str:
    if not change.before:
        return f"(new, {number(change.after)})"
    if not change.after:
        return f"({number(change.before)}) is gone"
    return f"({number(change.before)} → {number(change.after)})"


def _modes(found: Explained) -> str:
    totals = _totals(found)
    names = found.after.side, found.before.side
    if not found.differs:
        return (
            f"{names[0]} and {names[1]} execute the same number of instructions ({totals}, "
            f"{found.ratio - 1:+.1%}; counts resolve {found.resolution:.1%})."
        )
    work = sum(g.change for g in found.groups if g.name in WORK)
    overhead = found.change - work
    share = overhead / found.change
    what = "Overhead" if share >= MOSTLY else "Work" if share <= 1 - MOSTLY else "Overhead and work"
    ahead = f"{what}: {names[0]} executes {found.ratio:.3g}× the instructions of {names[1]}"
    if work * overhead < 0:
        return f"{ahead} ({totals}): {signed(overhead)} of overhead, {signed(work)} in kernels."
    parts = _parts(found.groups, found.change)
    return (
        f"{ahead} ({totals}); {percent(share)} of the difference is overhead "
        f"({parts}), {percent(1 - share)} kernels."
    )


def _parts(groups: Sequence[Change], whole: float) -> str:
    """The largest parts of an overhead, as shares of a change."""
    largest = sorted((g for g in groups if g.name not in WORK), key=lambda g: -g.change / whole)[
        :NAMED
    ]
    return ", ".join(
        f"{g.name} {percent(g.change / whole)}" for g in largest if g.change / whole > 0
    )


def _composition(found: Explained) -> str:
    side, total = found.after, found.after.total
    work = sum(side.groups.get(name, 0.0) for name in WORK) / total if total else 0.0
    what = "Overhead" if work <= 1 - MOSTLY else "Work" if work >= MOSTLY else "Overhead and work"
    parts = _parts([Change(g.name, 0.0, g.after) for g in found.groups], total)
    return (
        f"{what}: of the {number(total)} instructions of a call of {side.side}, "
        f"{percent(1 - work)} are overhead ({parts}) and {percent(work)} kernels."
    )


def _totals(found: Explained) -> str:
    return f"{number(found.before.total)} → {number(found.after.total)} a call"


def number(value: float) -> str:
    """Instructions with three digits: ``12.3 M``."""
    return reading(value, "instructions") if value >= 1 else "0"


def percent(share: float) -> str:
    """A share in whole per cent; without a sign where it is 0."""
    return f"{round(100 * share) or 0}%"


def signed(value: float) -> str:
    """A change of instructions with its sign."""
    return f"{'+' if value >= 0 else '−'}{number(abs(value))}"
