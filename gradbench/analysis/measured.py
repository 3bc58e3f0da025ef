"""What one track measured: the times, statuses and counts of each case in each build."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from packaging.version import Version

from gradbench import statistics
from gradbench.analysis.clocks import MIXED
from gradbench.core.cases import Case
from gradbench.core.clocks import Clock, clock_of
from gradbench.core.releases import parse
from gradbench.core.verdicts import Status
from gradbench.statistics import Spread
from gradbench.store.environment import BESIDES
from gradbench.store.runs import LOST, loss
from gradbench.store.tracks import EnvironmentUsed, Track

Array = npt.NDArray[np.float64]

TERMS = {
    "cpu_capability": "CPU capability",
    "numpy": "NumPy",
    "python": "Python",
    "mkl": "MKL",
    "device_names": "GPU",
}


POOLED = 1000
"""About so many ratios suffice to know how much sessions vary."""


@dataclass(frozen=True)
class Build:
    """A build of torch on one machine, whatever the tracks that measured it.

    Two tracks mean the same build where its name, its version, the instructions that it dispatches
    and the devices are the same; Python and NumPy around it may have been renewed.
    """

    name: str
    torch: str
    git: str
    cuda: str
    """The version of CUDA that it was built for; empty for a CPU build."""
    capability: str
    devices: tuple[str, ...]
    machine: str
    """The processor."""

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, used: EnvironmentUsed, machine: str) -> Build:
        facts = used.facts
        return cls(
            used.name,
            used.torch,
            facts.torch_git or "",
            facts.torch_cuda or "",
            facts.cpu_capability or "",
            facts.device_names or (),
            machine,
        )

    @property
    def release(self) -> Version:
        return parse(self.torch)

    def like(self, other: Build) -> bool:
        """Whether the two are builds of one kind, which differ in nothing but the release."""
        mine, its = ((bool(b.cuda), b.capability, b.devices, b.machine) for b in (self, other))
        return mine == its


Step = tuple[Build, Build]
"""Two builds, the earlier first."""


@dataclass(frozen=True)
class Point:
    """One case in one build. `seconds` is the median over sessions of their median visit minima, by
    the `clock` that compares builds: descriptive. The other times are by each clock, disturbed
    sub-blocks included; NaN where it does not tell."""

    status: Status
    reason: str = ""
    seconds: float = math.nan
    instructions: float = math.nan
    clock: str = ""
    wall_seconds: float = math.nan
    processor_seconds: float = math.nan


@dataclass
class Times:
    """The visit minima of one case where it is ok: seconds by session, group and environment."""

    sessions: dict[tuple[int, int], dict[str, Array]] = field(default_factory=dict)
    clocked: dict[str, list[tuple[Clock, float, float]]] = field(default_factory=dict)
    """By environment the clock of each session, and its median visit by both clocks."""
    wrong: dict[str, Point] = field(default_factory=dict)
    lost: dict[str, Point] = field(default_factory=dict)
    """The state where a mode was lost in every session; its reason also where in one."""

    def timed(self, *names: str) -> Iterator[tuple[Array, ...]]:
        """The times of these environments, from each session that timed all of them in turns."""
        if any(name in self.wrong for name in names):
            # Wrong in one session is wrong in all: what was timed there is not judged.
            return
        for own in self.sessions.values():
            times = tuple(own[name] for name in names if name in own)
            if len(times) == len(names) and not np.isnan(sum(times)).all():
                yield times

    def tables(self, steps: Sequence[tuple[str, str]]) -> list[Array]:
        """The ratios of pairs of environments that were not wrong: a table for each session, rounds
        × steps, and last a column of ones as the reference."""
        tables = []
        for own in self.sessions.values():
            rounds = max(map(len, own.values()), default=0)
            missing = np.full(rounds, math.nan)
            columns = [
                own[after] / own[before] if before in own and after in own else missing
                for before, after in steps
            ]
            if rounds:
                tables.append(np.array([*columns, np.ones(rounds)]).T)
        return tables


@dataclass
class Measured:
    """A track, by case and build."""

    track: Track
    names: dict[Build, str] = field(default_factory=dict)
    """What the track calls each build."""
    cases: dict[Case, None] = field(default_factory=dict)
    """The planned ones."""
    times: dict[Case, Times] = field(default_factory=dict)
    counts: dict[tuple[str, Case], float] = field(default_factory=dict)
    _sessions: dict[tuple[Case, tuple[str, ...]], int] = field(default_factory=dict)
    _points: dict[tuple[Build, Case], Point | None] = field(default_factory=dict)

    @classmethod
    def of(cls, track: Track) -> Measured:
        made = cls(track)
        machine = str(track.started.machine.get("cpu") or "")
        made.names = {Build.of(used, machine): name for name, used in track.environments.items()}
        made.cases = dict.fromkeys(case for entry in track.started.plan for case in entry.cases)
        made._take(track)
        return made

    def _take(self, track: Track) -> None:
        sessions = 1 + max((part.session for part in track.parts), default=0)
        for part in track.parts:
            for measured in part.cases:
                case = part.comparison.case(measured.mode)
                times = self.times.setdefault(case, Times())
                own = times.sessions.setdefault((part.session, part.group), {})
                visits = measured.visits()
                clock = clock_of(visits.values())
                for name, known in visits.items():
                    own[name] = np.array(known.by(clock))
                    both = clock, _middle(known.raw), _middle(known.processor)
                    times.clocked.setdefault(name, []).append(both)
                for side in measured.sides:
                    name, entrant = side.environment, side.entrant
                    if entrant.status == Status.OK:
                        continue
                    if entrant.status in LOST:
                        reason = loss(entrant, part.session, sessions)
                        times.lost.setdefault(name, Point(entrant.status, reason))
                    else:
                        times.wrong.setdefault(name, Point(entrant.status, entrant.reason))
        for read in track.readings:
            if read.reading.instrument == "instructions":
                for mode, values in read.reading.values.items():
                    case = read.reading.comparison.case(mode)
                    self.counts[read.environment, case] = float(np.median(values))

    @property
    def name(self) -> str:
        return self.track.name

    @property
    def order(self) -> tuple[str, str]:
        """Tracks sort by it, the oldest first."""
        return self.track.started.started, self.track.name

    @property
    def baseline(self) -> Build:
        """The build that all others of the track were measured in turns with."""
        return next(build for build, name in self.names.items() if name == self.track.baseline)

    @cached_property
    def spread(self) -> Spread | None:
        """How much its sessions vary, pooled over its cases; None for few."""
        others = [name for name in self.names.values() if name != self.track.baseline]
        steps = [(self.track.baseline, name) for name in others]
        asked = []
        for case in list(self.times)[:: 1 + len(self.times) * len(steps) // POOLED]:
            times = self.times[case]
            good = [step for step in steps if times.wrong.keys().isdisjoint(step)]
            tables = times.tables(good)
            if good and tables:
                asked.append((statistics.Tables.of(tables), len(good)))
        related = statistics.relative_to_each(asked, statistics.RELEASE_FLOOR)
        return Spread.of([estimate for own in related for estimate in own[:-1]])

    def used(self, build: Build) -> EnvironmentUsed:
        return self.track.environments[self.names[build]]

    def sessions(self, case: Case, *builds: Build) -> int:
        """In how many sessions a case was timed in all of these builds in turns."""
        if case not in self.times or any(build not in self.names for build in builds):
            return 0
        names = tuple(self.names[build] for build in builds)
        key = case, names
        if key not in self._sessions:
            self._sessions[key] = sum(1 for _ in self.times[case].timed(*names))
        return self._sessions[key]

    def point(self, build: Build, case: Case) -> Point | None:
        """One case in one build; None where it was no part of this track."""
        if (build, case) not in self._points:
            self._points[build, case] = self._point(build, case)
        return self._points[build, case]

    def _point(self, build: Build, case: Case) -> Point | None:
        times, name = self.times.get(case), self.names.get(build)
        if name is None or times is None:
            return None
        instructions = self.counts.get((name, case), math.nan)
        if name in times.wrong:
            return replace(times.wrong[name], instructions=instructions)
        lost = times.lost.get(name)
        medians = [statistics.middle(values[values == values]) for (values,) in times.timed(name)]
        if not medians:
            return lost and replace(lost, instructions=instructions)
        reason = lost.reason if lost else ""
        used, walls, processors = zip(*times.clocked[name])
        clock = str(used[0]) if len(set(used)) == 1 else MIXED
        seconds = statistics.middle(medians)
        return Point(
            *(Status.OK, reason, seconds, instructions, clock, _middle(walls), _middle(processors))
        )


def _middle(times: Sequence[float]) -> float:
    """The median without what is missing."""
    known = [time for time in times if time == time]
    return statistics.middle(known) if known else math.nan


def differences(old: EnvironmentUsed, new: EnvironmentUsed) -> list[str]:
    """What differs between two builds besides the release, and may explain a change."""
    before, after = old.facts, new.facts
    found = [
        f"{TERMS.get(name, name)} {one} → {other}"
        for name, one, other in before.differences(after, BESIDES)
    ]
    if bool(before.torch_cuda) != bool(after.torch_cuda):
        kinds = [f"CUDA {e.torch_cuda}" if e.torch_cuda else "CPU" for e in (before, after)]
        found.append(f"{kinds[0]} build → {kinds[1]} build")
    same_release = old.release == new.release
    if same_release and (before.torch, before.torch_git) != (after.torch, after.torch_git):
        found.append(f"one release, two builds: {before.torch} → {after.torch}")
    return found
