"""From a track to its history: each case over the releases, and what changed between which two.

Everything is computed on reading. Two builds that were measured in turns are compared round by
round; other pairs through the baseline that both were measured with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradbench import statistics
from gradbench.analysis import table
from gradbench.analysis.clocks import MIXED
from gradbench.analysis.table import Changes
from gradbench.core.cases import Case
from gradbench.core.clocks import Clock, clock_of
from gradbench.core.releases import ReleaseError, parse
from gradbench.core.suggest import hint
from gradbench.core.verdicts import Status
from gradbench.statistics import Estimate
from gradbench.store.environment import BESIDES
from gradbench.store.lines import StoreError
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


@dataclass(frozen=True)
class Build:
    """One environment of one track, whatever its release is called."""

    track: str
    name: str

    def __str__(self) -> str:
        return self.name


Step = tuple[Build, Build]
"""Two builds, the earlier first."""

TOGETHER = 256
"""Cases whose ratios are computed at once: see `statistics.relative_to_each`."""


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


@dataclass(frozen=True, kw_only=True)
class Change(table.Change):
    """One case from one build to another."""

    before: Build
    after: Build
    old: Point
    new: Point
    paired: bool
    """Whether the two were measured in turns, rather than through the baseline."""
    note: str = ""
    """What differs between the two besides the release."""


Judged = Changes[Change]


Ratios = dict[Step, tuple[Estimate, bool]]
"""One case in the second build of each step over the same in the first, and whether the two were
measured in turns."""


@dataclass
class _Times:
    """The visit minima of one case where it is ok: seconds by session, group and environment."""

    sessions: dict[tuple[int, int], dict[str, Array]] = field(default_factory=dict)
    clocked: dict[str, list[tuple[Clock, float, float]]] = field(default_factory=dict)
    """By environment the clock of each session, and its median visit by both clocks."""
    wrong: dict[str, Point] = field(default_factory=dict)
    lost: dict[str, Point] = field(default_factory=dict)
    """The state where a mode was lost in every session; its reason also where in one."""

    def in_turns(self, steps: Sequence[Step]) -> tuple[list[Step], list[Array]]:
        """The steps whose builds were never wrong, and their ratios: a table for each session,
        rounds × steps, and last a column of ones as the reference."""
        good = [step for step in steps if not any(build.name in self.wrong for build in step)]
        tables = []
        for own in self.sessions.values():
            rounds = max(map(len, own.values()), default=0)
            missing = np.full(rounds, math.nan)
            columns = [
                own[after.name] / own[before.name]
                if before.name in own and after.name in own
                else missing
                for before, after in good
            ]
            if rounds:
                tables.append(np.array([*columns, np.ones(rounds)]).T)
        return good, tables


@dataclass
class History:
    """Every case of some tracks over the builds that they measured, in the releases' order."""

    tracks: list[Track]
    builds: list[Build] = field(default_factory=list)
    used: dict[Build, EnvironmentUsed] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    _times: dict[tuple[str, Case], _Times] = field(default_factory=dict)
    _read: dict[tuple[Build, Case], float] = field(default_factory=dict)
    _points: dict[tuple[Build, Case], Point | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tracks: Sequence[Track], filters: dict[str, Iterable[str]] | None = None
    ) -> History:
        """The history of tracks. A build that is in several counts once for each, except that
        the baseline appears once."""
        made = cls(list(tracks))
        cases: dict[Case, None] = {}
        for track in tracks:
            for name, used in track.environments.items():
                made.used[Build(track.name, name)] = used
            for entry in track.started.plan:
                cases |= {c: None for c in entry.cases if not filters or c.matches(**filters)}
            made._take(track)
        made.cases = list(cases)
        made.builds = _ordered(made)
        return made

    def _take(self, track: Track) -> None:
        sessions = 1 + max((part.session for part in track.parts), default=0)
        for part in track.parts:
            for measured in part.cases:
                case = part.comparison.case(measured.mode)
                times = self._times.setdefault((track.name, case), _Times())
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
        for made in track.readings:
            if made.reading.instrument == "instructions":
                build = Build(track.name, made.environment)
                for mode, values in made.reading.values.items():
                    self._read[build, made.reading.comparison.case(mode)] = float(np.median(values))

    def baseline(self, build: Build) -> Build:
        """The build that one was measured in turns with."""
        track = next(t for t in self.tracks if t.name == build.track)
        return Build(track.name, track.baseline)

    def label(self, build: Build) -> str:
        """A build's name; with its full version where the name does not tell."""
        used = self.used[build]
        return build.name if used.torch.startswith(build.name) else f"{build.name} ({used.torch})"

    def find(self, text: str) -> Build:
        """The build of an environment's name or of a release; the latest measured one.

        Raises StoreError where there is none.
        """
        hits = [b for b in self.used if b.name == text]
        if not hits:
            try:
                version = parse(text)
            except ReleaseError:
                version = None
            hits = [b for b, e in self.used.items() if parse(e.torch) == version]
        if not hits:
            known = ", ".join(dict.fromkeys(b.name for b in self.builds))
            near = hint(text, (b.name for b in self.builds))
            raise StoreError(
                f"{text!r} has not been measured; {near + ' ' if near else ''}measured are: "
                f"{known or 'none'}"
            )
        return max(hits, key=lambda b: b.track)

    def point(self, build: Build, case: Case) -> Point | None:
        """One case in one build; None where it was no part of that track."""
        if (build, case) not in self._points:
            self._points[build, case] = self._point(build, case)
        return self._points[build, case]

    def _point(self, build: Build, case: Case) -> Point | None:
        times = self._times.get((build.track, case))
        if times is None:
            return None
        instructions = self._read.get((build, case), math.nan)
        if build.name in times.wrong:
            # Wrong in one session is wrong in all: what was timed there is not judged.
            return replace(times.wrong[build.name], instructions=instructions)
        mine = [own[build.name] for own in times.sessions.values() if build.name in own]
        mine = [values for values in mine if not np.isnan(values).all()]
        lost = times.lost.get(build.name)
        if not mine:
            return lost and replace(lost, instructions=instructions)
        medians = [statistics.middle(values[values == values]) for values in mine]
        reason = lost.reason if lost else ""
        used, walls, processors = zip(*times.clocked[build.name])
        clock = str(used[0]) if len(set(used)) == 1 else MIXED
        seconds = statistics.middle(medians)
        return Point(
            *(Status.OK, reason, seconds, instructions, clock, _middle(walls), _middle(processors))
        )

    def ratios(
        self, cases: Sequence[Case], steps: Sequence[Step], floor: float, confidence: float
    ) -> list[Ratios]:
        """The ratios of each case, without the steps of which one build was not timed."""
        by_track: dict[str, list[Step]] = {}
        for before, after in steps:
            if before.track == after.track:
                by_track.setdefault(before.track, []).append((before, after))
        ratios: list[Ratios] = [{} for _ in cases]
        for track, own in by_track.items():
            for start in range(0, len(cases), TOGETHER):
                asked, answers = [], []
                for number, case in enumerate(cases[start : start + TOGETHER], start):
                    times = self._times.get((track, case), _Times())
                    good, tables = times.in_turns(own)
                    if good and tables:
                        asked.append((statistics.Tables.of(tables), len(good)))
                        answers.append((number, good))
                estimates = statistics.relative_to_each(asked, floor, confidence)
                for (number, good), related in zip(answers, estimates):
                    ratios[number] |= {s: (e, True) for s, e in zip(good, related) if e.sessions}
        for case, found in zip(cases, ratios):
            for step in steps:
                if step not in found:
                    estimate = self._through_baseline(case, step, floor, confidence)
                    if estimate is not None:
                        found[step] = (estimate, False)
        return ratios

    def to_baseline(self, cases: Sequence[Case]) -> list[dict[Build, Estimate]]:
        """Each case in each build over the same in the one that all were measured in turns with."""
        steps = [(self.baseline(build), build) for build in self.builds]
        steps = [step for step in steps if step[0] != step[1]]
        ratios = self.ratios(cases, steps, statistics.RELEASE_FLOOR, statistics.CONFIDENCE)
        return [{build: e for (_, build), (e, _) in found.items()} for found in ratios]

    def _through_baseline(
        self, case: Case, step: Step, floor: float, confidence: float
    ) -> Estimate | None:
        through = []
        for build in reversed(step):
            times, reference = self._times.get((build.track, case)), self.baseline(build)
            if times is None or build.name in times.wrong or reference.name in times.wrong:
                return None
            through.append(
                [
                    own[build.name] / own[reference.name]
                    for own in times.sessions.values()
                    if build.name in own and reference.name in own
                ]
            )
        if not all(through) or not self._same_baseline(*step):
            return None
        return statistics.compare_runs(through[0], through[1], floor, confidence)

    def _same_baseline(self, one: Build, other: Build) -> bool:
        a, b = (self.used[self.baseline(build)].facts for build in (one, other))
        machines = [
            next(t for t in self.tracks if t.name == build.track).started.machine.get("cpu")
            for build in (one, other)
        ]
        return a.identity == b.identity and machines[0] == machines[1]

    def differences(self, before: Build, after: Build) -> list[str]:
        """What differs between two builds besides the release, and may explain a change."""
        old, new = self.used[before].facts, self.used[after].facts
        found = [
            f"{TERMS.get(name, name)} {one} → {other}"
            for name, one, other in old.differences(new, BESIDES)
        ]
        if bool(old.torch_cuda) != bool(new.torch_cuda):
            kinds = [f"CUDA {e.torch_cuda}" if e.torch_cuda else "CPU" for e in (old, new)]
            found.append(f"{kinds[0]} build → {kinds[1]} build")
        same_release = self.used[before].release == self.used[after].release
        if same_release and (old.torch, old.torch_git) != (new.torch, new.torch_git):
            found.append(f"one release, two builds: {old.torch} → {new.torch}")
        return found

    def changes(
        self,
        steps: Sequence[Step],
        floor: float = statistics.RELEASE_FLOOR,
        confidence: float = statistics.CONFIDENCE,
        method: str = "benjamini-hochberg",
    ) -> Judged:
        """Every case over every step, false positives controlled over the whole table."""
        notes = {step: "; ".join(self.differences(*step)) for step in steps}
        drafts = [
            (case, step, estimate, paired)
            for case, ratios in zip(self.cases, self.ratios(self.cases, steps, floor, confidence))
            for step, (estimate, paired) in ratios.items()
        ]
        verdicts, judging = table.judge([draft[2] for draft in drafts], floor, confidence, method)
        changes = []
        for (case, step, estimate, paired), (verdict, q) in zip(drafts, verdicts):
            old, new = (self.point(build, case) for build in step)
            assert old is not None
            assert new is not None
            changes.append(
                Change(
                    case=case,
                    estimate=estimate,
                    verdict=verdict,
                    q=q,
                    before=step[0],
                    after=step[1],
                    old=old,
                    new=new,
                    paired=paired,
                    note=notes[step],
                )
            )
        return Changes(
            changes=changes,
            **judging,
        )

    def unlike(self, steps: Sequence[Step]) -> dict[tuple[Build, str, str], int]:
        """What only one build of a step can do: the build that cannot, its status and reason, and
        the number of cases."""
        found: dict[tuple[Build, str, str], int] = {}
        seen = set()
        for before, after in steps:
            for case in self.cases:
                points = [self.point(build, case) for build in (before, after)]
                for build, point, other in zip((before, after), points, points[::-1]):
                    if not (point and other and point.status != Status.OK == other.status):
                        continue
                    if (build, case) not in seen:
                        seen.add((build, case))
                        key = (build, point.status, point.reason)
                        found[key] = found.get(key, 0) + 1
        return found

    def steps(self) -> list[Step]:
        """Each build and the one before it, in the releases' order."""
        return list(zip(self.builds, self.builds[1:]))


def _middle(times: Sequence[float]) -> float:
    """The median without what is missing."""
    known = [time for time in times if time == time]
    return statistics.middle(known) if known else math.nan


def _ordered(history: History) -> list[Build]:
    """The builds by release and name; of one that is in several tracks the latest."""
    latest: dict[tuple[Any, ...], Build] = {}
    for build, used in history.used.items():
        key = (build.name, used.facts.identity)
        if key not in latest or latest[key].track < build.track:
            latest[key] = build
    measured = {
        (part_track.name, side.environment)
        for part_track in history.tracks
        for part in part_track.parts
        for case in part.cases
        for side in case.sides
    }
    found = [b for b in latest.values() if (b.track, b.name) in measured]
    return sorted(
        found,
        key=lambda b: (parse(history.used[b].torch), history.used[b].date, b.name, b.track),
    )
