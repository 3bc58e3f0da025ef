"""What is said of releases: each case's course over them, and what changed between which two.

Everything is computed on reading. Two builds that were measured in turns are compared round by
round; two that were not, through the baseline that both were measured with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradbench import statistics
from gradbench.core.releases import ReleaseError, parse
from gradbench.core.suggest import hint
from gradbench.statistics import Estimate
from gradbench.store.lines import StoreError
from gradbench.store.runs import LOST, loss
from gradbench.store.tracks import EnvironmentUsed, Track

Array = npt.NDArray[np.float64]

TOLD = ("cpu_capability", "numpy", "python", "mkl", "malloc", "device_names")
"""Facts of an environment that times depend on and that are not the release."""

TERMS = {
    "cpu_capability": "CPU capability",
    "numpy": "NumPy",
    "python": "Python",
    "mkl": "MKL",
    "device_names": "GPU",
}


CALLED = ("slower", "faster")


@dataclass(frozen=True)
class Build:
    """One environment of one track: what is told apart, whatever its release is called."""

    track: str
    name: str

    def __str__(self) -> str:
        return self.name


Step = tuple[Build, Build]
"""Two builds, the earlier first."""


@dataclass(frozen=True)
class Point:
    """One case in one build. `seconds` is the median over sessions of their median visit minima:
    descriptive."""

    status: str
    reason: str = ""
    seconds: float = math.nan
    instructions: float = math.nan


@dataclass(frozen=True)
class Change:
    """One case from one build to another: the ratio after over before, and what is said of it."""

    case: str
    before: Build
    after: Build
    estimate: Estimate
    verdict: str
    old: Point
    new: Point
    paired: bool
    """Whether the two were measured in turns, rather than through the baseline."""
    note: str = ""


@dataclass(frozen=True)
class Judged:
    """A table of changes with the odds of the whole."""

    changes: list[Change]
    floor: float
    confidence: float
    method: str
    expected_false_alarms: float

    def counts(self) -> dict[str, int]:
        return {
            said: sum(change.verdict == said for change in self.changes)
            for said in ("slower", "faster", "same", "undecided")
        }


@dataclass
class _Times:
    """The visit minima of one case, seconds by session, group and environment, where all is ok."""

    sessions: dict[tuple[int, int], dict[str, Array]] = field(default_factory=dict)
    wrong: dict[str, tuple[str, str]] = field(default_factory=dict)
    lost: dict[str, Point] = field(default_factory=dict)
    """What is said where a mode was lost in every session, and, as its reason, where in one."""


@dataclass
class History:
    """Every case of some tracks over the builds that they measured, in the releases' order."""

    tracks: list[Track]
    builds: list[Build] = field(default_factory=list)
    used: dict[Build, EnvironmentUsed] = field(default_factory=dict)
    cases: list[str] = field(default_factory=list)
    _times: dict[tuple[str, str], _Times] = field(default_factory=dict)
    _read: dict[tuple[Build, str], float] = field(default_factory=dict)
    _points: dict[tuple[Build, str], Point | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tracks: Sequence[Track], filters: dict[str, Iterable[str]] | None = None
    ) -> History:
        """The history that tracks hold. Where one build is in several, each of them counts apart,
        except that the baseline's course is told once."""
        made = cls(list(tracks))
        cases: dict[str, None] = {}
        for track in tracks:
            for name, used in track.environments.items():
                made.used[Build(track.name, name)] = used
            for entry in track.entries():
                for mode in entry.modes:
                    if not filters or entry.comparison.matches(mode, **filters):
                        cases[str(entry.comparison.case(mode))] = None
            made._take(track)
        made.cases = list(cases)
        made.builds = _ordered(made)
        return made

    def _take(self, track: Track) -> None:
        sessions = 1 + max((part.session for part in track.parts), default=0)
        for part in track.parts:
            for case in part.cases:
                name = f"{part.comparison}/{case.mode}"
                times = self._times.setdefault((track.name, name), _Times())
                own = times.sessions.setdefault((part.session, part.group), {})
                for side in case.sides:
                    if side.entrant.status == "ok":
                        own[side.environment] = np.array(side.minima)
                    elif side.entrant.status in LOST:
                        said = loss(side.entrant, part.session, sessions)
                        times.lost.setdefault(side.environment, Point(side.entrant.status, said))
                    else:
                        found = (side.entrant.status, side.entrant.reason)
                        times.wrong.setdefault(side.environment, found)
        for made in track.readings:
            if made.reading.instrument == "instructions":
                for mode, values in made.reading.values.items():
                    build = Build(track.name, made.environment)
                    name = f"{made.reading.comparison}/{mode}"
                    self._read[build, name] = float(np.median(values))

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

    def point(self, build: Build, case: str) -> Point | None:
        """One case in one build; None where it was no part of that track."""
        if (build, case) not in self._points:
            self._points[build, case] = self._point(build, case)
        return self._points[build, case]

    def _point(self, build: Build, case: str) -> Point | None:
        times = self._times.get((build.track, case))
        if times is None:
            return None
        instructions = self._read.get((build, case), math.nan)
        if build.name in times.wrong:
            # Wrong in one session is wrong in all: what was timed there is not judged.
            return Point(*times.wrong[build.name], instructions=instructions)
        mine = [own[build.name] for own in times.sessions.values() if build.name in own]
        lost = times.lost.get(build.name)
        if not mine:
            return lost and replace(lost, instructions=instructions)
        medians = [statistics.middle(values) for values in mine]
        reason = lost.reason if lost else ""
        return Point("ok", reason, statistics.middle(medians), instructions)

    def ratios(
        self, case: str, steps: Sequence[Step], floor: float, confidence: float
    ) -> dict[Step, tuple[Estimate, bool]]:
        """The case in the second build of each step over the same in the first, and whether the
        two took turns. A step is left out where one of them was not timed."""
        found: dict[Step, tuple[Estimate, bool]] = {}
        by_track: dict[str, list[Step]] = {}
        for before, after in steps:
            if before.track == after.track:
                by_track.setdefault(before.track, []).append((before, after))
        for track, own in by_track.items():
            times = self._times.get((track, case))
            if times is not None:
                found |= {
                    step: (estimate, True)
                    for step, estimate in _in_turns(times, own, floor, confidence).items()
                }
        for step in steps:
            if step not in found:
                estimate = self._through_baseline(case, step, floor, confidence)
                if estimate is not None:
                    found[step] = (estimate, False)
        return found

    def to_baseline(self, case: str) -> dict[Build, Estimate]:
        """The case in each build over the same in the one that all were measured in turns with."""
        steps = [(self.baseline(build), build) for build in self.builds]
        steps = [step for step in steps if step[0] != step[1]]
        found = self.ratios(case, steps, statistics.RELEASE_FLOOR, statistics.CONFIDENCE)
        return {build: estimate for (_, build), (estimate, _) in found.items()}

    def _through_baseline(
        self, case: str, step: Step, floor: float, confidence: float
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
        a, b = (self.used[self.baseline(build)] for build in (one, other))
        machines = [
            next(t for t in self.tracks if t.name == build.track).started.machine.get("cpu")
            for build in (one, other)
        ]
        keys = ("torch", "torch_git", *TOLD)
        same = all(a.identity.get(key) == b.identity.get(key) for key in keys)
        return same and machines[0] == machines[1]

    def differences(self, before: Build, after: Build) -> list[str]:
        """What differs between two builds besides the release, and may explain a change."""
        old, new = self.used[before].identity, self.used[after].identity
        found = [
            f"{TERMS.get(key, key)} {old.get(key)} → {new.get(key)}"
            for key in TOLD
            if old.get(key) != new.get(key)
        ]
        if bool(old.get("torch_cuda")) != bool(new.get("torch_cuda")):
            kinds = [
                f"CUDA {i['torch_cuda']}" if i.get("torch_cuda") else "CPU" for i in (old, new)
            ]
            found.append(f"{kinds[0]} build → {kinds[1]} build")
        if self.used[before].release == self.used[after].release:
            builds = [str(i.get("torch")) for i in (old, new)]
            if old.get("torch_git") != new.get("torch_git") or builds[0] != builds[1]:
                found.append(f"one release, two builds: {builds[0]} → {builds[1]}")
        return found

    def changes(
        self,
        steps: Sequence[Step],
        floor: float = statistics.RELEASE_FLOOR,
        confidence: float = statistics.CONFIDENCE,
        method: statistics.Method = "benjamini-hochberg",
    ) -> Judged:
        """Every case over every step, false alarms held down over the whole table."""
        notes = {step: "; ".join(self.differences(*step)) for step in steps}
        drafts = []
        for case in self.cases:
            for step, (estimate, paired) in self.ratios(case, steps, floor, confidence).items():
                old, new = (self.point(build, case) for build in step)
                assert old is not None
                assert new is not None
                drafts.append((case, *step, estimate, paired, old, new, notes[step]))
        judgement = statistics.judge([d[3] for d in drafts], floor, confidence, method)
        return Judged(
            [
                Change(case, before, after, estimate, said, old, new, paired, note)
                for (case, before, after, estimate, paired, old, new, note), said in zip(
                    drafts, judgement.verdicts
                )
            ],
            floor,
            confidence,
            method,
            judgement.expected_false_alarms,
        )

    def unlike(self, steps: Sequence[Step]) -> dict[tuple[Build, str, str], int]:
        """What one build of a step can do and the other cannot: the build that cannot, its status
        and reason, and in how many cases."""
        found: dict[tuple[Build, str, str], int] = {}
        seen = set()
        for before, after in steps:
            for case in self.cases:
                points = [self.point(build, case) for build in (before, after)]
                for build, point, other in zip((before, after), points, points[::-1]):
                    if not (point and other and point.status != "ok" and other.status == "ok"):
                        continue
                    if (build, case) not in seen:
                        seen.add((build, case))
                        key = (build, point.status, point.reason)
                        found[key] = found.get(key, 0) + 1
        return found

    def steps(self) -> list[Step]:
        """Each build and the one before it, in the releases' order."""
        return list(zip(self.builds, self.builds[1:]))


def _in_turns(
    times: _Times, steps: Sequence[Step], floor: float, confidence: float
) -> dict[Step, Estimate]:
    """Ratios inside rounds, of all steps at once: each is a contestant of which the reference is
    always 1."""
    steps = [s for s in steps if not any(build.name in times.wrong for build in s)]
    tables = []
    for own in times.sessions.values():
        rounds = max(map(len, own.values()), default=0)
        missing = np.full(rounds, math.nan)
        columns = [
            own[after.name] / own[before.name]
            if before.name in own and after.name in own
            else missing
            for before, after in steps
        ]
        if rounds:
            tables.append(np.array([*columns, np.ones(rounds)]).T)
    if not tables or not steps:
        return {}
    estimates = statistics.relative_to(tables, len(steps), floor, confidence)
    return {step: e for step, e in zip(steps, estimates) if e.sessions}


def _ordered(history: History) -> list[Build]:
    """The builds by release and name; of one that is in several tracks the latest."""
    latest: dict[tuple[Any, ...], Build] = {}
    for build, used in history.used.items():
        identity = tuple(used.identity.get(key) for key in ("torch", "torch_git", *TOLD))
        key = (build.name, *identity)
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
