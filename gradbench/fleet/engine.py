"""The engine: a Dask cluster that places jobs on nodes, and repeats those of nodes that are lost.

This is the only module that knows Dask. Jobs and answers are strings of JSON. Dask itself pickles
the messages between its members, so who may join is for its TLS to say: see docs/fleet.md.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, Protocol

from gradbench.core import extras
from gradbench.core.text import line
from gradbench.fleet import node
from gradbench.runner.wire import WorkerError

RESOURCE = "gradbench"
"""What a node offers one of: so the engine gives it one job at a time."""

START = f"dask worker ADDRESS --nthreads 1 --no-nanny --resources {RESOURCE}=1"
"""The command that starts a node."""

CONNECTING, ANSWERING = 20.0, 60.0
"""Seconds in which a connection to the scheduler must be made, and in which it must answer."""

ENCRYPTED = ("tls", "wss")

POLL = 0.05
"""Seconds between looks for answers."""

BUSYBODIES = ("profile", "profile-cycle", "tick", "ticks")
"""What a Dask worker does several times a second beside its jobs, and a node does without."""


class FleetError(WorkerError):
    """The cluster cannot be reached, or measures nothing; the message says why."""


class Engine(Protocol):
    """Places jobs on nodes. A handle stands for a job; a node for its address."""

    dashboard: str

    def nodes(self) -> dict[str, str]:
        """The names of the nodes that take jobs, by address."""

    def submit(self, what: str, job: str, nodes: Collection[str]) -> str:
        """Has one of these nodes do a job: its handle."""

    def cancel(self, handles: Collection[str]) -> None:
        """Gives jobs up. A node that has begun one ends it first."""

    def answers(self, seconds: float) -> list[tuple[str, str | None, str]]:
        """Waits for the answers to jobs, so many seconds at most. Each comes once, with its handle;
        without an answer, with the reason: empty where the job has to be submitted again.

        Raises FleetError where the scheduler is lost."""

    def close(self) -> None: ...


class Dask:
    """The scheduler at an address, such as ``tcp://10.0.0.1:8786``. Raises MissingExtra without
    Dask, FleetError where nothing answers.

    The files of TLS are those of Dask's own configuration. `execute` is what nodes do with a job.
    """

    def __init__(
        self, address: str, execute: Callable[[str, str, str], str] = node.execute
    ) -> None:
        extras.require("--on", "distributed")
        _check(address)
        # What it reports of lost connections is said in one line here.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self.address = address
        self._execute = execute
        self._futures: dict[str, Any] = {}
        self._client = _connected(address)
        self.dashboard = str(self._client.dashboard_link or "")

    def nodes(self) -> dict[str, str]:
        self._require_scheduler()
        try:
            # `scheduler_info` is at times overwritten with one that has no workers.
            workers = self._client.sync(self._client.scheduler.identity)["workers"]
        except OSError:
            raise self._lost() from None
        return {
            address: line(str(facts.get("name") or address))
            for address, facts in workers.items()
            if facts.get("resources", {}).get(RESOURCE, 0) >= 1
        }

    def submit(self, what: str, job: str, nodes: Collection[str]) -> str:
        self._require_scheduler()
        handle = f"gradbench-{what}-{uuid.uuid4().hex}"
        self._futures[handle] = self._client.submit(
            _on_node,
            self._execute,
            what,
            job,
            key=handle,
            workers=list(nodes),
            resources={RESOURCE: 1},
            pure=False,
        )
        return handle

    def cancel(self, handles: Collection[str]) -> None:
        given_up = [self._futures.pop(handle) for handle in handles if handle in self._futures]
        if given_up and self._client.status == "running":
            self._client.cancel(given_up)

    def answers(self, seconds: float) -> list[tuple[str, str | None, str]]:
        end = time.monotonic() + seconds
        while True:
            self._require_scheduler()
            ready = [h for h, future in self._futures.items() if future.status != "pending"]
            answered = [made for handle in ready if (made := self._answer(handle)) is not None]
            if answered or time.monotonic() >= end:
                return answered
            time.sleep(POLL)

    def _answer(self, handle: str) -> tuple[str, str | None, str] | None:
        """What became of a job that is over; None where its answer has to be waited for, as the
        node that had it is lost."""
        future = self._futures[handle]
        answer, reason = None, ""
        if future.status == "finished":
            try:
                answer = future.result(timeout=CONNECTING)
            except Exception:
                self._require_scheduler()
                return None
            if not isinstance(answer, str):
                answer, reason = None, "its answer is no text"
        elif future.status == "error":
            reason = line(str(future.exception()), 300) or "it failed"
        else:
            # The scheduler was restarted and knows it no more.
            self._require_scheduler()
        del self._futures[handle]
        return handle, answer, reason

    def _require_scheduler(self) -> None:
        if self._client.status != "running":
            raise self._lost()

    def _lost(self) -> FleetError:
        return FleetError(f"the scheduler at {line(self.address)} no longer answers")

    def close(self) -> None:
        self._client.close(timeout=2)


def _connected(address: str) -> Any:
    """A client of the scheduler at an address. Raises FleetError where none answers.

    It is made in a thread of its own, as Dask waits forever for one that accepts a connection and
    says nothing."""
    from distributed import Client

    made: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            made.put(Client(address, timeout=CONNECTING, set_as_default=False, name="gradbench"))
        except Exception as error:
            # Whatever answers there, Dask takes for a scheduler, and its answer for sizes.
            made.put(error)

    threading.Thread(target=connect, daemon=True).start()
    found: Any
    try:
        found = made.get(timeout=ANSWERING)
    except queue.Empty:
        found = TimeoutError(f"it accepts connections, and says nothing within {ANSWERING:.0f} s")
    if isinstance(found, Exception):
        raise FleetError(
            f"no Dask scheduler answers at {line(address)}: {_cause(found)}; "
            "'dask scheduler' starts one and says its address"
        ) from found
    return found


def _cause(error: BaseException) -> str:
    """What was at the bottom of an error of Dask's: ``Connection refused``."""
    said = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        said = getattr(error, "strerror", None) or str(error) or said
    return line(said, 200)


def _check(address: str) -> None:
    """Raises FleetError for what cannot be an address, or has encryption without certificates: Dask
    would try it for a minute."""
    from distributed.comm.addressing import get_address_host_port, parse_address
    from distributed.security import Security

    try:
        host, port = get_address_host_port(address)
        if not host or not 0 < port < 1 << 16:
            raise ValueError(f"no host has port {port}" if host else "it names no host")
    except ValueError as error:
        raise FleetError(
            f"{line(address)} is no address of a Dask scheduler, such as tcp://10.0.0.1:8786: "
            f"{line(str(error), 200)}"
        ) from error
    try:
        settings = Security().get_connection_args("client")
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(
            f"the certificates that Dask's configuration names cannot be read: {_cause(error)}"
        ) from error
    encrypted = parse_address(address)[0] in ENCRYPTED
    if encrypted and settings.get("ssl_context") is None:
        raise FleetError(
            f"{line(address)} is encrypted, and Dask's configuration names no certificates: set "
            "distributed.comm.tls (see docs/fleet.md)"
        )
    if not encrypted and settings.get("require_encryption"):
        raise FleetError(
            f"{line(address)} is not encrypted, which Dask's configuration requires: name the "
            "scheduler's address that begins with tls://"
        )


def _on_node(execute: Callable[[str, str, str], str], what: str, job: str) -> str:
    """What Dask runs on a node."""
    from distributed import get_worker

    worker = get_worker()
    _quieten(worker)
    return execute(what, job, str(worker.name))


def _quieten(worker: Any) -> None:
    """Ends what a Dask worker does beside its jobs, and what its nanny sets for the processes that
    it starts: one thread, another policy of malloc, equal hashes in all of them."""
    import dask.config

    for name in BUSYBODIES:
        callback = worker.periodic_callbacks.pop(name, None)
        if callback is not None:
            worker.loop.add_callback(callback.stop)
    if worker.nanny:
        for name in ("PYTHONHASHSEED", *dask.config.get("distributed.nanny.pre-spawn-environ")):
            os.environ.pop(name, None)
