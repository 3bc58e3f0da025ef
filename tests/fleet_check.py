"""What a fleet costs, with sessions that are a sleep: `make fleet-check`.

A scheduler, a driver and 1, 2 and 4 nodes on this machine. Prints how the wall time falls, the
overhead per session over the same sleeps in one process, and what an idle node takes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import psutil
from cluster import SECONDS, Cluster, pretend
from fake_fleet import ENTRIES, Fleet

from gradbench.fleet import measuring, shares
from gradbench.fleet.engine import Dask
from gradbench.runner.settings import Settings

SLEEP = 0.25
SESSIONS = 40
IDLE = 30.0


def wall(nodes: int) -> tuple[float, float, float]:
    """Seconds of a run on so many nodes; processor time of an idle node as a share of a core, and
    its memory in MiB."""
    with Cluster(nodes, **{SECONDS: str(SLEEP)}) as cluster, tempfile.TemporaryDirectory() as place:
        cluster.gather()
        with (
            contextlib.closing(Dask(cluster.address, pretend)) as engine,
            Fleet(engine, Path(place), Settings(sessions=SESSIONS)) as fleet,
        ):
            began = time.perf_counter()
            measuring.measure(fleet.shares, fleet.nodes)
            seconds = time.perf_counter() - began
        process = psutil.Process(next(iter(cluster.nodes.values())).pid)
        before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        time.sleep(IDLE if nodes == 1 else 0)
        idle = sum(process.cpu_times()[:2]) - before
        share = idle / max(time.perf_counter() - began, 1e-9) if nodes == 1 else 0.0
        return seconds, share, process.memory_info().rss / 2**20


def main() -> None:
    shares.SHARE = SLEEP
    count = SESSIONS * len(ENTRIES)
    direct = count * SLEEP
    print(f"{count} sessions, a sleep of {SLEEP} s each: {direct:.1f} s in one process")
    for nodes in (1, 2, 4):
        seconds, share, memory = wall(nodes)
        overhead = (seconds * nodes - direct) / count
        print(
            f"{nodes} node{'s' * (nodes > 1)}: {seconds:.1f} s, {direct / seconds:.2f} times "
            f"as fast, {1000 * overhead:.0f} ms of a node per session beside its sleep"
        )
        if nodes == 1:
            print(f"an idle node: {share:.2%} of a core, {memory:.0f} MiB, one process")


if __name__ == "__main__":
    main()
