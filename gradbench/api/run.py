"""Measuring a run from Python: `gradbench.run`."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gradbench.advise.yours import say_if_changed
from gradbench.api.asked import (
    Inputs,
    Interrupted,
    Texts,
    by_argument,
    discovered,
    files_of,
    measured,
    selected,
    warned,
    yours,
)
from gradbench.core import arguments
from gradbench.runner.choosing import Opened, plan, reopen
from gradbench.runner.plan import start
from gradbench.runner.progress import Report
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES
from gradbench.runner.showing import require_report, showing
from gradbench.runner.wire import WorkerOptions
from gradbench.store.runs import KIND, Run

if TYPE_CHECKING:
    import pandas as pd

    from gradbench.analysis.recommend import Recommendations

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult(os.PathLike[str]):
    """A stored run that `gradbench.run` measured. It can be passed where a run is asked
    for."""

    path: Path
    name: str
    finished: bool
    """Whether all of its plan is measured."""

    def __fspath__(self) -> str:
        return str(self.path)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """A row per case: see `gradbench.verdicts`."""
        from gradbench.analysis.frames import verdicts

        return verdicts(self.path.parent, self)

    def recommend(self) -> Recommendations:
        """What to try first for each operator: see `gradbench.recommend`."""
        from gradbench.analysis.recommend import recommend

        return recommend(self.path.parent, self)

    def __str__(self) -> str:
        state = "" if self.finished else ", not finished"
        return f"{self.recommend()!r}\nStored in {self.path}{state}"

    def _repr_html_(self) -> str:
        html: str = self.recommend().frame.to_html(index=False)
        return html


def run(
    functions: Texts = (),
    operators: Texts = (),
    modes: Texts = (),
    *,
    inputs: Inputs = MappingProxyType({}),
    also: Texts = (),
    wrt: Texts = (),
    definition: str = "differences",
    name: str = "",
    sizes: Texts = (),
    dtypes: Texts = (),
    families: Texts = (),
    devices: Texts = ("cpu",),
    threads: int | Collection[int] = 1,
    compiled: bool = False,
    profile: str = "quick",
    sessions: int | None = None,
    budget: float | None = None,
    instruments: Texts = (),
    baseline: str = "",
    files: str | os.PathLike[str] | Collection[str | os.PathLike[str]] = (),
    seed: int = 0,
    timeout: float = 60.0,
    memory_limit: int = 4 << 30,
    resume: str | os.PathLike[str] = "",
    progress: bool | Report | None = None,
    results: str | Path = "results",
) -> RunResult:
    """Measures and stores every selected case, as `gradbench run` does.

    `functions`, `operators`, `modes` and `sizes` are names or globs, one or several; without any,
    all of the source notebooks' functions are measured; `families` are "applications", one of
    your own, or "all". `devices` are such as "cpu", "cuda:0" or "cuda:0+cold", `threads` those that
    torch may use inside an operation. `profile` is "quick", "standard", "full", "atlas" or
    "applications";
    `sessions`, `budget` (seconds of visits per comparison and process) and `instruments` replace
    its own. `files` declare functions and modes of your own. `timeout` is in seconds,
    `memory_limit` in bytes. `progress` is a function that is called with each step, or whether
    progress is shown: by default on a terminal and in a notebook.

    `functions` can also be one of your own that knows nothing of gradbench, "module:function" or
    "file.py:function". It needs `inputs`: expressions by name, such as {"x": "randn(3,4)"}, or the
    "module:function" that returns them. `wrt` names what to differentiate by, `also` derivatives of
    your own to measure too, `name` is what the function is called in results, and `definition` is
    as for `gradbench.compare`, which takes a function and tensors. Without `operators` the one that
    suits the function is measured.

    Everything is measured in processes of their own, and stored in the folder `results` comparison
    by comparison. Ctrl-C raises `Interrupted`, a KeyboardInterrupt whose message names the run;
    `resume` takes that name, or "latest", and goes on with the plan and the settings of that run.

    Raises SelectionError where nothing is selected or something is not there, StoreError where the
    run cannot be stored or resumed, WorkerError where no process can be started, TypeError or
    ValueError for an argument of the wrong kind.

    >>> made = gradbench.run("exp", "vjp", ["grad", "backward"], sessions=2, budget=0.01)
    >>> made.finished, sorted(made.frame["mode"])
    (True, ['backward', 'grad'])
    >>> len(gradbench.load("results", made)) >= 4
    True
    >>> made = gradbench.run(
    ...     "model.py:loss", modes="grad", inputs={"x": "randn(3)"}, sessions=2, budget=0.01
    ... )
    >>> made.frame["function"].tolist()
    ['model:loss@...']
    """
    place = arguments.folder("results", results)
    own, resume = files_of(files), arguments.optional("resume", resume)
    require_report(progress)
    profile = arguments.choice("profile", profile, list(PROFILES))
    selection = selected(
        *(functions, operators, modes, sizes, dtypes, devices, threads),
        compiled=compiled,
        families=families,
    )
    measuring = measured(
        *(profile, sessions, budget, instruments, seed, timeout, memory_limit), baseline=baseline
    )
    mine = yours(inputs, also, wrt, definition, name, selection)
    with by_argument(), showing("measuring", progress) as report:
        if resume:
            opened = reopen(place, resume, own, discovered, warned)
        else:
            suite = mine.suite(selection, own, measuring, place, _log.info)
            say_if_changed(suite.own, KIND, place, warned)
            worker = WorkerOptions(files=suite.files, memory_limit=memory_limit)
            discovery = discovered(worker)
            entries, settings = plan(
                discovery, suite.selection, measuring, PROFILES[profile], warned
            )
            log, begun = start(
                place, entries, settings, discovery, suite.files, loaded=suite.loaded
            )
            opened = Opened(log, begun, settings, worker, discovery)
        return _carried_out(opened, report)


def _carried_out(opened: Opened[Run], report: Report) -> RunResult:
    stored = opened.stored
    try:
        with opened.log:
            stored = measure(
                *(opened.log, stored, opened.settings, opened.worker, opened.discovery), report
            )
    except KeyboardInterrupt:
        raise Interrupted(stored.path, stored.name, "run") from None
    return RunResult(stored.path, stored.name, stored.finished)
