"""The driver's end of the wire: one worker process and the requests it answers."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A worker could not be started or does not speak this protocol."""


class WorkerRefused(WorkerError):
    """The worker answered that a request cannot be carried out."""

    def __init__(self, reason: str, where: str = "", status: str = "failed") -> None:
        super().__init__(reason)
        self.where = where
        self.status = status
        """What it makes of a case: "failed", or "out of memory"."""


class WorkerDied(WorkerError):
    """The process ended before it answered."""


class WorkerTimeout(WorkerError):
    """No answer in time; the process has been killed."""


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is started: which Python, which files of the user's it loads."""

    python: str = sys.executable
    files: tuple[str, ...] = ()
    memory_limit: int = 4 << 30
    start_timeout: float = 120.0
    prefix: tuple[str, ...] = ()
    """A program to run it under, with its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its environment has besides this one's."""


class Worker:
    """One measuring process. Use it as a context manager, or `kill` it.

    `born` is told the process's number before the process is waited for, so that another thread
    can end it at any time. Without `greet` it is not waited for: `greet` is then called later, so
    that several can start at once. On Linux the process ends with the thread that started it.
    """

    environment: dict[str, Any]

    def __init__(
        self,
        options: WorkerOptions,
        born: Callable[[int], None] = lambda pid: None,
        greet: bool = True,
    ) -> None:
        self.options = options
        command = [*options.prefix, options.python, "-m", "gradbench.worker"]
        command += ["--memory-limit", str(options.memory_limit)]
        for path in options.files:
            command += ["--from", path]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(options.python) | dict(options.environment),
                # Its own process group: Ctrl-C is the driver's to handle.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"cannot start {command[0]}: {error.strerror}") from error
        born(self._process.pid)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._buffer = b""
        if greet:
            self.greet()

    def greet(self) -> None:
        """Waits until the process has started. Raises WorkerError where it does not."""
        try:
            hello = self.request("hello", self.options.start_timeout)
        except WorkerDied as error:
            raise WorkerError(f"the measuring process did not start: {error}") from error
        self.environment = hello["environment"]

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
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        answer = json.loads(self._read_line(time.monotonic() + timeout, timeout))
        if not answer["ok"]:
            raise WorkerRefused(
                answer["reason"], answer.get("where", ""), answer.get("status", "failed")
            )
        found: dict[str, Any] = answer
        return found

    def _read_line(self, deadline: float, timeout: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                self.kill()
                raise WorkerTimeout(f"no answer within {timeout:g} s")
            with contextlib.suppress(BlockingIOError):
                piece = os.read(self._process.stdout.fileno(), 1 << 20)
                if not piece:
                    raise self._died()
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()
        return WorkerDied(self._last_words())

    def _last_words(self) -> str:
        """How the process ended: its signal or exit code, and the end of what it wrote."""
        code = self._process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                said = f"ended by {signal.Signals(-code).name}"
                if -code == signal.SIGKILL:
                    said += " (the system kills a process that takes too much memory)"
                return said
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}" + (f": {lines[-1].strip()[:200]}" if lines else "")

    def kill(self) -> None:
        """Ends the process and everything it started; harmless when it has ended."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._selector.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._errors.close()


def _environment(python: str) -> dict[str, str]:
    """The worker's environment: this package importable, threads left to the worker."""
    home = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH", "")
    parts: Sequence[str] = [part for part in path.split(os.pathsep) if part]
    if python != sys.executable:
        # Another environment: nothing of this one but the package may be seen there, least of
        # all its torch.
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
