"""Controls Callgrind from inside the process whose instructions it counts.

A program talks to Valgrind by client requests (valgrind.h, a stable interface): sequences of
instructions that do nothing elsewhere. They start the counting at the first reading, so that
`import torch` is not slowed by it, and read a count from Callgrind's status report in well under a
millisecond. torch's own hooks can only write a profile of some hundred kilobytes each time.
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

# rax: the request and its five arguments; rdx: the default result outside Valgrind, and the result.
# Rotating rdi by 3, 13, 61 and 51 leaves it unchanged, and is the sign that Valgrind recognises.
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
DUMP_STATS = 0x43540000  # 'C', 'T', 0
ZERO_STATS = 0x43540001
START_INSTRUMENTATION = 0x43540004

HEADING = b"instrumentation: on"
THREAD = re.compile(rb"^events-\d+: (\d+)$", re.MULTILINE)


def _words(code: int, argument: int = 0) -> ctypes.Array[ctypes.c_uint64]:
    """A request's layout in memory."""
    return (ctypes.c_uint64 * 6)(code, argument)


class Callgrind:
    """Counts instructions of this process. Raises RuntimeError outside Valgrind."""

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
        # Valgrind still writes to the unlinked file.
        path = Path(os.environ[CALLGRIND_LOG]) / str(os.getpid())
        self._log = path.open("rb")
        path.unlink()
        self._zero, self._dump = _words(ZERO_STATS), _words(DUMP_STATS)
        self._request(START_INSTRUMENTATION)

    def _request(self, code: int) -> int:
        words = _words(code)
        return int(self._enter(ctypes.addressof(words), 0))

    def count(self, call: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> int:
        """Instructions of that number of calls, and of marking their start and end."""
        self._log.seek(0, os.SEEK_END)
        self._mark()
        for _ in repeat(None, calls):
            call(*arguments)
        self._mark()
        # Both reports are read at the end, since reading the first one would be counted.
        _, *reports = self._log.read().split(HEADING)
        start, end = (sum(map(int, THREAD.findall(report))) for report in reports)
        return end - start

    def profile(self, call: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> None:
        """Has Callgrind write a profile of that number of calls, and of marking their start and
        end, to the file that its command line names, with the profile's number behind it."""
        zero, dump = ctypes.addressof(self._zero), ctypes.addressof(self._dump)
        enter = self._enter
        enter(zero, 0)
        for _ in repeat(None, calls):
            call(*arguments)
        enter(dump, 0)

    def _mark(self) -> None:
        self._enter(self._report, 0)
