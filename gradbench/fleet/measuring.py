"""Hands jobs to the nodes of a fleet, and stores what comes home, until nothing is lacking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gradbench.core.text import line
from gradbench.core.units import counted
from gradbench.fleet.engine import FleetError
from gradbench.fleet.machines import Nodes
from gradbench.fleet.shares import Shares
from gradbench.runner.progress import Progress, Report, silent

WAIT = 300.0
"""Seconds without any node of a kind, after which its run is ended."""

TICK = 1.0
"""Seconds between looks at the nodes."""


def measure(
    shares: Sequence[Shares],
    nodes: Nodes,
    report: Report = silent,
    note: Callable[[str], None] = lambda said: None,
) -> None:
    """Measures what runs lack on the nodes of their kinds, and stores it as it comes home.

    Whatever stops it, the logs have all that came home. A run of which something could not be
    measured ends unfinished, and can be resumed. Raises FleetError where the scheduler is lost,
    StoreError where the disk is full.
    """
    began = time.perf_counter()
    finished = False
    try:
        while True:
            nodes.refresh()
            for own in shares:
                _hand_out(own, nodes, note)
            report(_progress(shares, nodes, time.perf_counter() - began))
            if all(own.over for own in shares):
                break
            for handle, answer, reason in nodes.engine.answers(TICK):
                _take(shares, nodes, handle, answer, reason)
        finished = True
    except FleetError as error:
        names = " and ".join(own.stored.name for own in shares if not own.over)
        raise FleetError(
            f"{error}; everything that came home is kept: --resume NAME --on ADDRESS goes on with "
            f"{names}"
        ) from error
    finally:
        nodes.engine.cancel([handle for own in shares for handle in own.flying])
        for own in shares:
            own.end(finished and own.over, time.perf_counter() - began)


def _hand_out(own: Shares, nodes: Nodes, note: Callable[[str], None]) -> None:
    """Gives the engine as many jobs of a run as it has nodes, and one more, so that none waits."""
    there = frozenset(nodes.of(own.kind))
    engine = nodes.engine
    for handle, (_, allowed) in list(own.flying.items()):
        if not allowed & nodes.there.keys():
            # Those that could have done it are gone for good: another one gets another address.
            engine.cancel([handle])
            own.back(handle)
    if not there:
        own.idle_since = own.idle_since or time.monotonic()
        if time.monotonic() - own.idle_since > WAIT and not own.flying and own.waiting:
            own.given_up.append(f"no node of {own.name} was there for {WAIT:.0f} s")
            note(f"{own.name}: no node measures any more")
            own.waiting.clear()
        return
    own.idle_since = None
    while len(own.flying) <= len(there) and (job := own.next()) is not None:
        own.flying[engine.submit(own.what, own.text(job), there)] = (job, there)


def _take(
    shares: Sequence[Shares], nodes: Nodes, handle: str, answer: str | None, reason: str
) -> None:
    if nodes.take(handle, answer, reason):
        return
    for own in shares:
        if handle in own.flying:
            made = own.take(handle, answer, reason)
            if made.busy:
                nodes.put_aside(made)
            elif made.refused:
                nodes.note(f"{made.node or own.name}: {line(made.refused, 300)}")


def _progress(shares: Sequence[Shares], nodes: Nodes, elapsed: float) -> Progress:
    steps = sum(own.steps for own in shares)
    done = sum(own.done for own in shares)
    left = sum(len(own.waiting) + len(own.flying) for own in shares)
    return Progress(
        # What was given up or spared counts as done at the end.
        min(done, steps) if left else steps,
        steps,
        nodes.summary(),
        elapsed,
        sum(own.skipped for own in shares),
        unit="sessions",
    )


def lacks_something(shares: Sequence[Shares]) -> list[str]:
    """Why runs are unfinished, a line each."""
    return [
        f"{own.stored.name} ({own.name}) lacks {counted(len(own.given_up), 'job')}: "
        f"{own.given_up[0]}"
        for own in shares
        if own.given_up
    ]
