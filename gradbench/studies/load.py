"""Right ratios on a busy machine: calls of very different length beside busy processes.

A pair is one call and the same call many times over, so their ratio is known; it is measured at
each load, and compared with what gradbench measures of it without any. Beside the ratio stand
the same code twice, for false positives, and a slowdown of 5 %, for power: by gradbench and, in the
same run, by other tools. The busy processes are started and ended here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradbench.core.cases import Case
from gradbench.core.clocks import Clock
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.runner import machine
from gradbench.runner.progress import Report
from gradbench.runner.wire import WorkerOptions
from gradbench.statistics import RELEASE_FLOOR, Stopping
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine, pairs, peers
from gradbench.studies.engine import Step, loop, shuffled
from gradbench.studies.neighbour import load
from gradbench.studies.rules import logs, rate, within_process
from gradbench.studies.tally import conditions

CASES = ("vjp/three_x_squared/backward",)
"""A call of about 20 µs."""

LOADS = (0, 2, 4, 8, 16)
"""Busy processes per core."""

RATIOS = (1, 15, 250, 2500)
"""How many times longer the long call of a pair is: 20 µs against 300 µs, 5 ms and 50 ms."""

SLOWDOWN = 0.05
GRADBENCH = "gradbench"
TOOLS = (*peers.IN_PROCESS[:3], "asv", "pytest-benchmark")
"""timeit, torch's timers and asv's runner; their longer variants say nothing else here."""

FLOOR = RELEASE_FLOOR
NEAR = 0.1
"""How far a ratio may be from the quiet one."""

CALIBRATION = 200_000_000
"""Nanoseconds for calibrating the slowdown."""


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every load in turn, the quiet machine first; in it every pair by every method."""
    steps = []
    for process, _ in enumerate(loads(settings)):
        for trial in range(max(settings["trials"], settings["tool_trials"])):
            methods = [GRADBENCH] * (trial < settings["trials"])
            if trial < settings["tool_trials"]:
                methods += TOOLS
            for case in cases:
                for ratio in RATIOS:
                    steps += [
                        Step(m, case, process, trial, settings["budget"], ratio - 1.0)
                        for m in methods
                    ]
    return shuffled(steps, settings["seed"])


def loads(settings: dict[str, Any]) -> list[int]:
    """The loads in order; the quiet machine is the truth of the others."""
    return sorted({0, *settings["loads"]})


SECONDS = {GRADBENCH: 1.0, "timeit": 6.0, "blocked": 3.0, "adaptive": 8.0, "asv": 20.0}
"""Seconds of a trial on a quiet machine, beside gradbench's budget and long calls."""

CALLS = 24
"""Long calls in a trial, at least."""


def expected(settings: dict[str, Any], steps: Sequence[Step]) -> float:
    """About how many seconds steps take, busy processes and all."""
    busy = loads(settings)
    total = 0.0
    for step in steps:
        times = 1 + busy[step.process]
        calls = CALLS * (1 + step.share) * 20e-6
        budget = 3 * step.budget if step.way == GRADBENCH else 0.0
        total += max(budget, calls * times) + times * SECONDS.get(step.way, 20.0) / 2
    return total


class _Methods(peers.Methods):
    """Measures a pair of calls with every method."""

    def __init__(self, seed: int, options: WorkerOptions, study: Study) -> None:
        super().__init__(None, seed, options)
        self.units: dict[Case, int] = {
            trial.case: trial.values["unit"] for trial in study.trials if "unit" in trial.values
        }
        """Turns of the loop that are the slowdown of one call, by case: the same at every load."""

    def _calibrate(self, step: Step) -> None:
        if step.case in self.units:
            return
        worker = self._worker()
        pairs.open_comparison(worker, step.case.comparison, self.seed, engine.TIMEOUT)
        side = pairs.prepare(worker, step.case.mode, 0, engine.WARM, engine.TIMEOUT)
        dose = worker.request(
            "slow", engine.TIMEOUT, handle=side.handle, share=SLOWDOWN, spend=CALIBRATION
        )
        self.units[step.case] = dose["turns"]

    def _measure(self, step: Step) -> dict[str, Any]:
        unit = self.units[step.case]
        times = round(1 + step.share)
        turns, repeats = [0, 0, 0, unit], [1, times, times, times]
        found: dict[str, Any]
        if step.way == GRADBENCH:
            found = self._pairs(step, list(zip(turns, repeats)))
        else:
            asked = {
                "method": step.way,
                "comparison": step.case.comparison,
                "mode": step.case.mode,
                "seed": self.seed,
                "turns": turns,
                "repeats": repeats,
                "files": list(self.options.files),
            }
            found = self._by_tool(asked)
        return {"unit": unit, **found}

    def _pairs(self, step: Step, arms: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """The long call against the short one, itself, and a slower one."""
        short, same, _, slower = arms
        asked = {step.share: (short, same), 0.0: (same, same), SLOWDOWN: (same, slower)}
        worker = self._worker()
        pairs.open_comparison(worker, step.case.comparison, self.seed, engine.TIMEOUT)
        chance = random.Random(f"{self.seed}/{step.key}")
        ratios, clocks, spent = {}, {}, 0.0
        for number, (share, both) in enumerate(asked.items()):
            sides = [
                pairs.prepare(
                    worker, step.case.mode, 2 * number + i, engine.WARM, 10 * engine.TIMEOUT
                )
                for i in (0, 1)
            ]
            for side, (turns, repeats) in zip(sides, both):
                answer = worker.request(
                    "slow",
                    engine.TIMEOUT,
                    handle=side.handle,
                    share=SLOWDOWN if turns else 0.0,
                    spend=0,
                    turns=turns,
                    repeats=repeats,
                )
                side.plan = answer["visit"]
            stopping = Stopping(budget=step.budget, max_rounds=engine.ROUNDS)
            one = pairs.measure(sides[0], sides[1], stopping, chance, engine.TIMEOUT)
            spent += one.visiting
            clocks[f"{share:g}"] = str(one.clock)
            if one.log_ratios:
                ratios[f"{share:g}"] = one.log_ratios
        return {"log_ratios": ratios, "clocks": clocks, "spent": spent}


def carry_out(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    options: WorkerOptions,
) -> Study:
    """As `engine.carry_out`, with every method in turn, beside more and more busy processes."""
    settings = study.settings
    busy = loads(settings)
    cores = len(machine.usable_cores())
    stage: list[int] = []
    with ExitStack() as stack:
        methods = _Methods(settings["seed"], options, study)
        stack.callback(methods.end)
        beside = stack.enter_context(ExitStack())

        def one(step: Step) -> Trial:
            if stage != [step.process]:
                beside.close()
                # The loop is calibrated before anything is busy.
                methods._calibrate(step)
                beside.enter_context(load(busy[step.process] * cores))
                stage[:] = [step.process]
            return methods(step)

        return loop(log, study, steps, report, one, methods.end)


# ── counting ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Said:
    """What a rule said of one comparison of a trial."""

    trial: Trial
    kind: float
    """The share by which the second call is longer, as it was asked for."""
    log: float
    verdict: str
    clock: str = ""


Rule = Callable[[dict[str, Any], dict[str, Any]], tuple[float, str]]


def _comparisons(trials: Sequence[Trial], rule: Rule | None, floor: float) -> Iterator[_Said]:
    for trial in trials:
        if rule is None:
            for kind, ratios in trial.values["log_ratios"].items():
                values = logs(ratios)
                said = within_process(values, floor)
                clock = trial.values["clocks"][kind]
                yield _Said(trial, float(kind), float(np.median(values)), said, clock)
        else:
            short, one, two, slower = trial.values["arms"]
            asked = {trial.share: (short, one), 0.0: (one, two), SLOWDOWN: (two, slower)}
            for share, (a, b) in asked.items():
                yield _Said(trial, share, *rule(a, b))


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row per method, rule and load; `by_case`: and for each length of the long call.

    `off` is the largest difference of a pair's ratio, the median over its trials, from the quiet
    one that gradbench measured; `near` the share of single measurements within NEAR of it.
    """
    floor = study.settings.get("floor") or FLOOR
    methods: list[tuple[str, str, str, Rule | None]] = [
        (GRADBENCH, GRADBENCH, f"interval beyond {100 * floor:g} %", None)
    ]
    methods += [rule for rule in peers.RULES if rule[0] in TOOLS]
    said = [
        (method, words, list(_comparisons(study.good(way), rule, floor)))
        for way, method, words, rule in methods
    ]
    truth = _truth(said[0][2])
    busy = loads(study.settings)
    made = []
    for process, number in enumerate(busy):
        for method, words, every in said:
            here = [one for one in every if one.trial.process == process]
            groups = {"all": here}
            if by_case:
                groups |= {
                    f"{ratio}×": [one for one in here if one.trial.share == ratio - 1]
                    for ratio in RATIOS
                }
            for name, group in groups.items():
                if group:
                    own = {"method": method, "rule": words, "busy": number, "length": name}
                    made.append(own | _counted(group, truth) | conditions(study))
    return made


def _truth(said: Sequence[_Said]) -> dict[tuple[Case, float], float]:
    """The log ratio of each pair on the quiet machine."""
    found: dict[tuple[Case, float], list[float]] = {}
    for one in said:
        if one.trial.process == 0 and one.kind == one.trial.share > 0:
            found.setdefault((one.trial.case, one.kind), []).append(one.log)
    return {pair: float(np.median(values)) for pair, values in found.items()}


def _counted(said: Sequence[_Said], truth: dict[tuple[Case, float], float]) -> dict[str, Any]:
    same = [one for one in said if one.kind == 0]
    slower = [one for one in said if one.kind == SLOWDOWN]
    off: dict[tuple[Case, float], list[float]] = {}
    for one in said:
        pair = (one.trial.case, one.kind)
        if one.kind == one.trial.share and pair in truth:
            off.setdefault(pair, []).append(one.log - truth[pair])
    single = [abs(math.expm1(value)) for values in off.values() for value in values]
    medians = [round(math.expm1(float(np.median(values))), 9) for values in off.values()]
    alarms = rate(sum(one.verdict in CALLED for one in same), len(same))
    power = rate(sum(one.verdict == Verdict.SLOWER for one in slower), len(slower))
    clocked = [one for one in said if one.clock]
    return {
        "pairs": len(single),
        "off": max(medians, key=abs, default=None),
        "near": float(np.mean([value <= NEAR for value in single])) if single else None,
        "trials": len(same),
        "false_alarms": alarms.count,
        "rate": alarms.value,
        "rate_low": alarms.low,
        "rate_high": alarms.high,
        "power_5": power.value,
        "power_5_low": power.low,
        "power_5_high": power.high,
        "by_processor": (
            float(np.mean([one.clock == Clock.PROCESSOR for one in clocked])) if clocked else None
        ),
        "seconds_measuring": float(np.mean([one.trial.visiting for one in said])),
        "seconds_in_all": float(np.mean([one.trial.elapsed for one in said])),
    }
