"""What 'gradbench releases bisect' found, as an answer."""

from __future__ import annotations

from typing import Any

from gradbench.analysis.tracks import Change
from gradbench.cli import cells
from gradbench.cli.rendering import Answer, Column, Table
from gradbench.core.units import counted
from gradbench.releases.bisect import Found, Measured
from gradbench.statistics import Estimate

COLUMNS = [
    Column("release", lambda step: step["release"], whole=True),
    Column("belongs", lambda step: step["belongs"], prose=True),
    Column("× before", lambda step: _interval(step, "to_before"), right=True, optional=True),
    Column("× after", lambda step: _interval(step, "to_after"), right=True, optional=True),
    Column("reason", lambda step: step["reason"], prose=True, optional=True),
]


def answer(found: Found, whole: Change) -> Answer:
    """Where the case changed; `whole` is the change between the two ends."""
    steps = [_step(*tried) for tried in found.tried]
    before, after = found.before.name, found.after.name
    if found.left:
        left = ", ".join(request.name for request in found.left)
        said = f"Changed between {before} and {after}; too close to call in between: {left}"
    else:
        said = f"Changed in {after}: {before} is as before, {after} as after"
    return Answer(
        steps,
        heading=f"{whole.case}: {described(whole)}",
        details=[Table(COLUMNS, steps, counted(len(steps), "step"))],
        summary=[said],
        text=said,
        document={
            "case": str(whole.case),
            "first": str(whole.before),
            "last": str(whole.after),
            "verdict": whole.verdict,
            **_estimate("ratio", whole.estimate),
            "before": before,
            "after": after,
            "located": not found.left,
            "undecided": [request.name for request in found.left],
            "steps": steps,
        },
    )


def described(change: Change) -> str:
    return (
        f"{change.after} compared with {change.before}: {change.verdict}, "
        f"{cells.with_interval(change.estimate)}"
    )


def _step(release: str, answered: Measured | str) -> dict[str, Any]:
    measured = None if isinstance(answered, str) else answered
    return {
        "release": release,
        "belongs": measured.belongs if measured else "unknown",
        "reason": answered if isinstance(answered, str) else "",
        **_estimate("to_before", measured.to_old if measured else None),
        **_estimate("to_after", measured.to_new if measured else None),
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (estimate.ratio, estimate.low, min(estimate.high, 1e308)) if estimate else [None] * 3
    return dict(zip((name, f"{name}_low", f"{name}_high"), values))


def _interval(step: dict[str, Any], name: str) -> str:
    ratio, low, high = (step[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if ratio is None else f"{ratio:.3f}× [{low:.3f}, {high:.3f}]"
