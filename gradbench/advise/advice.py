"""Advice on a user's function: probe it, measure every way that applies, say what was found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbench.cases import Selection, expand
from gradbench.judge import Judged, judged
from gradbench.run import PROFILES, Report, discover, measure, start
from gradbench.wire import WorkerOptions

NAME = "yours"
SESSIONS = 3


class Refusal(Exception):
    """No advice can be given on the function; the message says why, in one line."""


@dataclass(frozen=True)
class Question:
    """What is asked. `inputs` are pairs of a name and an expression; times in seconds.

    `budget` is what all visits may take together; starting processes and checking come on top.
    """

    target: str
    inputs: tuple[tuple[str, str], ...]
    wrt: tuple[str, ...] = ()
    operator: str = ""
    dtype: str = "float32"
    budget: float = 10.0
    timeout: float = 60.0
    memory_limit: int = 4 << 30
    seed: int = 0

    def spec(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "wrt": list(self.wrt),
            "dtype": self.dtype,
            "memory_limit": self.memory_limit,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Advice:
    """What was found of a function, and the judged run. `sources` is the code of each mode."""

    found: dict[str, Any]
    judged: Judged
    sources: dict[tuple[str, str], str]
    path: Path


def examine(question: Question) -> dict[str, Any]:
    """What the probing process finds. Raises Refusal, also where that process dies or hangs."""
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        spec = Path(scratch) / "spec.json"
        spec.write_text(json.dumps(question.spec()))
        process = subprocess.Popen(
            [sys.executable, "-m", "gradbench.advise.probe", str(spec)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=question.timeout)
        except subprocess.TimeoutExpired:
            raise Refusal(f"it did not end within {question.timeout:g} s (--timeout)") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        code = process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise Refusal(f"it ends its process ({how})") from None
    if "refused" in answer:
        raise Refusal(answer["refused"])
    return answer


def advise(question: Question, results: Path, report: Report, command: list[str]) -> Advice:
    """Probes, gates and measures; the run is stored in `results` like any other.

    Raises Refusal where no advice can be given, StoreError and WorkerError as `run.measure` does.
    """
    found = examine(question)
    operators = found["operators"]
    if question.operator:
        known = [*operators, "vjp", "jvp"]
        if question.operator not in known:
            raise Refusal(
                f"--operator {question.operator}: for this function there are {', '.join(known)}"
            )
        operators = [question.operator]
    spec = question.spec() | {"operators": operators, "structured": found["structured"]}
    # It stays beside the runs, so that an interrupted run can be resumed.
    suites = results.resolve() / "advise"
    suites.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=suites, prefix="suite_", suffix=".py", delete=False
    ) as file:
        file.write(f"from gradbench.advise.subject import register\n\nregister({spec!r})\n")
    options = WorkerOptions(files=(file.name,), memory_limit=question.memory_limit)
    discovery = discover(options)
    by_hand = set(discovery.by_hand)
    entries = [
        replace(entry, modes=tuple(m for m in entry.modes if m not in by_hand))
        for entry in expand(
            discovery.offers, Selection(functions=(NAME,), dtypes=(question.dtype,))
        )
    ]
    base = PROFILES["quick"].settings
    share = question.budget / (SESSIONS * len(entries))
    settings = replace(
        base,
        sessions=SESSIONS,
        stopping=replace(base.stopping, max_rounds=24, budget=share),
        timeout=question.timeout,
        memory_limit=question.memory_limit,
        seed=question.seed,
    )
    log, run = start(results, entries, settings, discovery, options.files, command)
    with log:
        run = measure(log, run, settings, options, discovery, report)
    sources = {(m["operator"], m["mode"]): m["source"] for m in discovery.modes}
    return Advice(found, judged(run.path), sources, run.path)
