"""What the tests of a session share: options, measurements, and what is said at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradbench.core import arguments
from gradbench.core.units import counted
from gradbench.integrations.pytest_plugin import UNDECIDED
from gradbench.store.lines import StoreError, new_id

if TYPE_CHECKING:
    from gradbench.advise.question import Question
    from gradbench.integrations.pytest_plugin.claims import Timed
    from gradbench.integrations.pytest_plugin.comparing import Outcome
    from gradbench.store.runs import Run

BUDGET = 30.0
"""Seconds that timing a test may take."""

PLACE = "pytest"
"""The folder in the results for what a session has measured until it is stored as a run."""


@dataclasses.dataclass
class Record:
    """What one derivative of a test has come to."""

    test: str
    operator: str
    function: str
    """The name of the test in the run."""
    subject: str
    """The derivative that claims are about; empty where there is none."""
    subjects: list[str]
    """The derivatives that were checked: one empty name for autograd's own."""
    said: str = ""
    """Its times in one line."""
    log: str = ""
    """The file of its measurements; empty where nothing was measured."""
    claims: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    budget: float = BUDGET
    """Seconds that timing it might take."""


class Room:
    """One for each process of a session: pytest's own, and each of pytest-xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        given = config.getoption
        self.config = config
        self.is_worker = hasattr(config, "workerinput")
        self.saving = bool(given("--gradbench-save"))
        self.reference: str = given("--gradbench-compare") or ""
        self.fail_on: str | None = given("--gradbench-fail-on")
        self.timing = bool(given("--gradbench") or self.saving or self.reference)
        # pytest --collect-only runs no test.
        self.timing = self.timing and not given("collectonly")
        self.results = self._results()
        self.undecided = given("--gradbench-undecided") or self._ini_undecided()
        self._ini_budget()
        self.old: Run | None = None
        self.place = Path()
        self.turns: Any = None
        self.records: list[Record] = []
        self.run: Run | None = None
        self.outcome: Outcome | None = None
        self.problems: list[str] = []
        if self.timing:
            self._begin()

    # ── options ───────────────────────────────────────────────────────────────────────────────

    def _ini(self, name: str) -> str:
        return str(self.config.getini(name) or "").strip()

    def _results(self) -> Path:
        named = self.config.getoption("--gradbench-results")
        if named or os.environ.get("GRADBENCH_RESULTS"):
            return Path(self.config.invocation_params.dir, named or os.environ["GRADBENCH_RESULTS"])
        return Path(self.config.rootpath, self._ini("gradbench_results") or "results")

    def _ini_undecided(self) -> str:
        chosen = self._ini("gradbench_undecided") or UNDECIDED[0]
        if chosen not in UNDECIDED:
            raise pytest.UsageError(
                f"gradbench_undecided is {chosen!r}, and should be one of {', '.join(UNDECIDED)}"
            )
        return chosen

    def _ini_budget(self) -> float:
        text = self._ini("gradbench_budget")
        try:
            return arguments.number("budget", float(text or BUDGET), 0, 1e7, low_open=True)
        except ValueError:
            raise pytest.UsageError(
                f"gradbench_budget is {text!r}, and should be a number of seconds"
            ) from None

    def budget_for(self, marked: float | None) -> float:
        """Seconds for a test: the command line comes first, then the test, then the ini-file."""
        given: float | None = self.config.getoption("--gradbench-budget")
        if given is None:
            given = marked
        return self._ini_budget() if given is None else given

    # ── measuring ─────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        if self.is_worker:
            from gradbench.integrations.pytest_plugin.turns import Turns

            workerinput = self.config.workerinput  # type: ignore[attr-defined]
            self.place = Path(workerinput["gradbench_place"])
            self.turns = Turns(self.place, workerinput["workerid"])
            return
        try:
            if self.reference:
                from gradbench.store import runs

                # Before this session's own run becomes the latest.
                self.old = runs.find(self.results, self.reference)
            if self.saving:
                self.place = self.results.resolve() / PLACE / new_id()
                self.place.mkdir(parents=True)
            else:
                self.place = Path(tempfile.mkdtemp(prefix="gradbench-"))
        except StoreError as error:
            said = str(error).replace("'gradbench run'", "'pytest --gradbench-save'")
            raise pytest.UsageError(f"--gradbench-compare {self.reference}: {said}") from error
        except OSError as error:
            place = self.results if self.saving else tempfile.gettempdir()
            raise pytest.UsageError(f"cannot write to {place}: {error.strerror}") from error

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        alone: Callable[[], Iterator[None]] | None = self.turns and self.turns.alone
        return contextlib.nullcontext() if alone is None else alone()  # type: ignore[return-value]

    def measured(self, question: Question, content: bytes, record: Record) -> Timed:
        """Times a derivative, while no other worker of pytest-xdist runs a test."""
        from gradbench.advise.live import answered
        from gradbench.integrations.pytest_plugin.claims import Timed
        from gradbench.runner.progress import silent

        with self._alone():
            advice = answered(question, content, self.place / _serial(), silent)
        timed = Timed(advice)
        record.said = timed.line(record.subject)
        record.log = str(advice.path or "")
        record.budget = question.budget
        return timed

    def keep(self, record: Record) -> None:
        """Keeps what a test has come to; of a worker's, where the session finds it."""
        if not self.is_worker:
            self.records.append(record)
        elif self.timing:
            path = self.place / f"{_serial()}.json"
            path.write_text(json.dumps(dataclasses.asdict(record)), encoding="utf-8")

    # ── the end ───────────────────────────────────────────────────────────────────────────────

    def end(self) -> bool:
        """Stores and compares what was measured; whether the session fails for it."""
        if self.is_worker or not self.timing:
            return False
        for path in sorted(self.place.glob("*.json")):
            with contextlib.suppress(ValueError, TypeError, OSError):
                self.records.append(Record(**json.loads(path.read_text("utf-8"))))
        try:
            self._store()
            if self.old is not None:
                self._compare(self.old)
        except StoreError as error:
            self.problems.append(str(error))
            return self.saving or self.fail_on is not None
        if self.saving and self.run is None and self.records:
            self.problems.append("Nothing was timed, so nothing is stored.")
            return True
        return self.fail_on is not None and (self.outcome is None or self.outcome.fails)

    def _store(self) -> None:
        from gradbench.integrations.pytest_plugin.storing import Part, store
        from gradbench.store.runs import read

        parts = [Part(read(Path(r.log)), r.function) for r in self.records if r.log]
        if parts and (self.saving or self.old is not None):
            command = ["pytest", *map(str, self.config.invocation_params.args)]
            self.run = store(self.results if self.saving else self.place, parts, command)

    def _compare(self, old: Run) -> None:
        from gradbench.integrations.pytest_plugin.comparing import compared

        if self.run is None:
            self.problems.append(f"Nothing was timed, so nothing is compared with {old.name}.")
            return
        try:
            self.outcome = compared(old, self.run, self.records, self.fail_on)
        except ValueError as error:
            self.problems.append(f"{error}.")

    def close(self) -> None:
        """Deletes the session's own folder, unless it has what no run has."""
        if not self.timing or self.is_worker:
            return
        if self.run is not None or not self.saving or not any(r.log for r in self.records):
            shutil.rmtree(self.place, ignore_errors=True)
            with contextlib.suppress(OSError):
                (self.results / PLACE).rmdir()

    def show(self, reporter: Any) -> None:
        """The section at the end of the session: a line for each test, and what follows."""
        if self.is_worker or not (self.records or self.problems or self.outcome):
            return
        width: int = reporter._tw.fullwidth
        reporter.write_sep("=", "gradbench")
        for record in self.records if self.timing else ():
            said = record.said or "stopped before it was timed"
            reporter.write_line(_fitted(record.test, f"  {said}", width))
        for line in self._lines():
            ahead = " " * (len(line) - len(line.lstrip()) + 2)
            for part in textwrap.wrap(line, width, subsequent_indent=ahead):
                reporter.write_line(part)

    def _lines(self) -> Iterator[str]:
        if not self.timing:
            number = counted(len(self.records), "derivative")
            yield f"{number} checked, none timed: --gradbench times them"
        claims = [claim for record in self.records for claim in record.claims]
        if claims:
            held = sum(claim["holds"] is True for claim in claims)
            failed = sum(claim["holds"] is False for claim in claims)
            rest = len(claims) - held - failed
            yield (
                f"{counted(len(claims), 'claim')} about times: {held} held, {failed} failed, "
                f"{rest} undecided"
                + ("; each of these is wrong in at most 2.5 %" if held + failed else "")
            )
        if self.outcome is not None:
            yield from self.outcome.lines()
        yield from self.problems
        if self.saving and self.run is not None:
            yield f"Stored as {self.run.name}: 'gradbench show {self.run.name}' shows all of it"


def _serial() -> str:
    return f"{time.time_ns()}-{os.getpid()}"


SHORTEST = 24
"""Columns that a test's name has at least."""


def _fitted(name: str, rest: str, width: int) -> str:
    """One line of a name and what is said of it: the name's middle, then the end of the rest are
    left out where they are too long."""
    room = max(width - len(rest), SHORTEST)
    if len(name) > room:
        tail = (room - 1) * 2 // 3
        name = f"{name[: room - 1 - tail]}…{name[-tail:]}"
    said = name + rest
    return said if len(said) <= width else f"{said[: width - 1]}…"
