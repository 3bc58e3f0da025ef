"""Carries out a study's plan: processes, trials, the neighbour, progress, going on after a stop.

A plan follows from the settings alone, so an interrupted study resumes by leaving out the steps
whose keys its file holds already.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from gradbench.core.cases import Case, Place, Selection, SelectionError, expand
from gradbench.runner.run import Discovery, Progress, Report
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.statistics import Stopping
from gradbench.store.lines import LineLog, StoreError, now
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
"""What the studies measure unless told otherwise: 8 functions, 6 operators, 9 modes."""

ROUNDS = 100
WARM = 0.01
TIMEOUT = 60.0


@dataclass(frozen=True)
class Step:
    """One measurement of the plan; see `store.Trial` for the fields it shares with that."""

    way: str
    case: str
    process: int
    group: int
    budget: float
    share: float = 0.0
    against: str = ""
    """Another mode of the same comparison; empty: the same one."""
    fixed_rounds: int = 0
    """This many rounds, whatever the precision."""

    @property
    def key(self) -> str:
        name = f"{self.way}/{self.case}/{self.process}/{self.group}/{self.share:g}/{self.budget:g}"
        return f"{name}/{self.against}" if self.against else name

    @property
    def stopping(self) -> Stopping:
        if self.fixed_rounds:
            return Stopping(self.fixed_rounds, self.fixed_rounds, half_width=1e-9)
        return Stopping(budget=self.budget, max_rounds=ROUNDS)

    def trial(self, **found: Any) -> Trial:
        """What the step came to, with all that identifies it."""
        return Trial(
            key=self.key,
            way=self.way,
            case=self.case,
            process=self.process,
            group=self.group,
            share=self.share,
            budget=self.budget,
            **found,
        )


Runner = Callable[[Step], Trial]


def resolve(discovery: Discovery, names: Iterable[str]) -> list[str]:
    """Full case names of operator/function/mode, with the functions' own dtypes and inputs.

    Raises SelectionError for what is not known.
    """
    found = []
    for name in names:
        operator, _, rest = name.partition("/")
        function, _, mode = rest.partition("/")
        if not mode:
            raise SelectionError(f"case {name!r} is not operator/function/mode")
        selection = Selection(functions=(function,), operators=(operator,), modes=(mode,))
        for entry in expand(discovery.offers, selection):
            found += [str(entry.comparison.case(m)) for m in entry.modes]
    return list(dict.fromkeys(found))


def placed(cases: Iterable[str], device: str) -> list[str]:
    """The same cases on a device. Raises ValueError for what is no place."""
    place = str(Place.parse(device))
    found = []
    for name in cases:
        case = Case.parse(name)
        found.append(str(replace(case.comparison, device=place).case(case.mode)))
    return found


def shuffled(steps: Sequence[Step], seed: int) -> list[Step]:
    """By process; inside each the cases in random order, and each case's steps too."""
    chance = random.Random(seed)
    processes: dict[int, dict[str, list[Step]]] = {}
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


class _Pairs:
    """Measures the steps of one process, or of one pair of processes."""

    def __init__(self, two: bool, core: int | None, seed: int, options: WorkerOptions) -> None:
        self.two = two
        self.core = core
        self.seed = seed
        self.options = options
        self.workers: list[Worker] = []
        self.opened = ""
        self.handle = 0

    def start(self) -> None:
        self.end()
        for _ in range(2 if self.two else 1):
            worker = Worker(self.options)
            self.workers.append(worker)
            if self.core is not None:
                pin(worker.pid, self.core)

    def end(self) -> None:
        for worker in self.workers:
            worker.__exit__()
        self.workers, self.opened, self.handle = [], "", 0

    def __call__(self, step: Step) -> Trial:
        """The step's trial; one that failed says why."""
        began = time.perf_counter()
        try:
            try:
                found, injected = self._measure(step)
            except WorkerDied:
                # It may have been killed from outside.
                self.end()
                found, injected = self._measure(step)
        except WorkerRefused as error:
            return step.trial(reason=str(error))
        except (WorkerDied, WorkerTimeout) as error:
            self.end()
            return step.trial(reason=f"the measuring process was lost: {error}")
        return step.trial(
            injected=injected,
            log_ratios=found.log_ratios,
            seconds=float(f"{found.seconds:.4g}"),
            stopped=found.stopped,
            visiting=round(found.visiting, 5),
            elapsed=round(time.perf_counter() - began, 4),
            load=round(os.getloadavg()[0], 2),
            values={"against": step.against} if step.against else {},
        )

    def _measure(self, step: Step) -> tuple[pairs.Measured, float]:
        if not self.workers:
            self.start()
        case = Case.parse(step.case)
        if self.opened != str(case.comparison):
            for worker in self.workers:
                pairs.open_comparison(worker, str(case.comparison), self.seed, TIMEOUT)
            self.opened, self.handle = str(case.comparison), 0
        modes = (case.mode, step.against or case.mode)
        sides = []
        for place, mode in enumerate(modes):
            # A fresh instance each time: what its own memory adds is part of the question.
            worker = self.workers[place if self.two else 0]
            sides.append(pairs.prepare(worker, mode, self.handle, WARM, TIMEOUT))
            self.handle += 1
        injected = 0.0
        if step.share:
            injected = pairs.inject(sides, step.share, TIMEOUT)
        chance = random.Random(f"{self.seed}/{step.key}")
        return pairs.measure(sides[0], sides[1], step.stopping, chance, TIMEOUT), injected


def carry_out(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    options: WorkerOptions,
) -> Study:
    """Measures the steps that the file lacks, storing each at once.

    Whatever stops it, the neighbour and the workers are ended and the file holds all that was
    measured. Raises NoPinning, WorkerError or StoreError.
    """
    settings = study.settings
    core, cores = places(settings["neighbour"])
    with ExitStack() as stack:
        stack.enter_context(neighbours(cores, settings["seed"]))

        def runner(two: bool) -> _Pairs:
            made = _Pairs(two, core, settings["seed"], options)
            stack.callback(made.end)
            return made

        runners = {two: runner(two) for two in (False, True)}

        def one(step: Step) -> Trial:
            return runners[step.way == "between"](step)

        def next_process() -> None:
            for each in runners.values():
                each.end()

        return loop(log, study, steps, report, one, next_process)


def loop(
    log: LineLog,
    study: Study,
    steps: Sequence[Step],
    report: Report,
    one: Runner,
    next_process: Callable[[], None] = lambda: None,
) -> Study:
    """The steps that the file lacks, one after the other; `next_process` between processes."""
    began = time.perf_counter()
    done = {trial.key for trial in study.trials}
    left = [step for step in steps if step.key not in done]
    skipped = position = len(steps) - len(left)
    finished = False
    try:
        for _, own in groupby(left, lambda step: step.process):
            next_process()
            for step in own:
                label = f"{step.way} {step.case}"
                elapsed = time.perf_counter() - began
                report(Progress(position, len(steps), label, elapsed, skipped))
                trial = one(step)
                log.append(trial)
                study.trials.append(trial)
                position += 1
        finished = True
        report(Progress(len(steps), len(steps), "", time.perf_counter() - began))
    except WorkerError as error:
        raise WorkerError(f"{error}; {log.hint}") from error
    finally:
        end = Ended(now(), finished, round(time.perf_counter() - began, 2))
        # Where the disk is full the first error is the one to show.
        if finished or not isinstance(sys.exc_info()[1], StoreError):
            log.append(end)
            study.ends.append(end)
    return study


def sessions_of(trials: Iterable[Trial]) -> dict[tuple[Any, ...], list[Trial]]:
    """The sessions of each comparison, in the order of their processes."""
    found: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.process):
        found.setdefault((trial.way, trial.case, trial.share, trial.group), []).append(trial)
    return found
