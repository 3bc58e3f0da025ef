"""Which mode to try first: the one rule of the terminal, the report and `gradbench.recommend`.

The mode to try first has the smallest geometric mean of the multiple of the fastest, over the
comparisons of one operator, dtype, device and number of threads on one machine. Its worst case
stands beside it. A mode that wins often may lose badly where it does not, so wins are not counted.
docs/measuring.md, "What to try first", has the reasons.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from gradbench.analysis.table import Judged, Ratio, Row
from gradbench.core import arguments
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.verdicts import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from gradbench.analysis.frames import Runs
    from gradbench.store.runs import Header


@dataclass(frozen=True)
class Where:
    """What one recommendation holds for. Nothing is averaged over several of these."""

    operator: str
    dtype: str
    device: str
    """The device with its conditions, such as `cpu` or `cuda:0+cold`."""
    threads: int
    machine: str = ""
    """The name of the processor, or of the CUDA device."""
    torch: str = ""


@dataclass(frozen=True)
class Multiple:
    """A mode's time in one comparison as a multiple of the fastest automatic mode's: of the
    smallest ratio, where that of another mode to the one named the fastest is below 1."""

    ratio: Ratio
    sessions: int
    fastest: bool

    def over(self, least: float) -> Multiple:
        """The same as a multiple of a time that is `least` times the fastest's."""
        parts = (self.ratio.value, self.ratio.low, self.ratio.high)
        value, low, high = (part if part > 1e300 else part / least for part in parts)
        return replace(self, ratio=Ratio(value, low, high))

    @property
    def log(self) -> float:
        return math.log(self.ratio.value)

    @property
    def half_width(self) -> float:
        """Half the interval of the log; 0 for the fastest, whose ratio is 1 by definition."""
        if self.fastest:
            return 0.0
        low, high = self.ratio.low, self.ratio.high
        return (math.log(high) - math.log(low)) / 2 if low > 0 and high < 1e300 else math.inf


@dataclass(frozen=True)
class Standing:
    """One mode over the comparisons in which it was timed."""

    mode: str
    average: float
    """The geometric mean of its multiples of the fastest: at least 1, unless it is by hand."""
    low: float
    high: float
    """The interval of the average: these comparisons, measured again."""
    worst: float
    worst_case: Comparison
    """The largest of its multiples, and where that is."""
    multiples: Mapping[Comparison, Multiple]
    by_hand: bool = False
    tied: bool = False
    """Whether its average cannot be told from that of the mode to try first."""

    @property
    def covered(self) -> int:
        """The number of comparisons in which it was timed."""
        return len(self.multiples)


@dataclass(frozen=True)
class Recommendation:
    """What to try first for one operator in one place, and how the others stand."""

    where: Where
    standings: tuple[Standing, ...]
    """The automatic modes: those that cover most comparisons by their averages, then the others."""
    by_hand: tuple[Standing, ...]
    """Modes that need a derivative written by hand, by their averages, which may be below 1."""
    comparisons: tuple[Comparison, ...]
    usual_mode: str
    """The baseline: the usual choice for the operator, unless the run chose another one."""
    confidence: float
    threshold: float

    @property
    def first(self) -> Standing:
        """The mode to try first."""
        return self.standings[0]

    @property
    def ties(self) -> tuple[Standing, ...]:
        """The modes whose average cannot be told from the first one's."""
        return tuple(standing for standing in self.standings if standing.tied)

    @property
    def usual(self) -> Standing | None:
        """The usual choice; None where it was not timed."""
        return self.standing(self.usual_mode)

    @property
    def better_where_supported(self) -> tuple[Standing, ...]:
        """Modes that do not cover all that the first one covers, and are faster where they run: in
        half of the comparisons at least, and by more than the interval and the threshold."""
        return tuple(
            standing
            for standing in self.standings
            if standing.covered < self.first.covered <= 2 * standing.covered
            and self.slower(standing.mode).high < 1 / (1 + self.threshold)
        )

    def standing(self, mode: str) -> Standing | None:
        everyone = self.standings + self.by_hand
        return next((standing for standing in everyone if standing.mode == mode), None)

    def slower(self, mode: str) -> Ratio:
        """How many times the first mode's time a mode takes, on average over the comparisons that
        both cover, with the interval. Raises KeyError for a mode that was not timed."""
        standing = self.standing(mode)
        if standing is None:
            raise KeyError(mode)
        return _against(standing, self.first, self.confidence, self.confidence)


class Recommendations(Sequence[Recommendation]):
    """What to try first for each operator, in the run's order."""

    def __init__(self, found: Iterable[Recommendation]) -> None:
        self._found = tuple(found)

    @overload
    def __getitem__(self, place: int) -> Recommendation: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Recommendation, ...]: ...

    def __getitem__(self, place: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self._found[place]

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        lines = [
            f"{r.where.operator} ({r.where.dtype}): {r.first.mode}, {r.first.average:.2f}× the "
            f"fastest on average, {r.first.worst:.2f}× at worst"
            for r in self._found
        ]
        return "\n".join(lines) or "no recommendation: nothing was timed"

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """A row per mode: docs/results.md has the columns, `attrs["units"]` the units."""
        from gradbench.analysis import schema

        rows = (record for found in self._found for record in records(found))
        return schema.of_records(rows, schema.RECOMMENDED)


def records(found: Recommendation) -> Iterator[dict[str, Any]]:
    """A flat row per mode of a recommendation, in its order, modes by hand last."""
    for standing in found.standings + found.by_hand:
        yield asdict(found.where) | {
            "mode": standing.mode,
            "first": standing is found.first,
            "tied": standing.tied,
            "usual": standing.mode == found.usual_mode,
            "by_hand": standing.by_hand,
            "average": standing.average,
            "average_low": standing.low,
            "average_high": standing.high,
            "worst": standing.worst,
            "worst_function": standing.worst_case.function,
            "worst_size": standing.worst_case.size,
            "covered": standing.covered,
            "comparisons": len(found.comparisons),
        }


# ── from judged rows ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Timed:
    """A judged case, as the rule takes it."""

    where: Where
    comparison: Comparison
    mode: str
    multiple: Multiple
    by_hand: bool
    usual: bool
    run: str = ""
    """The name of its run, which begins with the time at which it began."""


def of_run(judged: Judged, header: Header | None = None) -> Recommendations:
    """What to try first by the judged rows of a run, or by some of them; its header names the
    machine."""
    cpu = str(header.started.machine.get("cpu") or "") if header else ""
    environment = header.environment if header else {}
    torch = header.torch if header else ""
    timed = []
    for row in judged.rows:
        c = row.comparison
        if row.to_fastest is None:
            continue
        machine = c.place.name(environment) or cpu
        timed.append(
            Timed(
                Where(c.operator, c.dtype, c.device, c.threads, machine, torch),
                c,
                row.mode,
                Multiple(row.to_fastest, row.sessions, row.verdict == Verdict.FASTEST),
                by_hand=row.mode in judged.by_hand,
                usual=row.mode == judged.baselines.get(c),
            )
        )
    return recommendations(timed, judged.floor, judged.confidence)


def of_frame(frame: pd.DataFrame, floor: float, confidence: float) -> Recommendations:
    """What to try first by rows of `gradbench.verdicts`, or of `gradbench.report.table`.

    Rows of several runs are kept apart by their `cpu`, `device_name` and `torch`, where the frame
    has these columns. A comparison that several runs of one machine and build measured counts once,
    by the newest of them.
    """

    def said(row: Mapping[Any, Any], *columns: str) -> str:
        values = (row.get(column) for column in columns)
        return next((value for value in values if isinstance(value, str) and value), "")

    timed = []
    for row in frame[frame["to_fastest"].notna()].to_dict("records"):
        parts = [row[n] for n in ("operator", "function", "size", "dtype", "device", "threads")]
        comparison = Comparison(*parts)
        operator, _, _, dtype, device, threads = parts
        machine, torch = said(row, "device_name", "cpu"), said(row, "torch")
        where = Where(operator, dtype, device, threads, machine, torch)
        ratio = Ratio(row["to_fastest"], row["to_fastest_low"], row["to_fastest_high"])
        multiple = Multiple(ratio, row["sessions"], row["verdict"] == Verdict.FASTEST)
        timed.append(
            Timed(
                where,
                comparison,
                row["mode"],
                multiple,
                by_hand=row["by_hand"],
                usual=row["baseline"],
                run=said(row, "run"),
            )
        )
    return recommendations(timed, floor, confidence)


def recommendations(timed: Iterable[Timed], floor: float, confidence: float) -> Recommendations:
    """The rule: see the head of this module.

    A comparison counts where an automatic mode was timed. `floor` is the threshold, the smallest
    difference that matters.
    """
    timed = [case for case in timed if case.mode != FORWARD]
    newest: dict[tuple[Where, Comparison], str] = {}
    for case in timed:
        place = case.where, case.comparison
        newest[place] = max(case.run, newest.get(place, ""))
    groups: dict[Where, dict[Comparison, dict[str, Timed]]] = {}
    for case in timed:
        if case.run == newest[case.where, case.comparison]:
            group = groups.setdefault(case.where, {})
            group.setdefault(case.comparison, {})[case.mode] = case
    found = (_recommended(*group, floor, confidence) for group in groups.items())
    return Recommendations(one for one in found if one is not None)


def _recommended(
    where: Where,
    cases: Mapping[Comparison, Mapping[str, Timed]],
    floor: float,
    confidence: float,
) -> Recommendation | None:
    modes: dict[str, dict[Comparison, Multiple]] = {}
    by_hand: set[str] = set()
    usual: Counter[str] = Counter()
    compared = []
    for comparison, own in cases.items():
        if all(case.by_hand for case in own.values()):
            continue
        compared.append(comparison)
        # The mode that was named the fastest may have a rival whose mean ratio to it is below 1:
        # too close to call. Multiples are of the smallest, so that no average is below 1.
        least = min(1.0, *(c.multiple.ratio.value for c in own.values() if not c.by_hand))
        for case in own.values():
            modes.setdefault(case.mode, {})[comparison] = case.multiple.over(least)
            by_hand |= {case.mode} if case.by_hand else set()
            usual[case.mode] += case.usual
    standings = [
        _standing(mode, multiples, mode in by_hand, confidence) for mode, multiples in modes.items()
    ]
    automatic = [s for s in standings if not s.by_hand]
    if not automatic:
        return None
    most = max(standing.covered for standing in automatic)
    automatic.sort(key=lambda s: (s.covered < most, s.average, s.mode))
    hand_written = sorted((s for s in standings if s.by_hand), key=lambda s: s.average)
    mode, times = usual.most_common(1)[0]
    return Recommendation(
        where,
        tuple(_with_ties(automatic, floor, confidence)),
        tuple(hand_written),
        tuple(compared),
        mode if times else "",
        confidence,
        floor,
    )


def _standing(
    mode: str, multiples: Mapping[Comparison, Multiple], by_hand: bool, confidence: float
) -> Standing:
    from gradbench.statistics.averages import mean_half_width

    count = len(multiples)
    log = sum(multiple.log for multiple in multiples.values()) / count
    errors = [(multiple.half_width, multiple.sessions) for multiple in multiples.values()]
    half = mean_half_width(errors, count, confidence, confidence)
    worst = max(multiples, key=lambda comparison: multiples[comparison].log)
    average = _ratio(log, half)
    return Standing(
        mode,
        average.value,
        average.low if by_hand else max(1.0, average.low),
        average.high,
        multiples[worst].ratio.value,
        worst,
        multiples,
        by_hand,
    )


def _with_ties(
    standings: Sequence[Standing], floor: float, confidence: float
) -> Iterator[Standing]:
    """The modes in their order, with those marked that cannot be told from the first.

    The first is picked from the data that then judges the others, so each of the K - 1 rivals is
    compared at confidence 1 - (1 - confidence) / (K - 1), as in `statistics.fastest_of_each`. A
    mode that covers less is no rival: its average is of other comparisons.
    """
    first = standings[0]
    rivals = [s for s in standings[1:] if s.covered == first.covered]
    level = 1 - (1 - confidence) / max(1, len(rivals))
    yield first
    for standing in standings[1:]:
        tied = standing in rivals and _against(standing, first, confidence, level).low <= 1 + floor
        yield replace(standing, tied=tied)


def _against(one: Standing, other: Standing, confidence: float, level: float) -> Ratio:
    """The ratio of two modes' averages over the comparisons that both cover, with its interval at
    `level`.

    The multiples of a comparison share the error of its fastest mode, so their difference is known
    better than the sum of their variances, which is taken here, says.
    """
    from gradbench.statistics.averages import mean_half_width

    shared = [comparison for comparison in one.multiples if comparison in other.multiples]
    if not shared or one is other:
        return Ratio(1.0, *((1.0, 1.0) if shared else (0.0, 1e308)))
    pairs = [(one.multiples[c], other.multiples[c]) for c in shared]
    log = sum(a.log - b.log for a, b in pairs) / len(pairs)
    errors = [(multiple.half_width, multiple.sessions) for pair in pairs for multiple in pair]
    half = mean_half_width(errors, len(pairs), confidence, level)
    return _ratio(log, half)


def _ratio(log: float, half: float) -> Ratio:
    # JSON has no infinity: an interval without an end goes as far as numbers do.
    high = math.exp(log + half) if log + half < 700 else 1e308
    return Ratio(math.exp(log), math.exp(log - half), high)


# ── the public function ───────────────────────────────────────────────────────────────────────


def recommend(
    results: str | Path = "results",
    run: Runs = "latest",
    *,
    functions: Collection[str] | str | None = None,
    operators: Collection[str] | str | None = None,
    sizes: Collection[str] | str | None = None,
    dtypes: Collection[str] | str | None = None,
    devices: Collection[str] | str | None = None,
    floor: float = 0.01,
    confidence: float = 0.95,
    method: str = "benjamini-hochberg",
) -> Recommendations:
    """Which mode to try first for each operator that a run measured.

    It is the mode with the smallest geometric mean of its multiple of the fastest over the
    comparisons, with the worst case beside it. Modes whose average cannot be told from it are its
    ties; modes that need a derivative written by hand stand apart. Dtypes, devices and numbers of
    threads have recommendations of their own, and a run is of one machine.

    `functions`, `operators`, `sizes`, `dtypes` and `devices` are globs that select cases. `floor`
    is the threshold: the smallest difference that matters, as a share. Of several runs, each has
    recommendations of its own, one run after the other. The result is a sequence of
    `Recommendation`; its `frame` has a row per mode. Raises StoreError if there is no such run,
    SelectionError if no case matches.

    >>> gradbench.recommend("results", operators="jacobian")[0].first.mode
    'jacrev'
    """
    import msgspec

    from gradbench.analysis.filters import filtered
    from gradbench.analysis.runs import judged
    from gradbench.store.runs import KIND, locate, read_header

    place = KIND.results(results, "run")
    globs = {
        "functions": functions,
        "operators": operators,
        "sizes": sizes,
        "dtypes": dtypes,
        "devices": devices,
    }
    chosen = {kind: arguments.texts(kind, value) or () for kind, value in globs.items()}
    arguments.share("floor", floor)
    arguments.confidence("confidence", confidence)
    arguments.choice("method", method, arguments.METHODS)
    parts: list[Recommendation] = []
    paths = [locate(place, name) for name in arguments.texts("run", run, needed=True) or ()]
    for path in dict.fromkeys(paths):
        found = judged(path, floor, confidence, method)
        rows: list[Row] = filtered(found.rows, **chosen) if any(chosen.values()) else found.rows
        parts += of_run(msgspec.structs.replace(found, rows=rows), read_header(path))
    return Recommendations(parts)
