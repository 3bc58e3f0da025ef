"""What a comparison of releases covers, against all that any track knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradbench.analysis.measured import Build
from gradbench.analysis.tracks import Change, History
from gradbench.core.cases import Case
from gradbench.core.units import counted
from gradbench.core.verdicts import Status


@dataclass(frozen=True)
class Scope:
    """How many cases were compared, and which others the tracks have, by the reason."""

    compared: int
    missing: dict[str, int]

    @property
    def fewer(self) -> int:
        return sum(self.missing.values())

    def __str__(self) -> str:
        if not self.fewer:
            return "No case that the tracks have is left out."
        reasons = ", ".join(f"{number} {why}" for why, number in self.missing.items())
        of = self.compared + self.fewer
        said = f"{self.fewer} of {counted(of, 'case')} that the tracks have were not compared"
        return f"{said}: {reasons}."


def scope(
    history: History, changes: Sequence[Change], before: Iterable[Build], after: Iterable[Build]
) -> Scope:
    """The scope of a comparison of builds.

    A case counts if any track has timed it in any build, those of other machines and those that
    were not selected included, unless the filters leave it out. One that the older builds do not
    support cannot be compared, and is not missed.
    """
    compared = {change.case for change in changes}
    before, after = list(before), list(after)
    missing: Counter[str] = Counter()
    for case in _timed(history):
        if case not in compared:
            why = _why(history, case, before, after)
            if why:
                missing[why] += 1
    return Scope(len(compared), dict(missing.most_common()))


def newest_scope(history: History, changes: Sequence[Change]) -> Scope:
    """The scope of the step to the newest release, under whatever names it was measured."""
    newest = history.builds[-1].release
    after = [build for build in history.builds if build.release == newest]
    own = [change for change in changes if change.after in after]
    earlier = [build for build in history.builds if build.release < newest]
    if not earlier:
        # A release and its twins.
        earlier = after
    return scope(history, own, earlier, after)


def _timed(history: History) -> list[Case]:
    """The cases that any track has timed, as far as the filters go."""
    return [
        case
        for case in dict.fromkeys(case for measured in history.every for case in measured.times)
        if case.matches(**history.filters)
        and any(
            measured.sessions(case, build) for measured in history.every for build in measured.names
        )
    ]


def _why(history: History, case: Case, before: list[Build], after: list[Build]) -> str:
    """Why a case was not compared; empty where nobody can."""
    for place, builds in enumerate((before, after)):
        points = [p for build in builds if (p := history.point(build, case)) is not None]
        statuses = {point.status for point in points}
        if Status.OK in statuses:
            continue
        if place == 0 and statuses == {Status.UNSUPPORTED}:
            return ""
        names = " or ".join(dict.fromkeys(build.name for build in builds[-2:]))
        return f"{statuses.pop()} in {names}" if statuses else f"not measured in {names}"
    return "not measured in turns, nor with a common baseline"
