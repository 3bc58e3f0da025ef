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
from gradbench.core.clocks import Clock, Visits, clock_of
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.runner import machine
from gradbench.runner.progress import Report
from gradbench.runner.rounds import times_of, visit_in_rounds
from gradbench.runner.wire import WorkerOptions
from gradbench.statistics import RELEASE_FLOOR, Stopping
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine, pairs, peers
from gradbench.studies.engine import Step, loop, shuffled
from gradbench.studies.neighbour import load
from gradbench.studies.rules import MICRO, logs, rate, stored, within_process
from gradbench.studies.tally import conditions

CASES = ("vjp/three_x_squared/backward",)
"""A call of about 20 µs."""

LOADS = (0, 2, 4, 8, 16)
"""Busy processes per core."""

RATIOS = {1: 1.0, 15: 1.0, 250: 0.6, 2500: 0.2}
"""How many times longer the long call of a pair is, 20 µs against 300 µs, 5 ms and 50 ms, and the
share of the trials that it has: a trial of long calls takes long."""

SLOWDOWN = 0.05
GRADBENCH = "gradbench"
TOOLS = ("timeit", "blocked", "adaptive, 2 s", "asv", "pytest-benchmark")
"""timeit, torch's timers, asv's runner and pytest-benchmark. By default torch's adaptive timer
goes on for 10 s beside busy processes, with each of the four sides."""

FLOOR = RELEASE_FLOOR
NEAR = 0.1
"""How far a ratio may be from the quiet one."""

CALIBRATION = 200_000_000
"""Nanoseconds for calibrating the slowdown."""

EVERY = 8
"""The rounds of a trial at least, however long they take."""


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every load in turn, the quiet machine first; in it every pair by every method."""
    steps = []
    trials = {ratio: max(1, round(share * settings["trials"])) for ratio, share in RATIOS.items()}
    for process, _ in enumerate(loads(settings)):
        for case in cases:
            for ratio, number in trials.items():
                ways = [(GRADBENCH, trial) for trial in range(number)]
                ways += [(m, trial) for trial in range(settings["tool_trials"]) for m in TOOLS]
                steps += [
                    Step(way, case, process, trial, settings["budget"], ratio - 1.0)
                    for way, trial in ways
                ]
    return shuffled(steps, settings["seed"])


def loads(settings: dict[str, Any]) -> list[int]:
    """The loads in order; the quiet machine is the truth of the others."""
    return sorted({0, *settings["loads"]})


CALL = 20e-6
"""Seconds of the short call, about."""

COST = {
    "timeit": (8.0, 24),
    "blocked": (1.2, 12),
    "adaptive, 2 s": (6.0, 16),
    "asv": (3.0, 96),
    "pytest-benchmark": (6.0, 32),
}
"""Seconds of a trial by another tool, and calls at least."""

STARTING = 15.0
"""Seconds to start the processes of one load."""


def expected(settings: dict[str, Any], steps: Sequence[Step]) -> float:
    """About how many seconds steps take, busy processes and all."""
    busy = loads(settings)
    total = STARTING * len({step.process for step in steps})
    for step in steps:
        times = 1 + busy[step.process]
        call = CALL * (1 + step.share) * times
        if step.way == GRADBENCH:
            visit = call if step.share > 1000 else 4 * call if step.share > 100 else 0.002 * times
            total += max(step.budget, 3 * EVERY * visit) + 0.06 * times
        else:
            seconds, calls = COST[step.way]
            total += max(seconds, calls * call) + 0.05 * times
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
            found = self._session(step, list(zip(turns, repeats)))
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

    def _session(self, step: Step, planned: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """The long call against the short one, itself, and a slower one: a session of four modes
        that take turns, as in a run."""
        worker = self._worker()
        pairs.open_comparison(worker, step.case.comparison, self.seed, engine.TIMEOUT)
        chance = random.Random(f"{self.seed}/{step.key}")
        arms = [
            pairs.prepare(worker, step.case.mode, handle, engine.WARM, 10 * engine.TIMEOUT)
            for handle in range(len(planned))
        ]
        for arm, (turns, repeats) in zip(arms, planned):
            answer = worker.request(
                "slow",
                engine.TIMEOUT,
                handle=arm.handle,
                share=SLOWDOWN if turns else 0.0,
                spend=0,
                turns=turns,
                repeats=repeats,
            )
            arm.plan = answer["visit"]
        short, long, again, slower = arms
        # The first is what the precision of the others is asked against.
        timed = [long, again, slower, *([short] if step.share else [])]
        rounds = visit_in_rounds(
            timed,
            lambda own: chance.sample(own, len(own)),
            Stopping(budget=step.budget, max_rounds=engine.ROUNDS, every=EVERY),
            engine.TIMEOUT,
        )
        times = dict(zip((arm.handle for arm in timed), times_of(timed)))
        clock = str(clock_of([arm.visits for arm in timed]))
        ratios = {}
        for share, (one, two) in {
            step.share: (short, long),
            0.0: (long, again),
            SLOWDOWN: (long, slower),
        }.items():
            found = stored(times[two.handle], times[one.handle]) if one.handle in times else []
            if found:
                ratios[f"{share:g}"] = found
        return {
            "log_ratios": ratios,
            "clocks": dict.fromkeys(ratios, clock),
            "candidates": _candidates(short.visits, long.visits) if step.share else {},
            "spent": rounds.seconds,
        }


def _candidates(short: Visits, long: Visits) -> dict[str, float]:
    """The log ratio of the pair by each clock that could have been used, where it tells, and the
    share of the long call's sub-blocks that were disturbed."""

    def told(one: Sequence[float], two: Sequence[float]) -> float:
        ratios = stored(two, one)
        return MICRO * float(np.median(ratios)) if ratios else math.nan

    found = {
        "minimum": told(short.raw, long.raw),
        "undisturbed": told(short.wall, long.wall),
        "cpu": told(short.by(Clock.PROCESSOR), long.by(Clock.PROCESSOR)),
        "disturbed": long.share,
    }
    return {name: round(value, 6) for name, value in found.items() if value == value}


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
                # Everything starts, and the loop is calibrated, before anything is busy.
                methods.start()
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


def tables(study: Study, by_case: bool = False) -> list[tuple[str, list[dict[str, Any]]]]:
    """The methods beside each other, and the clocks that gradbench could use."""
    return [("", rows(study, by_case)), ("Candidate clocks", candidates(study))]


def candidates(study: Study) -> list[dict[str, Any]]:
    """A row per load and length: the median ratio by each clock, as a multiple of the quiet one in
    processor time; and the share of the long call's sub-blocks that were disturbed."""
    found: dict[tuple[int, float], list[dict[str, float]]] = {}
    for trial in study.good(GRADBENCH):
        told = trial.values.get("candidates")
        if told:
            found.setdefault((trial.process, trial.share), []).append(told)

    def middle(process: int, share: float, name: str) -> float | None:
        values = [told[name] for told in found.get((process, share), ()) if name in told]
        return float(np.median(values)) if values else None

    made = []
    busy = loads(study.settings)
    for process, share in sorted(found):
        truth = middle(0, share, "cpu")
        row: dict[str, Any] = {"busy": busy[process], "length": f"{round(1 + share)}×"}
        for name in ("minimum", "undisturbed", "cpu"):
            log = middle(process, share, name)
            row[f"by_{name}"] = None if log is None or truth is None else math.exp(log - truth)
        row["disturbed"] = middle(process, share, "disturbed")
        made.append(row)
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
