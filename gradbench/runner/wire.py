"""The driver's end of the wire: one worker process and the requests it answers."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gradbench.core.groups import end_group
from gradbench.core.process import STATE_LOST
from gradbench.core.text import line
from gradbench.core.units import short
from gradbench.core.verdicts import Status
from gradbench.runner import answers, leftovers

STARTS = 2
"""The attempts to start a process that ends before it greets: it may be killed from outside."""

LONGEST_ANSWER = 16 << 20
"""The most bytes of one answer."""

RUNS_CODE = frozenset({"prepare", "visit", "check", "trust", "read", "trace", "profile", "slow"})
"""The requests that run measured code."""

SLICE = 0.5
"""Seconds between checks that the process still runs: a child of it may keep its end of the wire
open."""

MARK = "GRADBENCH_PROCESS"
"""The environment variable that marks a process and all that it starts."""


class WorkerError(Exception):
    """A worker could not be started or does not speak this protocol."""

    places: Mapping[str, str] = {}
    """Where the modes of other packages and files are declared, by name."""


class WorkerRefused(WorkerError):
    """The worker refused a request."""

    def __init__(self, reason: str, where: str = "", status: Status = Status.FAILED) -> None:
        super().__init__(reason)
        self.where = where
        self.status = status
        """Of the case: failed, or out of memory."""


class WorkerDied(WorkerError):
    """The process ended before it answered."""


class WorkerSpoiled(WorkerDied):
    """The process ended because a mode changed in it what cannot be restored; says what."""


class WorkerGarbled(WorkerDied):
    """The process sent something other than an answer, and has been killed."""


class WorkerLate(WorkerError):
    """A process was not started, or did not start, before the time was up."""


class WorkerTimeout(WorkerError):
    """No answer in time; the process has been killed."""


@dataclass(frozen=True)
class WorkerOptions:
    """How to start a worker: its Python, and the user's files that it loads."""

    python: str = sys.executable
    files: tuple[str, ...] = ()
    memory_limit: int = 4 << 30
    start_timeout: float = 120.0
    prefix: tuple[str, ...] = ()
    """A program to run it under, and its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside those of this process."""
    lenient: bool = False
    """Whether a file that does not load leaves the rest to be measured, rather than ending the
    worker."""
    rehearse: bool = False
    """Whether it makes the slow first calls of torch before it greets, unless it is awaited."""


_log = logging.getLogger(__name__)


class Worker:
    """One measuring process. Use it as a context manager, or `kill` it.

    `born` is called with the process's number before its greeting, so that another thread can end
    it at any time. Without `greet`, call the method later: several can then start at once. On Linux
    the process ends with the thread that started it.
    """

    environment: dict[str, Any]
    places: Mapping[str, str] = {}
    """Where the modes of other packages and files are declared, by name: ``file.py:line``."""
    failed: list[str]
    """A line for each of the user's files that did not load, where the worker is lenient."""

    def __init__(
        self,
        options: WorkerOptions,
        born: Callable[[int], None] = lambda pid: None,
        greet: bool = True,
    ) -> None:
        self.options = options
        self._born = born
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._spawn()
        if greet:
            self.greet()

    def _spawn(self) -> None:
        options = self.options
        command = [*options.prefix, options.python, "-m", "gradbench.worker"]
        command += ["--memory-limit", str(options.memory_limit)]
        for path in options.files:
            command += ["--from", path]
        command += ["--lenient"] * options.lenient
        command += ["--rehearse"] * options.rehearse
        self._mark = f"{MARK}={secrets.token_hex(12)}"
        self._ended = False
        self._buffer = bytearray()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=process_environment(options.python)
                | dict(options.environment)
                | dict([self._mark.split("=")]),
                # Its own process group: Ctrl-C is the driver's to handle.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"cannot start {command[0]}: {error.strerror}") from error
        self._born(self._process.pid)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def greet(self, timeout: float = math.inf) -> None:
        """Waits until the process has started; one that ends before is started once more.

        It waits `timeout` seconds at most, or as the options say.

        Raises WorkerError if it does not start. After any error no process is left.
        """
        try:
            for attempt in range(STARTS):
                if attempt:
                    self._spawn()
                try:
                    hello = self.request("hello", min(timeout, self.options.start_timeout))
                    self.environment = hello["environment"]
                    self.failed = hello["failed"]
                    self.places = hello["places"]
                    _log.debug(
                        "process %d: %s -m gradbench.worker (torch %s, Python %s)",
                        self.pid,
                        self.options.python,
                        self.environment["torch"],
                        self.environment["python"],
                    )
                    return
                except (WorkerDied, WorkerTimeout) as error:
                    if isinstance(error, WorkerTimeout) or attempt == STARTS - 1:
                        reason = f"the measuring process did not start: {error}"
                        raise WorkerError(reason) from error
        except BaseException:
            self.__exit__()
            raise

    @property
    def lost(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The worker's answer to one request.

        Raises WorkerRefused with the worker's reason, WorkerDied, or WorkerTimeout after
        `timeout` seconds.
        """
        try:
            answer = self._exchange(op, timeout, arguments)
            if op in RUNS_CODE:
                # Anything that its code writes after the answer fails this request, not the next.
                self._exchange("ping", timeout, {})
            if isinstance(answer, answers.Refusal):
                raise WorkerRefused(answer.reason, answer.where, Status(answer.status))
        except WorkerError as error:
            error.places = self.places
            raise
        fields: dict[str, Any] = msgspec.to_builtins(answer)
        return fields

    def garbled(self, reason: str) -> WorkerGarbled:
        """The error to raise for a malformed answer; ends the process."""
        self.kill()
        return WorkerGarbled(f"its answer is malformed: {reason}")

    def _exchange(self, op: str, timeout: float, arguments: dict[str, Any]) -> answers.Answer:
        assert self._process.stdin is not None
        if self._ended:
            raise WorkerDied("the process has ended")
        self._require_silence()
        token = secrets.token_hex(8)
        request = json.dumps({"op": op, "id": token, **arguments})
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        text = self._read_line(time.monotonic() + timeout, timeout)
        try:
            return answers.checked(text, op, token)
        except answers.Malformed as error:
            raise self.garbled(str(error)) from None

    def _require_silence(self) -> None:
        """Raises an error if there is anything on the wire before a request."""
        with contextlib.suppress(BlockingIOError):
            if self._selector.select(0) and not self._take():
                raise self._died()
        if self._buffer:
            raise self.garbled(f"nothing was asked: {line(answers.start(self._buffer), 60)}")

    def _take(self) -> int:
        """Reads the available bytes; their number, 0 at the end."""
        assert self._process.stdout is not None
        piece = os.read(self._process.stdout.fileno(), 1 << 20)
        self._buffer += piece
        return len(piece)

    def _read_line(self, deadline: float, timeout: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LONGEST_ANSWER:
                raise self.garbled(f"longer than {LONGEST_ANSWER >> 20} MiB")
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise WorkerTimeout(f"no answer within {short(timeout)} s")
            ended = self.lost
            with contextlib.suppress(BlockingIOError):
                if self._selector.select(0 if ended else min(left, SLICE)):
                    if not self._take():
                        raise self._died()
                elif ended:
                    raise self._died()
        text = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return text

    def _died(self) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        words = self._last_words()
        spoiled = self._process.poll() == STATE_LOST
        self.kill()
        return WorkerSpoiled(words.partition(": ")[2]) if spoiled else WorkerDied(words)

    def _last_words(self) -> str:
        """How the process ended: its signal or exit code, and the last line that it wrote."""
        code = self._process.poll()
        if code is None:
            return "it closed the wire and went on"
        if code < 0:
            with contextlib.suppress(ValueError):
                ended = f"ended by {signal.Signals(-code).name}"
                if -code == signal.SIGKILL:
                    ended += " (the system kills a process that takes too much memory)"
                return ended
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}" + (f": {line(lines[-1], 200)}" if lines else "")

    def kill(self) -> None:
        """Ends the process and everything it started; does nothing if it has ended."""
        if self._ended:
            return
        end_group(self._process)
        self._process.wait()
        _end_marked(self._mark.encode())
        self._ended = True
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._selector.close()
        leftovers.tidy()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._errors.close()


def ask(
    options: WorkerOptions, op: str, timeout: float, **arguments: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer of a fresh process to one request, and its environment.

    Raises WorkerError as `once_more` and `Worker.request` do.
    """
    return once_more(options, lambda w: (w.request(op, timeout, **arguments), w.environment))


T = TypeVar("T")


def once_more(options: WorkerOptions, asked: Callable[[Worker], T]) -> T:
    """What `asked` returns for a fresh process; for another one if the first dies."""
    for _ in range(STARTS - 1):
        with contextlib.suppress(WorkerDied), Worker(options) as worker:
            return asked(worker)
    with Worker(options) as worker:
        return asked(worker)


def _end_marked(mark: bytes) -> None:
    """On Linux, kills the descendants of a process outside its group, which inherited its mark."""
    for _ in range(20):
        marked = [pid for pid in _pids() if mark in _environment_of(pid)]
        if not marked:
            return
        for pid in marked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def process_environment(python: str) -> dict[str, str]:
    """The environment of a process that measures: this package importable, threads left to it."""
    home = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "")
    parts: Sequence[str] = [part for part in path.split(os.pathsep) if part]
    if python != sys.executable:
        # In another environment only this package may be visible, and above all not this torch.
        parts = [_alone(home)]
    elif home not in parts and home not in sys.path[1:]:
        parts = [home, *parts]
    return os.environ | {"PYTHONPATH": os.pathsep.join(parts), "PYTHONUNBUFFERED": "1"}


def _alone(home: str) -> str:
    """A folder with this package and no other: its checkout, or a link where it is installed."""
    if not (Path(home) / "torch").exists() and not (Path(home) / "numpy").exists():
        return home
    global _linked
    if _linked is None:
        _linked = tempfile.TemporaryDirectory(prefix="gradbench-")
        os.symlink(Path(home) / "gradbench", Path(_linked.name) / "gradbench")
    return _linked.name


_linked: tempfile.TemporaryDirectory[str] | None = None
