"""A fleet with a real scheduler and nodes that are processes, some of which are killed.

`make fleet-check` runs these: they start dozens of processes.
"""

import contextlib
import random
import sys
import threading
import time

import pytest
from fake_fleet import ENTRIES, Fleet
from in_process import gradbench

from gradbench import __version__
from gradbench.fleet import machines, measuring, shares
from gradbench.fleet.engine import Dask, FleetError
from gradbench.fleet.jobs import Look
from gradbench.runner.settings import Settings
from gradbench.store import runs, tracks

pytest.importorskip("distributed")
from cluster import SECONDS, Cluster, pretend

pytestmark = [pytest.mark.slow, pytest.mark.started]

SESSIONS = 12
PLANNED = {(entry.comparison, session) for entry in ENTRIES for session in range(SESSIONS)}


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch):
    monkeypatch.setattr(shares, "SHARE", 0.1)


@contextlib.contextmanager
def fleet(address, results, nodes, old=None):
    """The fleet at an address, once it has so many nodes."""
    with contextlib.closing(Dask(address, pretend)) as engine:
        until = time.monotonic() + 60
        while len(engine.nodes()) < nodes and time.monotonic() < until:
            time.sleep(0.1)
        with Fleet(engine, results, Settings(sessions=SESSIONS), old) as made:
            yield made


def measure(made):
    measuring.measure(made.shares, made.nodes, note=made.notes.append)
    return runs.read(made.shares[0].opened.stored.path)


def test_kills_of_nodes_and_of_the_scheduler_lose_at_most_what_is_in_flight(tmp_path):
    """Ten nodes are killed and replaced at random, then the scheduler; the run is resumed with
    another one. Every session is there, once."""
    chance = random.Random(1)
    slow = {SECONDS: "0.2"}
    seen = 0
    with Cluster(4, **slow) as cluster, fleet(cluster.address, tmp_path, 4) as made:
        stop = threading.Event()

        def measured(number):
            """Waits until so many sessions came home; False where the test has ended."""
            while made.shares[0].done < number:
                if stop.wait(0.02):
                    return False
            return True

        def kill():
            for number in range(10):
                if not measured(2 * number + 1):
                    return
                cluster.kill(chance.choice(list(cluster.nodes)))
                cluster.add(f"later{number}")
            if measured(24):
                cluster.scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(FleetError, match="no longer answers"):
                measure(made)
        finally:
            stop.set()
            killer.join()
        stored = runs.read(made.shares[0].opened.stored.path)
        seen = len(stored.sessions)
        assert not stored.finished
        assert not stored.problems
    with Cluster(2) as cluster, fleet(cluster.address, tmp_path, 2, stored) as made:
        stored = measure(made)
    assert stored.finished
    assert stored.done() == PLANNED
    assert len(stored.sessions) == len(PLANNED) >= seen
    assert not stored.problems


def test_two_drivers_at_once(tmp_path):
    with Cluster(2, **{SECONDS: "0.02"}) as cluster:
        found = []

        def drive(place):
            with fleet(cluster.address, place, 2) as made:
                found.append(measure(made))

        drivers = [threading.Thread(target=drive, args=(tmp_path / n,)) for n in "ab"]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
    assert [stored.done() for stored in found] == [PLANNED, PLANNED]


def test_a_node_says_what_it_is_and_measures(tmp_path):
    """Cases of the catalogue, by the command, on two kinds of node."""
    with Cluster() as cluster:
        cluster.add("plain")
        cluster.add("held", ATEN_CPU_CAPABILITY="default")
        cluster.gather()
        words = ("--operator", "vjp", "--function", "exp", "--sessions", 2, "--results", tmp_path)
        done = gradbench("run", "--on", cluster.address, "--even-if-busy", *words)
        assert done.returncode == 0, done.stderr
    found, problems = runs.read_all(tmp_path)
    assert not problems
    by_node = {run.workers[0].environment["node"]: run for run in found}
    assert by_node.keys() == {"plain", "held"}
    for name, stored in by_node.items():
        assert stored.finished
        assert {worker.environment["node"] for worker in stored.workers} == {name}
        assert len(stored.sessions) == 2
        assert stored.limits
    assert "DEFAULT" in by_node["held"].first_environment["cpu_capability"].upper()
    shown = gradbench("show", "--machines", "--results", tmp_path)
    assert "A: " in shown.stdout


def test_a_track_of_two_builds_while_a_node_is_killed(tmp_path):
    """Its builds are this Python, made by the nodes. Each kind of node has a track; every part is
    there, once, and says which node measured it."""
    builds = [f"{name}={sys.executable}" for name in ("one", "two")]
    results = tmp_path / "results"
    with Cluster(2, GRADBENCH_RELEASES=str(tmp_path / "releases")) as cluster:
        cluster.add("held", ATEN_CPU_CAPABILITY="default")
        cluster.gather()
        ended = threading.Event()

        def kill():
            while not any(tracks.read(path).parts for path in tracks.paths(results)):
                if ended.wait(0.1):
                    return
            cluster.kill("node0")
            cluster.add("later")

        killer = threading.Thread(target=kill)
        killer.start()
        words = ("-f", "exp", "-o", "vjp", "-o", "jvp", "-m", "backward", "-m", "func_jvp")
        done = gradbench(
            *("releases", "track", *builds, "--profile", "quick", *words),
            *("--on", cluster.address, "--even-if-busy", "--results", results),
        )
        ended.set()
        killer.join()
        assert "node0" not in cluster.nodes
    assert done.returncode == 0, done.stderr
    found = [tracks.read(path) for path in tracks.paths(results)]
    assert len(found) == 2
    for made in found:
        assert made.finished
        assert not made.problems
        assert len(made.parts) == len(made.done()) == 2 * 5
        shown = gradbench("releases", "show", "--track", made.name, "--results", results)
        assert "sessions by node: " in shown.stdout
    nodes = [{part.node for part in made.parts} for made in found]
    assert {"held"} in nodes
    assert any(own <= {"node0", "node1", "later"} for own in nodes)


def test_a_scheduler_without_nodes(tmp_path):
    with (
        Cluster() as cluster,
        contextlib.closing(Dask(cluster.address)) as engine,
        pytest.raises(FleetError, match="start some with: dask worker"),
    ):
        Fleet(engine, tmp_path)


def test_other_versions_are_left_out():
    with Cluster(1) as cluster, contextlib.closing(Dask(cluster.address)) as engine:
        cluster.gather()
        nodes = machines.Nodes(engine, Look("0.0", {}, [], 1 << 30, False), print)
        with pytest.raises(FleetError, match=f"it has gradbench {__version__}"):
            nodes.gather()
