"""The gate and the evidence on real functions: right derivatives kept, planted errors caught.

Each function of `corpus` is tried at several random points in several dtypes, by the machinery of
advice without its times. All of its derivatives are right, so every mode called wrong, every
contradiction and every refusal is a fault of gradbench. Then errors of known kinds are planted in
the results of right modes, which the gate should catch, and in the backward of one operation of a
function, which the evidence should catch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gradbench.advise.advice import Question
from gradbench.core.cases import Case
from gradbench.core.suggest import hint
from gradbench.runner.progress import Report
from gradbench.runner.wire import (
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerTimeout,
    process_environment,
)
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine
from gradbench.studies.rules import rate
from gradbench.studies.tally import conditions

CASES = ()
"""The cases are functions here: the settings have them."""

DTYPES = ("float32", "float64", "bfloat16")
POINTS = 5

KINDS = (
    *("factor 2 in one entry", "sign", "swapped rows", "zero column", "transposed square"),
    *("shifted by one", "off by 1e-3", "clipped", "mean for a sum", "stale state", "right once"),
    *("missing term", "detached branch"),
)
"""The kinds of planted error, as `corpus.plants.KINDS`, which this side cannot import."""

PLANTED_IN = 24
"""So many functions have errors planted in them."""

QUICK = 6
"""The same in a quick study."""

NARROW = "bfloat16"
"""Its rounding hides errors of 1e-3, so none are planted in it."""

TIMEOUT = 120.0
"""Seconds for one function at one point."""

PER_PROCESS = 200
"""Cases before a new process starts."""

SECONDS = 2.0
"""What a case takes, for the estimate at the start; progress then says better."""

UNCONFIRMED = "not confirmed"
"""What the evidence says where finite differences cannot decide."""

TRIED, PLANTED = "tried", "planted"


@dataclass(frozen=True)
class Step(engine.Step):
    """One function at one point in one dtype, or with an error of a kind inside."""

    name: str = ""
    dtype: str = ""
    point: int = 1
    kind: str = ""

    @property
    def key(self) -> str:
        return f"{self.way}/{self.name}/{self.dtype}/{self.point}/{self.kind}"


class Process:
    """The process that tries functions, restarted where it dies or hangs."""

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def ask(self, timeout: float = TIMEOUT, **asked: Any) -> dict[str, Any]:
        """The answer to one request. Raises WorkerDied or WorkerTimeout, with the process gone."""
        process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], timeout)[0]:
                self.end()
                raise WorkerTimeout(f"no answer within {timeout:g} s")
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = process.wait()
            self.end()
            raise WorkerDied(f"the process ended (exit code {code})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        try:
            self.process = subprocess.Popen(
                [self.python, "-m", "gradbench.studies.corpus.process", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=process_environment(self.python),
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"no process can be started: {error}") from error
        return self.process

    def end(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process = None


def listed() -> dict[str, dict[str, Any]]:
    """The functions of the corpus by name. Raises WorkerError where no process can say."""
    with Process() as process:
        try:
            return {each["name"]: each for each in process.ask(op="list")["functions"]}
        except KeyError as error:
            raise WorkerError("the corpus cannot be read") from error


def chosen(functions: Iterable[str], names: Sequence[str]) -> list[str]:
    """These functions, or all. Raises ValueError for a name that is none of them."""
    known = list(functions)
    for name in names:
        if name not in known:
            near = hint(name, known) or f"there are {len(known)}, such as {', '.join(known[:5])}"
            raise ValueError(f"{name!r} is not a function of the corpus; {near}")
    return [name for name in known if not names or name in names]


def some(functions: Sequence[str], number: int) -> list[str]:
    """So many of the functions, from all parts of the list."""
    if number >= len(functions):
        return list(functions)
    return [functions[i * len(functions) // number] for i in range(number)]


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every function in every dtype at every point, and the errors inside some of them."""
    steps: list[Step] = []

    def add(way: str, name: str, dtype: str, point: int, kind: str = "") -> None:
        case = Case.parse(f"advise/{name}/point={point}/{dtype}/cpu/1/{way}")
        process = len(steps) // PER_PROCESS
        steps.append(
            Step(way, case, process, 0, 0.0, name=name, dtype=dtype, point=point, kind=kind)
        )

    # Interrupted, it has tried as many functions as there was time for, then more points of each.
    for point in range(1, settings["points"] + 1):
        for name in settings["functions"]:
            for dtype in settings["dtypes"]:
                add(TRIED, name, dtype, point)
        for name in settings["planted"] if point == 1 else ():
            for kind in KINDS:
                add(PLANTED, name, "float32", 1, kind)
    return steps


def settings(
    functions: Sequence[str],
    dtypes: Sequence[str],
    points: int,
    seed: int,
    quick: bool = False,
) -> dict[str, Any]:
    """The settings of a study of these functions. Errors are planted in some of them."""
    return {
        "cases": [],
        "functions": list(functions),
        "planted": some(functions, QUICK if quick else PLANTED_IN),
        "dtypes": list(dtypes),
        "points": points,
        "seed": seed,
        "files": [],
    }


def carry_out(
    log: LineLog, study: Study, steps: Sequence[Step], report: Report, options: WorkerOptions
) -> Study:
    """As `engine.carry_out`, in processes that each try many functions."""
    functions = listed()
    with Process(options.python) as process:

        def one(step: Any) -> Trial:
            began = time.perf_counter()
            values: dict[str, Any] = {}
            reason = ""
            try:
                asked = request(step, functions[step.name], study.settings)
                values = process.ask(**asked)
                reason = values.pop("broken", "")
            except (WorkerDied, WorkerTimeout) as error:
                reason = str(error)
            trial: Trial = step.trial(
                values=values,
                reason=reason,
                elapsed=round(time.perf_counter() - began, 3),
                load=round(os.getloadavg()[0], 2),
            )
            return trial

        return engine.loop(log, study, steps, report, one, process.end)


def request(step: Step, function: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What the process is asked for a step."""
    asked = question(function, step.dtype, settings["seed"] + step.point - 1)
    if step.way == PLANTED:
        return {"op": PLANTED, "spec": asked.spec(), "kind": step.kind}
    here = step.name in settings["planted"] and step.dtype != NARROW
    plant = here and step.point == 1
    torch_errs = function.get("torch_errs", ())
    return {"op": TRIED, "spec": asked.spec(), "plant": plant, "torch_errs": torch_errs}


def question(function: dict[str, Any], dtype: str, seed: int, budget: float = 30.0) -> Question:
    """What advice is asked about a function of the corpus."""
    maker = f"{function['target']}.inputs"
    wrt = tuple(function["wrt"])
    return Question(function["target"], (), wrt, dtype=dtype, seed=seed, maker=maker, budget=budget)


# ── counting ──────────────────────────────────────────────────────────────────────────────────


def tables(study: Study, by_case: bool = False) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each table's title and rows."""
    return [
        ("Right derivatives of real functions", rows(study)),
        ("Planted errors", planted_rows(study)),
        ("Faults of gradbench on right derivatives", faults(study)),
        ("Planted errors that were not caught", missed(study)),
    ]


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row for each dtype, then for all: right modes and derivatives, and what became of them."""
    trials = [t for t in study.trials if t.way == TRIED]
    groups = {
        dtype: [t for t in trials if _dtype(t) == dtype]
        for dtype in dict.fromkeys(map(_dtype, trials))
    }
    if len(groups) > 1:
        groups["all"] = trials
    return [
        {"dtype": dtype, **_counts(group), **conditions(study)} for dtype, group in groups.items()
    ]


def _dtype(trial: Trial) -> str:
    return trial.case.comparison.dtype


def _name(trial: Trial) -> str:
    return trial.case.comparison.function


def _counts(trials: Sequence[Trial]) -> dict[str, Any]:
    supported = [t for t in trials if "unsupported" not in t.values]
    named = sum(bool(t.values.get("ok")) for t in supported)
    nameable = rate(named, len(supported))
    wrong = [len(t.values.get("wrong", ())) for t in supported]
    return {
        "functions": len({_name(t) for t in trials}),
        "trials": len(supported),
        "unsupported": len(trials) - len(supported),
        "modes": sum(len(t.values.get("ok", ())) for t in supported) + sum(wrong),
        "called_wrong": sum(wrong),
        "cases_wrong": sum(bool(w) for w in wrong),
        "wrong_in_torch": sum(len(t.values.get("wrong_in_torch", ())) for t in supported),
        "contradicted": sum(bool(t.values.get("contradicted")) for t in supported),
        "unconfirmed": sum(_unconfirmed(t) for t in supported),
        "named": named,
        "nameable": nameable.value,
        "nameable_low": nameable.low,
        "nameable_high": nameable.high,
    }


def _unconfirmed(trial: Trial) -> bool:
    return any(UNCONFIRMED in sentence for sentence in trial.values.get("evidence", ()))


def _errors(study: Study) -> Iterable[tuple[str, str, str, dict[str, Any]]]:
    """Function, dtype, where the error is, and what came of it, for each planted error."""
    for trial in study.trials:
        for error in trial.values.get("planted", ()):
            yield _name(trial), _dtype(trial), "results of modes", error
        if trial.way == PLANTED and trial.values.get("size"):
            yield _name(trial), _dtype(trial), "backwards", trial.values


def planted_rows(study: Study) -> list[dict[str, Any]]:
    """A row for each kind of error and place, then for all of a place."""
    made: list[dict[str, Any]] = []
    errors = list(_errors(study))
    for place in ("results of modes", "backwards"):
        own = [e for e in errors if e[2] == place]
        for kind in (*KINDS, ""):
            alike = [e for e in own if kind in ("", e[3]["kind"])]
            if not alike:
                continue
            caught = sum(bool(e[3]["caught"]) for e in alike)
            interval = rate(caught, len(alike))
            made.append(
                {
                    "place": place,
                    "kind": kind or "all",
                    "functions": len({name for name, *_ in alike}),
                    "trials": len(alike),
                    "found": caught,
                    "power": interval.value,
                    "power_low": interval.low,
                    "power_high": interval.high,
                }
            )
    return made


def missed(study: Study) -> list[dict[str, Any]]:
    """The planted errors that were not caught, each with its size."""
    return [
        {
            "function": name,
            "dtype": dtype,
            "place": place,
            "kind": error["kind"],
            "size": error["size"],
            "share": error.get("share"),
        }
        for name, dtype, place, error in _errors(study)
        if not error["caught"]
    ]


def faults(study: Study) -> list[dict[str, Any]]:
    """The right derivatives that were refused or called wrong, or whose process was lost, and what
    torch computes wrong and passed."""
    found = []
    for trial in study.trials:
        values = trial.values
        told = trial.reason or values.get("refused", "")
        for mode in values.get("passed_in_error", ()):
            told = told or f"{mode} ok, and torch computes it wrong"
        for status in ("wrong", "failed"):
            for mode, reason in values.get(status, {}).items():
                told = told or f"{mode} {status}: {reason}"
        if told and trial.way == TRIED:
            row = {"function": _name(trial), "dtype": _dtype(trial)}
            point = trial.case.comparison.size.partition("=")[2]
            found.append(row | {"point": point, "fault": told})
    return found
