"""From tracks to a history: each case over the releases, and what changed between which two.

Everything is computed on reading. For each case and pair of builds the newest measurement that has
both is judged, whatever else its track has or lacks. Two builds that were measured in turns are
compared round by round; other pairs through the baseline that both were measured with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from gradbench import statistics
from gradbench.analysis import table
from gradbench.analysis.measured import Build, Measured, Point, Step, Times, differences
from gradbench.analysis.table import Changes
from gradbench.core.cases import Case
from gradbench.core.releases import ReleaseError, parse
from gradbench.core.suggest import hint
from gradbench.core.verdicts import Status, Verdict
from gradbench.statistics import Estimate
from gradbench.store.lines import StoreError
from gradbench.store.tracks import EnvironmentUsed, Track

__all__ = ["Build", "Change", "History", "Judged", "Pair", "Point", "Ratio", "Step"]

TOGETHER = 256
"""Cases whose ratios are computed at once: see `statistics.relative_to_each`."""

Pair = tuple[Case, Build, Build]
"""A case, and the two builds that are compared on it, the earlier first."""


@dataclass(frozen=True)
class Ratio:
    """One case in the second build over the same in the first, and where it was measured."""

    estimate: Estimate
    before: Measured
    after: Measured
    """The tracks: the same one where the two were measured in turns."""
    paired: bool


@dataclass(frozen=True, kw_only=True)
class Change(table.Change):
    """One case from one build to another."""

    before: Build
    after: Build
    old: Point
    new: Point
    paired: bool
    """Whether the two were measured in turns, rather than through the baseline."""
    tracks: tuple[str, ...] = ()
    """The tracks that it was measured in."""
    differences: tuple[str, ...] = ()
    """What differs between the two besides the release."""
    newer: str = ""
    """What a newer track says of this case, where it could not time it."""

    @property
    def note(self) -> str:
        return "; ".join(filter(None, (*self.differences, self.newer)))

    @property
    def pair(self) -> Pair:
        return self.case, self.before, self.after


Judged = Changes[Change]


@dataclass
class History:
    """Every case of some tracks over the builds that they measured, in the releases' order."""

    tracks: list[Track]
    builds: list[Build] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    beside: list[Measured] = field(default_factory=list)
    """What is not judged, and yet known: the tracks of other machines, say."""
    filters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _measured: list[Measured] = field(default_factory=list)
    """The newest first."""
    _points: dict[tuple[Build, Case], Point | None] = field(default_factory=dict)
    _sources: dict[Pair, tuple[Measured, Measured] | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tracks: Sequence[Track],
        filters: dict[str, Iterable[str]] | None = None,
        beside: Sequence[Track] = (),
    ) -> History:
        """The history of tracks, in whatever order they come."""
        made = cls(list(tracks), filters={k: tuple(v) for k, v in (filters or {}).items()})
        measured = sorted(map(Measured.of, tracks), key=lambda m: m.order)
        made.cases = [
            case
            for case in dict.fromkeys(case for m in measured for case in m.cases)
            if case.matches(**made.filters)
        ]
        made._measured = measured[::-1]
        made.beside = [Measured.of(track) for track in beside]
        made.builds = _ordered(made._measured)
        return made

    @property
    def every(self) -> Iterator[Measured]:
        """All that is known, judged or not."""
        yield from self._measured
        yield from self.beside

    def used(self, build: Build) -> EnvironmentUsed:
        """The newest environment of a build."""
        return next(m for m in self._measured if build in m.names).used(build)

    def baseline(self, build: Build) -> Build:
        """The build that one was last measured in turns with."""
        return next(m for m in self._measured if build in m.names).baseline

    def label(self, build: Build) -> str:
        """A build's name; with more where the name does not tell it from others."""
        alike = [b for b in self.builds if b.name == build.name]
        named = build.torch.startswith(build.name)
        parts = [
            value
            for value, values, told in (
                (build.torch, {b.torch for b in alike}, named),
                (build.capability, {b.capability for b in alike}, True),
                (", ".join(build.devices), {b.devices for b in alike}, True),
                (build.machine, {b.machine for b in alike}, True),
            )
            if value and (len(values) > 1 or not told)
        ]
        return f"{build.name} ({', '.join(parts)})" if parts else build.name

    def key(self, build: Build) -> str:
        """A build's name, if no other has it; else its label."""
        alone = sum(b.name == build.name for b in self.builds) < 2
        return build.name if alone else self.label(build)

    def find_all(self, text: str) -> list[Build]:
        """The builds of an environment's name, of a full version (2.13.0+cpu) or of a release, in
        their order.

        Of builds of one kind that have the name in turn, such as those of one's own, the latest
        measured one. Raises StoreError where there is none.
        """
        hits = [b for b in self.builds if b.name == text]
        hits = hits or [b for b in self.builds if b.torch == text]
        if not hits:
            try:
                version = parse(text)
            except ReleaseError:
                version = None
            hits = [b for b in self.builds if parse(b.torch) == version]
        if not hits:
            known = ", ".join(dict.fromkeys(b.name for b in self.builds))
            near = hint(text, (b.name for b in self.builds))
            raise StoreError(
                f"{text!r} has not been measured; {near + ' ' if near else ''}measured are: "
                f"{known or 'none'}"
            )
        newest: dict[tuple[object, ...], Build] = {}
        for build in self._newest_first(hits):
            newest.setdefault((bool(build.cuda), build.capability, build.machine), build)
        sources = {(build.git, parse(build.torch)) for build in newest.values()}
        return [build for build in hits if (build.git, parse(build.torch)) in sources]

    def find(self, text: str) -> Build:
        """The latest measured build of an environment's name or of a release.

        Raises StoreError where there is none.
        """
        return next(self._newest_first(self.find_all(text)))

    def _newest_first(self, builds: Sequence[Build]) -> Iterator[Build]:
        found = dict.fromkeys(b for m in self._measured for b in m.names if b in builds)
        yield from found

    def point(self, build: Build, case: Case) -> Point | None:
        """One case in one build: from the newest track that timed it or, where none did, the newest
        that had it as a part. None where none had."""
        if (build, case) not in self._points:
            points = [m.point(build, case) for m in self._measured if build in m.names]
            seen = [point for point in points if point is not None]
            timed = [point for point in seen if point.status == Status.OK]
            self._points[build, case] = next(iter(timed or seen), None)
        return self._points[build, case]

    def track(self, build: Build, case: Case) -> str:
        """The track that `point` is from."""
        point = self.point(build, case)
        return next(m.name for m in self._measured if m.point(build, case) is point)

    # ── which measurement ──

    def _source(self, pair: Pair) -> tuple[Measured, Measured] | None:
        """The newest tracks of both builds: one where they took turns, or two with one baseline."""
        if pair not in self._sources:
            self._sources[pair] = self._found(*pair)
        return self._sources[pair]

    def _found(self, case: Case, before: Build, after: Build) -> tuple[Measured, Measured] | None:
        if before.machine != after.machine:
            return None
        direct = [((m, m), m.sessions(case, before, after)) for m in self._measured]
        if any(sessions for _, sessions in direct):
            return _newest(direct)
        sides = [
            [
                (place, m, m.sessions(case, build, m.baseline))
                for place, m in enumerate(self._measured)
                if m.sessions(case, build, m.baseline)
            ]
            for build in (before, after)
        ]
        through = sorted(product(*sides), key=lambda two: two[0][0] + two[1][0])
        return _newest([((a, b), min(i, j)) for (_, a, i), (_, b, j) in through if _joined(a, b)])

    def comparable(self, pair: Pair) -> bool:
        return self._source(pair) is not None

    # ── which pairs ──

    def course(self, case: Case) -> list[Pair]:
        """A case from build to build: each with the nearest before it that it can be compared with,
        one of its own kind if there is any. Where a release lacks the case, the next is compared
        with the one before."""
        timed = [b for b in self.builds if any(m.sessions(case, b) for m in self._measured)]
        pairs = []
        for place, after in enumerate(timed):
            earlier = timed[:place][::-1]
            nearest = sorted(earlier, key=lambda before: not before.like(after))
            pair = next((p for b in nearest if self.comparable(p := (case, b, after))), None)
            if pair is not None:
                pairs.append(pair)
        return pairs

    def steps(self) -> list[Pair]:
        """The course of every case."""
        return [pair for case in self.cases for pair in self.course(case)]

    def ranges(self, steps: Sequence[Pair]) -> list[Pair]:
        """From the first build of each course to its last, where there are others between: the
        first that the last can be compared with."""
        found = []
        before = {(case, after): first for case, first, after in steps}
        passed = {(case, first) for case, first, _ in steps}
        for case, _, last in steps:
            if (case, last) in passed:
                continue
            chain = [last]
            while (case, chain[-1]) in before:
                chain.append(before[case, chain[-1]])
            wider = (p for b in chain[:1:-1] if self.comparable(p := (case, b, last)))
            found += list(wider)[:1]
        return found

    def between(self, old: str, new: str) -> list[Pair]:
        """Every case in two builds, by their names: in builds of one kind where there are any.

        Raises StoreError where a build has not been measured.
        """
        steps = [s for s in product(self.find_all(old), self.find_all(new)) if s[0] != s[1]]
        pairs = [p for step in steps for case in self.cases if self.comparable(p := (case, *step))]
        like = [pair for pair in pairs if bool(pair[1].cuda) == bool(pair[2].cuda)]
        return like or pairs

    # ── judging ──

    def ratios(
        self,
        pairs: Sequence[Pair],
        floor: float = statistics.RELEASE_FLOOR,
        confidence: float = statistics.CONFIDENCE,
    ) -> dict[Pair, Ratio]:
        """The ratios of pairs, without those that no track can tell."""
        found: dict[Pair, Ratio] = {}
        in_turns: dict[int, tuple[Measured, dict[Case, list[Step]]]] = {}
        for pair in pairs:
            source = self._source(pair)
            if source is None:
                continue
            first, second = source
            if first is second and first.sessions(*pair):
                own = in_turns.setdefault(id(first), (first, {}))[1]
                own.setdefault(pair[0], []).append(pair[1:])
            else:
                estimate = _through_baseline(pair, first, second, floor, confidence)
                found[pair] = Ratio(estimate, first, second, False)
        for measured, wanted in in_turns.values():
            for (case, step), estimate in _in_turns(measured, wanted, floor, confidence):
                found[(case, *step)] = Ratio(estimate, measured, measured, True)
        return found

    def to_baseline(
        self, cases: Sequence[Case]
    ) -> list[tuple[Build | None, dict[Build, Estimate]]]:
        """Each case in each build over the same in one build: of the baselines of its tracks the
        one that most builds can be compared with, the newest of several such. None where no track
        timed it."""
        references: list[Build | None] = []
        pairs: list[list[Pair]] = []
        for case in cases:
            candidates = dict.fromkeys(m.baseline for m in self._measured if case in m.times)
            options = [
                (one, [p for b in self.builds if b != one and self.comparable(p := (case, one, b))])
                for one in candidates
            ]
            reference, kept = max(options, key=lambda option: len(option[1]), default=(None, []))
            references.append(reference)
            pairs.append(kept)
        ratios = self.ratios([pair for own in pairs for pair in own])
        return [
            (reference, {p[2]: ratios[p].estimate for p in own if p in ratios})
            for reference, own in zip(references, pairs)
        ]

    def changes(
        self,
        pairs: Sequence[Pair],
        floor: float = statistics.RELEASE_FLOOR,
        confidence: float = statistics.CONFIDENCE,
        method: str = "benjamini-hochberg",
    ) -> Judged:
        """Every pair, with false positives controlled over the whole table."""
        ratios = self.ratios(pairs, floor, confidence)
        known = [(pair, ratios[pair]) for pair in dict.fromkeys(pairs) if pair in ratios]
        estimates = [ratio.estimate for _, ratio in known]
        verdicts, judging = table.judge(estimates, floor, confidence, method)
        changes = [
            self._change(pair, ratio, verdict, q)
            for (pair, ratio), (verdict, q) in zip(known, verdicts)
        ]
        return Changes(changes=changes, **judging)

    def _change(self, pair: Pair, ratio: Ratio, verdict: Verdict, q: float | None) -> Change:
        case, before, after = pair
        old, new = ratio.before.point(before, case), ratio.after.point(after, case)
        assert old is not None
        assert new is not None
        used = ratio.before.used(before), ratio.after.used(after)
        return Change(
            case=case,
            estimate=ratio.estimate,
            verdict=verdict,
            q=q,
            before=before,
            after=after,
            old=old,
            new=new,
            paired=ratio.paired,
            tracks=tuple(dict.fromkeys((ratio.before.name, ratio.after.name))),
            differences=tuple(differences(*used)),
            newer=self._newer(pair, ratio),
        )

    def _newer(self, pair: Pair, ratio: Ratio) -> str:
        """What newer tracks say of a pair that they could not time."""
        case, *builds = pair
        for measured in self._measured:
            if measured in (ratio.before, ratio.after):
                break
            for build in builds:
                point = measured.point(build, case)
                if point is not None and point.status != Status.OK:
                    return f"{build} in newer track {measured.name}: {point.status}"
        return ""

    def unlike(self, pairs: Sequence[Pair]) -> dict[tuple[Build, str, str], int]:
        """What only one build of a step can do: the build that cannot, its status and reason, and
        the number of cases."""
        steps = dict.fromkeys((before, after) for _, before, after in pairs)
        found: dict[tuple[Build, str, str], set[Case]] = {}
        for step, case in product(steps, self.cases):
            points = [self.point(build, case) for build in step]
            for build, point, other in zip(step, points, points[::-1]):
                if point and other and point.status != Status.OK == other.status:
                    found.setdefault((build, point.status, point.reason), set()).add(case)
        return {key: len(cases) for key, cases in found.items()}


def differing(changes: Sequence[Change]) -> list[str]:
    """What else differs between the builds of some changes; how many of them it touches, where not
    all."""
    touched = Counter(what for change in changes for what in change.differences)
    return [
        what if number == len(changes) else f"{what} (in {number} of {len(changes)} cases)"
        for what, number in touched.items()
    ]


def _newest(
    sources: Sequence[tuple[tuple[Measured, Measured], int]],
) -> tuple[Measured, Measured] | None:
    """The newest source, of those whose sessions suffice: see `statistics.ENOUGH`."""
    enough = min(statistics.ENOUGH, max((sessions for _, sessions in sources), default=0))
    return next((source for source, sessions in sources if sessions >= enough), None)


def _joined(one: Measured, other: Measured) -> bool:
    """Whether two tracks have a baseline in common, in the same surroundings."""
    first, second = one.baseline, other.baseline
    return first == second and one.used(first).facts.identity == other.used(second).facts.identity


def _in_turns(
    measured: Measured, wanted: dict[Case, list[Step]], floor: float, confidence: float
) -> Iterator[tuple[tuple[Case, Step], Estimate]]:
    """The ratios of steps whose builds one track measured in turns, with the spread of its sessions
    pooled over all its cases, whatever is asked."""
    cases, spread = list(wanted), measured.spread
    for start in range(0, len(cases), TOGETHER):
        some = cases[start : start + TOGETHER]
        asked = []
        for case in some:
            named = [
                (measured.names[before], measured.names[after]) for before, after in wanted[case]
            ]
            tables = measured.times[case].tables(named)
            asked.append((statistics.Tables.of(tables), len(named)))
        estimates = statistics.relative_to_each(asked, floor, confidence)
        for case, related in zip(some, estimates):
            for step, estimate in zip(wanted[case], related):
                yield (case, step), spread.moderated(estimate) if spread else estimate


def _through_baseline(
    pair: Pair, first: Measured, second: Measured, floor: float, confidence: float
) -> Estimate:
    case, before, after = pair
    through = []
    for measured, build in ((second, after), (first, before)):
        times: Times = measured.times[case]
        timed = times.timed(measured.names[build], measured.names[measured.baseline])
        through.append([mine / reference for mine, reference in timed])
    return statistics.compare_runs(through[0], through[1], floor, confidence)


def _ordered(measured: Sequence[Measured]) -> list[Build]:
    """The builds in which anything was measured, by release and name."""
    found: dict[Build, EnvironmentUsed] = {}
    for one in measured:
        sides = {
            side.environment
            for part in one.track.parts
            for case in part.cases
            for side in case.sides
        }
        for build, name in one.names.items():
            if name in sides:
                found.setdefault(build, one.used(build))
    return sorted(
        found,
        key=lambda b: (
            parse(b.torch),
            found[b].date,
            b.name,
            b.torch,
            b.capability,
            b.devices,
            b.machine,
        ),
    )
