"""Whether advice keeps its budget, on an idle machine and beside busy processes.

Functions of `corpus` are asked about as a user would. An answer that takes longer than its budget,
a refusal, and an answer without a winner are counted.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradbench.advise.answer import Advice
from gradbench.core.cases import Case
from gradbench.runner.progress import Report
from gradbench.runner.wire import WorkerOptions
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine
from gradbench.studies.asking import answered
from gradbench.studies.engine import Step
from gradbench.studies.gate import listed, question
from gradbench.studies.neighbour import load
from gradbench.studies.tally import conditions

CASES = ()
"""The cases are functions here: the settings have them."""

FUNCTIONS = 30
BUSY = 4
"""Busy processes beside the second half of the answers."""

ALLOWED = 0.1
"""The share of the budget that an answer may take longer."""

ALONE, BESIDE = "alone", "busy"


def settings(functions: Sequence[str], budget: float, busy: int, seed: int) -> dict[str, Any]:
    """The settings of a study of these functions."""
    return {
        "cases": [],
        "functions": list(functions),
        "budget": budget,
        "busy": busy,
        "seed": seed,
        "files": [],
    }


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every function alone, then every function beside the busy processes."""
    ways = (ALONE, BESIDE) if settings["busy"] else (ALONE,)
    return [
        Step(way, _case(name, way), process, 0, settings["budget"])
        for process, way in enumerate(ways)
        for name in settings["functions"]
    ]


def _case(name: str, way: str) -> Case:
    return Case.parse(f"advise/{name}/point=1/float32/cpu/1/{way}")


def carry_out(
    log: LineLog, study: Study, steps: Sequence[Step], report: Report, options: WorkerOptions
) -> Study:
    """As `engine.carry_out`: one answer after the other, whose runs are not kept."""
    functions = listed()
    settings = study.settings
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradbench-")))
        busy = stack.enter_context(contextlib.ExitStack())

        def one(step: Step) -> Trial:
            if step.way == BESIDE and step.process not in started:
                started.add(step.process)
                busy.enter_context(load(settings["busy"]))
            function = functions[step.case.comparison.function]
            asked = question(function, "float32", settings["seed"], step.budget)
            return answered(step, asked, place, _told)

        started: set[int] = set()
        return engine.loop(log, study, steps, report, one)


def _told(advice: Advice) -> dict[str, Any]:
    """What is kept of an answer."""
    return {
        "winner": advice.winner() if advice.operators else "",
        "told": [name for name in ("evidence", "structure", "cost") if advice.found.get(name)],
    }


# ── counting ──────────────────────────────────────────────────────────────────────────────────


def tables(study: Study, by_case: bool = False) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each table's title and rows."""
    return [("Answers within their budget", rows(study)), ("Late or without a winner", late(study))]


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row for answers alone, and one for those beside busy processes."""
    found = []
    for way in (ALONE, BESIDE):
        trials = [t for t in study.trials if t.way == way]
        if not trials:
            continue
        shares = np.array([t.elapsed / t.budget for t in trials])
        found.append(
            {
                "neighbour": "none" if way == ALONE else f"{study.settings['busy']} processes",
                "budget": study.settings["budget"],
                "trials": len(trials),
                "late": int(sum(shares > 1 + ALLOWED)),
                "longest": float(shares.max() - 1),
                "overrun_median": float(np.median(shares) - 1),
                "empty": sum(not t.values.get("told") for t in trials),
                "winners": sum(bool(t.values.get("winner")) for t in trials),
                **conditions(study),
            }
        )
    return found


def late(study: Study) -> list[dict[str, Any]]:
    """The answers that took too long, and those without a winner."""
    found = []
    for trial in study.trials:
        over = trial.elapsed / trial.budget - 1
        told = trial.reason or trial.values.get("refused", "")
        told = told or ("" if trial.values.get("winner") else "no winner")
        if over > ALLOWED or told:
            found.append(
                {
                    "neighbour": trial.way,
                    "function": trial.case.comparison.function,
                    "overrun": over,
                    "fault": told or "late",
                }
            )
    return found
