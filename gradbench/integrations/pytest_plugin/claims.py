"""Claims about times: whether they hold, how certain that is, and the sentence that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradbench import statistics
from gradbench.advise.answer import Advice
from gradbench.advise.telling import between, number, says_little
from gradbench.analysis.runs import ratios_to
from gradbench.analysis.table import Ratio, Row
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.units import call_time, counted
from gradbench.core.verdicts import Status, Verdict
from gradbench.store.runs import Run, read


@dataclass(frozen=True)
class Claim:
    """What a test claims; `holds` is None where it is too close to call."""

    holds: bool | None
    said: str
    p: float | None
    """See `statistics.Bound.p`; None where nothing was timed."""


class Timed:
    """The times of a derivative and of the modes beside it."""

    def __init__(self, advice: Advice) -> None:
        self.advice = advice
        self.rows: dict[str, Row] = {}
        self.run: Run | None = None
        self.comparison: Comparison | None = None
        if advice.path is not None and advice.judged is not None:
            self.rows = {row.mode: row for row in advice.judged.rows}
            self.run = read(advice.path)
            self.comparison = self.run.started.plan[0].comparison

    def seconds(self, mode: str) -> float | None:
        return self.rows[mode].seconds if mode in self.rows else None

    def against(self, mode: str) -> str:
        """What timing has shown against a derivative that was right before; empty where nothing
        has."""
        row = self.rows.get(mode)
        if row is None or row.status in (Status.OK, Status.REFUSED, Status.TIMED_OUT):
            return ""
        return f"{mode} is {row.status} where it is timed: {row.reason}"

    def estimates(self, reference: str) -> dict[str, statistics.Estimate]:
        """The ratios of all modes to one of them."""
        if self.run is None or self.comparison is None:
            return {}
        return ratios_to(self.run, self.comparison, reference)

    def why_not(self, mode: str) -> str:
        """Why a mode was not timed."""
        row = self.rows.get(mode)
        if row is not None and row.status != Status.OK:
            return f"{mode} was not timed: {row.status}, {row.reason}"
        if self.advice.question.modes and row is None and self.rows:
            return f"{mode} was not timed: it is none of modes={list(self.advice.question.modes)}"
        return f"{mode} was not timed in {self.advice.budget:g} s: raise the budget"

    def line(self, subject: str) -> str:
        """The times in one line: how long a call takes, and how that compares with the fastest."""
        fastest = next((r for r in self.rows.values() if r.verdict == Verdict.FASTEST), None)
        row = self.rows.get(subject) if subject else fastest
        if row is None or row.seconds is None or fastest is None:
            return self.why_not(subject) if subject else "nothing was timed: raise the budget"
        said = f"{row.mode} {call_time(row.seconds)}"
        if row is fastest:
            return f"{said}, the fastest of {len(self.others(''))}"
        ratio = row.to_fastest
        times = f"{number(ratio.value)}×" if ratio is not None else "?"
        close = " (undecided)" if row.verdict == Verdict.UNDECIDED else ""
        return f"{said}, {times} {fastest.mode}{close}"

    def others(self, subject: str) -> list[str]:
        """The modes that a claim to be the fastest is held against."""
        by_hand = self.advice.judged.by_hand if self.advice.judged else []
        return [
            mode
            for mode, row in self.rows.items()
            if mode not in (subject, FORWARD, *by_hand) and row.seconds is not None
        ]


def no_slower(timed: Timed, subject: str, other: str, by: float) -> Claim:
    """That a call of the subject takes at most `by` times the time of another mode."""
    estimates = timed.estimates(other)
    for mode in (other, subject):
        if mode not in estimates:
            return Claim(None, f"undecided: {timed.why_not(mode)}", None)
    bound = statistics.at_most(estimates[subject], by)
    said = _sentence(timed, subject, other, estimates[subject], by, bound)
    return Claim(bound.holds, said, _known(bound.p))


def faster_than_all(timed: Timed, subject: str, within: float) -> Claim:
    """That a call of the subject takes at most `within` times the time of every mode."""
    others = timed.others(subject)
    if timed.seconds(subject) is None:
        return Claim(None, f"undecided: {timed.why_not(subject)}", None)
    if not others:
        return Claim(None, f"undecided: no other mode was timed beside {subject}", None)
    ratios = {}
    for other in others:
        if (estimate := timed.estimates(other).get(subject)) is not None:
            ratios[other] = estimate
    if not ratios:
        return Claim(None, f"undecided: {subject} and the others share no process", None)
    bounds = {o: statistics.at_most(e, within, len(others)) for o, e in ratios.items()}
    # Of those that decide, the one that takes the least time.
    for holds in (False, None, True):
        if deciding := [other for other, bound in bounds.items() if bound.holds is holds]:
            break
    worst = max(deciding, key=lambda other: ratios[other].ratio)
    bound = bounds[worst]
    if bound.holds:
        bound = statistics.Bound(True, max(bound.p for bound in bounds.values()))
    said = _sentence(timed, subject, worst, ratios[worst], within, bound)
    return Claim(bound.holds, said, _known(bound.p))


def _known(p: float) -> float | None:
    return None if math.isnan(p) else p


def _sentence(
    timed: Timed,
    subject: str,
    other: str,
    estimate: statistics.Estimate,
    factor: float,
    bound: statistics.Bound,
) -> str:
    ratio = Ratio(estimate.ratio, estimate.low, estimate.high)
    takes = f"{subject} takes {between(ratio)} times as long as {other}"
    if bound.holds is None:
        few = f"raise the budget of {timed.advice.budget:g} s"
        if estimate.sessions < 2:
            why = "one process says nothing of how processes differ"
        elif says_little(ratio):
            why = f"{counted(estimate.sessions, 'process')} say too little to call it"
        else:
            why = f"too close to {factor:g} to call"
        return f"undecided: {takes}, {why}: {few}"
    odds = odds_of(bound.p)
    if bound.holds:
        return f"{takes}, and at most {factor:g} is allowed ({odds})"
    return f"{takes}, more than the {factor:g} allowed ({odds})"


def odds_of(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
