"""Reads Callgrind's profiles: what each function executes itself, and with all that it calls.

The format is documented at https://valgrind.org/docs/manual/cl-format.html. A profile names each
file and function once in full and then by a number; line numbers, which are relative, are not used.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from gradbench.analysis.symbols import OTHER, group, readable

DEPTH = 8
"""Calls of one function without a group by another that are followed to one with a group."""

_NAME = re.compile(r"(c?ob|c?fn)=(?:\((\d+)\))?\s*(.*)")


class Function(NamedTuple):
    """A function: the library that it is in, and its readable name. Overloads and instances of a
    template are one function."""

    library: str
    name: str


Call = tuple[Function, Function]
"""A caller and what it calls."""


class Unreadable(ValueError):
    """Not a profile, with the reason in one line."""


@dataclass
class Graph:
    """The instructions of one profile."""

    own: dict[Function, float] = field(default_factory=lambda: defaultdict(float))
    """Executed by a function itself."""
    calls: dict[tuple[Function, Function], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    """Executed in calls of the second function by the first, with all that they call."""

    @property
    def total(self) -> float:
        return sum(self.own.values())

    def minus(self, other: Graph) -> Graph:
        """This profile without what another one has; nothing becomes negative."""
        return Graph(_less(self.own, other.own), _less(self.calls, other.calls))

    def per(self, calls: int) -> Graph:
        return Graph(
            {f: value / calls for f, value in self.own.items()},
            {pair: value / calls for pair, value in self.calls.items()},
        )


K = TypeVar("K", Function, Call)


def _less(these: Mapping[K, float], those: Mapping[K, float]) -> dict[K, float]:
    left = {key: max(0.0, value - those.get(key, 0.0)) for key, value in these.items()}
    return {key: value for key, value in left.items() if value}


def read(path: Path) -> Graph:
    """A profile in a file. Raises Unreadable where it is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return parse(lines)
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from error


def parse(lines: Iterable[str]) -> Graph:
    """A profile. Raises Unreadable where it is none, or counts no instructions (`Ir`)."""
    graph, reader = Graph(), _Reader()
    for line in lines:
        reader.take(line.rstrip("\n"), graph)
    if not reader.events:
        raise Unreadable("not a profile of Callgrind: it names no events")
    return graph


class _Reader:
    """What the lines so far say: of which function the next costs are."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.positions = 1
        self.names: dict[tuple[str, str], str] = {}
        self.library = self.function = self.callee_library = self.callee = ""
        self.called = False
        """Whether the next line has the cost of a call."""

    def take(self, line: str, graph: Graph) -> None:
        if not line or line[0] == "#":
            return
        if line[0].isdigit() or line[0] in "+-*":
            self._cost(line, graph)
        elif found := _NAME.match(line):
            self._name(*found.groups())
        elif line.startswith("calls="):
            self.called = True
        elif line.startswith("events:"):
            self.events = line.split()[1:]
            if "Ir" not in self.events:
                raise Unreadable("it counts no instructions (Ir)")
        elif line.startswith("positions:"):
            self.positions = len(line.split()) - 1

    def _name(self, key: str, number: str | None, name: str) -> None:
        kind = key[-2:]
        if number is not None:
            name = self.names.setdefault((kind, number), self._short(kind, name))
        else:
            name = self._short(kind, name)
        match key:
            case "ob":
                self.library = self.callee_library = name
            case "fn":
                self.function = name
                self.callee_library = self.library
            case "cob":
                self.callee_library = name
            case _:
                self.callee = name

    @staticmethod
    def _short(kind: str, name: str) -> str:
        return os.path.basename(name) if kind == "ob" else readable(name)

    def _cost(self, line: str, graph: Graph) -> None:
        fields = line.split()[self.positions :]
        place = self.events.index("Ir") if self.events else 0
        try:
            # Costs at the end of a line that are 0 are left out.
            cost = int(fields[place]) if place < len(fields) else 0
        except ValueError as error:
            raise Unreadable(f"a cost that is no number: {line[:60]!r}") from error
        function = Function(self.library, self.function)
        if self.called:
            graph.calls[function, Function(self.callee_library, self.callee)] += cost
            self.called = False
            self.callee_library = self.library
        else:
            graph.own[function] += cost


class Cost(NamedTuple):
    """The instructions of a function per call of the case."""

    own: float
    inclusive: float | None
    """With all that it calls; None where it is called again before it has returned by way of other
    functions, so that this cannot be told from a profile."""


@dataclass(frozen=True)
class Profile:
    """The instructions of one call of a case, function by function."""

    totals: Sequence[float]
    """Of the repeats."""
    costs: Mapping[Function, Cost]
    groups: Mapping[str, float]
    """Instructions by group; those of `symbols.OTHER` went to the groups of their callers."""
    group_of: Mapping[Function, str]


def combined(empty: Graph, repeats: Sequence[Graph], calls: int) -> Profile:
    """The profile of one call: the medians over repeats of a number of calls each, less `empty`,
    which is the profile of none."""
    each = [graph.minus(empty).per(calls) for graph in repeats]
    graph = Graph(_medians([g.own for g in each]), _medians([g.calls for g in each]))
    own, inclusive = graph.own, inclusive_costs(graph)
    costs = {f: Cost(own.get(f, 0.0), inclusive.get(f)) for f in {*own, *inclusive}}
    shares = attributed(graph)
    groups: dict[str, float] = defaultdict(float)
    for function, instructions in own.items():
        for name, share in shares[function].items():
            groups[name] += share * instructions
    main = {f: max(share, key=lambda name: share[name]) for f, share in shares.items()}
    return Profile([g.total for g in each], costs, dict(groups), main)


def attributed(graph: Graph) -> dict[Function, dict[str, float]]:
    """The share of each group in what a function executes itself.

    A function that has no group of its own, such as a lock of the C library, belongs to its callers
    by what it executes in their calls.
    """
    callers: dict[Function, dict[Function, float]] = defaultdict(dict)
    for (caller, callee), cost in graph.calls.items():
        if cost and caller != callee:
            callers[callee][caller] = cost
    functions = {f for pair in graph.calls for f in pair} | set(graph.own)
    named = {f: group(f.library, f.name) for f in functions}
    shares = {f: {} if name == OTHER else {name: 1.0} for f, name in named.items()}
    helpers = [f for f, name in named.items() if name == OTHER]
    for _ in range(DEPTH):
        for helper in helpers:
            sums: dict[str, float] = defaultdict(float)
            for caller, cost in callers[helper].items():
                for name, share in shares[caller].items():
                    sums[name] += cost * share
            whole = sum(sums.values())
            shares[helper] = {name: part / whole for name, part in sums.items()} if whole else {}
    return {f: share or {OTHER: 1.0} for f, share in shares.items()}


def _medians(each: Sequence[Mapping[K, float]]) -> dict[K, float]:
    keys = {key for one in each for key in one}
    found = {key: statistics.median(one.get(key, 0.0) for one in each) for key in keys}
    return {key: value for key, value in found.items() if value}


def inclusive_costs(graph: Graph) -> dict[Function, float | None]:
    """What each function executes with all that it calls; None: see `Cost`.

    A function that calls itself directly is no such case: what its inner calls execute is that of
    the outer one.
    """
    called: dict[Function, dict[Function, float]] = {}
    for (caller, callee), cost in graph.calls.items():
        called.setdefault(caller, {})[callee] = cost
        called.setdefault(callee, {})
    for function in graph.own:
        called.setdefault(function, {})
    cyclic = {f for group in _cycles(called) if len(group) > 1 for f in group}
    return {
        function: None
        if function in cyclic
        else graph.own.get(function, 0.0) + sum(c for f, c in to.items() if f != function)
        for function, to in called.items()
    }


def _cycles(graph: Mapping[Function, Iterable[Function]]) -> Iterator[list[Function]]:
    """The strongly connected components (Tarjan 1972), without recursion."""
    index: dict[Function, int] = {}
    low: dict[Function, int] = {}
    stack: list[Function] = []
    on_stack: set[Function] = set()
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(graph[root]))]
        while work:
            node, left = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            for callee in left:
                if callee not in index:
                    work.append((callee, iter(graph[callee])))
                    break
                if callee in on_stack:
                    low[node] = min(low[node], index[callee])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    members: list[Function] = []
                    while not members or members[-1] != node:
                        members.append(stack.pop())
                        on_stack.discard(members[-1])
                    yield members
