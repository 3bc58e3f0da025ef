"""Injected slowdowns of known size: the power to detect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradbench.core.cases import Case
from gradbench.studies import aa, tally
from gradbench.studies.engine import Step, shuffled

rows = tally.power

TRUTH_ROUNDS = 100
TRUTH_PROCESSES = 4


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """For each slowdown and budget `trials` comparisons in one process; for each slowdown
    `comparisons` by the full protocol with the largest budget; and, for the true ratios, every case
    and slowdown for 100 rounds in each of four processes."""
    shares = [percent / 100 for percent in settings["slowdowns"]]
    trials, budgets = settings["trials"], settings["budgets"]
    if settings["between"]:
        return aa.between(cases, trials, max(budgets), shares, settings["pairs"], settings["seed"])
    processes = max(1, min(aa.PROCESSES, trials // len(cases)))
    steps = [
        Step("process", cases[i % len(cases)], i // len(cases) % processes, i, budget, share)
        for i in range(trials)
        for budget in budgets
        for share in shares
    ]
    steps += aa.sessions(cases, settings["comparisons"], max(budgets), shares)
    truth = min(TRUTH_PROCESSES, processes)
    steps += [
        Step("truth", case, process, 0, 0.0, share, fixed_rounds=TRUTH_ROUNDS)
        for case in cases
        for process in range(truth)
        for share in shares
    ]
    return shuffled(steps, settings["seed"])
