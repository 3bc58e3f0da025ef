"""The nodes of a fleet by their kinds: nodes of one kind measure one run, unlike ones never."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradbench.core.text import line
from gradbench.fleet.engine import START, Engine, FleetError
from gradbench.fleet.jobs import Answer, Look, Seen, decode, encode
from gradbench.report.machines import named
from gradbench.store.environment import IDENTITY, RESUMED, WorkerEnvironment
from gradbench.store.fields import check_machine

LOOKING, ASKING, INSTALLING = 180.0, 20.0, 3600.0
"""Seconds in which a node must say what it is, further ones for each build, and all of
them where it has builds to install. On a machine with several nodes they take turns."""

AGAIN = 60.0
"""Seconds after which a node that was busy is asked again."""

FACTS = ("cpu", "cores", "usable_cores", "architecture", "system", "governor", "turbo")
BUILD = (*RESUMED, "torch_cuda", "mkl", "malloc")

Kind = tuple[Any, ...]
"""All that times depend on and that a node tells: equal for like nodes."""


def kind_of(
    machine: Mapping[str, Any],
    environment: Mapping[str, Any],
    builds: Mapping[str, Mapping[str, Any]] = {},
) -> Kind:
    """The kind of a machine with a build of torch, and those of a track. Raises ValueError for
    facts that are none."""
    check_machine(dict(machine))
    facts = WorkerEnvironment.of(environment)
    others = [(name, *WorkerEnvironment.of(own).identity) for name, own in sorted(builds.items())]
    gib = round((machine.get("memory") or 0) / 2**30)
    return (
        *(machine.get(name) for name in FACTS),
        gib,
        *(getattr(facts, name) for name in BUILD),
        tuple(others),
    )


def seen_kind(seen: Seen) -> Kind:
    """The kind of a node by what it said. Raises ValueError where that cannot be."""
    builds = {name: built.identity for name, built in seen.builds.items()}
    return kind_of(seen.machine, seen.environment, builds)


def names(kinds: Mapping[Kind, Seen]) -> dict[Kind, str]:
    """A name for each kind: its machine, and where several have the same one, what differs."""
    labels = {kind: named(seen.machine) for kind, seen in kinds.items()}
    columns = [*FACTS, "memory", *BUILD]
    found = {}
    for kind, label in labels.items():
        alike = [other for other in labels if labels[other] == label]
        differing = [
            f"{columns[place].replace('_', ' ')} {line(str(value))}"
            for place, value in enumerate(kind[:-1])
            if len({str(other[place]) for other in alike}) > 1
        ]
        found[kind] = ", ".join([label, *(differing or _unlike_builds(kind, alike))])
    return found


def _unlike_builds(kind: Kind, alike: Iterable[Kind]) -> list[str]:
    """What differs in the builds of a track, where nothing else does."""
    each = [{name: facts for name, *facts in other[-1]} for other in alike]
    return [
        f"{what.replace('_', ' ')} {line(str(value))} in {name}"
        for name, *facts in kind[-1]
        for place, (what, value) in enumerate(zip(IDENTITY, facts))
        if len({str(other[name][place]) for other in each if name in other}) > 1
    ]


@dataclass
class Nodes:
    """The nodes of an engine: each is asked once what it is, and again later if it was busy."""

    engine: Engine
    asked: Look
    note: Callable[[str], None]
    """Called with a line about a node that does not measure."""
    there: dict[str, str] = field(default_factory=dict)
    """The names of all nodes, by address."""
    seen: dict[str, Seen] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    """The kinds of those that measure."""
    _looking: dict[str, str] = field(default_factory=dict)
    _busy_since: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def refresh(self, again: bool = True) -> None:
        """Asks the nodes that are new and, if `again`, those that were busy a while ago. Those that
        left are forgotten."""
        self.there = self.engine.nodes()
        for address in [a for a in self.seen if a not in self.there]:
            del self.seen[address]
            self.kinds.pop(address, None)
            self._busy_since.pop(address, None)
        for address, since in list(self._busy_since.items()):
            if again and time.monotonic() - since > AGAIN:
                del self._busy_since[address]
                self.seen.pop(address, None)
        gone = [h for h, address in self._looking.items() if address not in self.there]
        self.engine.cancel(gone)
        for handle in gone:
            del self._looking[handle]
        for address in self.there:
            if address not in self.seen and address not in self._looking.values():
                handle = self.engine.submit("look", encode(self.asked), [address])
                self._looking[handle] = address

    def take(self, handle: str, answer: str | None, reason: str) -> bool:
        """Takes the answer to a question of this object; False for another's."""
        address = self._looking.pop(handle, None)
        if address is None:
            return False
        if answer is None and not reason:
            return True
        try:
            seen: Seen = Seen(refused=reason) if answer is None else decode(answer, Seen)
            kind = None if seen.refused else seen_kind(seen)
        except ValueError as error:
            seen, kind = Seen(refused=f"its answer is malformed: {line(str(error), 200)}"), None
        self.seen[address] = seen
        if kind is not None:
            self.kinds[address] = kind
        else:
            self.refuse(address, seen)
        return True

    def refuse(self, address: str, seen: Seen) -> None:
        """Gives a node no more jobs; one that is busy is asked again later."""
        self.kinds.pop(address, None)
        if seen.busy:
            self._busy_since[address] = time.monotonic()
        said = f"{self.there.get(address, address)} does not measure: {line(seen.refused, 300)}"
        if said not in self._told:
            self._told.add(said)
            self.note(said)

    def put_aside(self, answer: Answer) -> None:
        """Gives the node that was too busy for a job no more of them, until it is quiet."""
        for address, name in self.there.items():
            if name == answer.node and address in self.kinds:
                self.refuse(address, Seen(refused=answer.refused, busy=True))

    def of(self, kind: Kind) -> list[str]:
        """The addresses of the nodes of a kind."""
        return [address for address, own in self.kinds.items() if own == kind]

    def by_kind(self) -> dict[Kind, Seen]:
        """The first node of each kind."""
        found: dict[Kind, Seen] = {}
        for address, kind in self.kinds.items():
            found.setdefault(kind, self.seen[address])
        return found

    def gather(self, seconds: float = 0.0) -> None:
        """Waits until every node has said what it is, so many seconds at most; those that do not in
        time are named, and may still join later. Raises FleetError where none measures."""
        usual = INSTALLING if self.asked.installing else LOOKING + ASKING * len(self.asked.builds)
        end = time.monotonic() + (seconds or usual)
        self.refresh(again=False)
        if not self.there:
            raise FleetError(f"the cluster has no node that measures; start some with: {START}")
        while self._looking and time.monotonic() < end:
            for handle, answer, reason in self.engine.answers(1.0):
                self.take(handle, answer, reason)
            self.refresh(again=False)
        for address in self._looking.values():
            self.note(f"{self.there[address]} does not answer; it may join later")
        if not self.kinds:
            said = [f"{self.there.get(a, a)}: {seen.refused}" for a, seen in self.seen.items()]
            raise FleetError("no node can measure: " + (line("; ".join(said), 600) or "no answer"))

    def summary(self) -> str:
        """How many nodes measure, in a few words."""
        busy = f", {len(self._busy_since)} busy" if self._busy_since else ""
        return f"{len(self.kinds)} of {len(self.there)} nodes measure{busy}"
