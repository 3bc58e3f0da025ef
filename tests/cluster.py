"""A Dask scheduler with nodes on this machine, as processes that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fake_fleet import Node

from gradbench.fleet.engine import Dask

TESTS = Path(__file__).parent
STARTING = 60.0


class Cluster:
    """Use it as a context manager. Nodes can import the tests, so that they can pretend."""

    def __init__(self, nodes: int = 0, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name, "scheduler.json")
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **environment,
        }
        place = ["--host", "127.0.0.1", "--no-dashboard"]
        self.scheduler = self._start(
            *("scheduler", "--port", "0", "--scheduler-file", str(self._file), *place)
        )
        until = time.monotonic() + STARTING
        while not self._address():
            if self.scheduler.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError("the scheduler did not start")
            time.sleep(0.05)
        self.address = self._address()
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(nodes):
            self.add(f"node{number}")

    def _address(self) -> str:
        try:
            return str(json.loads(self._file.read_text())["address"])
        except (OSError, ValueError):
            return ""

    def _start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            env=self._environment | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add(self, name: str, *words: str, **variables: str) -> None:
        """Starts a node as docs/fleet.md says."""
        self.nodes[name] = self._start(
            *("worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny"),
            *("--no-dashboard", "--resources", "gradbench=1", "--local-directory"),
            *(self._folder.name, *words),
            **variables,
        )

    def gather(self) -> None:
        """Waits until the scheduler knows all nodes."""
        until = time.monotonic() + STARTING
        with contextlib.closing(Dask(self.address)) as engine:
            while len(engine.nodes()) < len(self.nodes):
                if time.monotonic() > until:
                    raise RuntimeError("a node did not start")
                time.sleep(0.1)

    def kill(self, name: str) -> None:
        process = self.nodes.pop(name)
        process.kill()
        process.wait()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in [*getattr(self, "nodes", {}).values(), self.scheduler]:
            process.kill()
            process.wait()
        self._folder.cleanup()


SECONDS = "GRADBENCH_SLEEP"
"""The variable with the seconds that a session of `pretend` takes."""


def pretend(what: str, job: str, name: str) -> str:
    """What a node does that does not measure: each session of a comparison is a sleep."""
    node = Node(change=slept)
    node.name = name
    return node(what, job)


def slept(share, answer: str) -> str:
    if share.session >= 0:
        time.sleep(len(share.entries) * float(os.environ.get(SECONDS, "0")))
    return answer
