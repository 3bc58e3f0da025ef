"""Whole commands of gradbench in processes of their own, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PLAN = (
    *("-f", "exp", "-f", "square", "-f", "sum", "-f", "mean"),
    *("-o", "vjp", "-o", "gradient", "-o", "derivative", "-o", "hvp"),
    *("-m", "forward", "-m", "grad", "-m", "backward", "-m", "manual"),
    *("--budget", "0.02"),
)
"""A selection that is measured in a few seconds, most of which go into starting processes."""


def _answer_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Command:
    """One running gradbench command; `token` marks it and all processes that it starts."""

    words: Sequence[str]
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self) -> Command:
        # Files: a pipe that nobody reads would stop the command.
        self.out = (self.folder / f"{self.token}.out").open("wb")
        self.err = (self.folder / f"{self.token}.err").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gradbench", *self.words],
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            env=os.environ | {"GRADBENCH_CAMPAIGN": self.token},
            start_new_session=True,
            # What a shell has ignored for its background stays ignored in all that it starts.
            preexec_fn=_answer_signals,
        )
        return self

    def ended(self, within: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def said(self) -> str:
        """What it wrote to standard error."""
        return Path(self.err.name).read_text(errors="replace")

    def processes(self) -> list[int]:
        """Every living process that carries the token, the command itself aside."""
        mark = f"GRADBENCH_CAMPAIGN={self.token}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                # It may end while it is looked at.
                with contextlib.suppress(OSError):
                    ended = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
                    if not ended and mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def workers(self) -> list[int]:
        """The measuring processes among them."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"gradbench.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def orphans(self, within: float = 10.0) -> list[int]:
        """Processes that outlive the command by so many seconds."""
        until = time.monotonic() + within
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left
