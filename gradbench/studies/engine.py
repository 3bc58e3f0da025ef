"""Carries out a study's plan: processes, trials, background load, progress, resuming.

A plan follows from the settings alone, so an interrupted study resumes by leaving out the steps
whose keys its log has.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from gradbench.core.cases import Case, Place, Selection, SelectionError, expand
from gradbench.runner.progress import Progress, Report, stretch
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.runner.workers import Discovery
from gradbench.statistics import Stopping
from gradbench.store.lines import LineLog, now
from gradbench.store.logs import Ended
from gradbench.store.studies import Study, Trial
from gradbench.studies import pairs
from gradbench.studies.neighbour import neighbours, pin, places

CASES = (
    "vjp/three_x_squared/backward",
    "batch_jacobian/batched_vector_field/loop_grad",
    "jacobian/affine/functional_jacobian",
    "jacobian/exp/jacrev",
    "gradient/affine_softmax_mse/manual",
    "gradient/mlp_mse/grad",
    "hessian/sum_of_squares/grad_twice",
    "jvp/affine_softmax_mse/dual",
    "jacobian/softmax/functional_jacobian_vectorized",
    "vjp/batched_vector_field/func_vjp",
)
"""The cases of a study by default: 8 functions, 6 operators, 9 modes."""

ROUNDS = 400
WARM = 0.01
TIMEOUT = 60.0


@dataclass(frozen=True)
class Step:
    """One measurement of the plan; see `store.studies.Trial` for the fields that both have."""

    way: str
    case: Case
    process: int
    group: int
    budget: float
    share: float = 0.0
    against: str = ""
    """Another mode of the same comparison; empty: the same mode."""
    fixed_rounds: int = 0
    """The number of rounds, whatever the precision; 0: until the stopping rule says so."""
    rule: Stopping | None = None
    """The stopping rule, where it is not that of a run."""

    @property
    def key(self) -> str:
        name = f"{self.way}/{self.case}/{self.process}/{self.group}/{self.share:g}/{self.budget:g}"
        return f"{name}/{self.against}" if self.against else name

    @property
    def stopping(self) -> Stopping:
        if self.rule is not None:
            return self.rule
        if self.fixed_rounds:
            return Stopping(self.fixed_rounds, self.fixed_rounds, half_width=1e-9)
        return Stopping(budget=self.budget, max_rounds=ROUNDS)

    def trial(self, **measured: Any) -> Trial:
        """The step's record, with what was measured."""
        return Trial(
            key=self.key,
            way=self.way,
            case=self.case,
            process=self.process,
            group=self.group,
            share=self.share,
            budget=self.budget,
            **measured,
        )


Runner = Callable[[Step], Trial]


def resolve(discovery: Discovery, names: Iterable[str]) -> list[Case]:
    """The cases of operator/function/mode, with the functions' own dtypes and inputs.

    Raises SelectionError for unknown names.
    """
    cases = []
    for name in names:
        operator, _, rest = name.partition("/")
        function, _, mode = rest.partition("/")
        if not mode:
            raise SelectionError(f"case {name!r} is not operator/function/mode")
        selection = Selection(functions=(function,), operators=(operator,), modes=(mode,))
        for entry in expand(discovery.offers, selection):
            cases += entry.cases
    return list(dict.fromkeys(cases))


def placed(cases: Iterable[Case], device: str) -> list[Case]:
    """The same cases on a device. Raises ValueError for anything else."""
    place = str(Place.parse(device))
    return [case.comparison.on(place).case(case.mode) for case in cases]


def shuffled(steps: Sequence[Step], seed: int) -> list[Step]:
    """The steps by process, then by case and within each case in random order."""
    chance = random.Random(seed)
    processes: dict[int, dict[Case, list[Step]]] = {}
    for step in steps:
        processes.setdefault(step.process, {}).setdefault(step.case, []).append(step)
    ordered = []
    for _, cases in sorted(processes.items()):
        names = list(cases)
        chance.shuffle(names)
        for name in names:
            chance.shuffle(cases[name])
            ordered += cases[name]
    return ordered


PROCESS, PREPARING = 3.0, 0.15
"""Seconds to start a process, and to prepare a pair."""


USUAL = 0.4
"""Seconds within which a pair is usually precise."""


def expected(settings: dict[str, Any], steps: Sequence[Step]) -> float:
    """About how many seconds steps take on a quiet machine."""
    processes = len({(step.way == "between", step.process) for step in steps})
    return PROCESS * processes + sum(PREPARING + min(step.budget or USUAL, USUAL) for step in steps)


@dataclass
class _Pairs:
    """Measures the steps of a process, or of a pair of processes: one for each of `options`."""

    options: Sequence[WorkerOptions]
    core: int | None
    seed: int
    workers: list[Worker] = field(default_factory=list)
    opened: str = ""
    handle: int = 0

    def start(self) -> None:
        self.end()
        for options in self.options:
            worker = Worker(options)
            self.workers.append(worker)
            if self.core is not None:
                pin(worker.pid, self.core)

    def end(self) -> None:
        for worker in self.workers:
            worker.__exit__()
        self.workers, self.opened, self.handle = [], "", 0

    def __call__(self, step: Step) -> Trial:
        """The step's trial, with the reason if it failed."""
        began = time.perf_counter()
        try:
            try:
                pair, injected = self._measure(step)
            except WorkerDied:
                # It may have been killed from outside.
                self.end()
                pair, injected = self._measure(step)
        except WorkerRefused as error:
            return step.trial(reason=str(error))
        except (WorkerDied, WorkerTimeout) as error:
            self.end()
            return step.trial(reason=f"the measuring process was lost: {error}")
        return step.trial(
            injected=injected,
            log_ratios=pair.log_ratios,
            seconds=float(f"{pair.seconds:.4g}"),
            stopped=pair.stopped,
            visiting=round(pair.visiting, 5),
            elapsed=round(time.perf_counter() - began, 4),
            load=round(os.getloadavg()[0], 2),
            values={"against": step.against} if step.against else {},
        )

    def _measure(self, step: Step) -> tuple[pairs.Measured, float]:
        if not self.workers:
            self.start()
        case = step.case
        if self.opened != case.comparison:
            for worker in self.workers:
                pairs.open_comparison(worker, case.comparison, self.seed, TIMEOUT)
            self.opened, self.handle = case.comparison, 0
        # Fresh instances each time: what their own memory adds is part of the question.
        first = pairs.prepare(self.workers[0], case.mode, self.handle, WARM, TIMEOUT)
        other = step.against or case.mode
        second = pairs.prepare(self.workers[-1], other, self.handle + 1, WARM, TIMEOUT)
        self.handle += 2
        injected = pairs.inject(first, second, step.share, TIMEOUT) if step.share else 0.0
        chance = random.Random(f"{self.seed}/{step.key}")
        return pairs.measure(first, second, step.stopping, chance, TIMEOUT), injected


def carry_out(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    options: WorkerOptions,
    other: WorkerOptions | None = None,
) -> Study:
    """Measures the steps that the log lacks, storing each at once; with `other` the second process
    of a pair is another one's.

    Whatever stops it, the background load and the workers end, and the log holds all that was
    measured. Raises NoPinning, WorkerError or StoreError.
    """
    settings = study.settings
    core, cores = places(settings["neighbour"])
    with ExitStack() as stack:
        stack.enter_context(neighbours(cores, settings["seed"]))

        def runner(two: bool) -> _Pairs:
            used = [options, other or options] if two else [options]
            measurer = _Pairs(used, core, settings["seed"])
            stack.callback(measurer.end)
            return measurer

        runners = {two: runner(two) for two in (False, True)}

        def one(step: Step) -> Trial:
            return runners[step.way == "between"](step)

        def next_process() -> None:
            for each in runners.values():
                each.end()

        return loop(log, study, steps, report, one, next_process)


def left(study: Study, steps: Iterable[Step]) -> list[Step]:
    """The steps that the study's log lacks."""
    done = {trial.key for trial in study.trials}
    return [step for step in steps if step.key not in done]


def loop(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    one: Runner,
    next_process: Callable[[], None] = lambda: None,
) -> Study:
    """Runs the steps that the log lacks; calls `next_process` between processes."""
    began = time.perf_counter()
    missing = left(study, steps)
    skipped = position = len(steps) - len(missing)

    def end(finished: bool, elapsed: float) -> None:
        ended = Ended(now(), finished, round(elapsed, 2))
        log.append(ended)
        study.ends.append(ended)

    with stretch(log, end):
        for _, own in groupby(missing, lambda step: step.process):
            next_process()
            for step in own:
                label = f"{step.way} {step.case}"
                elapsed = time.perf_counter() - began
                report(Progress(position, len(steps), label, elapsed, skipped, unit="trials"))
                trial = one(step)
                log.append(trial)
                study.trials.append(trial)
                position += 1
    elapsed = time.perf_counter() - began
    report(Progress(len(steps), len(steps), "", elapsed, unit="trials"))
    return study


def sessions_of(trials: Iterable[Trial]) -> dict[tuple[Any, ...], list[Trial]]:
    """The sessions of each comparison, in the order of their processes."""
    sessions: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.process):
        sessions.setdefault((trial.way, trial.case, trial.share, trial.group), []).append(trial)
    return sessions
