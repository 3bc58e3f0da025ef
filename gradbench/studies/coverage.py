"""The coverage of the interval between sessions, for pairs of different modes.

A pool of many short sessions stands for the long run. It is divided into disjoint groups of five;
each group's interval is compared with the mean of all sessions *outside* the group. This mean has
an error of its own, so the measured coverage is slightly below the real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradbench import statistics
from gradbench.core.cases import Case, SelectionError
from gradbench.runner.workers import Discovery
from gradbench.store.studies import Study
from gradbench.studies import engine
from gradbench.studies.engine import Step, sessions_of, shuffled
from gradbench.studies.rules import logs, rate
from gradbench.studies.tally import SESSIONS, conditions

CASES = (
    "vjp/three_x_squared/backward:grad",
    "batch_jacobian/batched_vector_field/loop_grad:grads_batched",
    "jacobian/affine/functional_jacobian:loop_grad",
    "jacobian/exp/jacrev:jacfwd",
    "gradient/affine_softmax_mse/manual:backward",
    "hessian/sum_of_squares/grad_twice:grad_twice_batched",
)

GROUP = f"groups of {SESSIONS} processes, disjoint"
RESAMPLED = f"groups of {SESSIONS} processes, drawn at random"
ONE = "one process's own interval"

DRAWS = 1000


def resolve(discovery: Discovery, names: Iterable[str]) -> list[Case]:
    """The cases of operator/function/mode:other, with ``mode:other`` as their mode.

    Raises SelectionError for unknown names.
    """
    pairs = []
    for name in names:
        case, colon, other = name.partition(":")
        if not colon:
            raise SelectionError(f"pair {name!r} is not operator/function/mode:other_mode")
        engine.resolve(discovery, [f"{case.rpartition('/')[0]}/{other}"])
        pairs += [
            found.comparison.case(f"{found.mode}:{other}")
            for found in engine.resolve(discovery, [case])
        ]
    return pairs


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every pair of modes once in each of `sessions` processes."""
    steps = []
    for process in range(settings["sessions"]):
        for pair in cases:
            mode, _, other = pair.mode.partition(":")
            case = pair.comparison.case(mode)
            steps.append(Step("pool", case, process, 0, settings["budget"], against=other))
    return shuffled(steps, settings["seed"])


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    pools: dict[str, list[statistics.SessionEstimate]] = {}
    costs: list[tuple[float, float]] = []
    for (_, case, *_), sessions in sessions_of(study.good("pool")).items():
        name = f"{case} : {sessions[0].values['against']}"
        pools[name] = [statistics.median_interval(logs(t.log_ratios)) for t in sessions]
        costs += [(t.visiting, t.elapsed) for t in sessions]
    visiting, elapsed = np.mean(costs, axis=0) if costs else (math.nan, math.nan)
    table = []
    for rule, count in ((GROUP, SESSIONS), (RESAMPLED, SESSIONS), (ONE, 1)):
        hits = {
            name: _hits(pool, rule, study.settings.get("seed", 0)) for name, pool in pools.items()
        }
        groups = [("all", [hit for own in hits.values() for hit in own])] if hits else []
        if by_case:
            groups += list(hits.items())
        for name, own in groups:
            covered = sum(hit for hit, _ in own)
            odds = rate(covered, len(own))
            # Groups drawn at random share sessions, so their number gives no interval.
            drawn = rule == RESAMPLED
            table.append(
                {
                    "rule": rule,
                    "neighbour": study.settings.get("neighbour"),
                    "case": f"all {len(pools)} pairs" if name == "all" else name,
                    "long_run_ratio": None if name == "all" else _ratio(pools[name]),
                    "trials": len(own),
                    "covered": covered,
                    "coverage": odds.value,
                    "coverage_low": 0.0 if drawn else odds.low,
                    "coverage_high": 1.0 if drawn else odds.high,
                    "half_width": math.expm1(float(np.median([w for _, w in own] or [0]))),
                    "sessions": max(map(len, pools.values()), default=0),
                    "seconds_measuring": count * float(visiting),
                    "seconds_in_all": count * float(elapsed),
                    **conditions(study),
                }
            )
    return table


def _ratio(pool: Sequence[statistics.SessionEstimate]) -> float:
    return math.exp(float(np.mean([e.median for e in pool])))


def _hits(
    pool: Sequence[statistics.SessionEstimate], rule: str, seed: int
) -> list[tuple[bool, float]]:
    """For each group: whether its interval covers the mean of the others, and its half-width."""
    count = len(pool)
    size = 1 if rule == ONE else SESSIONS
    if rule == RESAMPLED:
        chance = np.random.default_rng(seed)
        draws = DRAWS if count >= 2 * SESSIONS else 0
        groups = [list(chance.choice(count, size, replace=False)) for _ in range(draws)]
    else:
        groups = [list(range(i, i + size)) for i in range(0, count - size + 1, size)]
    hits = []
    medians = np.array([e.median for e in pool])
    for group in groups:
        outside = np.delete(medians, group)
        if not len(outside):
            continue
        estimate = statistics.between_sessions([pool[i] for i in group])
        # Of a few rounds the interval has no ends: 0 and infinity.
        low = math.log(estimate.low) if estimate.low else -math.inf
        high = math.log(estimate.high)
        hits.append((low <= float(outside.mean()) <= high, (high - low) / 2))
    return hits
