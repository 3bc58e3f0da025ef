"""Looking at a function in a process of its own, whose findings are kept as they come."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradbench.advise import unseen
from gradbench.advise.question import Question, Refusal
from gradbench.core import text
from gradbench.core.deadline import Deadline
from gradbench.core.groups import end_group
from gradbench.runner import leftovers
from gradbench.runner.answers import cleaned

OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
"""What ends a process from outside: it is tried once more."""

NOTHING: dict[str, Any] = {
    "broken": [],
    "wrt": [],
    "operators": [],
    "refusals": {},
    "evidence": [],
    "hints": [],
    "structure": [],
    "cost": [],
    "code": {},
    "own": {},
    "passes": {},
    "transforms": [],
    "traced": [],
    "ruled_out": [],
    "seconds": 0.0,
    "pattern": "",
    "structured": False,
    "per_sample": False,
    "identity": "",
    "files": [],
}
"""The findings before anything is found."""

LOOKING_SHARE = 0.5
"""The part of the time left when the function has been called after which the look has to end."""

LATEST = 0.95
"""The part of the budget after which a function that was not called is given up."""

TICK = 0.25
"""Seconds between reports."""

LONGEST = 16 << 20
"""The most bytes of an answer."""

IMPORTING = "importing torch"

Tick = Callable[[str], None]
"""Called with the step in hand, several times a second."""


class Look:
    """A process that looks at a function. Use it as a context manager.

    It begins at once; `findings` waits for what it finds. `pattern` is the file to keep the places
    of a sparse jacobian's entries in; by the `deadline`, by default the budget, it has ended.
    """

    def __init__(
        self, question: Question, pattern: str = "", deadline: Deadline | None = None
    ) -> None:
        self.question = question
        self.began = time.perf_counter()
        self.budget = deadline or Deadline(question.budget)
        self.whole = self.budget
        self.found = dict(NOTHING)
        self.doing = IMPORTING
        self.refused = ""
        self.done = False
        self._buffer = b""
        self._since = self.began
        self._scratch = tempfile.TemporaryDirectory(prefix="gradbench-")
        spec = Path(self._scratch.name) / "spec.json"
        until = time.monotonic() + self.budget.left
        spec.write_text(json.dumps(question.spec(pattern) | {"until": until}))
        self._spec = spec
        self._start()

    def _start(self) -> None:
        self._errors = open(Path(self._scratch.name) / "errors", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradbench.worker.probe", str(self._spec), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def called(self) -> bool:
        """Whether the function has been called, and its derivatives can be talked of."""
        return bool(self.found["operators"])

    @property
    def settled(self) -> bool:
        """Whether it is known how the function has to be called."""
        return "manner" in self.found

    def findings(self, tick: Tick = lambda doing: None) -> dict[str, Any]:
        """What is found of the function until the look ends, or has to.

        Where the time is up before the function was called, they are those of `unseen`. Raises
        Refusal where no advice can be given: the function raises, dies, hangs or misbehaves.
        """
        ended = self._read(tick)
        if not self.called and not self.refused and -ended in OUTSIDE:
            self._end()
            self._start()
            ended = self._read(tick)
        if self.refused:
            raise Refusal(text.line(self.refused, 600))
        if self.done:
            return self.found
        self._end()
        if ended != _RUNNING:
            self._died(ended)
        else:
            self._ran_out()
        return self.found

    def _read(self, tick: Tick) -> int:
        """Reads until the process has told everything, or has ended, or the time is up; its exit
        code, `_RUNNING` where it still runs."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        os.set_blocking(out, False)
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not (self.done or self.refused):
                tick(self.doing)
                left = self._left()
                if left <= 0:
                    return _RUNNING
                ended = self._process.poll()
                if selector.select(0 if ended is not None else min(left, TICK)):
                    piece = os.read(out, 1 << 20)
                    self._take(piece)
                    if piece:
                        continue
                    ended = self._process.wait()
                if ended is not None:
                    return ended
        return _RUNNING

    def _left(self) -> float:
        """The seconds for what is in hand."""
        left = self.whole.left
        if not self.called:
            left = self.budget.left - (1 - LATEST) * self.question.budget
        if self.doing != IMPORTING and not self.settled:
            left = min(left, self._since + self.question.timeout - time.perf_counter())
        return left

    def _take(self, piece: bytes) -> None:
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        if len(self._buffer) > LONGEST:
            self._buffer = b""
        for line in lines:
            try:
                told = cleaned(json.loads(line))
            except (ValueError, RecursionError):
                continue
            if isinstance(told, dict):
                self._heed(told)

    def _heed(self, told: dict[str, Any]) -> None:
        if isinstance(told.get("doing"), str):
            self.doing = told["doing"]
            self._since = time.perf_counter()
        if isinstance(told.get("found"), dict):
            if not self.called:
                self.whole = self.budget.share(LOOKING_SHARE)
            self.found |= told["found"]
        self.refused = self.refused or str(told.get("refused", ""))
        self.done = self.done or "done" in told

    def _died(self, code: int) -> None:
        """Raises Refusal, or notes it, if there is something to go on with."""
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        with contextlib.suppress(ValueError):
            how = how if code >= 0 else signal.Signals(-code).name
        if not self.called:
            raise Refusal(f"it ends its process ({how}){self._last_seen()}")
        self._note(f"{self.doing} ended its process ({how}){self._last_seen()}")

    def _ran_out(self) -> None:
        """Raises Refusal, or notes it, if there is something to go on with."""
        self.found["doing"] = self.doing
        if self.called:
            self._note(f"time ran out while {self.doing}")
        elif self.doing != IMPORTING and self._since + self.question.timeout < time.perf_counter():
            limit = self.question.timeout
            raise Refusal(f"{self.doing}: it did not end within {limit:g} s (--timeout)")
        else:
            self.found |= unseen.findings(self.question)

    def _note(self, said: str) -> None:
        key = "structure" if self.found["evidence"] else "evidence"
        self.found[key] = [*self.found[key], said]

    def _last_seen(self) -> str:
        """Where the function was when its process died, if Python could still say so."""
        self._errors.seek(0)
        _, _, frames = self._errors.read().decode(errors="replace").rpartition("Fatal Python error")
        ours = (str(Path(__file__).parents[1]), str(Path(sys.prefix) / "lib"))
        for place, line in re.findall(r'File "([^"<]+)", line (\d+)', frames):
            if not place.startswith(ours) and f"{os.sep}site-packages{os.sep}" not in place:
                return f" at {place}:{line}"
        return ""

    def _end(self) -> None:
        """Ends the process and its group, which may outlive it."""
        end_group(self._process)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        self._errors.close()
        self._scratch.cleanup()
        leftovers.tidy()


_RUNNING = 1 << 30
"""Stands for the exit code of a process that has none yet."""


def examine(question: Question, pattern: str = "") -> dict[str, Any]:
    """The findings of one look at a function. Raises Refusal as `Look.findings` does."""
    with Look(question, pattern) as look:
        return look.findings()
