"""Carries out a bisection: finds the releases in between, installs and measures them.

Each step is a track of three builds and one case beside the other tracks, marked as a step of a
search, so that an interrupted one resumes and `releases show` has what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.analysis.tracks import Build, Change, History
from gradbench.core import releases as known
from gradbench.core.cases import FORWARD, Entry, Offer, Selection, SelectionError, expand
from gradbench.core.releases import ReleaseError
from gradbench.core.verdicts import CALLED
from gradbench.releases import environments, track
from gradbench.releases.bisect import Measured
from gradbench.releases.builds import HELD_BY, Builds, different, held
from gradbench.releases.environments import Environment, Request
from gradbench.releases.plan import offered
from gradbench.runner.plan import converted_settings
from gradbench.runner.progress import Report
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.statistics import Stopping
from gradbench.store import tracks as log
from gradbench.store.executed import digests
from gradbench.store.lines import StoreError, listed
from gradbench.store.tracks import Track

STOPPING = Stopping(min_rounds=16, max_rounds=60, every=4, half_width=0.005, budget=1.5)
"""One case is cheap, so it is measured more closely than those of a whole track."""

WARM = 0.02


def candidates(
    names: Sequence[str], installed: bool
) -> tuple[tuple[Request, Request], list[Request]]:
    """The two ends and the builds between them, in order.

    Of two names, between them lies every known release or, with `installed`, every installed one;
    of more names, those between the first and the last, in this order. Raises ReleaseError where
    the ends or their order are unclear.
    """
    requests = different([environments.named(name) for name in names])
    if len(requests) < 2:
        raise ReleaseError(
            "name both ends, the older one first: 'gradbench releases bisect CASE 2.8.0 2.13.0', "
            "or all builds to search in their order"
        )
    if len(requests) > 2:
        return (requests[0], requests[-1]), requests[1:-1]
    ends = requests[0], requests[1]
    for end in ends:
        if not end.is_release:
            raise ReleaseError(
                f"{end.name} is no release, so what lies between is not known: name every build to "
                "search, in order"
            )
    first, last = (environments.order(end.what) for end in ends)
    if not first < last:
        raise ReleaseError(f"{ends[0].name} is not before {ends[1].name}")
    there = [Request(e.name, e.what) for e in environments.installed() if e.name == e.what]
    if not installed:
        ready = {request.name for request in there}
        there += [Request(r.version, r.version) for r in known.RELEASES if r.version not in ready]
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

    selection: Selection
    results: Path
    base: WorkerOptions
    settings: Settings
    floor: float
    install: Callable[[Sequence[Request]], str]
    report: Report
    loaded: Sequence[str] = ()
    """The files that the user's files load in turn."""
    command: Sequence[str] = ()
    note: Callable[[str], None] = lambda said: None

    def __post_init__(self) -> None:
        self.place = log.folder(self.results)
        self.discovery: Discovery | None = None
        self.capability = self.base.environment.get(HELD_BY, "")

    def ends(self, old: Request, new: Request) -> Change:
        """The change between the two ends. Raises ReleaseError where there is none."""
        reason = self.install([old, new])
        if reason:
            raise ReleaseError(f"nothing was measured: {reason}")
        history = self._measured([old, new])
        before, after = self._build(history, old), self._build(history, new)
        judged = history.changes([(history.cases[0], before, after)], self.floor)
        if not judged.changes:
            points = [history.point(build, history.cases[0]) for build in (before, after)]
            said = "; ".join(
                f"{build}: {point.status} {point.reason}".strip()
                for build, point in zip((before, after), points)
                if point is not None and point.status != "ok"
            )
            raise ReleaseError(f"the case was not timed in both ends: {said}")
        change = judged.changes[0]
        if change.verdict not in CALLED:
            e = change.estimate
            raise ReleaseError(
                f"{new.name} compared with {old.name}: {change.verdict}, {e.ratio:.3f}× "
                f"[{e.low:.3f}, {e.high:.3f}]: no change to find at a threshold of "
                f"{self.floor:.3g} (more --sessions resolve smaller changes)"
            )
        return change

    def measure(self, before: Request, one: Request, after: Request) -> Measured | str:
        """One build between two others, or the reason why it cannot be measured."""
        reason = self.install([one])
        if reason:
            return f"not installed: {reason}"
        history = self._measured([before, one, after])
        before_, one_, after_ = (self._build(history, r) for r in (before, one, after))
        case = history.cases[0]
        pairs = [(case, before_, one_), (case, after_, one_)]
        found = history.ratios(pairs, self.floor)
        if len(found) < len(pairs):
            point = history.point(one_, case)
            return f"{point.status}: {point.reason}" if point else "not timed"
        return Measured(*(found[pair].estimate for pair in pairs))

    def _build(self, history: History, request: Request) -> Build:
        return history.find(request.name)

    def _measured(self, requests: Sequence[Request]) -> History:
        """The track of these builds: a finished one, a resumed one, or a new one."""
        installed = [environments.find(request.name) for request in requests]
        if self.capability:
            installed = held(installed, self.base)
        if self.discovery is None:
            # Every build measures this one case, so asking one of them once is enough.
            self.discovery = offered(installed[0].name, self.base, discover)
        entry = one_case(self.discovery.offers, self.selection)
        old = self._earlier(entry, installed)
        if old is not None and old.finished:
            return History.of([old])
        if old is not None:
            opened, _ = track.resume(old)
            measured = log.read(old.path)
        else:
            opened, measured = track.begin(
                self.place,
                [entry],
                self.settings,
                Builds(installed, [], installed[0].name, {}),
                self.base.files,
                self.command,
                self.capability,
                self.loaded,
                search=True,
            )
        with opened:
            measured = track.measure(
                opened,
                measured,
                self.settings,
                self.base,
                self.discovery,
                self.report,
                self.note,
            )
        return History.of([measured])

    def _earlier(self, entry: Entry, installed: Sequence[Environment]) -> Track | None:
        """A step of a search that measured, or began to measure, this very thing."""
        identities = {e.name: e.identity for e in installed}
        digested = digests([*self.base.files, *self.loaded])
        for path in listed(self.place):
            try:
                with log.KIND.opened(path) as lines:
                    begun = lines.header
                if not begun.search or begun.plan != [entry] or begun.digests != digested:
                    continue
                if begun.groups != [[e.name for e in installed]]:
                    continue
                old = log.read(path)
                settings = converted_settings(old)
            except StoreError:
                continue
            same = identities == {name: used.identity for name, used in old.environments.items()}
            if same and settings == self.settings:
                return old
        return None


def settings_for(sessions: int, timeout: float, memory_limit: int, seed: int) -> Settings:
    """How closely each step of a search measures."""
    return Settings(
        sessions=sessions,
        warm=WARM,
        stopping=STOPPING,
        timeout=timeout,
        memory_limit=memory_limit,
        seed=seed,
    )


def one_case(offers: Sequence[Offer], selection: Selection) -> Entry:
    """The comparison with the selected case alone. Raises SelectionError where there is none, or
    more than one."""
    entries = expand(offers, selection)
    cases = [case for entry in entries for case in entry.cases]
    chosen = [case for case in cases if case.mode != FORWARD] or cases
    if len(chosen) > 1:
        said = ", ".join(chosen[:3]) + (", …" if chosen[3:] else "")
        raise SelectionError(
            f"a search is for one case, and {len(chosen)} are selected: {said}; narrow it with "
            "--operator, --function and --mode"
        )
    return Entry(chosen[0].comparison, (chosen[0].mode,))
