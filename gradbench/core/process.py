"""What every measuring process does first: binds its life to the driver and opens the wire.

Nothing here imports torch, since the process is bound to its driver before that import, which takes
seconds and runs other code. Measured code may later patch functions in the same process, so this
module keeps those that the wire needs as they were at import. Code that goes out of its way can
still break the wire: see docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

PROTOCOL = 2
"""The version of the requests and their answers."""

STATE_LOST = 71
"""Exit code of a process in which a mode made a change that cannot be restored."""

ORPHANED = 73
"""Exit code of a process whose driver is gone."""

UNWIRED = 72
"""Exit code of a process whose measured code has closed the wire."""

FORK_WAITS = 150
"""How many times to wait 20 ms for a forked child, which may return to the wire."""

FIRST_DESCRIPTOR = 200
"""The lowest descriptor of the wire, so that code that guesses small numbers misses it."""

_PR_SET_PDEATHSIG = 1

_loads, _dumps = json.loads, json.dumps
_getpid, _getppid, _exit = os.getpid, os.getppid, os._exit
_open, _read, _write, _close = os.open, os.read, os.write, os.close
_sleep = time.sleep


def end_with_parent() -> None:
    """On Linux, asks the kernel to kill this process when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def bind(parent: int) -> None:
    """Ends this process with its parent, whose process ID it is given."""
    end_with_parent()
    if _getppid() != parent:
        _exit(ORPHANED)


class Forks:
    """Detects measured code that forks and whose child returns as if it were this process."""

    def __init__(self) -> None:
        self._pid = _getpid()
        self._returned = mmap.mmap(-1, 1)
        """Shared with children: set by one that returned."""
        self._forks = 0
        self._earlier_children: set[bytes] = set()
        os.register_at_fork(after_in_child=end_with_parent, after_in_parent=self._in_parent)

    def reset(self) -> None:
        """Forgets earlier forks."""
        self._forks = 0
        self._returned[0] = 0

    def returned(self) -> bool:
        """Whether measured code has forked and a child has returned. Ends such a child itself."""
        self.end_child()
        for _ in range(FORK_WAITS):
            if self._returned[0] or not (self._forks or self._children() - self._earlier_children):
                break
            # A child that returns does so at about the same time as this process.
            _sleep(0.02)
            self._forks = 0
        self._forks = 0
        self._earlier_children = self._children()
        return bool(self._returned[0])

    def end_child(self) -> None:
        """Ends this process if it is a child that returned."""
        if _getpid() != self._pid:
            self._returned[0] = 1
            _exit(0)

    def _children(self) -> set[bytes]:
        """On Linux, the process IDs of the children, since C code forks without notice."""
        try:
            descriptor = _open(f"/proc/self/task/{self._pid}/children", os.O_RDONLY)
        except OSError:
            return set()
        try:
            return set(_read(descriptor, 1 << 16).split())
        finally:
            _close(descriptor)

    def _in_parent(self) -> None:
        self._forks += 1


class Wire:
    """The worker's end of the wire: reads requests and writes one answer each, as JSON lines.

    It takes over standard input and output: measured code then prints to standard error and reads
    an empty input. A child that measured code forks ends when it returns to the wire, or to
    whoever calls `end_child`, and `forked` reports that to this process.

    The process ends with its driver. On Linux the kernel kills it; elsewhere a thread watches the
    input, whose other end only the driver has. `require_driver` checks whether the driver was gone
    before the wire was made.
    """

    def __init__(self) -> None:
        self._parent = _getppid()
        end_with_parent()
        self._in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        self._out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        os.dup2(2, 1)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        _close(empty)
        self._buffer = b""
        self._id = ""
        self._forks = Forks()
        self.forked = self._forks.returned
        self.end_child = self._forks.end_child
        os.register_at_fork(after_in_child=self._unwire)
        if sys.platform != "linux":
            threading.Thread(target=self._watch, daemon=True).start()
        self.require_driver()

    def require_driver(self) -> None:
        """Ends this process if its driver is gone."""
        if _getppid() != self._parent or self._hung_up(0):
            _exit(ORPHANED)

    @property
    def waiting(self) -> bool:
        """Whether a request is there to be read."""
        return b"\n" in self._buffer or bool(select.select([self._in], [], [], 0)[0])

    def _hung_up(self, timeout: int | None) -> bool:
        poll = select.poll()
        poll.register(self._in, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(timeout))

    def _watch(self) -> None:
        while not self._hung_up(None):
            _sleep(1)
        _exit(ORPHANED)

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yields each request until the input ends."""
        while True:
            while b"\n" not in self._buffer:
                chunk = self._wired(_read, self._in, 1 << 16)
                if not chunk:
                    return
                self._buffer += chunk
            line, _, self._buffer = self._buffer.partition(b"\n")
            request: dict[str, Any] = _loads(line)
            # Measured code must not see the ID: it proves that an answer is to this request.
            self._id = request.pop("id", "")
            self._forks.reset()
            yield request

    def answer(self, answer: dict[str, Any]) -> None:
        """Answers the current request."""
        self._forks.end_child()
        rest = _dumps({"id": self._id} | answer).encode() + b"\n"
        while rest:
            rest = rest[self._wired(_write, self._out, rest) :]

    def _wired(self, call: Any, *arguments: Any) -> Any:
        """The result of a call on a descriptor of the wire; ends the process if it is closed."""
        try:
            return call(*arguments)
        except OSError as error:
            with contextlib.suppress(OSError):
                _write(2, f"the wire to the driver is closed: {error.strerror}\n".encode())
            _exit(UNWIRED)

    def _unwire(self) -> None:
        for descriptor in (self._in, self._out):
            with contextlib.suppress(OSError):
                _close(descriptor)
