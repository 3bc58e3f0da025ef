"""Callgrind from inside the process that it counts.

A program that runs under Valgrind talks to it by a sequence of instructions that does nothing
elsewhere: the client requests of valgrind.h, an interface that Valgrind keeps stable. With them
instructions are counted from the first reading on, so that `import torch` runs at Valgrind's
ordinary pace; and a count is read in well under a millisecond from Callgrind's own status
report, where torch's hooks can only have it write a profile of some hundred kilobytes each time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

from gradbench.core.instruments import CALLGRIND_LOG

# rax: the request and its five arguments, rdx: what comes back outside Valgrind, and the result.
# Rotating rdi by 3, 13, 61 and 51 leaves it as it was: Valgrind takes it for its sign.
CODE = bytes.fromhex(
    "4889f8"  # mov  rax, rdi
    "4889f2"  # mov  rdx, rsi
    "48c1c703"  # rol  rdi, 3
    "48c1c70d"  # rol  rdi, 13
    "48c1c73d"  # rol  rdi, 61
    "48c1c733"  # rol  rdi, 51
    "4887db"  # xchg rbx, rbx
    "4889d0"  # mov  rax, rdx
    "c3"  # ret
)

RUNNING_ON_VALGRIND = 0x1001
MONITOR_COMMAND = 0x1202
START_INSTRUMENTATION = 0x43540004  # 'C', 'T', 4


HEADING = b"instrumentation: on"
THREAD = re.compile(rb"^events-\d+: (\d+)$", re.MULTILINE)


def _words(code: int, argument: int = 0) -> ctypes.Array[ctypes.c_uint64]:
    """A request as it lies in memory."""
    return (ctypes.c_uint64 * 6)(code, argument)


class Callgrind:
    """Counts the instructions of this process. Raises RuntimeError outside Callgrind."""

    def __init__(self) -> None:
        self._page = mmap.mmap(
            -1, len(CODE), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
        self._page.write(CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)
        self._enter = prototype(address)
        if not self._request(RUNNING_ON_VALGRIND):
            raise RuntimeError("this process does not run under Valgrind")
        self._command = ctypes.create_string_buffer(b"status internal")
        self._words = _words(MONITOR_COMMAND, ctypes.addressof(self._command))
        self._report = ctypes.addressof(self._words)
        # Valgrind goes on writing to it; nobody else needs to find it.
        place = Path(os.environ[CALLGRIND_LOG]) / str(os.getpid())
        self._log = place.open("rb")
        place.unlink()
        self._request(START_INSTRUMENTATION)

    def _request(self, code: int) -> int:
        words = _words(code)
        return int(self._enter(ctypes.addressof(words), 0))

    def count(self, call: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> int:
        """Instructions of so many calls and of marking their beginning and end."""
        self._log.seek(0, os.SEEK_END)
        self._mark()
        for _ in repeat(None, calls):
            call(*arguments)
        self._mark()
        # Both reports are read now: reading the first before the calls would be counted.
        _, *reports = self._log.read().split(HEADING)
        start, end = (sum(map(int, THREAD.findall(report))) for report in reports)
        return end - start

    def _mark(self) -> None:
        self._enter(self._report, 0)
