"""Measuring a run from Python: `gradbench.run`."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.core import arguments
from gradbench.core.cases import (
    DTYPES,
    MOST_THREADS,
    Place,
    Selection,
    SelectionError,
    size_glob,
)
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.runner.choosing import Measuring, Opened, plan, reopen
from gradbench.runner.plan import start
from gradbench.runner.progress import Report
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES
from gradbench.runner.showing import showing
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.store.runs import Run

if TYPE_CHECKING:
    import pandas as pd

    from gradbench.analysis.recommend import Recommendations

Texts = str | Collection[str]
"""One name or glob, or several; () for all."""


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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after which what was measured is stored; the message says how to go on."""

    def __init__(self, path: Path, name: str, function: str) -> None:
        super().__init__(
            f"stopped: everything measured so far is in {path}; "
            f"gradbench.{function}(resume={name!r}) resumes it"
        )
        self.path = path
        self.name = name


def run(
    functions: Texts = (),
    operators: Texts = (),
    modes: Texts = (),
    *,
    sizes: Texts = (),
    dtypes: Texts = (),
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
    all are measured. `devices` are such as "cpu", "cuda:0" or "cuda:0+cold", `threads` those that
    torch may use inside an operation. `profile` is "quick", "standard", "full" or "atlas";
    `sessions`, `budget` (seconds of visits per comparison and process) and `instruments` replace
    its own. `files` declare functions and modes of your own. `timeout` is in seconds,
    `memory_limit` in bytes. `progress` is a function that is called with each step, or whether
    progress is shown: by default on a terminal and in a notebook.

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
    """
    place = arguments.folder("results", results)
    own = files_of(files)
    profile = arguments.choice("profile", profile, list(PROFILES))
    selection = selected(
        *(functions, operators, modes, sizes, dtypes, devices, threads), compiled=compiled
    )
    measuring = measured(
        *(profile, sessions, budget, instruments, seed, timeout, memory_limit), baseline=baseline
    )
    with showing("measuring", progress) as report:
        if resume:
            name = arguments.text("resume", resume)
            opened = reopen(place, name, own, discovered, warned)
        else:
            worker = WorkerOptions(files=own, memory_limit=memory_limit)
            discovery = discovered(worker)
            entries, settings = plan(discovery, selection, measuring, PROFILES[profile], warned)
            log, begun = start(place, entries, settings, discovery, own)
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


def warned(said: str) -> None:
    """Tells the caller of something that does not stop the measurement."""
    warnings.warn(said, stacklevel=4)


def discovered(worker: WorkerOptions) -> Discovery:
    discovery = discover(worker)
    for problem in discovery.broken:
        warned(problem)
    return discovery


def selected(
    functions: Texts,
    operators: Texts,
    modes: Texts,
    sizes: Texts,
    dtypes: Any,
    devices: Texts,
    threads: int | Collection[int],
    compiled: bool,
) -> Selection:
    """The selection that arguments make. Raises TypeError or ValueError."""

    def texts(name: str, value: Any) -> tuple[str, ...]:
        return (arguments.texts(name, value) or ()) if isinstance(value, str) or value else ()

    if not isinstance(dtypes, str):
        # Also torch's own, such as torch.float32.
        dtypes = [str(each).removeprefix("torch.") for each in _several(dtypes)]
    kinds = tuple(arguments.choice("dtypes", d, DTYPES) for d in texts("dtypes", dtypes))
    labels = tuple(map(size_glob, texts("sizes", sizes)))
    places = dict.fromkeys(str(Place.parse(device)) for device in texts("devices", devices))
    counts = [_whole("threads", each, 1, MOST_THREADS) for each in _several(threads)]
    if not places or not counts:
        raise SelectionError(f"{'threads' if places else 'devices'} is empty: name one")
    return Selection(
        texts("functions", functions),
        texts("operators", operators),
        texts("modes", modes),
        sizes=labels,
        dtypes=kinds,
        devices=tuple(places),
        threads=tuple(counts),
        compiled=bool(compiled),
    )


def measured(
    profile: str,
    sessions: int | None,
    budget: float | None,
    instruments: Texts,
    seed: int,
    timeout: float,
    memory_limit: int,
    baseline: str = "",
    least_sessions: int = 1,
) -> Measuring:
    """How closely to measure, as arguments say. Raises TypeError or ValueError."""
    if sessions is not None:
        sessions = _whole("sessions", sessions, least_sessions, 100)
    if budget is not None:
        arguments.number("budget", budget, 0, 1e7, low_open=True)
    arguments.number("timeout", timeout, 0, 1e7, low_open=True)
    names = (arguments.texts("instruments", instruments) or ()) if instruments else ()
    for name in names:
        arguments.choice("instruments", name, [WALL_TIME, *INSTRUMENTS])
    return Measuring(
        *(profile, sessions, budget, names, _whole("seed", seed, 0, 2**32 - 1), timeout),
        memory_limit=_whole("memory_limit", memory_limit, 1, 2**60),
        baseline=baseline or None,
    )


def _several(value: Any) -> Sequence[Any]:
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset, range)) else (value,)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = arguments.number(name, value, low, high)
    if number != int(number):
        raise ValueError(f"{name} is {value!r}, and should be a whole number")
    return int(number)


def files_of(files: Any) -> tuple[str, ...]:
    """The paths of the user's files. Raises TypeError or ValueError."""
    several = isinstance(files, (str, os.PathLike)) or files
    names = (arguments.texts("files", files) or ()) if several else ()
    return tuple(dict.fromkeys(map(_file, names)))


def _file(name: str) -> str:
    path = Path(name).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"files: {name!r} is not a Python file that there is")
    return str(path)
