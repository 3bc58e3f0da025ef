"""A study from its beginning, or from where it was interrupted, to its end."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from gradbench.core.cases import Case, SelectionError
from gradbench.runner import machine
from gradbench.runner.choosing import require_devices
from gradbench.runner.progress import Progress, Report
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import discover, require_same
from gradbench.store import studies as store
from gradbench.store.executed import executed
from gradbench.store.lines import LineLog, StoreError
from gradbench.store.studies import Study
from gradbench.studies import STUDIES, engine
from gradbench.studies.engine import Step
from gradbench.studies.neighbour import NoPinning, places


@dataclass(frozen=True)
class Opened:
    """A study that is about to be carried out."""

    module: ModuleType
    log: LineLog
    study: Study
    worker: WorkerOptions

    def steps(self) -> list[Step]:
        """The plan. Raises StoreError where the study's settings are damaged."""
        study = self.study
        try:
            cases = [Case.parse(name) for name in study.settings["cases"]]
            steps: list[Step] = self.module.plan(study.settings, cases)
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"{study.name} cannot be resumed: its settings are damaged ({error!r})"
            ) from error
        return steps

    def left(self) -> list[Step]:
        """The steps that are not stored yet. Raises StoreError as `steps` does."""
        return engine.left(self.study, self.steps())

    def expected(self) -> float:
        """About how many seconds the rest takes; 0 where that is not known."""
        return self._expected(self.left())

    def _expected(self, steps: Sequence[Step]) -> float:
        expected = getattr(self.module, "expected", engine.expected)
        return float(expected(self.study.settings, steps))

    def _weighed(self, report: Report) -> Report:
        """Tells the share of the work that is done by how long each step is expected to take: in
        a study of several tools one takes minutes, another a tenth of a second."""
        until = [0.0, *accumulate(self._expected([step]) for step in self.left())]

        def weighed(progress: Progress) -> None:
            done = until[min(progress.done - progress.skipped, len(until) - 1)]
            report(replace(progress, share=done / until[-1] if until[-1] else None))

        return weighed

    def carry_out(self, report: Report) -> Study:
        """Measures what is left. Raises StoreError where the study's settings are damaged."""
        study, steps = self.study, self.steps()
        carry_out = getattr(self.module, "carry_out", engine.carry_out)
        try:
            done: Study = carry_out(self.log, study, steps, self._weighed(report), self.worker)
        except NoPinning as error:
            raise SelectionError(str(error)) from error
        return done


def begin(
    name: str,
    settings: dict[str, Any],
    cases: Sequence[str],
    device: str,
    results: Path,
    command: list[str],
) -> Opened:
    """A new study; without `cases`, of its own. Raises SelectionError for what is not there."""
    module = importlib.import_module(STUDIES[name])
    try:
        places(settings.get("neighbour", "none"))
    except NoPinning as error:
        raise SelectionError(str(error)) from error
    worker = _worker(module, settings, tuple(settings["files"]))
    discovery = discover(worker)
    default = getattr(module, "CASES", engine.CASES)
    resolve = getattr(module, "resolve", engine.resolve)
    require_devices((device,), discovery.environment)
    chosen = engine.placed(resolve(discovery, cases or default), device)
    log, study = store.begin(
        results,
        name,
        {**settings, "cases": [str(case) for case in chosen]},
        machine.facts(),
        discovery.environment,
        command,
    )
    return Opened(module, log, study, worker)


def reopen(
    name: str, results: Path, resumed: str, files: tuple[str, ...], say: Callable[[str], None]
) -> Opened:
    """An interrupted study, as it goes on. Raises StoreError where it cannot."""
    study = store.find(results, resumed, name)
    study.require_unfinished()
    files = executed(store.KIND, study, results, study.settings.get("files", ()), files, say)
    module = importlib.import_module(STUDIES[name])
    worker = _worker(module, study.settings, files)
    require_same("this study", study.started.environment, discover(worker).environment)
    log = store.KIND.reopen(study)
    return Opened(module, log, store.read(study.path), worker)


def _worker(module: ModuleType, settings: dict[str, Any], files: tuple[str, ...]) -> WorkerOptions:
    """The worker that a study measures with: this Python's, unless it has one of its own."""
    own = getattr(module, "worker", None)
    return WorkerOptions(files=files) if own is None else own({**settings, "files": files})
