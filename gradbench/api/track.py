"""Measuring a track of releases from Python: `gradbench.track`."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Collection, Sequence
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
from gradbench.core.releases import ReleaseError
from gradbench.releases import environments
from gradbench.releases import track as tracking
from gradbench.releases.environments import Failure, Request
from gradbench.releases.plan import Asked, planned, prepared, reopen
from gradbench.releases.wanted import Installing
from gradbench.runner.choosing import Opened
from gradbench.runner.progress import Report
from gradbench.runner.showing import require_report, showing
from gradbench.store.tracks import KIND, Track

if TYPE_CHECKING:
    import pandas as pd


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackResult(os.PathLike[str]):
    """A stored track that `gradbench.track` measured. It can be passed where one is asked for."""

    path: Path
    name: str
    builds: tuple[str, ...]
    """The names of the builds that took part."""
    failures: tuple[str, ...]
    """A line for each build that could not be installed."""

    def __fspath__(self) -> str:
        return str(self.path)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """A row per case and build: see `gradbench.releases.timeline`."""
        from gradbench.analysis.timelines import timeline

        return timeline(self.path.parent, self)

    def __str__(self) -> str:
        return f"{', '.join(self.builds)}\nStored in {self.path}"

    def _repr_html_(self) -> str:
        columns = ["function", "operator", "mode", "release", "seconds", "change", "verdict"]
        html: str = self.frame[columns].to_html(index=False)
        return html


def track(
    releases: Texts = (),
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
    baseline: str = "",
    profile: str = "standard",
    sessions: int | None = None,
    budget: float | None = None,
    cpu_capability: str = "",
    install: bool = True,
    index_url: str = "",
    torch_backend: str = "",
    files: str | os.PathLike[str] | Collection[str | os.PathLike[str]] = (),
    seed: int = 0,
    timeout: float = 60.0,
    memory_limit: int = 4 << 30,
    resume: str | os.PathLike[str] = "",
    progress: bool | Report | None = None,
    results: str | Path = "results",
) -> TrackResult:
    """Measures cases in several torch releases that take turns, as `gradbench releases track`.

    `releases` are versions ("2.9.0"), or NAME=WHAT for a wheel or for a Python that has torch;
    without any, the installed ones. Missing ones are installed first, unless `install` is false.
    `baseline` is the release that all others are measured with. `profile` is "quick", "standard",
    "gate" or "full". The other arguments are those of `gradbench.run`, also for a function of your
    own, which every release imports. 'gradbench releases asv' writes what was measured as asv's
    files.

    Ctrl-C raises `Interrupted`, a KeyboardInterrupt whose message names the track; `resume` takes
    that name, or "latest".

    Raises ReleaseError where a release is not there or cannot be installed, and what
    `gradbench.run` raises.
    """
    place = arguments.folder("results", results)
    own, resume = files_of(files), arguments.optional("resume", resume)
    require_report(progress)
    profile = arguments.choice("profile", profile, list(tracking.PROFILES))
    names = arguments.several("releases", releases)
    selection = selected(
        *(functions, operators, modes, sizes, dtypes, devices, threads),
        compiled=compiled,
        families=families,
    )
    measuring = measured(
        *(profile, sessions, budget, ("wall_time",), seed, timeout, memory_limit), least_sessions=2
    )
    mine = yours(inputs, also, wrt, definition, name, selection)
    index_url = arguments.optional("index_url", index_url)
    torch_backend = arguments.optional("torch_backend", torch_backend)
    installing = Installing("auto", None, index_url or None, torch_backend or None, (), False)
    baseline = arguments.optional("baseline", baseline)
    cpu_capability = arguments.optional("cpu_capability", cpu_capability)
    arguments.flag("install", install)

    def made(requests: Sequence[Request]) -> list[Failure]:
        missing = environments.missing(requests)
        if missing and not install:
            listed = ", ".join(request.name for request in missing)
            raise ReleaseError(f"not installed: {listed}; install=True installs what is missing")
        return installing.install(requests, _log.info, lambda what: showing(what, progress))

    with by_argument():
        if resume:
            opened = reopen(place, resume, own, discovered, warned)
        else:
            ready = prepared(
                Asked(names, baseline, (), cpu_capability),
                measuring,
                place,
                lambda: mine.suite(selection, own, measuring, place, _log.info),
                sys.executable,
                discovered,
                warned,
            )
            say_if_changed(ready.suite.own, KIND, place, warned)
            opened = planned(ready, measuring, made, discovered, warned).begin(place, [])
        with showing("tracking", progress) as report:
            return _carried_out(opened, report)


def _carried_out(opened: Opened[Track], report: Report) -> TrackResult:
    stored = opened.stored
    try:
        with opened.log:
            tracking.measure(
                *(opened.log, stored, opened.settings, opened.worker, opened.discovery),
                *(report, warned),
            )
    except KeyboardInterrupt:
        raise Interrupted(stored.path, stored.name, "track") from None
    failures = tuple(f"{failure.name}: {failure.reason}" for failure in stored.failures)
    return TrackResult(stored.path, stored.name, tuple(stored.environments), failures)
