"""Gradients and jacobians as multiples of the function's own evaluation: what ADBench and GradBench
report first, for the way that their PyTorch modules go and for the fastest automatic mode.

F. Šrajer, Z. Kukelova, A. Fitzgibbon, A benchmark of selected algorithmic differentiation tools
(2018). Their modules for PyTorch call `.backward()` for every output and reset `.grad` before each
(`torch_jacobian`): once for a gradient, in a loop for a jacobian.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradbench.analysis.table import Ratio
from gradbench.core.cases import FORWARD, Comparison
from gradbench.core.verdicts import Status

THEIRS = {"gradient": "backward", "jacobian": "loop_backward"}
"""The mode that does what their modules do, by operator."""

OBJECTIVES = {
    "gmm": "GMM",
    "bundle_adjustment": "BA",
    "hand_tracking": "HT",
    "lstm": "LSTM",
    "kmeans": "KMEANS",
    "lse": "LSE",
    "least_squares": "LLSQ",
    "log_determinant": "DET",
    "lotka_volterra": "ODE",
}
"""Their name for the objective that a function is, or is like: see docs/applications.md."""


@dataclass(frozen=True)
class Timed:
    """A mode, and its time as a multiple of the function's; without one, why."""

    mode: str
    multiple: Ratio | None
    status: str
    over: float | None = None
    """Without one, where it was refused for its time: the least that the multiple can be."""


@dataclass(frozen=True)
class Multiple:
    """One comparison: the function's own time, and the multiples of both ways."""

    comparison: Comparison
    evaluation: float
    """Seconds of an evaluation of the function."""
    theirs: Timed
    best: Timed | None
    """The fastest automatic mode; None where none was timed."""

    @property
    def objective(self) -> str:
        return OBJECTIVES.get(self.comparison.function, "")


def multiples(records: Iterable[Mapping[str, Any]]) -> list[Multiple]:
    """The multiples of each comparison of gradients and jacobians, by its judged rows as
    `table.record` gives them. Comparisons whose forward pass was not timed have none."""
    by_comparison: dict[Comparison, list[Mapping[str, Any]]] = {}
    for row in records:
        if row["operator"] in THEIRS:
            by_comparison.setdefault(_comparison(row), []).append(row)
    found = (_multiple(name, rows) for name, rows in by_comparison.items())
    return [one for one in found if one is not None]


def _comparison(row: Mapping[str, Any]) -> Comparison:
    operator, function, size, dtype, device = (
        str(row[name]) for name in ("operator", "function", "size", "dtype", "device")
    )
    return Comparison(operator, function, size, dtype, device, int(row["threads"]))


def _multiple(comparison: Comparison, rows: list[Mapping[str, Any]]) -> Multiple | None:
    evaluation = next((_number(r["seconds"]) for r in rows if r["mode"] == FORWARD), None)
    if evaluation is None:
        return None
    theirs = THEIRS[comparison.operator]
    own = next((_timed(row, evaluation) for row in rows if row["mode"] == theirs), None)
    automatic = [_timed(r, evaluation) for r in rows if r["mode"] != FORWARD and not r["by_hand"]]
    timed = [(one.multiple.value, one) for one in automatic if one.multiple is not None]
    best = min(timed, key=lambda pair: pair[0], default=None)
    return Multiple(
        comparison,
        evaluation,
        own or Timed(theirs, None, "not measured"),
        best[1] if best else None,
    )


def _timed(row: Mapping[str, Any], evaluation: float) -> Timed:
    value, low, high = (_number(row[f"to_forward{end}"]) for end in ("", "_low", "_high"))
    ratio = None
    if row["status"] == Status.OK and value is not None:
        ratio = Ratio(value, value if low is None else low, value if high is None else high)
    takes = None if ratio else _number(row.get("takes"))
    return Timed(str(row["mode"]), ratio, str(row["status"]), takes and takes / evaluation)


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def record(found: Multiple) -> dict[str, Any]:
    """A multiple as flat fields for programs."""
    c, best = found.comparison, found.best
    flat: dict[str, Any] = {
        "operator": c.operator,
        "function": c.function,
        "objective": found.objective,
        "size": c.size,
        "dtype": c.dtype,
        "device": c.device,
        "threads": c.threads,
        "evaluation_seconds": found.evaluation,
    }
    for name, timed in (("theirs", found.theirs), ("best", best)):
        ratio = timed.multiple if timed else None
        flat |= {
            f"{name}_mode": timed.mode if timed else "",
            f"{name}_status": timed.status if timed else "",
            f"{name}_multiple": ratio.value if ratio else None,
            f"{name}_low": ratio.low if ratio else None,
            f"{name}_high": ratio.high if ratio else None,
        }
    flat["theirs_over"] = found.theirs.over
    return flat
