"""What is shown of torch releases: changes, steps from release to release, courses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradbench.analysis.tracks import Build, Change, History, Judged
from gradbench.cli.output import console, emit, plain, say, short_case, table
from gradbench.core.cases import Case
from gradbench.core.text import markdown, markdown_cell
from gradbench.core.units import call_time, counted
from gradbench.core.verdicts import CALLED
from gradbench.statistics import Estimate

STYLES = {"faster": "green", "slower": "bold red", "undecided": "yellow"}

COURSES = 3
"""So many cases are shown as their course over all releases."""


def show_history(
    history: History, judged: Judged, form: str, top: int = 20, everything: bool = False
) -> None:
    """What changed from release to release; of few cases, their course over all of them."""
    if form in ("json", "csv"):
        emit([record(change) for change in judged.changes], form)
    elif len(history.cases) <= COURSES:
        for case, to_baseline in zip(history.cases, history.to_baseline(history.cases)):
            _course(history, judged, case, to_baseline, form)
    else:
        _steps(history, judged, form, top, everything)


def _steps(history: History, judged: Judged, form: str, top: int, everything: bool) -> None:
    called = _picked(judged, everything)
    rows = [_step_cells(history, judged, before, after) for before, after in history.steps()]
    headings = ("between", "slower", "faster", "same", "undecided", "median", "also differs")
    notes = [*_unlike(history, history.steps()), *_failures(history)]
    title = f"the {top} largest of {len(called)} changes" if len(called) > top else "changes"
    if form == "md":
        lines = ["### Torch releases", "", markdown(rows, headings), "", _counts(judged), ""]
        if called:
            cells = [[f"{c.before} → {c.after}", *_cells(c)] for c in called[:top]]
            lines += [f"{title.capitalize()}:", "", markdown(cells, ("between", *_HEADINGS)), ""]
        say("\n".join([*lines, *(f"- {markdown_cell(note)}" for note in notes)]).rstrip())
        return
    out = console()
    shown = table(
        "from release to release", [(h, "right") if h in headings[1:6] else h for h in headings]
    )
    for row in rows:
        shown.add_row(*(plain(cell) for cell in row))
    out.print(shown)
    _print_changes(title, called[:top], steps=True)
    out.print(plain(_counts(judged)))
    for note in notes:
        out.print(plain(note))


def show_groups(history: History, judged: Judged, by: str, form: str) -> None:
    """For each mode, operator or function, what a release did to its cases as a whole."""
    groups: dict[str, list[Change]] = {}
    for change in judged.changes:
        case = change.case
        name = case.mode if by == "mode" else getattr(case.comparison, by)
        groups.setdefault(name, []).append(change)
    steps = history.steps()
    rows = []
    for name, changes in sorted(groups.items()):
        cells = []
        for step in steps:
            mine = [c for c in changes if (c.before, c.after) == step]
            ratios = [c.estimate.ratio for c in mine]
            slower, faster = (sum(c.verdict == v for c in mine) for v in CALLED)
            cells.append(f"{np.median(ratios):.2f}× {slower}↑ {faster}↓" if mine else "")
        count = len({change.case for change in changes})
        rows.append([name, str(count), *cells])
    headings = [by, "cases", *(f"{before} → {after}" for before, after in steps)]
    if form in ("json", "csv"):
        emit([dict(zip(headings, row)) for row in rows], form)
        return
    legend = (
        "median ratio after / before, cases called slower (↑) and faster (↓)"
        f" at a floor of {judged.floor:.3g}"
    )
    if form == "md":
        say(f"### Torch releases by {by}\n\n{markdown(rows, headings)}\n\n{legend}.")
        return
    shown = table(f"by {by}", [headings[0], *((h, "right") for h in headings[1:])])
    for row in rows:
        shown.add_row(*(plain(cell) for cell in row))
    console().print(shown)
    console().print(plain(legend))


def show_comparison(
    history: History,
    judged: Judged,
    before: Build,
    after: Build,
    form: str,
    everything: bool,
) -> None:
    """One build against another, case by case."""
    if form in ("json", "csv"):
        emit([record(change) for change in judged.changes], form)
        return
    changes = _picked(judged, everything)
    title = f"torch {history.label(after)} against {history.label(before)}"
    differs = history.differences(before, after)
    notes = _unlike(history, [(before, after)])
    if form == "md":
        lines = [f"### {markdown_cell(title)}", "", _counts(judged), ""]
        lines += [f"> Also differs: {markdown_cell(', '.join(differs))}.", ""] if differs else []
        if changes:
            lines += [markdown([_cells(c) for c in changes], _HEADINGS), ""]
        say("\n".join([*lines, *(f"- {markdown_cell(note)}" for note in notes)]).rstrip())
        return
    out = console()
    for what in differs:
        out.print(plain(f"also differs: {what}", "yellow"))
    _print_changes(title, changes, steps=False)
    out.print(plain(_counts(judged)))
    for note in notes:
        out.print(plain(note))


def _picked(judged: Judged, everything: bool) -> list[Change]:
    """The changes to show, the largest first."""
    picked = [c for c in judged.changes if everything or c.verdict in CALLED]
    return sorted(picked, key=lambda c: -abs(np.log(c.estimate.ratio)))


def _unlike(history: History, steps: Sequence[tuple[Build, Build]]) -> list[str]:
    """What one build of a step can do and the other cannot, by reason."""
    return [
        f"{build}: {status}: {reason} ({number} case{'s' if number > 1 else ''})"
        for (build, status, reason), number in history.unlike(steps).items()
    ]


def _failures(history: History) -> list[str]:
    return [
        f"{failure.name} could not be installed: {failure.reason}"
        for track in history.tracks
        for failure in track.failures
    ]


def record(change: Change) -> dict[str, Any]:
    """A change as flat fields."""
    return {
        "case": str(change.case),
        "before": str(change.before),
        "after": str(change.after),
        "verdict": change.verdict,
        "ratio": change.estimate.ratio,
        "low": change.estimate.low,
        "high": min(change.estimate.high, 1e308),
        "before_seconds": change.old.seconds,
        "after_seconds": change.new.seconds,
        "sessions": change.estimate.sessions,
        "in_turns": change.paired,
        "groups": [group.ratio for group in change.estimate.groups]
        if change.estimate.disagree
        else [],
        "instructions": _instructions(change),
        "note": change.note,
    }


def _instructions(change: Change) -> float | None:
    """Instructions after over before, where both were counted."""
    ratio = change.new.instructions / change.old.instructions
    return float(ratio) if ratio == ratio else None


_HEADINGS = (
    "case",
    "before",
    "after",
    "after / before",
    "verdict",
    "instructions",
    "note",
)


def _cells(change: Change) -> list[str]:
    e = change.estimate
    notes = [] if change.paired else ["through the baseline"]
    if e.disagree:
        notes.append("sessions disagree: " + ", ".join(f"{g.ratio:.2f}×" for g in e.groups))
    counted = _instructions(change)
    return [
        short_case(change.case),
        call_time(change.old.seconds),
        call_time(change.new.seconds),
        f"{e.ratio:.3f}× [{e.low:.3f}, {e.high:.3f}]",
        change.verdict,
        "" if counted is None else f"{counted:.3f}×",
        "; ".join(notes),
    ]


def _print_changes(title: str, changes: Sequence[Change], steps: bool) -> None:
    if not changes:
        return
    counted = any(_instructions(c) is not None for c in changes)
    keep = [i for i, name in enumerate(_HEADINGS) if name != "instructions" or counted]
    headings: list[str | tuple[str, str]] = ["between"] if steps else []
    right = ("before", "after", "after / before", "instructions")
    headings += [
        (name, "right") if name in right else name for name in (_HEADINGS[i] for i in keep)
    ]
    shown = table(title, headings)
    for change in changes:
        cells = _cells(change)
        row = [plain(f"{change.before} → {change.after}")] if steps else []
        row += [
            plain(cells[i], STYLES.get(change.verdict, "") if cells[i] == change.verdict else "")
            for i in keep
        ]
        shown.add_row(*row)
    console().print(shown)


def _counts(judged: Judged) -> str:
    counts = judged.counts()
    return (
        f"{counted(len(judged.changes), 'case')} compared: "
        + ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        + f". Floor {judged.floor:.3g}, {judged.confidence:.0%} intervals between sessions, "
        f"{judged.method}: at most {judged.expected_false_alarms:.1f} false calls expected."
    )


def _step_cells(history: History, judged: Judged, before: Build, after: Build) -> list[str]:
    mine = [c for c in judged.changes if (c.before, c.after) == (before, after)]
    counts = {v: sum(c.verdict == v for c in mine) for v in ("slower", "faster", "same")}
    undecided = len(mine) - sum(counts.values())
    middle = f"{np.median([c.estimate.ratio for c in mine]):.3f}×" if mine else ""
    return [
        f"{before} → {after}",
        *map(str, counts.values()),
        str(undecided),
        middle,
        "; ".join(history.differences(before, after)),
    ]


def _course(
    history: History,
    judged: Judged,
    case: Case,
    to_baseline: dict[Build, Estimate],
    form: str,
) -> None:
    """One case over all releases."""
    changes = {c.after: c for c in judged.changes if c.case == case}
    rows = []
    for build in history.builds:
        point = history.point(build, case)
        if point is None:
            continue
        change = changes.get(build)
        ratio = to_baseline.get(build)
        if build == history.baseline(build):
            against = "baseline"
        else:
            against = f"{ratio.ratio:.3f}× [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else ""
        e = change.estimate if change else None
        counted = point.instructions
        rows.append(
            [
                history.label(build),
                history.used[build].date,
                call_time(point.seconds) if point.status == "ok" else point.status,
                against,
                f"{e.ratio:.3f}× [{e.low:.3f}, {e.high:.3f}]" if e else "",
                change.verdict if change else "",
                f"{counted:,.0f}" if counted == counted else "",
                change.note if change else point.reason,
            ]
        )
    headings = [
        "release",
        "date",
        "time",
        "× baseline",
        "× release before",
        "verdict",
        "instructions",
        "also differs",
    ]
    keep = [i for i in range(len(headings)) if i < 6 or any(row[i] for row in rows)]
    if form == "md":
        cells = [[row[i] for i in keep] for row in rows]
        say(f"### {markdown_cell(str(case))}\n\n{markdown(cells, [headings[i] for i in keep])}\n")
        return
    right = ("time", "× baseline", "× release before", "instructions")
    shown = table(
        str(case), [(h, "right") if h in right else h for h in (headings[i] for i in keep)]
    )
    for row in rows:
        shown.add_row(*(plain(row[i], STYLES.get(row[i], "") if i == 5 else "") for i in keep))
    console().print(shown)
