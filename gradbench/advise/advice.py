"""From a question to an answer: inspect the function, measure every way that applies."""

from __future__ import annotations

import contextlib
import glob
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbench.advise import theory
from gradbench.advise.answer import PEAK, Advice, Interrupted
from gradbench.advise.looking import IMPORTING, Look, examine
from gradbench.advise.question import Question, Refusal
from gradbench.advise.spares import Spares
from gradbench.analysis.runs import judged
from gradbench.analysis.table import Judged
from gradbench.core.cases import (
    FORWARD,
    YOURS,
    Comparison,
    Entry,
    Place,
    Selection,
    expand,
    fits,
)
from gradbench.core.deadline import Deadline
from gradbench.core.instruments import WALL_TIME
from gradbench.core.operators import OPERATORS
from gradbench.core.units import counted
from gradbench.runner import machine
from gradbench.runner.plan import start
from gradbench.runner.progress import Progress, Report
from gradbench.runner.run import measure
from gradbench.runner.settings import BASELINE_PATIENCE, PROFILES, Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery
from gradbench.store.files import write_text
from gradbench.store.lines import new_id

__all__ = ["Advice", "Question", "Refusal", "advise", "examine"]

SESSIONS = 8
"""Processes that measure, as far as the budget allows."""

ROUNDS = 100
"""Rounds in each of them, as far as the budget allows."""

PATIENCE = 0.003
"""The share of the budget that one call of a mode may take, or `PATIENT` times a call of the
function where that is longer, or the passes of the most promising mode up to `LONGEST` of the time
that is left."""
PATIENT = 10
LONGEST = 0.1

LAST = 0.4
"""Seconds kept for judging what was measured."""

LEAST = 0.3
"""Seconds below which measuring is not begun."""

STARTING_SHARE = 0.8
"""The part of the time left after which the processes that measure must have started."""


def advise(
    question: Question, results: Path, report: Report, command: list[str], spent: float = 0.0
) -> Advice:
    """Looks at the function, gates and measures; the run is stored in `results` like any other.

    The whole ends within the question's budget. Where that is short the answer has what is known
    by then: docs/advise.md says what is left out first. `spent` are seconds of it that are gone.

    Raises Refusal where no advice can be given, Interrupted at Ctrl-C where anything is known by
    then, StoreError and WorkerError as `run.measure` does.
    """
    began = time.perf_counter() - spent
    found: dict[str, Any] = {}
    plan: _Plan | None = None
    path: Path | None = None
    answer: Judged | None = None
    operator = ""

    def advice(stopped: bool = False) -> Advice:
        seconds = time.perf_counter() - began
        first = plan.first if plan is not None else ""
        facts = _facts(question, plan.discovery.environment if plan is not None else {})
        return Advice(question, found, operator, answer, path, seconds, first, facts, stopped)

    deadline = Deadline(question.budget - spent)
    report = _in_seconds(report, question.budget, began)
    files = _Files.of(question, results.resolve() / "advise")
    with Spares(question) as spares:
        try:
            _look(found, question, files, spares, deadline, report)
            operator = _operator(question, found)
            plan = _plan(question, found, operator, files, spares, deadline)
            if plan is not None:
                log, run = start(
                    results,
                    plan.entries,
                    plan.settings,
                    plan.discovery,
                    plan.options.files,
                    command,
                    files.loaded(),
                )
        except BaseException as error:
            # Nothing was measured, so there is nothing to resume: the user's data go too.
            files.delete()
            if isinstance(error, KeyboardInterrupt) and found.get("operators"):
                with contextlib.suppress(Refusal):
                    operator = _operator(question, found)
                    raise Interrupted(advice(stopped=True)) from None
            raise
        if plan is not None:
            try:
                with log:
                    run = measure(
                        log,
                        run,
                        plan.settings,
                        plan.options,
                        plan.discovery,
                        report,
                        spares.taken(),
                        plan.ruled_out,
                    )
            except KeyboardInterrupt:
                if run.sessions:
                    path, answer = run.path, judged(run.path)
                else:
                    run.path.unlink(missing_ok=True)
                    files.delete()
                raise Interrupted(advice(stopped=True)) from None
            path, answer = run.path, judged(run.path)
    if answer is None or run.finished:
        # A run that is over is not resumed; the code to paste may need the pattern.
        files.delete(but_pattern=bool(found["pattern"]))
    report(Progress(1, 1, "", 0.0))
    return advice()


def _facts(question: Question, environment: Mapping[str, Any]) -> str:
    """Under what conditions the answer was found, in one line."""
    torch = f"torch {environment['torch']}" if environment else ""
    here = machine.processor() if Place.parse(question.device).on_cpu else question.device
    cores = f"{here}, {counted(len(machine.usable_cores()), 'core')}"
    parts = [question.dtype, counted(question.threads, "thread"), torch, cores]
    return f"{', '.join(filter(None, parts))}."


def _in_seconds(report: Report, budget: float, began: float) -> Report:
    """Reports progress in seconds of the budget."""

    def told(progress: Progress) -> None:
        elapsed = time.perf_counter() - began
        done = min(int(elapsed), math.ceil(budget))
        report(
            Progress(
                *(done, math.ceil(budget), progress.label, elapsed),
                limit=budget,
                unit="s",
                leads=progress.leads,
            )
        )

    return told


@dataclass(frozen=True)
class _Files:
    """What the measuring processes load, beside the runs, so that one can be resumed."""

    suite: Path
    pattern: Path
    passed: Path | None

    @classmethod
    def of(cls, question: Question, folder: Path) -> _Files:
        name = new_id()
        return cls(
            folder / f"suite_{name.replace('-', '_')}.py",
            folder / f"pattern_{name}.pt",
            Path(question.passed) if question.passed else None,
        )

    def loaded(self) -> list[str]:
        return [str(path) for path in (self.passed, self.pattern) if path and path.exists()]

    def delete(self, but_pattern: bool = False) -> None:
        """Deletes them, and their folder where nothing else is in it."""
        for path in (self.suite, self.passed, None if but_pattern else self.pattern):
            if path is not None:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.suite.parent.rmdir()


def _look(
    found: dict[str, Any],
    question: Question,
    files: _Files,
    spares: Spares,
    deadline: Deadline,
    report: Report,
) -> None:
    """Fills in the findings on the function; meanwhile processes start that are to measure."""
    question.require_valid()
    on_cpu = Place.parse(question.device).on_cpu
    if not on_cpu and not any(map(glob.glob, DRIVERS)):
        raise Refusal(f"--device {question.device}: there is no GPU here")
    files.suite.parent.mkdir(parents=True, exist_ok=True)

    def tick(doing: str) -> None:
        if doing != IMPORTING:
            spares.start_next()
        report(Progress(0, 1, doing, 0.0))

    spares.start_first()
    with Look(question, str(files.pattern), deadline) as look:
        if not on_cpu:
            spares.require_device()
        try:
            look.findings(tick)
        finally:
            found.update(look.found)


DRIVERS = ("/dev/nvidia*", "/dev/kfd", "/dev/dxg")
"""Files of the drivers of GPUs on Linux; without any of them there is none."""


def _operator(question: Question, found: dict[str, Any]) -> str:
    """The operator that is measured; empty where none is known. Raises Refusal."""
    operators, refusals = found["operators"], found["refusals"]
    asked: str = question.operator or next(iter(operators), "")
    if asked in refusals:
        raise Refusal(refusals[asked])
    if operators and asked not in operators:
        there = [name for name in operators if name not in refusals]
        raise Refusal(f"operator {asked}: for this function there are {', '.join(there)}")
    return asked if operators else ""


def _baseline(operator: str, found: dict[str, Any]) -> str:
    """The usual choice, where it is not that of the operator for every function."""
    known = OPERATORS[operator]
    if found["manner"]["forward_only"]:
        return known.forward_only
    if known.first_of_several and "gradient" not in found["operators"]:
        return known.first_of_several
    return known.first_of_yours


@dataclass(frozen=True)
class _Plan:
    """What is to be measured and how."""

    entries: list[Entry]
    settings: Settings
    discovery: Discovery
    options: WorkerOptions
    ruled_out: dict[Comparison, dict[str, str]]
    first: str
    """The usual choice."""


def _plan(
    question: Question,
    found: dict[str, Any],
    operator: str,
    files: _Files,
    spares: Spares,
    deadline: Deadline,
) -> _Plan | None:
    """The run that is to be made; None where no time is left for one."""
    if not operator or "manner" not in found or deadline.left < LAST + LEAST:
        return None
    spec = question.spec(str(files.pattern)) | {
        "operators": [operator],
        **{k: found[k] for k in ("structured", "per_sample", "manner")},
    }
    suite = f"from gradbench.worker.subject import register\n\nregister({spec!r})\n"
    write_text(files.suite, suite)
    options = WorkerOptions(files=(str(files.suite),), memory_limit=question.memory_limit)
    discovery = spares.loaded(options.files, deadline.share(STARTING_SHARE))
    if discovery is None or deadline.left < LAST + LEAST:
        return None
    baseline = _baseline(operator, found)
    entries, ruled_out = [], {}
    for entry in expand(
        discovery.offers,
        Selection(
            functions=(YOURS,),
            dtypes=(question.dtype,),
            devices=(question.device,),
            threads=(question.threads,),
        ),
    ):
        usual = baseline or discovery.first(operator)
        always = {usual, FORWARD, *found["own"]} if question.modes else set(entry.modes)
        there = (
            m
            for m in entry.modes
            if m not in discovery.by_hand and (m in always or fits(m, question.modes))
        )
        modes = theory.in_order(found, there, usual)
        patience = max(
            PATIENCE * question.budget,
            PATIENT * found["seconds"],
            min(LONGEST * deadline.left, theory.cheapest(found, modes)),
        )
        limits = {m: patience * (BASELINE_PATIENCE if m == usual else 1) for m in modes}
        entries.append(replace(entry, modes=tuple(modes)))
        reasons = ruled_out[entry.comparison] = theory.ruled_out(found, modes, limits)
        found["ruled_out"] = list(reasons)
    base = PROFILES["quick"].settings
    readings = () if discovery.unavailable.get(PEAK) else (PEAK,)
    settings = replace(
        base,
        sessions=SESSIONS,
        stopping=replace(base.stopping, max_rounds=ROUNDS, budget=question.budget),
        timeout=question.timeout,
        memory_limit=question.memory_limit,
        seed=question.seed,
        instruments=(WALL_TIME, *readings),
        baseline=baseline,
        total=max(deadline.left - LAST, LEAST),
        patience=patience,
    )
    first = baseline or discovery.first(operator)
    return _Plan(entries, settings, discovery, options, ruled_out, first)
