"""The answer at a glance: what to try first for each operator, and how far to trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gradbench.analysis.recommend import Recommendation, Recommendations, Standing, Where
from gradbench.analysis.table import Judged
from gradbench.cli.cells import number
from gradbench.cli.rendering import Cell, Column, Styled, Table
from gradbench.core.units import about, counted
from gradbench.core.verdicts import Status, Verdict
from gradbench.store.runs import Header

MOST = 20
"""Rows of the summary at the end of a run; `gradbench show` has all."""

BAD = (Status.WRONG, Status.FAILED, Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY)


def table(found: Recommendations, most: int | None = None) -> Table:
    """A row per operator: what to try first, its average and worst multiple, the usual choice."""
    labels = _labels([one.where for one in found])
    columns = [
        Column("operator", lambda one: labels[one.where]),
        Column("try first", lambda one: Styled(_first(one), "bold green")),
        Column("average", lambda one: _times(one.first.average), right=True),
        Column("worst", lambda one: _times(one.first.worst), right=True),
        Column("as good", lambda one: _names(one.ties), rank=1, optional=True),
        Column("usual choice", lambda one: "the same" if _is_usual(one) else one.usual_mode),
        Column("average", lambda one: "" if _is_usual(one) else _usual(one), right=True),
        Column("over", lambda one: _over(one), right=True, rank=2),
    ]
    operators = [one.where.operator for one in found]
    rows = sorted(found, key=lambda one: operators.index(one.where.operator))[:most]
    title = "What to try first (time as a multiple of the fastest mode)"
    return Table(columns, rows, title)


def notes(found: Recommendations, most: int | None = None) -> Iterator[Cell]:
    """What the table does not show."""
    if most is not None and len(found) > most:
        yield f"{len(found) - most} more rows: 'gradbench show' has all"
    if any(one.ties for one in found):
        yield "~: too close to call"
    for one in found:
        better = [
            f"{standing.mode} ({standing.covered} of {len(one.comparisons)} cases)"
            for standing in one.better_where_supported
        ]
        if better:
            yield f"{one.where.operator}: faster where it runs: {', '.join(better)}"


def trust(shown: Judged, header: Header) -> Iterator[Cell]:
    """A line each for the machine, the conditions and what is too close to call."""
    yield f"Machine: {machine(header)}"
    yield f"Conditions: {', '.join(_conditions(shown))}"
    judged = [row.verdict for row in shown.rows if row.verdict not in ("", Verdict.FASTEST)]
    if judged:
        yield (
            f"Too close to call: {judged.count(Verdict.UNDECIDED)} of "
            f"{counted(len(judged), 'case')}; "
            f"{about(shown.expected_false)} false positives expected"
        )
    statuses = Counter(row.status for row in shown.rows)
    bad = [f"{statuses[status]} {status}" for status in BAD if statuses[status]]
    if bad:
        yield Styled(f"Not measured: {', '.join(bad)}", "bold red")


def busy(shown: Judged) -> list[Cell]:
    """What is said before all else, where it is so."""
    return [Styled(shown.busy, "bold yellow")] if shown.busy else []


def machine(header: Header) -> str:
    """The machine and the build in one line."""
    facts, worker = header.started.machine, header.environment
    cores = facts.get("usable_cores") or facts.get("cores")
    parts = [
        str(facts.get("cpu") or "unknown processor"),
        f"{counted(int(cores), 'core')}" if cores else "",
        *(worker.get("device_names") or ()),
        f"torch {header.torch}" if header.torch else "",
        f"Python {worker['python']}" if worker.get("python") else "",
    ]
    return ", ".join(filter(None, parts))


def _conditions(shown: Judged) -> Iterator[str]:
    if shown.sessions:
        yield counted(shown.sessions, "process")
    rounds = sorted({round(r.rounds / r.sessions) for r in shown.rows if r.sessions})
    if rounds:
        low, high = rounds[0], rounds[-1]
        yield f"{low} to {high} rounds" if low < high else counted(low, "round")
    threads = sorted({row.comparison.threads for row in shown.rows})
    yield f"{' and '.join(map(str, threads))} thread{'s' * (threads != [1])}"
    yield f"threshold {shown.floor:.3g}"
    yield f"{shown.confidence:.0%} intervals"


def _labels(places: Sequence[Where]) -> dict[Where, str]:
    """The operator, and what tells its rows apart where it has several."""
    labels = {}
    for where in places:
        others = [other for other in places if other.operator == where.operator]
        parts = []
        for name in ("dtype", "device", "threads"):
            if len({getattr(other, name) for other in others}) > 1:
                value = getattr(where, name)
                parts.append(f"{value} threads" if name == "threads" else str(value))
        labels[where] = " ".join([where.operator, *parts])
    return labels


def _times(value: float) -> str:
    return f"{number(value)}×"


def _first(one: Recommendation) -> str:
    return f"{one.first.mode} ~" if one.ties else one.first.mode


def _is_usual(one: Recommendation) -> bool:
    return one.first.mode == one.usual_mode


def _usual(one: Recommendation) -> str:
    return _times(one.usual.average) if one.usual else ""


def _over(one: Recommendation) -> str:
    """How many comparisons the average is of; of how many, where there are more."""
    most, covered = len(one.comparisons), one.first.covered
    return str(most) if covered == most else f"{covered} of {most}"


def _names(standings: Sequence[Standing]) -> str:
    names = [standing.mode for standing in standings]
    return ", ".join(names[:1]) + (f" +{len(names) - 1}" if len(names) > 1 else "")
