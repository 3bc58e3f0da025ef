"""The beginnings of a measuring process: bound to its driver, with a wire that is its own.

Nothing here imports torch, so that a process is bound before that import, which takes seconds and
runs other people's code. Measured code runs in the same process later on and may patch what it
likes; so this module keeps the functions that the wire needs from the moment it was imported.
Code that goes out of its way can still do anything here: see docs/architecture.md.
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
"""The exit code of a process in which a mode has changed what cannot be put back."""

ORPHANED = 73
"""The exit code of a process whose driver is gone."""

UNWIRED = 72
"""The exit code of a process whose measured code has closed the wire."""

PATIENCE = 50
"""For how many times 20 ms a child that was forked is waited for, as it may come back."""

FIRST_DESCRIPTOR = 200
"""The wire's descriptors are above it, so that no small number that code guesses is one."""

_PR_SET_PDEATHSIG = 1

_loads, _dumps = json.loads, json.dumps
_getpid, _getppid, _exit = os.getpid, os.getppid, os._exit
_open, _read, _write, _close = os.open, os.read, os.write, os.close
_sleep = time.sleep


def end_with_parent() -> None:
    """On Linux, has the kernel kill this process when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def bind(parent: int) -> None:
    """Has this process end with the one of that number, which has started it."""
    end_with_parent()
    if _getppid() != parent:
        _exit(ORPHANED)


class Forks:
    """Notices where measured code forks and the child comes back as if it were this process."""

    def __init__(self) -> None:
        self._pid = _getpid()
        self._returned = mmap.mmap(-1, 1)
        """Shared with children: set by one that came back."""
        self._forks = 0
        self._known: set[bytes] = set()
        os.register_at_fork(after_in_child=end_with_parent, after_in_parent=self._in_parent)

    def reset(self) -> None:
        """Forgets what was noticed before."""
        self._forks = 0
        self._returned[0] = 0

    def returned(self) -> bool:
        """Whether measured code has forked, and the child came back as if it were this process.

        In that child it does not return: the child ends.
        """
        self.end_child()
        for _ in range(PATIENCE):
            if self._returned[0] or not (self._forks or self._children() - self._known):
                break
            # A child that comes back does so about when this one does; one that does not, ends or
            # works on something.
            _sleep(0.02)
            self._forks = 0
        self._forks = 0
        self._known = self._children()
        return bool(self._returned[0])

    def end_child(self) -> None:
        """Ends the process where it is a child that came back."""
        if _getpid() != self._pid:
            self._returned[0] = 1
            _exit(0)

    def _children(self) -> set[bytes]:
        """On Linux, the numbers of this process's children: C code forks without a word."""
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
    """Requests in, one answer out for each, a JSON object a line.

    Takes the standard streams away: what measured code prints goes to standard error, what it
    reads is empty. Only the process that made the wire speaks: a child that measured code forks
    ends where it comes back to the wire, and `forked` says so to this one.

    The process ends with its driver. On Linux the kernel sees to that once the wire is made, and
    `require_driver` finds out whether the driver was gone before. Elsewhere a thread watches the
    input, whose other end only the driver has.
    """

    def __init__(self) -> None:
        self._parent = _getppid()
        end_with_parent()
        self._in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        self._out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        _close(nothing)
        self._buffer = b""
        self._id = ""
        self._forks = Forks()
        self.forked = self._forks.returned
        os.register_at_fork(after_in_child=self._unwire)
        if sys.platform != "linux":
            threading.Thread(target=self._watch, daemon=True).start()
        self.require_driver()

    def require_driver(self) -> None:
        """Ends this process where its driver is gone."""
        if _getppid() != self._parent or self._hung_up(0):
            _exit(ORPHANED)

    def _hung_up(self, patience: int | None) -> bool:
        watched = select.poll()
        watched.register(self._in, 0)
        return any(event & select.POLLHUP for _, event in watched.poll(patience))

    def _watch(self) -> None:
        while not self._hung_up(None):
            _sleep(1)
        _exit(ORPHANED)

    def requests(self) -> Iterator[dict[str, Any]]:
        """Each request as it comes, until the input ends."""
        while True:
            while b"\n" not in self._buffer:
                piece = self._wired(_read, self._in, 1 << 16)
                if not piece:
                    return
                self._buffer += piece
            line, _, self._buffer = self._buffer.partition(b"\n")
            request: dict[str, Any] = _loads(line)
            # It proves that an answer is to this request, so no measured code is shown it.
            self._id = request.pop("id", "")
            self._forks.reset()
            yield request

    def answer(self, answer: dict[str, Any]) -> None:
        """Answers the request at hand."""
        self._forks.end_child()
        rest = _dumps({"id": self._id} | answer).encode() + b"\n"
        while rest:
            rest = rest[self._wired(_write, self._out, rest) :]

    def _wired(self, call: Any, *arguments: Any) -> Any:
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
