"""The gate on releases, tried on one release that is installed twice: false alarms, and how many
slowdowns it finds.

Each session has a process of either installation, which take turns on every case: once as they are,
once with the second slowed down. A gate is then replayed from some of the sessions, by the code
that judges tracks: as they are, all that it calls is a false alarm; and each case in turn is put in
slower than it is, with all others as they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradbench import statistics
from gradbench.core.cases import Case, Selection, expand
from gradbench.core.releases import ReleaseError
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.releases import environments
from gradbench.releases.track import PROFILES
from gradbench.runner.progress import Report
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery
from gradbench.statistics import RELEASE_FLOOR, Estimate, Spread
from gradbench.store.lines import LineLog
from gradbench.store.studies import Study
from gradbench.studies import engine
from gradbench.studies.engine import Step, shuffled
from gradbench.studies.rules import logs, rate
from gradbench.studies.tally import conditions

CASES = (
    "vjp/*",
    "jacobian/exp/*",
    "jacobian/softmax/*",
    "gradient/*",
    "hessian/sum_of_squares/*",
    "jvp/*",
)
"""Globs of operator/function/mode: those of a gate by default."""

MOST = 80
"""Cases that the globs may select, spread over all that they do."""

REPLAYED = 40
"""Gates replayed from sessions drawn at random, beside those that have sessions of their own."""

WAYS = (
    (5, 0.95, "holm", False),
    (10, 0.95, "benjamini-hochberg", False),
    (5, 0.99, "holm", True),
    (10, 0.99, "holm", True),
    (20, 0.99, "holm", True),
)
"""Sessions, confidence, method and whether the spread is pooled; the last is a gate's default."""


def resolve(discovery: Discovery, globs: Iterable[str]) -> list[Case]:
    """The cases that globs select, at the functions' small example inputs."""
    chosen: dict[Case, None] = {}
    for glob in globs:
        operator, _, rest = f"{glob}/*/*".partition("/")
        function, mode = rest.split("/")[:2]
        selection = Selection(functions=(function,), operators=(operator,), modes=(mode,))
        for entry in expand(discovery.offers, selection):
            chosen |= dict.fromkeys(entry.cases)
    return list(chosen)[:: 1 + len(chosen) // MOST]


def plan(settings: dict[str, Any], cases: Sequence[Case]) -> list[Step]:
    """Every case in every session, as it is and slowed down."""
    rule = PROFILES[settings["profile"]].settings.stopping
    steps = [
        Step("between", case, session, 0, rule.budget, share, rule=rule)
        for session in range(settings["sessions"])
        for case in cases
        for share in (0.0, settings["slowdown"] / 100)
    ]
    return shuffled(steps, settings["seed"])


def expected(settings: dict[str, Any], steps: Sequence[Step]) -> float:
    processes = len({step.process for step in steps})
    return engine.PROCESS * processes + 0.45 * len(steps)


def worker(settings: dict[str, Any]) -> WorkerOptions:
    """The worker of the first installation. Raises ReleaseError where the two are not of one build,
    or one is gone."""
    first, second = (environments.find(name) for name in settings["installed"])
    if first.name == second.name:
        raise ReleaseError(f"{first.name} is one installation: the study takes two of one release")
    differing = [
        f"{key} {first.identity.get(key)} and {second.identity.get(key)}"
        for key in ("torch", "torch_git", "cpu_capability", "numpy", "python")
        if first.identity.get(key) != second.identity.get(key)
    ]
    if differing:
        raise ReleaseError(f"{first.name} and {second.name} differ: {'; '.join(differing)}")
    return first.worker(WorkerOptions(files=tuple(settings["files"])))


def carry_out(
    log: LineLog, study: Study, steps: Sequence[Step], report: Report, options: WorkerOptions
) -> Study:
    """Measures what the log lacks."""
    second = environments.find(study.settings["installed"][1])
    return engine.carry_out(log, study, steps, report, options, second.worker(options))


# ── replaying gates ───────────────────────────────────────────────────────────────────────────

Sessions = dict[Case, dict[int, statistics.SessionEstimate]]


@dataclass(frozen=True)
class Way:
    """How a gate judges."""

    sessions: int
    confidence: float
    method: str
    pooled: bool

    def estimates(self, measured: Sessions, sessions: Sequence[int]) -> dict[Case, Estimate]:
        """The ratio of each case that all of these sessions timed."""
        return {
            case: statistics.between_sessions(
                [own[session] for session in sessions], RELEASE_FLOOR, self.confidence
            )
            for case, own in measured.items()
            if all(session in own for session in sessions)
        }


@dataclass
class Replayed:
    """What gates of one kind called."""

    gates: int = 0
    alarmed: int = 0
    judged: int = 0
    alarms: int = 0
    planted: int = 0
    found: int = 0

    def take(
        self, way: Way, plain: dict[Case, Estimate], slow: dict[Case, Estimate], plant: bool
    ) -> None:
        """One gate, and each of its cases put in slower if `plant`."""
        cases = [case for case in plain if case in slow]
        spread = Spread.of(list(plain.values())) if way.pooled else None
        mine, slower = (
            [spread.moderated(side[case]) if spread else side[case] for case in cases]
            for side in (plain, slow)
        )
        judge = statistics.judge
        verdicts = judge(mine, RELEASE_FLOOR, way.confidence, way.method).verdicts
        alarms = sum(verdict in CALLED for verdict in verdicts)
        self.gates += 1
        self.alarmed += bool(alarms)
        self.judged += len(cases)
        self.alarms += alarms
        for place, estimate in enumerate(slower if plant else ()):
            table = [*mine[:place], estimate, *mine[place + 1 :]]
            judged = judge(table, RELEASE_FLOOR, way.confidence, way.method)
            self.planted += 1
            self.found += judged.verdicts[place] == Verdict.SLOWER


def measured(study: Study, share: float, confidence: float) -> Sessions:
    """Each case's sessions in which the second installation was slowed down by a share."""
    found: Sessions = {}
    for trial in study.good("between"):
        if trial.share == share:
            session = statistics.median_interval(logs(trial.log_ratios), confidence)
            found.setdefault(trial.case, {})[trial.process] = session
    return found


def replays(sessions: Sequence[int], number: int, seed: int) -> Iterator[tuple[bool, list[int]]]:
    """Gates of `number` sessions each: whether they share none with others, and which."""
    for start in range(0, len(sessions) - number + 1, number):
        yield True, list(sessions[start : start + number])
    chance = random.Random(seed)
    if len(sessions) > number:
        for _ in range(REPLAYED):
            yield False, sorted(chance.sample(list(sessions), number))


def rows(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    """A row for each way of judging."""
    share = study.settings["slowdown"] / 100
    found = []
    for settings in WAYS:
        way = Way(*settings)
        plain, slow = (measured(study, one, way.confidence) for one in (0.0, share))
        sessions = sorted({session for own in plain.values() for session in own})
        if len(sessions) < way.sessions:
            continue
        apart, drawn, said = Replayed(), Replayed(), []
        for own, chosen in replays(sessions, way.sessions, study.settings["seed"]):
            first, second = way.estimates(plain, chosen), way.estimates(slow, chosen)
            if not first:
                continue
            (apart if own else drawn).take(way, first, second, own)
            said.append(_said(way, list(first.values()), share))
        found.append(_row(study, way, apart, drawn, said))
    return found


def _said(way: Way, estimates: list[Estimate], share: float) -> float:
    """The power that a gate states."""
    from gradbench.analysis.table import level

    spread = Spread.of(estimates) if way.pooled else None
    judged = [spread.moderated(e) for e in estimates] if spread else estimates
    needed = level(len(judged), 0, 1 - way.confidence, way.method)
    return float(np.mean(statistics.power(judged, share, needed, way.confidence)))


def _row(
    study: Study, way: Way, apart: Replayed, drawn: Replayed, said: list[float]
) -> dict[str, Any]:
    power = rate(apart.found, apart.planted)
    alarms = rate(apart.alarms, apart.judged)
    gates = apart.gates + drawn.gates
    return {
        "sessions": way.sessions,
        "rule": f"{way.method}, {way.confidence:.0%}" + (", pooled spread" if way.pooled else ""),
        "cases": apart.judged // apart.gates if apart.gates else 0,
        "trials": apart.judged,
        "false_alarms": apart.alarms,
        "rate": alarms.value,
        "rate_low": alarms.low,
        "rate_high": alarms.high,
        "gates": gates,
        "gates_alarmed": apart.alarmed + drawn.alarmed,
        "slowdown": study.settings["slowdown"] / 100,
        "found": apart.found,
        "power": power.value,
        "power_low": power.low,
        "power_high": power.high,
        "power_said": float(np.mean(said)) if said else math.nan,
        **conditions(study),
    }
