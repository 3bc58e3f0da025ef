"""From a question to an answer: inspect the function, measure every way that applies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbench.advise import OPERATORS
from gradbench.advise.answer import PEAK, Advice
from gradbench.analysis.runs import judged
from gradbench.core import text
from gradbench.core.cases import (
    TORCH_DTYPES,
    YOURS,
    Entry,
    Place,
    Selection,
    expand,
)
from gradbench.core.instruments import WALL_TIME
from gradbench.core.suggest import hint
from gradbench.runner.answers import cleaned
from gradbench.runner.plan import start
from gradbench.runner.progress import Report
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES, Settings
from gradbench.runner.wire import Worker, WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.store.files import write_text
from gradbench.store.lines import new_id

SESSIONS = 8
"""Processes that measure, as far as the budget allows."""

ROUNDS = 100
"""Rounds in each of them, as far as the budget allows."""

FIRST_OF_ALL = {"batch_jacobian": "naive_full", "diagonal": "dense_diagonal"}
"""The baseline of operators that use structure: the usual choice without it."""

PATIENCE = 0.003
"""The share of the budget that one call of a mode may take."""

LAST = 0.5
"""Seconds kept for judging what was measured."""


class Refusal(Exception):
    """gradbench cannot advise on the function; the message says why, in one line."""


@dataclass(frozen=True)
class Question:
    """A request for advice. `inputs` are pairs of a name and an expression; times in seconds.

    `budget` is what the whole answer may take: looking at the function, starting processes,
    checking and timing.
    `passed` is the file that the function and its inputs were written to, where they are objects
    of the caller's; `inputs` is empty then.
    """

    target: str
    inputs: tuple[tuple[str, str], ...]
    wrt: tuple[str, ...] = ()
    operator: str = ""
    dtype: str = "float32"
    budget: float = 30.0
    timeout: float = 60.0
    memory_limit: int = 4 << 30
    seed: int = 0
    passed: str = ""
    maker: str = ""
    """A function, as ``module:function``, that returns further inputs."""
    device: str = "cpu"
    also: tuple[str, ...] = ()
    """Derivatives of the user's own to measure beside, as ``module:function``."""
    definition: str = "differences"
    """What the derivative is where autograd and finite differences disagree: "differences" refuses
    the function, "autograd" takes autograd's derivative as the definition."""

    def spec(self, pattern: str = "") -> dict[str, Any]:
        """The request, for the processes that load the function."""
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "wrt": list(self.wrt),
            "dtype": self.dtype,
            "memory_limit": self.memory_limit,
            "seed": self.seed,
            "passed": self.passed,
            "maker": self.maker,
            "also": list(self.also),
            "device": self.device,
            "pattern": pattern,
            "operator": self.operator,
            "definition": self.definition,
        }


OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
"""What ends a process from outside: it is tried once more."""

FOUND = {
    *("code", "pattern", "operators", "refusals", "wrt", "evidence", "structured", "per_sample"),
    *("structure", "own", "cost", "manner", "hints"),
}
"""The keys of the probing process's answer."""


def examine(question: Question, pattern: str = "") -> dict[str, Any]:
    """The probing process's answer. Raises Refusal, also if that process dies or hangs.

    `pattern` is the file to keep the places of a sparse jacobian's entries in.
    """
    out, err, code = _probed(question, pattern)
    if -code in OUTSIDE:
        out, err, code = _probed(question, pattern)
    try:
        answer = cleaned(json.loads(out))
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError):
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            raise Refusal(f"it ends its process ({how}){_last_seen(err)}") from None
        raise Refusal(f"it ends its process (signal {-code})") from None
    if isinstance(answer, dict) and "refused" in answer:
        raise Refusal(text.line(str(answer["refused"]), 600))
    if not isinstance(answer, dict) or not answer.keys() >= FOUND:
        raise Refusal("what its process answers cannot be read: does it write on descriptors?")
    return answer


def _probed(question: Question, pattern: str) -> tuple[bytes, bytes, int]:
    """What one probing process writes, on standard output and error, and its exit code."""
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        spec = Path(scratch) / "spec.json"
        spec.write_text(json.dumps(question.spec(pattern)))
        process = subprocess.Popen(
            [sys.executable, "-m", "gradbench.worker.probe", str(spec), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=min(question.timeout, question.budget))
        except subprocess.TimeoutExpired:
            if question.budget < question.timeout:
                raise _too_short(question, f"more than {question.budget:g} s") from None
            raise Refusal(f"it did not end within {question.timeout:g} s (--timeout)") from None
        finally:
            # The group may outlive the process that it is named after.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return out, err, process.returncode


def _last_seen(written: bytes) -> str:
    """Where the function was when its process died, if Python could still say so."""
    _, _, frames = written.decode(errors="replace").rpartition("Fatal Python error")
    ours = (str(Path(__file__).parents[1]), str(Path(sys.prefix) / "lib"))
    for place, line in re.findall(r'File "([^"<]+)", line (\d+)', frames):
        if not place.startswith(ours) and f"{os.sep}site-packages{os.sep}" not in place:
            return f" at {place}:{line}"
    return ""


def advise(question: Question, results: Path, report: Report, command: list[str]) -> Advice:
    """Probes, gates and measures; the run is stored in `results` like any other.

    The whole ends within the question's budget where two processes can measure in that; where a
    single call of the function outlasts it, it ends after the steps that cannot be left out.

    Raises Refusal where no advice can be given, StoreError and WorkerError as `run.measure` does.
    """
    began = time.perf_counter()
    # What the run needs stays beside the runs, so that an interrupted one can be resumed.
    suites = results.resolve() / "advise"
    suites.mkdir(parents=True, exist_ok=True)
    name = new_id()
    pattern = suites / f"pattern_{name}.pt"
    suite = suites / f"suite_{name.replace('-', '_')}.py"
    passed = [Path(question.passed)] if question.passed else []
    try:
        # With TF32 the code to paste would lack what switches it on.
        if question.dtype not in TORCH_DTYPES:
            raise Refusal(f"dtype {question.dtype!r} is none of {', '.join(TORCH_DTYPES)}")
        if question.operator and question.operator not in OPERATORS:
            near = hint(question.operator, OPERATORS)
            raise Refusal(
                f"--operator {question.operator}: it is none of {', '.join(OPERATORS)}"
                + (f"; {near}" if near else "")
            )
        _require_device(question.device)
        findings, prepared = _prepared(question, pattern, suite, began)
        entries, settings, discovery, options = prepared
        loaded = [str(file) for file in (*passed, pattern) if Path(file).exists()]
        log, run = start(results, entries, settings, discovery, options.files, command, loaded)
    except BaseException:
        # Nothing was measured, so there is nothing to resume: the user's data go with the refusal.
        _delete([pattern, suite, *passed])
        raise
    with log:
        run = measure(log, run, settings, options, discovery, report)
    if run.finished:
        # A run that is over is not resumed; the code to paste may need the pattern.
        _delete([suite, *passed, *([] if findings["pattern"] else [pattern])])
    answer = judged(run.path)
    seconds = time.perf_counter() - began
    return Advice(question.target, findings, answer, run.path, seconds, question.budget)


def _baseline(asked: str, findings: dict[str, Any]) -> str:
    """The usual choice, where it is not that of the operator for every function."""
    if findings["manner"]["forward_only"] and asked in ("gradient", "jacobian"):
        return "functional_forward"
    if asked == "hessian" and "gradient" not in findings["operators"]:
        return "functional_jacobian_twice"
    return FIRST_OF_ALL.get(asked, "")


def _delete(paths: Sequence[Path]) -> None:
    """Deletes files, and their folder where nothing else is in it."""
    for path in paths:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        paths[0].parent.rmdir()


def _require_device(device: str) -> None:
    """Raises Refusal where nothing can be measured on a device here."""
    try:
        place = Place.parse(device)
    except ValueError as error:
        raise Refusal(f"--device: {error}") from error
    if str(place) != place.device:
        raise Refusal(f"--device {device}: advice is given on a device alone, as {place.device}")
    if not place.on_cpu:
        with Worker(WorkerOptions()) as worker:
            there, torch = worker.environment["devices"], worker.environment["torch"]
        if place.device not in there:
            raise Refusal(f"--device {device}: there are {', '.join(there)} with torch {torch}")


def _too_short(question: Question, needed: str) -> Refusal:
    return Refusal(
        f"a budget of {question.budget:g} s is too short: looking at the function and starting "
        f"processes take {needed} here (--budget)"
    )


Prepared = tuple[list[Entry], Settings, Discovery, WorkerOptions]


def _prepared(
    question: Question, pattern: Path, suite: Path, began: float
) -> tuple[dict[str, Any], Prepared]:
    """What was found of the function, and the run that is to be made of it.

    Raises Refusal where there is none to be made.
    """
    findings = examine(question, str(pattern))
    asked = question.operator or findings["operators"][0]
    if asked in findings["refusals"]:
        raise Refusal(findings["refusals"][asked])
    if asked not in findings["operators"]:
        there = [name for name in findings["operators"] if name not in findings["refusals"]]
        raise Refusal(f"--operator {asked}: for this function there are {', '.join(there)}")
    spec = question.spec(str(pattern)) | {
        "operators": [asked],
        **{k: findings[k] for k in ("structured", "per_sample", "manner")},
    }
    write_text(suite, f"from gradbench.worker.subject import register\n\nregister({spec!r})\n")
    options = WorkerOptions(files=(str(suite),), memory_limit=question.memory_limit)
    before = time.perf_counter()
    discovery = discover(options)
    start_up = time.perf_counter() - before
    by_hand = set(discovery.by_hand)
    entries = [
        replace(entry, modes=tuple(m for m in entry.modes if m not in by_hand))
        for entry in expand(
            discovery.offers,
            Selection(functions=(YOURS,), dtypes=(question.dtype,), devices=(question.device,)),
        )
    ]
    base = PROFILES["quick"].settings
    spent = time.perf_counter() - began + LAST
    needed = spent + 3 * start_up
    if question.budget < needed:
        raise _too_short(question, f"{needed:.0f} s")
    instruments: tuple[str, ...] = (WALL_TIME,)
    if not discovery.unavailable.get(PEAK):
        instruments += (PEAK,)
    settings = replace(
        base,
        sessions=SESSIONS,
        stopping=replace(base.stopping, max_rounds=ROUNDS, budget=question.budget),
        timeout=question.timeout,
        memory_limit=question.memory_limit,
        seed=question.seed,
        instruments=instruments,
        baseline=_baseline(asked, findings),
        total=question.budget - spent,
        patience=PATIENCE * question.budget,
    )
    return findings, (entries, settings, discovery, options)
