"""The session's run beside a stored one: the project's verdicts between sessions, by test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from gradbench.advise.telling import between
from gradbench.analysis import conditions
from gradbench.analysis.changes import Change, Compared, compare
from gradbench.analysis.filters import fails
from gradbench.analysis.table import Ratio
from gradbench.core.cases import FORWARD
from gradbench.core.units import counted, false_positives
from gradbench.core.verdicts import CALLED, Verdict
from gradbench.integrations.pytest_plugin.claims import odds_of
from gradbench.integrations.pytest_plugin.room import BUDGET, Record
from gradbench.store.runs import Run

NAMED = 5
"""Derivatives too close to call that are named."""

LARGE = 10
"""A ratio from which on a bound says nothing."""

MORE = 4
"""How many times the budget halves an interval."""


@dataclass(frozen=True)
class Outcome:
    """The changes of the tests' derivatives from one run to another."""

    compared: Compared
    tests: dict[str, str]
    """The tests by their names in the run."""
    missing: list[str]
    """The tests that the other run does not have."""
    busy: list[str]
    fail_on: str | None
    budget: float
    """The most seconds that timing a test might take."""

    @property
    def fails(self) -> bool:
        return fails((change.verdict for change in self.compared.changes), self.fail_on)

    def lines(self) -> Iterator[str]:
        found = self.compared
        yield (
            f"Compared with {found.old} (threshold {found.floor:.0%}, "
            f"{found.confidence:.0%} intervals between processes):"
        )
        yield from (f"  {line}" for line in [*found.differences, *self.busy])
        for change in sorted(found.changes, key=lambda c: -c.estimate.ratio):
            if change.verdict in CALLED:
                yield f"  {self._said(change)}"
        counts = ", ".join(f"{number} {verdict}" for verdict, number in found.counts().items())
        yield f"  {counted(len(found.changes), 'derivative')}: {counts}"
        calls = sum(change.verdict in CALLED for change in found.changes)
        yield f"  {false_positives(calls, found.expected_false, found.expected_false_alarms)}"
        yield from self._open()
        if self.missing:
            yield f"  not in {found.old}: {', '.join(self.missing)}"
        if self.fails:
            names = [c for c in found.changes if fails([c.verdict], self.fail_on)]
            tests = dict.fromkeys(self.tests[c.case.comparison.function] for c in names)
            yield f"FAILED --gradbench-fail-on {self.fail_on}: {', '.join(tests)}"

    def _open(self) -> Iterator[str]:
        """What is too close to call, how much may be in it, and what decides more."""
        left = [c for c in self.compared.changes if c.verdict == Verdict.UNDECIDED]
        left.sort(key=lambda change: -change.estimate.high)
        for change in left[:NAMED]:
            yield f"  {self._said(change)}"
        if left:
            rest = f" ({len(left) - NAMED} more are not named)" if len(left) > NAMED else ""
            worst = left[0].estimate.high
            hidden = f"slowdowns up to {worst - 1:.0%}" if worst < LARGE else "large slowdowns"
            yield (
                f"  {len(left)} too close to call{rest}: "
                + (
                    f"{hidden} are not excluded. "
                    if worst > 1 + self.compared.floor
                    else f"none may be slower by more than {self.compared.floor:.0%}. "
                )
                + f"More time decides more: --gradbench-budget {MORE * self.budget:g} for both "
                "runs, with nothing else running"
            )

    def _said(self, change: Change) -> str:
        e = change.estimate
        test = self.tests[change.case.comparison.function]
        q = ", in too few processes" if change.q is None else f", {odds_of(change.q)}"
        times = between(Ratio(e.ratio, e.low, e.high))
        return f"{change.verdict}: {test} {change.case.mode} {times} times as long{q}"


def compared(old: Run, new: Run, records: Sequence[Record], fail_on: str | None) -> Outcome:
    """Compares the tests' own derivatives; all modes of a test that has none of its own.

    Raises ValueError where the runs share none of them.
    """
    own = {record.function: set(filter(None, record.subjects)) for record in records}
    before, after = (_kept(run, own) for run in (old, new))
    found = compare(before, after)
    there = {entry.comparison.function for entry in old.started.plan}
    tests = {record.function: record.test for record in records}
    missing = [record.test for record in records if record.log and record.function not in there]
    busy = [f"{run.name}: {said}" for run in (old, new) if (said := conditions.busy(run))]
    budget = max((record.budget for record in records if record.log), default=BUDGET)
    return Outcome(found, tests, list(dict.fromkeys(missing)), busy, fail_on, budget)


def _kept(run: Run, own: dict[str, set[str]]) -> Run:
    """The run with the entrants alone that are compared."""
    sessions = []
    for session in run.sessions:
        function = session.comparison.function
        if function not in own:
            continue
        wanted = own[function]
        entrants = [
            entrant
            for entrant in session.entrants
            if (entrant.mode in wanted if wanted else entrant.mode != FORWARD)
        ]
        sessions.append(msgspec.structs.replace(session, entrants=entrants, order=[]))
    kept = type(run)(run.path, run.started, problems=run.problems)
    kept.take([*run.workers, *sessions, *run.ends])
    return kept
