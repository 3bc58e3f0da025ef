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
from gradbench.core.verdicts import CALLED
from gradbench.integrations.pytest_plugin.claims import odds_of
from gradbench.integrations.pytest_plugin.room import Record
from gradbench.store.runs import Run


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
        if self.missing:
            yield f"  not in {found.old}: {', '.join(self.missing)}"
        if self.fails:
            names = [c for c in found.changes if fails([c.verdict], self.fail_on)]
            tests = dict.fromkeys(self.tests[c.case.comparison.function] for c in names)
            yield f"FAILED --gradbench-fail-on {self.fail_on}: {', '.join(tests)}"

    def _said(self, change: Change) -> str:
        e = change.estimate
        test = self.tests[change.case.comparison.function]
        q = "" if change.q is None else f", {odds_of(change.q)}"
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
    return Outcome(found, tests, list(dict.fromkeys(missing)), busy, fail_on)


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
