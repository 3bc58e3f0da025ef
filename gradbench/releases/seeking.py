"""Carries out a bisection: finds the releases in between, installs and measures them.

Each step is a track of three builds and one case, kept in a folder of its own, so that an
interrupted search resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench import statistics
from gradbench.analysis.tracks import Build, History
from gradbench.core import releases as known
from gradbench.core.cases import Case, Entry, Offer, Selection, SelectionError, expand
from gradbench.core.releases import ReleaseError
from gradbench.core.verdicts import CALLED
from gradbench.releases import environments, track
from gradbench.releases.bisect import Measured
from gradbench.releases.builds import Builds
from gradbench.releases.environments import Request
from gradbench.runner.progress import Report
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.statistics import Stopping
from gradbench.store import tracks as log
from gradbench.store.lines import StoreError, listed

STOPPING = Stopping(min_rounds=16, max_rounds=60, every=4, half_width=0.005, budget=1.5)
"""One case is cheap, so it is measured more closely than those of a whole track."""

WARM = 0.02


def candidates(
    old: str | None, new: str | None, among: Sequence[str], installed: bool
) -> tuple[tuple[Request, Request], list[Request]]:
    """The two ends and the builds between them, in order.

    Between two releases lies every known one or, with `installed`, every installed one. Raises
    ReleaseError where the ends or their order are unclear.
    """
    if among:
        if old or new or len(among) < 2:
            raise ReleaseError("--among takes two builds at least, and no --from or --to")
        requests = [environments.named(name) for name in among]
        return (requests[0], requests[-1]), requests[1:-1]
    if not old or not new:
        raise ReleaseError("name both ends: --from A --to B, or --among for builds of your own")
    ends = environments.named(old), environments.named(new)
    first, last = (environments.order(end.what) for end in ends)
    if not first < last:
        raise ReleaseError(f"{ends[0].name} is not before {ends[1].name}")
    there = [Request(e.name, e.what) for e in environments.installed() if e.name == e.what]
    if not installed:
        names = {request.name for request in there}
        there += [Request(r.version, r.version) for r in known.RELEASES if r.version not in names]
    between = [r for r in there if first < environments.order(r.what) < last]
    return ends, sorted(between, key=lambda request: environments.order(request.what))


def is_installed(request: Request) -> bool:
    return not environments.missing([request])


def most_installations(between: Sequence[Request]) -> int:
    """The most installations that halving needs: those of the widest gap between installed ones."""
    widest = gap = 0
    for request in between:
        gap = 0 if is_installed(request) else gap + 1
        widest = max(widest, gap)
    return widest.bit_length()


@dataclass
class Seeker:
    """Installs and measures the builds of a bisection.

    `install` makes environments and returns the reason where one cannot be made.
    """

    case: str
    results: Path
    base: WorkerOptions
    sessions: int
    floor: float
    timeout: float
    install: Callable[[Sequence[Request]], str]
    report: Report

    def __post_init__(self) -> None:
        self.place = log.folder(self.results) / "bisect"
        self.settings = Settings(
            sessions=self.sessions,
            warm=WARM,
            stopping=STOPPING,
            timeout=self.timeout,
            memory_limit=self.base.memory_limit,
        )
        self.discovery: Discovery | None = None

    def ends(self, old: Request, new: Request) -> str:
        """The change between the two ends, in words. Raises ReleaseError where there is none."""
        reason = self.install([old, new])
        if reason:
            raise ReleaseError(reason)
        history = self._measured([old, new])
        before, after = self._build(history, old), self._build(history, new)
        judged = history.changes([(before, after)], self.floor)
        if not judged.changes:
            points = [history.point(build, history.cases[0]) for build in (before, after)]
            said = "; ".join(
                f"{build}: {point.status} {point.reason}".strip()
                for build, point in zip((before, after), points)
                if point is not None and point.status != "ok"
            )
            raise ReleaseError(f"the case was not timed in both ends: {said}")
        change = judged.changes[0]
        e = change.estimate
        described = f"{change.verdict}, {e.ratio:.3f}× [{e.low:.3f}, {e.high:.3f}]"
        if change.verdict not in CALLED:
            raise ReleaseError(
                f"{new.name} compared with {old.name}: {described}: no change to find at a "
                f"threshold of {self.floor:.3g} (more --sessions resolve smaller changes)"
            )
        return described

    def measure(self, before: Request, one: Request, after: Request) -> Measured | str:
        """One build between two others, or the reason why it cannot be measured."""
        reason = self.install([one])
        if reason:
            return f"not installed: {reason}"
        history = self._measured([before, one, after])
        before_, one_, after_ = (self._build(history, r) for r in (before, one, after))
        case = history.cases[0]
        steps = [(before_, one_), (after_, one_)]
        (found,) = history.ratios([case], steps, self.floor, statistics.CONFIDENCE)
        if len(found) < len(steps):
            point = history.point(one_, case)
            return f"{point.status}: {point.reason}" if point else "not timed"
        return Measured(*(found[step][0] for step in steps))

    def _build(self, history: History, request: Request) -> Build:
        return history.find(request.name)

    def _measured(self, requests: Sequence[Request]) -> History:
        """The track of these builds: a finished one, a resumed one, or a new one."""
        installed = [environments.find(request.name) for request in requests]
        if self.discovery is None:
            # Every build measures this one case, so asking one of them once is enough.
            self.discovery = discover(installed[0].worker(self.base))
        entry = self._entry(self.discovery.offers)
        for path in listed(self.place):
            try:
                old = log.read(path)
            except StoreError:
                continue
            same = {e.name: e.identity for e in installed} == {
                name: used.identity for name, used in old.environments.items()
            }
            settings = old.started.settings
            sessions = settings.get("sessions")
            if same and old.started.plan == [entry] and sessions == self.settings.sessions:
                if old.finished:
                    return History.of([old])
                opened, chosen = track.resume(old)
                measured = log.read(path)
                break
        else:
            those = Builds(installed, [], installed[0].name, {})
            chosen = self.settings
            opened, measured = track.begin(self.place, [entry], chosen, those, self.base.files)
        with opened:
            measured = track.measure(
                opened, measured, chosen, self.base, self.discovery, self.report
            )
        return History.of([measured])

    def _entry(self, offers: Sequence[Offer]) -> Entry:
        """The comparison with this case alone. Raises SelectionError where there is none."""
        try:
            case = Case.parse(self.case)
        except ValueError:
            operator, _, rest = self.case.partition("/")
            function, _, mode = rest.partition("/")
            if not mode or "/" in mode:
                raise SelectionError(
                    f"{self.case!r} is no case: OPERATOR/FUNCTION/MODE, or a full name as "
                    "'gradbench list cases' prints it"
                ) from None
            selection = Selection(functions=(function,), operators=(operator,), modes=(mode,))
        else:
            c = case.comparison
            selection = Selection(
                functions=(c.function,),
                operators=(c.operator,),
                modes=(case.mode,),
                sizes=(c.size,),
                dtypes=(c.dtype,),
                devices=(c.device,),
                threads=(c.threads,),
            )
        entries = expand(offers, selection)
        if len(entries) > 1 or len(entries[0].modes) > 1:
            raise SelectionError(f"{self.case!r} is more than one case; a search is for one")
        return entries[0]
