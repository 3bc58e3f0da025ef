"""From trials to tables: false positive rate, power and cost of each way of measuring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradbench import statistics
from gradbench.core.cases import Case
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.store.studies import Study, Trial
from gradbench.studies.engine import sessions_of
from gradbench.studies.rules import logs, rate, within_process

SESSIONS = 5
"""Processes in one comparison by the full protocol."""

PAIRS = 10
"""Pairs of processes in one comparison between processes, unless the study says otherwise."""

WAYS = ("process", "session", "between")
FLOORS = {"process": statistics.FLOOR, "session": statistics.FLOOR, "between": 0.02}


def rule(way: str, pairs: int) -> str:
    """The rule for the verdict on a comparison measured in this way."""
    return {
        "process": "one process, interval beyond the threshold",
        "session": f"{SESSIONS} processes, t-interval between them",
        "between": f"{pairs} pairs of processes taking turns, t-interval between them",
    }[way]


def pairs_of(study: Study) -> int:
    """The pairs of processes in one comparison of a study; the first studies do not state it."""
    return int(study.settings.get("pairs") or SESSIONS)


class Outcome(NamedTuple):
    """The verdict on one comparison, and its cost. Seconds are sums over its sessions."""

    way: str
    case: Case
    share: float
    budget: float
    verdict: Verdict
    log: float
    visiting: float
    elapsed: float
    injected: float


def outcomes(
    trials: Iterable[Trial], floors: dict[str, float], pairs: int = PAIRS
) -> list[Outcome]:
    """The outcome of each comparison by its way's rule, without incomplete ones."""
    decided = []
    trials = [t for t in trials if not t.reason and t.log_ratios and t.way in WAYS]
    for trial in trials:
        if trial.way == "process":
            values = logs(trial.log_ratios)
            verdict = within_process(values, floors["process"])
            decided.append(_outcome([trial], verdict, float(np.median(values)), trial.budget))
    for (way, *_), sessions in sessions_of(t for t in trials if t.way != "process").items():
        if len(sessions) == (pairs if way == "between" else SESSIONS):
            estimates = [statistics.median_interval(logs(t.log_ratios)) for t in sessions]
            estimate = statistics.between_sessions(estimates, floors[way])
            budget = sum(t.budget for t in sessions)
            verdict = statistics.verdict(estimate)
            decided.append(_outcome(sessions, verdict, math.log(estimate.ratio), budget))
    return decided


def _outcome(sessions: Sequence[Trial], verdict: Verdict, log: float, budget: float) -> Outcome:
    first = sessions[0]
    return Outcome(
        way=first.way,
        case=first.case,
        share=first.share,
        budget=round(budget, 6),
        verdict=verdict,
        log=log,
        visiting=sum(t.visiting for t in sessions),
        elapsed=sum(t.elapsed for t in sessions),
        injected=float(np.mean([t.injected for t in sessions])),
    )


def conditions(study: Study) -> dict[str, Any]:
    """The conditions of a study, for its tables."""
    environment, machine = study.started.environment, study.started.machine
    loads = [t.load for t in study.trials if not t.reason]
    return {
        "torch": environment.get("torch"),
        "cpu": machine.get("cpu"),
        "cores": machine.get("usable_cores"),
        "threads": 1,
        "load": round(float(np.median(loads)), 2) if loads else None,
        "study": study.started.name,
    }


def floors_of(study: Study) -> dict[str, float]:
    floor = study.settings.get("floor")
    return FLOORS if floor is None else dict.fromkeys(FLOORS, floor)


def _groups(outcomes: Sequence[Outcome], by_case: bool) -> dict[str, list[Outcome]]:
    """All outcomes, then those of each case if `by_case`, by what a table calls them."""
    cases = sorted({o.case for o in outcomes})
    groups = {f"all {len(cases)}": list(outcomes)} if outcomes else {}
    if by_case:
        groups |= {case: [o for o in outcomes if o.case == case] for case in cases}
    return groups


def _columns(study: Study, outcomes: Sequence[Outcome], own: dict[str, Any]) -> dict[str, Any]:
    """A row for outcomes of one way and budget: `own` columns between those of every table."""
    first = outcomes[0]
    return {
        "rule": rule(first.way, pairs_of(study)),
        "neighbour": study.settings.get("neighbour"),
        "floor": floors_of(study)[first.way],
        "budget": first.budget,
        **own,
        "seconds_measuring": float(np.mean([o.visiting for o in outcomes])),
        "seconds_in_all": float(np.mean([o.elapsed for o in outcomes])),
        **conditions(study),
    }


def false_alarms(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """Rows for pairs of the same code: the false positive rate."""
    decided = outcomes(study.trials, floors_of(study), pairs_of(study))
    rows = []
    for way in WAYS:
        alike = [o for o in decided if o.way == way and not o.share]
        for case, group in _groups(alike, by_case).items():
            called = sum(o.verdict in CALLED for o in group)
            interval = rate(called, len(group))
            apart = np.abs([o.log for o in group])
            own = {
                "case": case,
                "trials": len(group),
                "false_alarms": called,
                "rate": interval.value,
                "rate_low": interval.low,
                "rate_high": interval.high,
                "same": sum(o.verdict == "same" for o in group),
                "undecided": sum(o.verdict == "undecided" for o in group),
                "q95": math.expm1(float(np.quantile(apart, 0.95))),
                "worst": math.expm1(float(apart.max())),
            }
            rows.append(_columns(study, group, own))
    return rows


def truths(study: Study) -> dict[float, float]:
    """The slowdown that long measurements show for each nominal one, as a ratio less 1."""
    medians: dict[float, list[float]] = {}
    for trial in study.good("truth"):
        medians.setdefault(trial.share, []).append(float(np.median(logs(trial.log_ratios))))
    return {share: math.expm1(float(np.mean(values))) for share, values in medians.items()}


def power(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """Rows for injected slowdowns: the power to call them slower."""
    slowed = [o for o in outcomes(study.trials, floors_of(study), pairs_of(study)) if o.share]
    truth = truths(study)
    rows = []
    kinds = sorted({(WAYS.index(o.way), o.budget, o.share) for o in slowed})
    for way, budget, share in kinds:
        kind = (WAYS[way], budget, share)
        alike = [o for o in slowed if (o.way, o.budget, o.share) == kind]
        for case, group in _groups(alike, by_case).items():
            called = sum(o.verdict == "slower" for o in group)
            interval = rate(called, len(group))
            ratios = np.array([o.log for o in group])
            own = {
                "slowdown": share,
                "calibrated": float(np.mean([o.injected for o in group])),
                "long_run": truth.get(share),
                "case": case,
                "trials": len(group),
                "found": called,
                "power": interval.value,
                "power_low": interval.low,
                "power_high": interval.high,
                "called_faster": sum(o.verdict == "faster" for o in group),
                "median": math.expm1(float(np.median(ratios))),
                "q05": math.expm1(float(np.quantile(ratios, 0.05))),
                "q95": math.expm1(float(np.quantile(ratios, 0.95))),
            }
            rows.append(_columns(study, group, own))
    return rows
