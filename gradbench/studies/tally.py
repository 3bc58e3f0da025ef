"""From trials to tables: false positive rate, power and cost of each way of measuring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradbench import statistics
from gradbench.core.verdicts import Verdict
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
    case: str
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


def false_alarms(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """Rows for pairs of the same code: the false positive rate."""
    floors = floors_of(study)
    alike = [o for o in outcomes(study.trials, floors, pairs_of(study)) if not o.share]
    rows = []
    for way in WAYS:
        mine = [o for o in alike if o.way == way]
        cases = sorted({o.case for o in mine})
        groups = [("all", mine)] if mine else []
        if by_case:
            groups += [(case, [o for o in mine if o.case == case]) for case in cases]
        for case, group in groups:
            called = sum(o.verdict in ("faster", "slower") for o in group)
            odds = rate(called, len(group))
            logs_ = np.abs([o.log for o in group])
            rows.append(
                {
                    "rule": rule(way, pairs_of(study)),
                    "neighbour": study.settings.get("neighbour"),
                    "floor": floors[way],
                    "budget": group[0].budget,
                    "case": f"all {len(cases)}" if case == "all" else case,
                    "trials": len(group),
                    "false_alarms": called,
                    "rate": odds.value,
                    "rate_low": odds.low,
                    "rate_high": odds.high,
                    "same": sum(o.verdict == "same" for o in group),
                    "undecided": sum(o.verdict == "undecided" for o in group),
                    "q95": math.expm1(float(np.quantile(logs_, 0.95))),
                    "worst": math.expm1(float(logs_.max())),
                    "seconds_measuring": float(np.mean([o.visiting for o in group])),
                    "seconds_in_all": float(np.mean([o.elapsed for o in group])),
                    **conditions(study),
                }
            )
    return rows


def truths(study: Study) -> dict[float, float]:
    """The slowdown that long measurements show for each nominal one, as a ratio less 1."""
    medians: dict[float, list[float]] = {}
    for trial in study.good("truth"):
        medians.setdefault(trial.share, []).append(float(np.median(logs(trial.log_ratios))))
    return {share: math.expm1(float(np.mean(values))) for share, values in medians.items()}


def power(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """Rows for injected slowdowns: the power to call them slower."""
    floors = floors_of(study)
    slowed = [o for o in outcomes(study.trials, floors, pairs_of(study)) if o.share]
    truth = truths(study)
    rows = []
    for way in WAYS:
        for budget in sorted({o.budget for o in slowed if o.way == way}):
            for share in sorted({o.share for o in slowed if o.way == way}):
                mine = [o for o in slowed if (o.way, o.budget, o.share) == (way, budget, share)]
                cases = sorted({o.case for o in mine})
                groups = [("all", mine)] if mine else []
                if by_case:
                    groups += [(case, [o for o in mine if o.case == case]) for case in cases]
                for case, group in groups:
                    called = sum(o.verdict == "slower" for o in group)
                    odds = rate(called, len(group))
                    ratios = np.array([o.log for o in group])
                    rows.append(
                        {
                            "rule": rule(way, pairs_of(study)),
                            "neighbour": study.settings.get("neighbour"),
                            "floor": floors[way],
                            "budget": budget,
                            "slowdown": share,
                            "calibrated": float(np.mean([o.injected for o in group])),
                            "long_run": truth.get(share),
                            "case": f"all {len(cases)}" if case == "all" else case,
                            "trials": len(group),
                            "found": called,
                            "power": odds.value,
                            "power_low": odds.low,
                            "power_high": odds.high,
                            "called_faster": sum(o.verdict == "faster" for o in group),
                            "median": math.expm1(float(np.median(ratios))),
                            "q05": math.expm1(float(np.quantile(ratios, 0.05))),
                            "q95": math.expm1(float(np.quantile(ratios, 0.95))),
                            "seconds_measuring": float(np.mean([o.visiting for o in group])),
                            "seconds_in_all": float(np.mean([o.elapsed for o in group])),
                            **conditions(study),
                        }
                    )
    return rows
