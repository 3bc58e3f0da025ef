"""Other tools on the same pairs: false positives, power and cost of each.

A trial has four arms in a row: slower by 5 %, plain, plain again, slower by 2 % (or the same
backwards), so every comparison is between neighbours in time. Each tool is used as its own
documentation says, with its defaults; the methods take turns within a trial, in random order, so
all have the same share of the machine's moods.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradbench.core.cases import Case
from gradbench.core.groups import end_group
from gradbench.core.verdicts import CALLED
from gradbench.runner.progress import Report
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerRefused,
    process_environment,
)
from gradbench.statistics import FLOOR, Stopping
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study, Trial
from gradbench.studies import engine, pairs
from gradbench.studies.engine import Step, loop, shuffled
from gradbench.studies.neighbour import neighbours, pin, places
from gradbench.studies.rules import logs, rate, within_process
from gradbench.studies.tally import conditions

SHARES = (0.05, 0.0, 0.0, 0.02)
"""The arms in their order; each neighbouring pair that holds a plain one is a comparison."""

CASES = (
    "vjp/three_x_squared/backward",
    "batch_jacobian/batched_vector_field/loop_grad",
    "jacobian/affine/functional_jacobian",
    "gradient/affine_softmax_mse/manual",
    "hessian/sum_of_squares/grad_twice",
)

BUDGETS = {"gradbench 0.2 s": 0.2, "gradbench 1 s": 1.0}
FORKING = ("asv", "pytest-benchmark")
"""Each trial of these is in a process forked from one that has only imported the suite."""
IN_PROCESS = ("timeit", "blocked", "adaptive", "blocked, longer")
LEVEL = "gradbench 1 s"
"""The method whose power the others are levelled to."""
METHODS = (*BUDGETS, *IN_PROCESS, *FORKING)
IMPORTS = ("pytest", "pytest_benchmark.plugin", "asv_runner.benchmarks.time")
PYPERF = "pyperf"

THRESHOLD = 0.02
"""Where a tool only gives times, a difference beyond this is taken for a call."""

TIMEOUT = 600.0

SUBJECT = "GRADBENCH_PEER_SUBJECT"
"""As `peers.subject.VARIABLE`, which this side cannot import: it needs torch."""


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Each trial is one case and all methods; pyperf, which is slow, takes part in the first."""
    steps = []
    for trial in range(settings["trials"]):
        methods = METHODS + ((PYPERF,) if trial < settings["pyperf_trials"] else ())
        case = cases[trial % len(cases)]
        steps += [Step(m, case, trial, trial, BUDGETS.get(m, 0.0)) for m in methods]
    return shuffled(steps, settings["seed"])


SECONDS = {
    "timeit": 8.0,
    "blocked": 1.0,
    "adaptive": 2.0,
    "blocked, longer": 2.2,
    "asv": 3.0,
    "pytest-benchmark": 7.0,
    PYPERF: 150.0,
}
"""Seconds of a trial by other tools on a quiet machine, four arms each."""


def expected(settings: dict[str, Any], steps: Sequence[Step]) -> float:
    """About how many seconds steps take."""
    return sum(SECONDS.get(step.way, 1.5 * step.budget + 0.3) for step in steps)


def _as_precise_as_clocks(arm: dict[str, Any]) -> dict[str, Any]:
    """A tool's times in seconds to seven digits: further ones are noise, and a sixth of a log."""

    def shortened(value: Any) -> Any:
        if isinstance(value, list):
            return [shortened(one) for one in value]
        return float(f"{value:.7g}") if isinstance(value, float) else value

    return {key: shortened(value) for key, value in arm.items()}


def arms(step: Step, seed: int) -> list[float]:
    """The shares of a trial's arms in their order, forwards or backwards by the trial's number."""
    backwards = random.Random(f"{seed}/{step.group}").random() < 0.5
    return list(SHARES[::-1] if backwards else SHARES)


class Methods:
    """Measures one trial after the other with every method."""

    def __init__(self, core: int | None, seed: int, options: WorkerOptions) -> None:
        self.core = core
        self.seed = seed
        self.options = options
        self.worker: Worker | None = None
        self.processes: dict[bool, subprocess.Popen[str]] = {}
        """Those that time with other tools, by whether they fork."""
        self.turns: dict[tuple[int, float], int] = {}

    def end(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None
        for process in self.processes.values():
            end_group(process)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self.processes.clear()

    def start(self) -> None:
        """Starts the processes that measure, rather than when they are asked."""
        self._worker()
        for forks in (False, True):
            self._process(forks)

    def __call__(self, step: Step) -> Trial:
        began = time.perf_counter()
        load = round(os.getloadavg()[0], 2)
        reason, values = "", {}
        try:
            try:
                self._calibrate(step)
                began = time.perf_counter()
                values = self._measure(step)
            except WorkerDied:
                # It may have been killed from outside.
                self.end()
                self._calibrate(step)
                began = time.perf_counter()
                values = self._measure(step)
        except WorkerError as error:
            self.end()
            reason = str(error)
        elapsed = time.perf_counter() - began
        # A comparison has two arms, a trial three comparisons in gradbench and four arms elsewhere.
        share = 1 / 3 if step.way.startswith("gradbench") else 1 / 2
        return step.trial(
            visiting=round(share * values.pop("spent", 0.0), 4),
            elapsed=round(share * elapsed, 4),
            load=load,
            reason=reason,
            values=values,
        )

    def _calibrate(self, step: Step) -> None:
        """The turns of this trial's slowdowns, the same for all methods."""
        if (step.group, 0.0) in self.turns:
            return
        case = step.case
        worker = self._worker()
        pairs.open_comparison(worker, case.comparison, self.seed, engine.TIMEOUT)
        self.turns[step.group, 0.0] = 0
        for share in sorted({s for s in SHARES if s}):
            side = pairs.prepare(worker, case.mode, 0, engine.WARM, engine.TIMEOUT)
            dose = worker.request(
                "slow", engine.TIMEOUT, handle=side.handle, share=share, spend=100_000_000
            )
            self.turns[step.group, share] = dose["turns"]

    def _worker(self) -> Worker:
        if self.worker is None:
            self.worker = Worker(self.options)
            if self.core is not None:
                pin(self.worker.pid, self.core)
        return self.worker

    def _measure(self, step: Step) -> dict[str, Any]:
        shares = arms(step, self.seed)
        if step.way in BUDGETS:
            return self._gradbench(step, shares)
        case = step.case
        asked = {
            "method": step.way,
            "comparison": case.comparison,
            "mode": case.mode,
            "seed": self.seed,
            "turns": [self.turns[step.group, share] for share in shares],
            "files": list(self.options.files),
        }
        return {"shares": shares, **self._by_tool(asked)}

    def _by_tool(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What a tool says of each arm, and the seconds of its timing."""
        found = (self._pyperf if asked["method"] == PYPERF else self._ask)(asked)
        if "failed" in found:
            raise WorkerRefused(found["failed"])
        spent = sum(arm.pop("spent", 0.0) for arm in found["arms"])
        return {"arms": [_as_precise_as_clocks(arm) for arm in found["arms"]], "spent": spent}

    def _gradbench(self, step: Step, shares: list[float]) -> dict[str, Any]:
        """Three comparisons, each a reference and a fresh instance of the other."""
        case = step.case
        worker = self._worker()
        pairs.open_comparison(worker, case.comparison, self.seed, engine.TIMEOUT)
        chance = random.Random(f"{self.seed}/{step.key}")
        found, spent = {}, 0.0
        for number, share in enumerate(s for s in (0.05, 0.0, 0.02)):
            sides = [
                pairs.prepare(worker, case.mode, 2 * number + i, engine.WARM, engine.TIMEOUT)
                for i in (0, 1)
            ]
            for side, turns in zip(sides, (0, self.turns[step.group, share])):
                worker.request(
                    "slow", engine.TIMEOUT, handle=side.handle, share=share, spend=0, turns=turns
                )
            stopping = Stopping(budget=step.budget, max_rounds=engine.ROUNDS)
            one = pairs.measure(sides[0], sides[1], stopping, chance, engine.TIMEOUT)
            found[f"{share:g}"] = one.log_ratios
            spent += one.visiting
        return {"log_ratios": found, "spent": spent}

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._exchange(self._process(asked["method"] in FORKING), asked)

    def _process(self, forks: bool) -> subprocess.Popen[str]:
        """The process for tools that fork, or for the others; it has imported all that it needs."""
        if forks not in self.processes:
            self.processes[forks] = self._start()
            modules = IMPORTS if forks else ()
            self._exchange(self.processes[forks], {"method": "start", "modules": modules})
        return self.processes[forks]

    def _exchange(self, process: subprocess.Popen[str], asked: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self.end()
            raise WorkerDied(f"the process of {asked['method']} ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.options.python, "-m", "gradbench.studies.peers.process", *self.options.files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=process_environment(self.options.python),
            start_new_session=True,
        )
        if self.core is not None:
            pin(process.pid, self.core)
        return process

    def _pyperf(self, asked: dict[str, Any]) -> dict[str, Any]:
        arms = []
        for turns in asked["turns"]:
            with _draft() as path:
                script = str(Path(__file__).with_name("pyperf_case.py"))
                names = f"{SUBJECT},PYTHONPATH"
                command = [script, "-q", "-o", str(path), f"--inherit-environ={names}"]
                start = time.perf_counter()
                self._run(command, asked | {"turns": [turns]})
                spent = time.perf_counter() - start
                runs = json.loads(path.read_text())["benchmarks"][0]["runs"]
                values = [value for run in runs for value in run.get("values", ())]
                arms.append({"samples": values, "spent": spent})
        return {"arms": arms}

    def _run(self, command: list[str], asked: dict[str, Any]) -> None:
        """A tool's own command, pinned as the workers are."""
        environment = process_environment(self.options.python)
        process = subprocess.Popen(
            [self.options.python, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {SUBJECT: json.dumps(asked)},
            start_new_session=True,
        )
        try:
            if self.core is not None:
                pin(process.pid, self.core)
            _, errors = process.communicate(timeout=TIMEOUT)
        except BaseException:
            end_group(process)
            process.wait()
            raise
        if process.returncode:
            last = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise WorkerRefused(f"{asked['method']}: {last[0][:200]}")


@contextlib.contextmanager
def _draft() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "result.json"


def carry_out(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    options: WorkerOptions,
) -> Study:
    """As `engine.carry_out`, with every method in turn."""
    settings = study.settings
    core, cores = places(settings["neighbour"])
    with ExitStack() as stack:
        stack.enter_context(neighbours(cores, settings["seed"]))
        methods = Methods(core, settings["seed"], options)
        stack.callback(methods.end)
        return loop(log, study, steps, report, methods)


# ── counting ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Called:
    """One comparison of one rule: the apparent log ratio, and what the rule said of it."""

    share: float
    log: float
    called: str
    visiting: float
    elapsed: float


def _beyond(log: float, threshold: float = THRESHOLD) -> str:
    edge = math.log1p(threshold)
    return "slower" if log > edge else "faster" if log < -edge else ""


def _threshold_rule(key: str) -> Callable[[dict[str, Any], dict[str, Any]], tuple[float, str]]:
    def rule(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, str]:
        log = math.log(b[key] / a[key])
        return log, _beyond(log)

    return rule


def _asv(factor: float, test: bool) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    """`asv compare`: medians beyond the factor, and its Mann–Whitney test unless switched off."""

    def rule(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, str]:
        from asv._stats import is_different
        from asv_runner.statistics import compute_stats

        times, stats = zip(*(compute_stats(arm["samples"], arm["number"]) for arm in (a, b)))
        log = math.log(times[1] / times[0])
        different = not test or is_different(a["samples"], b["samples"], *stats)
        return log, _beyond(log, factor - 1) if different else ""

    return rule


def _pyperf(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, str]:
    """`pyperf compare_to`: means, and Student's t-test at 95 %."""
    from scipy.stats import ttest_ind

    log = math.log(float(np.mean(b["samples"])) / float(np.mean(a["samples"])))
    significant = ttest_ind(a["samples"], b["samples"]).pvalue < 0.05
    return log, _beyond(log, 0.0) if significant else ""


RULES: tuple[tuple[str, str, str, Callable[..., Any]], ...] = (
    ("timeit", "timeit", "minimum of 5 beyond 2 %", _threshold_rule("min")),
    ("blocked", "torch blocked_autorange", "median beyond 2 %", _threshold_rule("median")),
    ("adaptive", "torch adaptive_autorange", "median beyond 2 %", _threshold_rule("median")),
    (
        "blocked, longer",
        "torch blocked_autorange, 0.5 s per side",
        "median beyond 2 %",
        _threshold_rule("median"),
    ),
    (
        "adaptive, 2 s",
        "torch adaptive_autorange, 2 s at most per side",
        "median beyond 2 %",
        _threshold_rule("median"),
    ),
    ("pytest-benchmark", "pytest-benchmark", "median beyond 2 %", _threshold_rule("median")),
    ("pytest-benchmark", "pytest-benchmark", "mean beyond 2 %", _threshold_rule("mean")),
    ("asv", "asv", "default: factor 1.1 and Mann–Whitney", _asv(1.1, True)),
    ("asv", "asv", "Mann–Whitney alone", _asv(1.0, True)),
    ("asv", "asv", "factor 1.1 alone", _asv(1.1, False)),
    (PYPERF, "pyperf", "default: t-test", _pyperf),
)


def comparisons(trials: Sequence[Trial], rule: Callable[..., Any] | None) -> list[Called]:
    """What a rule said of every neighbouring pair; without one, gradbench's own."""
    found = []
    for trial in trials:
        told: list[tuple[float, float, str]] = []
        if rule is None:
            for share, ratios in trial.values["log_ratios"].items():
                values = logs(ratios)
                said = within_process(values, FLOOR)
                called = said if said in CALLED else ""
                told.append((float(share), float(np.median(values)), called))
        else:
            shares, measured = trial.values["shares"], trial.values["arms"]
            for i in range(len(shares) - 1):
                first, second = (i, i + 1) if shares[i + 1] or not shares[i] else (i + 1, i)
                log, called = rule(measured[first], measured[second])
                told.append((max(shares[i], shares[i + 1]), log, called))
        found += [Called(*one, trial.visiting, trial.elapsed) for one in told]
    return found


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row per method and rule, with its odds as it is, and after levelling.

    Levelled: `power_2_at_5` is the power at 2 % of a threshold on the apparent difference that
    this study's own A/A trials pass 5 % of the time; `alarms_at_equal_power` the share of A/A
    trials beyond the threshold at which the method finds 2 % as often as gradbench does within 1 s.
    """
    methods: list[tuple[str, str, str, Callable[..., Any] | None]] = [
        (way, "gradbench", f"interval beyond 1 %, {budget:g} s at most", None)
        for way, budget in BUDGETS.items()
    ]
    methods += RULES
    measured = [
        (way, method, said, rule, comparisons(study.good(way), rule))
        for way, method, said, rule in methods
    ]
    best = [c for way, *_, found in measured for c in found if way == LEVEL and c.share == 0.02]
    level = sum(c.called == "slower" for c in best) / len(best) if best else 1.0
    made = []
    for _, method, said, rule, found in measured:
        # A rate needs comparisons of each kind.
        if not {0.0, 0.02, 0.05} <= {c.share for c in found}:
            continue
        plain = [c for c in found if not c.share]
        apart = np.abs([c.log for c in plain])
        odds = rate(sum(c.called != "" for c in plain), len(plain))
        powers = {}
        for share in (0.02, 0.05):
            slow = [c for c in found if c.share == share]
            powers[share] = rate(sum(c.called == "slower" for c in slow), len(slow))
        two = np.array([c.log for c in found if c.share == 0.02])
        limit = float(np.quantile(apart, 0.95))
        reach = float(np.quantile(two, 1 - level, method="lower"))
        made.append(
            {
                "method": method,
                "rule": said,
                "neighbour": study.settings.get("neighbour"),
                "floor": FLOOR if rule is None else None,
                "trials": len(plain),
                "false_alarms": odds.count,
                "rate": odds.value,
                "rate_low": odds.low,
                "rate_high": odds.high,
                **{
                    f"power_{round(100 * share)}{suffix}": getattr(power, name)
                    for share, power in powers.items()
                    for suffix, name in (("", "value"), ("_low", "low"), ("_high", "high"))
                },
                "q95": math.expm1(limit),
                "power_2_at_5": float(np.mean(two > limit)),
                "alarms_at_equal_power": float(np.mean(apart >= reach)),
                "seconds_measuring": float(np.mean([c.visiting for c in found])),
                "seconds_in_all": float(np.mean([c.elapsed for c in found])),
                **conditions(study),
            }
        )
    return made
