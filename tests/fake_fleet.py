"""An engine in this process: nodes that can be lost, be busy or answer anything."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

from gradbench import __version__
from gradbench.core.cases import Comparison, Entry, Offer
from gradbench.fleet.engine import FleetError
from gradbench.fleet.jobs import LIMITS, READINGS, Answer, Look, Seen, Share, decode, encode
from gradbench.fleet.machines import Kind, Nodes, names
from gradbench.fleet.run import RunShares
from gradbench.runner.choosing import Opened
from gradbench.runner.plan import resume, start
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.store import runs
from gradbench.store.lines import encoded

MACHINE = {"cpu": "EPYC", "usable_cores": 8, "memory": 64 << 30, "system": "Linux 6"}
ENVIRONMENT = {
    "torch": "2.13.0+cpu",
    "torch_git": "abc",
    "cpu_capability": "AVX2",
    "python": "3.11.9",
    "numpy": "2.1.0",
    "gradbench": __version__,
    "devices": ["cpu"],
}
FUNCTIONS = ("exp", "three_x_squared", "sine")
ENTRIES = [
    Entry(Comparison.parse(f"vjp/{name}/documents/float32/cpu/1"), ("backward", "grad"))
    for name in FUNCTIONS
]
OFFERS = [
    Offer("vjp", name, "", "", "", "float32", "n=3", (), (), ("backward", "grad"), (), ("n",))
    for name in FUNCTIONS
]


def measured(name: Comparison, session: int, process: int, status: str = "ok"):
    """A session in which one of two modes may have another status."""
    samples = [[1000 + session], [1010 + session]]
    entrants = [
        runs.Entrant("backward", "ok", number=10, samples=samples),
        runs.Entrant("grad", status, number=10, samples=samples)
        if status == "ok"
        else runs.Entrant("grad", status, "it went wrong"),
        runs.Entrant("backward", "ok", number=10, samples=samples, control=True),
    ]
    return runs.SessionMeasured(
        *(name, session, process, "backward", entrants),
        *([[0, 1, 2], [2, 1, 0]] if status == "ok" else [[0, 2], [2, 0]], "rounds", 0.1, 0.2, 0.0),
    )


class Node:
    """Answers as a node does, without measuring. `change` replaces an answer to a share."""

    def __init__(self, machine=(), environment=(), refused="", change=None, status="ok"):
        self.machine = MACHINE | dict(machine)
        self.environment = ENVIRONMENT | dict(environment)
        self.refused = refused
        self.change = change or (lambda job, answer: answer)
        self.status = status
        self.busy = False
        self.shares: list[Share] = []
        self.name = ""

    def __call__(self, what: str, job: str) -> str:
        if what == "look":
            return encode(self.look(decode(job, Look)))
        share = decode(job, Share)
        self.shares.append(share)
        if self.busy:
            return encode(Answer(refused="it is busy", busy=True, node=self.name))
        return self.change(share, encode(Answer(self.lines(share), node=self.name)))

    def look(self, asked: Look) -> Seen:
        if self.busy:
            return Seen(refused="it is busy", busy=True)
        if self.refused:
            return Seen(refused=self.refused)
        modes = [{"mode": m, "by_hand": False, "opt_in": False} for m in ("backward", "grad")]
        return Seen(self.machine, self.environment, OFFERS, modes)

    def lines(self, share: Share) -> list[str]:
        if share.session in (READINGS, LIMITS):
            return []
        environment = {**self.environment, "node": self.name}
        records = [runs.WorkerStarted(1, environment, "2026-01-01T00:00:00Z")]
        records += [
            measured(entry.comparison, share.session, 1, self.status) for entry in share.entries
        ]
        return [encoded(record).decode() for record in records]


class Fake:
    """Gives each job to the nodes that may do it in turns. `before` is called with the engine
    before each job is done."""

    dashboard = ""

    def __init__(self, before: Callable[[Fake], None] = lambda engine: None, **nodes: Node):
        self.here: dict[str, Node] = {}
        for name, node in nodes.items():
            self.add(name, node)
        self.before = before
        self.jobs: dict[str, tuple[str, str, frozenset[str]]] = {}
        self.lost: set[str] = set()
        self.dead = False
        self.turn = itertools.count()
        self.done = 0

    def add(self, name: str, node: Node) -> None:
        node.name = name
        self.here[f"tcp://{name}"] = node

    def kill(self, name: str) -> None:
        self.here.pop(f"tcp://{name}")

    def nodes(self):
        if self.dead:
            raise FleetError("the scheduler no longer answers")
        return {address: node.name for address, node in self.here.items()}

    def submit(self, what, job, nodes):
        if self.dead:
            raise FleetError("the scheduler no longer answers")
        json.loads(job)
        handle = f"{what}-{next(self.turn)}"
        self.jobs[handle] = (what, job, frozenset(nodes))
        return handle

    def cancel(self, handles):
        for handle in handles:
            self.jobs.pop(handle, None)

    def answers(self, seconds):
        for handle, (what, job, allowed) in list(self.jobs.items()):
            able = sorted(allowed & self.here.keys())
            if not able:
                continue
            if what != "look":
                self.before(self)
                able = sorted(allowed & self.here.keys())
                self.done += 1
            if self.dead:
                raise FleetError("the scheduler no longer answers")
            if not able:
                continue
            answer = self.here[able[next(self.turn) % len(able)]](what, job)
            del self.jobs[handle]
            if isinstance(answer, tuple):
                return [(handle, *answer)]
            return [(handle, answer, "")]
        return []

    def close(self):
        pass


class Fleet:
    """The runs of a fleet in a results folder, one for each kind of node."""

    def __init__(self, engine, results, settings=None, old=None, seconds=60.0):
        self.notes: list[str] = []
        self.nodes = Nodes(engine, Look(__version__, {}, [], 1 << 30, True), self.notes.append)
        self.nodes.gather(seconds)
        settings = settings or Settings(sessions=3)
        self.shares = []
        kinds = self.nodes.by_kind()
        for kind, name in names(kinds).items():
            self.shares.append(self.share(kind, name, kinds[kind], results, settings, old))

    def share(self, kind: Kind, name: str, seen: Seen, results, settings, old) -> RunShares:
        if old is None:
            log, run = start(results, ENTRIES, settings, seen.discovery, facts=seen.machine)
        else:
            log, run, settings = resume(old)
        opened = Opened(log, run, settings, WorkerOptions(), seen.discovery)
        return RunShares(kind, name, len(self.nodes.of(kind)), True, opened)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for own in self.shares:
            own.opened.log.close()
