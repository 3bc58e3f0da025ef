"""How values of judged rows are shown in tables, for the commands that share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradbench.cli.rendering import Styled
from gradbench.core import units
from gradbench.core.units import counted, says_nothing
from gradbench.core.verdicts import CALLED

if TYPE_CHECKING:
    from gradbench.analysis.table import Changes, Ratio
    from gradbench.core.cases import Case
    from gradbench.statistics import Estimate

CHANGES = {"faster": "green", "slower": "bold red", "undecided": "yellow"}


def change(verdict: str) -> Styled:
    """The verdict on a change from one run, or release, to another."""
    return Styled(verdict, CHANGES.get(verdict, ""))


def odds(q: float | None) -> str:
    """A p-value adjusted for its table; empty where there is none."""
    if q is None:
        return ""
    return "< 1e-9" if q < 1e-9 else f"{q:.2g}" if q < 0.995 else "1"


def false_positives(judged: Changes[Any]) -> str:
    """How many of a table's calls are false."""
    calls = sum(number for verdict, number in judged.counts().items() if verdict in CALLED)
    return units.false_positives(calls, judged.expected_false, judged.expected_false_alarms)


def with_interval(estimate: Estimate) -> str:
    if says_nothing(estimate.low, estimate.high):
        return f"~ {estimate.ratio:.3f}×"
    return f"{estimate.ratio:.3f}× [{estimate.low:.3f}, {estimate.high:.3f}]"


def disagreement(estimate: Estimate) -> str:
    if not estimate.disagree:
        return ""
    return "sessions disagree: " + ", ".join(f"{group.ratio:.2f}×" for group in estimate.groups)


def times(ratio: Ratio | None) -> str:
    """A ratio as people read it, with its interval: as a share where that is small."""
    if ratio is None:
        return ""
    if says_nothing(ratio.low, ratio.high):
        return f"over {number(ratio.low)}" if ratio.low > 1.01 else f"~ {number(ratio.value)}"
    wide = max(ratio.high / ratio.value, ratio.value / ratio.low) - 1
    if wide < 0.3:
        return f"{number(ratio.value)} ±{wide:.{1 if wide < 0.0995 else 0}%}"
    return f"{number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}]"


def geometric_mean(changes: Changes[Any]) -> Styled:
    """The last line of a comparison: what happened on average."""
    mean = changes.geometric_mean()
    of = f"{counted(len(changes.changes), 'case')}"
    return Styled(f"Geometric mean of new / old over {of}: {mean:.3f}×", "bold")


def number(value: float) -> str:
    """The number with three digits."""
    if value >= 9999.5:
        return f"{value:.3g}"
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 9.995 else f"{value:.2f}"


def short_case(c: Case) -> str:
    """A case without the parts that nearly all have in common."""
    parts = [c.comparison.operator, c.comparison.function, c.comparison.size, c.comparison.dtype]
    if c.comparison.device != "cpu":
        parts.append(c.comparison.device)
    if c.comparison.threads != 1:
        parts.append(f"{c.comparison.threads} threads")
    return " ".join([*parts, c.mode])
