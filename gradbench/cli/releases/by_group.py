"""What each release did to groups of cases: by mode, by operator or by function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gradbench.analysis.tracks import Change
from gradbench.cli.releases.tables import Course
from gradbench.cli.rendering import Answer, Table, places
from gradbench.core.verdicts import CALLED


def groups(course: Course, by: str) -> Answer:
    """For each mode, operator or function, what a release did to its cases as a whole."""
    steps = course.steps
    wholes = {id(c): c for c in course.ranges.changes}.values()

    def name(change: Change) -> str:
        return str(change.case.mode if by == "mode" else getattr(change.case.comparison, by))

    columns = [(step.between, step.changes) for step in steps]
    if wholes:
        columns.append(("first to last", list(wholes)))
    headings = [by, "cases", *(heading for heading, _ in columns)]
    rows = []
    for group in sorted({name(change) for change in course.judged.changes}):
        own = [[c for c in changes if name(c) == group] for _, changes in columns]
        cases = {change.case for changes in own for change in changes}
        rows.append([group, str(len(cases)), *map(_group, own)])
    legend = (
        "Median ratio after / before, number of cases slower (↑) and faster (↓)"
        f" at a threshold of {course.judged.floor:.3g}."
    )
    return Answer(
        _group_records(course, by, name),
        heading=f"Torch releases by {by}",
        ahead=[course.strip],
        overview=Table(places(headings, headings[1:], least=headings[2:-1]), rows, f"by {by}"),
        summary=[legend],
    )


def _group_records(
    course: Course, by: str, name: Callable[[Change], str]
) -> Iterator[dict[str, Any]]:
    """A flat row for each group and step, and for each group from the first build to the last."""
    spans: dict[tuple[str, str, str, bool], list[Change]] = {}
    for whole, changes in ((False, course.judged.changes), (True, course.ranges.changes)):
        for change in changes:
            key = name(change), str(change.before), str(change.after), whole
            spans.setdefault(key, []).append(change)
    for (group, before, after, whole), changes in sorted(spans.items()):
        slower, faster = (sum(c.verdict == verdict for c in changes) for verdict in CALLED)
        yield {
            "by": by,
            "group": group,
            "before": before,
            "after": after,
            "first_to_last": whole,
            "cases": len(changes),
            "ratio_median": float(np.median([change.estimate.ratio for change in changes])),
            "slower": slower,
            "faster": faster,
        }


def _group(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    slower, faster = (sum(c.verdict == verdict for c in changes) for verdict in CALLED)
    ratio = np.median([change.estimate.ratio for change in changes])
    return f"{ratio:.2f}× {slower}↑ {faster}↓"
