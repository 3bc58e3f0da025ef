"""What a report says, before it is written as a page: everything in numbers is of one machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core.cases import FORWARD
from gradbench.core.units import counted
from gradbench.report import agreement, answers, machines, multiples, sections
from gradbench.report.data import Stored, rows
from gradbench.report.findings import run_caveats, trust, warnings
from gradbench.report.style import shortened
from gradbench.report.why import Table, Why
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """The content of a report, before it is written as HTML or Markdown.

    Everything that is said in numbers is of one machine; a dict has the machines as its keys.
    """

    stored: Sequence[Stored]
    frame: pd.DataFrame
    """Every selected case of every run, see `data.rows`."""
    machine: str
    """The machine that the report is about; the page can show the others."""
    changes: Mapping[str, pd.DataFrame]
    """The tracked builds of each machine: a `timelines.frame`."""
    problems: Sequence[str] = ()
    sources: Sequence[Mapping[str, Any]] = ()
    sources_of: str = ""
    wanted: Collection[str] = ()
    """Those of `sections.EXTRAS` to show."""
    drawn: Sequence[pd.DataFrame] = ()
    studies: Sequence[tuple[str, Figure]] = ()
    this: str = ""
    """The machine that makes the report."""
    explanations: Sequence[Why] = ()
    """The stored explanations of every machine."""

    @cached_property
    def runs(self) -> list[Stored]:
        """The runs with a selected case, oldest first."""
        names = set() if self.frame.empty else set(self.frame["run"])
        return [run for run in self.stored if run.name in names]

    @cached_property
    def machines(self) -> list[str]:
        """The machines: the report's own, then the others, the newest first."""
        others = [run.machine for run in reversed(self.runs)] + list(self.changes)
        return list(dict.fromkeys(filter(None, (self.machine, *others))))

    def of(self, machine: str) -> list[Stored]:
        """The runs of a machine, oldest first."""
        return [run for run in self.runs if run.machine == machine]

    def newest(self, machine: str) -> pd.DataFrame:
        """The newest row of each case of a machine."""
        frame = self.frame
        return frame if frame.empty else frame[frame["newest"] & frame["machine"].eq(machine)]

    @cached_property
    def views(self) -> list[answers.View]:
        """What to try first, by run, operator, place and size."""
        return [view for run in self.runs for view in answers.views(run, self.selected[run.name])]

    @cached_property
    def selected(self) -> dict[str, set[tuple[str, str]]]:
        """The comparisons and modes of each run that are selected."""
        chosen: dict[str, set[tuple[str, str]]] = {}
        for run, comparison, mode in zip(*(self.frame[n] for n in ("run", "comparison", "mode"))):
            chosen.setdefault(run, set()).add((comparison, mode))
        return chosen

    @cached_property
    def default_runs(self) -> dict[str, str]:
        """The run that each machine's page begins with."""
        return {name: answers.default_run(self.of(name)) for name in self.machines}

    @property
    def run(self) -> Stored | None:
        """The run that the report begins with."""
        name = self.default_runs.get(self.machine)
        return next((run for run in self.runs if run.name == name), None)

    @cached_property
    def answered(self) -> list[answers.View]:
        """The views of that run."""
        return [view for view in self.views if self.run and view.run == self.run.name]

    @cached_property
    def caveats(self) -> dict[str, list[str]]:
        return {
            name: [
                *self.elsewhere(name),
                *self.problems,
                *warnings(self.newest(name), self.of(name)),
            ]
            for name in self.machines
        }

    def elsewhere(self, machine: str) -> list[str]:
        """That a machine is not the one that makes the report, where it is not."""
        return [ELSEWHERE] if self.this and machine != self.this else []

    def at_once(self, run: Stored) -> list[str]:
        """What a reader must know of a run before its answers."""
        return self.elsewhere(run.machine) + run_caveats(run)

    @cached_property
    def trust(self) -> dict[str, list[str]]:
        others = agreement.sentences(agreement.matrix(self.frame))
        return {name: trust(self.newest(name), self.of(name)) + others for name in self.machines}

    @cached_property
    def environments(self) -> dict[str, list[dict[str, str]]]:
        """Machine, versions and time of each run, and of each build of the tracks."""
        return {
            name: [_environment(run) for run in reversed(self.of(name))]
            + _builds(self.changes.get(name, pd.DataFrame()))
            for name in self.machines
        }

    @cached_property
    def extras(self) -> list[sections.Section]:
        frame = self.newest(self.machine)
        return sections.extras(frame, self.wanted, self.drawn, self.studies)

    @cached_property
    def multiples(self) -> list[Table]:
        """The objectives of ADBench and GradBench, as multiples of their own evaluation."""
        return multiples.tables(self.newest(self.machine))

    @cached_property
    def figures(self) -> list[sections.Section]:
        """The figures of a report without scripts."""
        changes = self.changes.get(self.machine, pd.DataFrame())
        return sections.figures(self.newest(self.machine), changes)

    def conditions(self, run: Stored) -> str:
        """Under which conditions a run was measured, in a line."""
        environment, judged = run.environment, run.judged
        close = sum(row.verdict == "undecided" for row in judged.rows)
        capability = environment["cpu_capability"]
        parts = [
            f"torch {environment['torch']}" + (f" ({capability})" if capability else ""),
            run.header.started.started[:10],
            counted(judged.sessions, "session"),
            f"load {environment['load at start']} at the start"
            if environment["load at start"] is not None
            else "",
            f"{counted(len(judged.rows), 'case')}, {close} too close to call",
        ]
        return " · ".join(filter(None, parts))


ELSEWHERE = "Measured on another machine than the one that made this report."


def releases(results: Path) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tracked builds of each machine of a results folder, and what had to be skipped."""
    from gradbench.analysis import timelines
    from gradbench.analysis.tracks import History
    from gradbench.store import tracks

    every, problems = tracks.read_all(results)
    own: dict[str, list[tracks.Track]] = {}
    for track in every:
        own.setdefault(machines.named(track.started.machine), []).append(track)
        problems += track.problems
    frames = {name: timelines.frame(History.of(some)) for name, some in own.items()}
    return {name: frame for name, frame in frames.items() if len(frame)}, problems


def assemble(
    stored: Sequence[Stored],
    problems: Sequence[str],
    keep: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
    changes: Mapping[str, pd.DataFrame] | None = None,
    code: tuple[Sequence[Mapping[str, Any]], str] = ((), ""),
    wanted: Collection[str] = (),
    drawn: Sequence[pd.DataFrame] = (),
    studies: Sequence[tuple[str, Figure]] = (),
    explanations: Sequence[Why] = (),
) -> Report:
    """The report of runs.

    `keep` selects rows; `changes` as `releases` returns them; `code` holds the modes as a worker
    lists them, and a sentence with their version; `wanted`, `drawn` and `studies` are for
    `sections.extras`. Raises StoreError if no row is left.
    """
    every = rows(stored)
    frame = keep(every) if len(every) else every
    changes = changes or {}
    if frame.empty and (not changes or len(every)):
        raise StoreError("nothing to report: no stored case is selected")
    kept = [run for run in stored if len(frame) and run.name in set(frame["run"])]
    this = machines.here()
    machine = machines.default([run.machine for run in kept], this) or next(iter(changes), "")
    timed = set() if frame.empty else set(zip(frame["operator"], frame["mode"]))
    sources = [m for m in code[0] if (m["operator"], m["mode"]) in timed and m["mode"] != FORWARD]
    return Report(
        *(stored, frame, machine, changes, problems, sources, code[1]),
        *(wanted, drawn, studies, this, explanations),
    )


def _environment(run: Stored) -> dict[str, str]:
    return {
        "run": run.name,
        "started": run.header.started.started,
        "command": shortened("gradbench " + " ".join(run.header.started.command), 300),
        "sessions": str(run.judged.sessions),
        "cases": str(len(run.judged.rows)),
        "finished": "yes" if run.judged.finished else "no",
        **{k: "" if v is None else str(v) for k, v in run.environment.items()},
    }


def _builds(changes: pd.DataFrame) -> list[dict[str, str]]:
    if changes.empty:
        return []
    told = ["release", "date", "track", "torch", "torch_git", "cpu_capability", "python", "numpy"]
    builds = changes[[*told, "note"]].drop_duplicates(["track", "release"])
    return [
        {
            "run": f"torch {build['release']}, tracked",
            **{name: "" if build[name] is None else str(build[name]) for name in told[1:]},
            "other differences from the previous build": str(build["note"]),
        }
        for build in builds.to_dict("records")
    ]
