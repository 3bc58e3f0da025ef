"""Advice compared with an expert's hand-written code, and with the usual choice.

For each function of `functions` advice measures its ways and the expert's beside each other, in
the same rounds of the same processes, and puts all of them through the gate.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradbench.advise.advice import Question
from gradbench.advise.answer import Advice
from gradbench.core.cases import Case
from gradbench.runner.progress import Report
from gradbench.runner.wire import WorkerOptions
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine
from gradbench.studies.asking import answered
from gradbench.studies.engine import Step
from gradbench.studies.tally import conditions

FLOOR = 0.02
"""A winner is behind the expert where the whole interval lies above one by more than this."""

PLACE = "gradbench.studies.experts"

CASES = ()
"""The cases are functions here: the settings have them."""


@dataclass(frozen=True)
class Asked:
    """A function, its field in words, and by which inputs it is differentiated.

    `module` is that of the function and of its expert; `operator` the derivative that is asked
    for, empty for the one that advice measures by itself.
    """

    name: str
    field: str
    wrt: tuple[str, ...] = ()
    module: str = "functions"
    operator: str = ""


FUNCTIONS = (
    Asked("pinn", "physics-informed network, by its points"),
    Asked("reprojection", "camera reprojection, by the pose", ("pose",)),
    Asked("recurrence", "recurrent cell, last state by first", ("state",)),
    Asked("mixture", "Gaussian mixture, by its parameters", ("logits", "means", "log_scales")),
    Asked("burgers", "finite-difference stencil, by the grid", ("u",)),
    Asked("losses", "per-sample gradients of a network", ("w1", "w2")),
    Asked("bundle", "bundle adjustment", ("cameras", "points"), "residuals"),
    Asked(
        "stacked",
        "bundle adjustment with weights, stacked",
        ("cameras", "points", "weights"),
        "residuals",
    ),
    Asked("arrow", "arrow matrix", (), "residuals"),
    Asked("ode_step", "Runge-Kutta step of an ODE", (), "residuals"),
    Asked("hand", "hand tracking, by the pose", ("pose",), "residuals"),
    Asked("kernels", "sum of kernels, 2000 × 201", ("w",), "models"),
    Asked("process", "Gaussian process likelihood", ("theta",), "models"),
    Asked("clusters", "k-means, hessian", ("centres",), "models", "hessian"),
    Asked("field", "network over a batch, hessian", ("points",), "models", "hessian"),
    Asked(
        "images",
        "per-sample gradients of a CNN",
        ("kernel1", "kernel2", "weight"),
        "models",
    ),
    Asked(
        "sequences",
        "per-sample gradients of a recurrent network",
        ("w_in", "w_state", "w_out"),
        "models",
    ),
)


def question(asked: Asked, budget: float) -> Question:
    """What advice is asked about a function."""
    place = f"{PLACE}.{asked.module}:{asked.name}"
    return Question(
        place,
        (),
        asked.wrt,
        asked.operator,
        budget=budget,
        maker=f"{place}_inputs",
        also=(f"{place}_expert",),
    )


def settings(names: Sequence[str], budget: float) -> dict[str, Any]:
    """The settings of a study of these functions; of all where none is named.

    Raises ValueError for a name that is none of them.
    """
    known = {asked.name: asked for asked in FUNCTIONS}
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r}: the functions are {', '.join(known)}")
    chosen = [name for name in known if not names or name in names]
    return {"cases": [], "functions": chosen, "budget": budget, "seed": 0, "files": []}


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """A question for each function."""
    return [
        Step("advice", Case.parse(f"advise/{name}/point=1/float32/cpu/1/expert"), 0, 0, budget)
        for budget in (settings["budget"],)
        for name in settings["functions"]
    ]


def carry_out(
    log: LineLog, study: Study, steps: Sequence[Step], report: Report, options: WorkerOptions
) -> Study:
    """As `engine.carry_out`: one answer after the other, whose runs are not kept."""
    functions = {asked.name: asked for asked in FUNCTIONS}
    with tempfile.TemporaryDirectory(prefix="gradbench-") as place:

        def one(step: Step) -> Trial:
            asked = functions[step.case.comparison.function]
            told = functools.partial(row, asked)
            return answered(step, question(asked, step.budget), Path(place), told)

        return engine.loop(log, study, steps, report, one)


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row for each function; see `row`."""
    columns = ("operator", "best", "usual", "usual_verdict", "expert_status")
    fields = {asked.name: asked.field for asked in FUNCTIONS}
    return [
        {
            **dict.fromkeys(columns, ""),
            **{key: value for key, value in trial.values.items() if key != "budget"},
            "function": fields.get(trial.case.comparison.function, ""),
            "seconds": trial.elapsed,
            **conditions(study),
        }
        for trial in study.trials
        if not trial.reason
    ]


def behind(study: Study) -> list[str]:
    """The faults: fields in which the expert is ahead, an answer is late, or there is none."""
    said = {
        "as_fast": "behind the expert, or the expert was not timed",
        "in_time": "over its budget",
    }
    found = []
    for made in rows(study):
        if "refused" in made:
            found.append(f"{made['function']}: no answer: {made['refused']}")
        found += [f"{made['function']}: {why}" for key, why in said.items() if not made.get(key, 1)]
    return found


def row(asked: Asked, advice: Advice) -> dict[str, Any]:
    """What came of one function: the expert's time and the usual way's as multiples of the best of
    advice's own ways and of the fastest, with 95 % intervals."""
    if not advice.operators or not advice.rows(advice.operators[0]):
        refused = "nothing was measured: the budget is too short for this machine"
        return {"function": asked.name, "field": asked.field, "refused": refused}
    operator = advice.operators[0]
    rows = {r.mode: r for r in advice.rows(operator)}
    expert = rows[f"{asked.name}_expert"]
    usual = rows.get(advice.first)
    winner = rows.get(advice.winner(operator))
    made: dict[str, Any] = {
        "function": asked.name,
        "field": asked.field,
        "operator": operator,
        "winner": winner.mode if winner else "",
        "usual": usual.mode if usual else "",
        "usual_status": f"{usual.status}: {usual.reason}" if usual else "",
        "expert_status": f"{expert.status}: {expert.reason}",
        "seconds": round(advice.seconds, 2),
        "budget": advice.budget,
        "run": advice.run,
    }
    for name, other in (("usual", usual), ("expert", expert)):
        if other is not None and other.to_fastest is not None:
            ratio = other.to_fastest
            made |= {
                f"{name}_ratio": ratio.value,
                f"{name}_low": ratio.low,
                f"{name}_high": ratio.high,
                f"{name}_verdict": other.verdict,
            }
    best = next(r for r in advice.rows(operator) if r is not expert)
    made["best"] = best.mode
    to_best = best.to_fastest
    behind = winner is expert and to_best is not None and to_best.low > 1 + FLOOR
    made["as_fast"] = expert.status == "ok" and not behind
    if winner is expert and to_best is not None:
        # The expert's is the reference then: turned round, the row says the same of all functions.
        made |= {"expert_ratio": 1 / to_best.value, "expert_low": 1 / to_best.high}
        made |= {"expert_high": 1 / max(to_best.low, 1e-300), "expert_verdict": best.verdict}
    made["in_time"] = advice.seconds <= advice.budget
    return made
