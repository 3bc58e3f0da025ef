"""What an answer says in sentences: the winner, by how much, at what cost, on what grounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradbench.advise import theory
from gradbench.advise.looking import IMPORTING
from gradbench.analysis.table import Ratio, Row
from gradbench.core.cases import FORWARD
from gradbench.core.instruments import PEAK_MEMORY
from gradbench.core.operators import OPERATORS
from gradbench.core.units import call_time, counted, reading
from gradbench.core.verdicts import NOT_NEEDED, Status, Verdict

if TYPE_CHECKING:
    from gradbench.advise.answer import Advice

PEAK = PEAK_MEMORY.name

LEAN = 0.5
"""Another mode's memory is worth a word below this share of the fastest's, where it takes no more
than `NEARLY` times as long."""
NEARLY = 1.5

TELLING = 4.0
"""How many times its low end the high end of a ratio's interval may be to say something."""

FAILED = (
    Status.UNSUPPORTED,
    Status.WRONG,
    Status.FAILED,
    Status.CRASHED,
    Status.OUT_OF_MEMORY,
)
"""What no further time changes."""

NOT_TRIED = (Status.UNSUPPORTED, Status.REFUSED)
"""What says nothing about a result."""

MORE = 3
"""How many times the budget is proposed where it was too short."""


def number(value: float) -> str:
    """A ratio with three digits and no exponent below a million."""
    if value >= 1e6:
        return f"{value:.2g}"
    return (
        f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 9.995 else f"{value:.2f}"
    )


def between(ratio: Ratio) -> str:
    """The ratio with its interval, as ``58 (95 % interval 56 to 60)``; the low end alone where the
    interval is wide."""
    if says_little(ratio):
        return f"over {number(ratio.low)}" if ratio.low > 1 else f"about {number(ratio.value)}"
    return f"{number(ratio.value)} (95 % interval {number(ratio.low)} to {number(ratio.high)})"


def factor(ratio: Ratio | None) -> str:
    """The ratio as a cell: with its interval where that says something."""
    if ratio is None:
        return ""
    ends = (ratio.high / ratio.value, ratio.value / ratio.low if ratio.low else math.inf)
    wide = max(ends) - 1
    if wide < 0.3:
        return f"{number(ratio.value)} ±{wide:.{1 if wide < 0.0995 else 0}%}"
    if ratio.low and not says_little(ratio):
        return f"{number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}]"
    return f"over {number(ratio.low)}" if ratio.low > 1.01 else f"~ {number(ratio.value)}"


def spread(row: Row) -> str:
    """A mode's time with how far the processes' medians lie from it; their range where that is
    far."""
    if row.seconds is None:
        return ""
    said = call_time(row.seconds)
    if row.seconds_low is None or row.seconds_high is None or row.sessions < 2:
        return said
    wide = max(row.seconds_high - row.seconds, row.seconds - row.seconds_low) / row.seconds
    if wide >= 1:
        return f"{call_time(row.seconds_low)} to {call_time(row.seconds_high)}"
    return f"{said} ±{max(wide, 0.005):.0%}"


def winner(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.verdict == Verdict.FASTEST), None)


def sentences(advice: Advice) -> list[str]:
    """What is said of the winner, the user's own ways and memory, the most important first."""
    if winner(advice.rows()) is None:
        return recommendation(advice)
    said = [gain(advice), *multiple(advice), *close(advice), *own(advice), memory(advice)]
    return [sentence for sentence in [*said, busy(advice)] if sentence]


def busy(advice: Advice) -> str:
    """What other processes did to the times; empty where it hardly matters."""
    rows = [row for row in advice.rows() if row.disturbed]
    affected = [row for row in rows if row.interference]
    if not affected:
        return ""
    worst = max(affected, key=lambda row: row.disturbed or 0.0)
    return (
        f"Other processes disturbed {counted(len(affected), 'mode')}, most of all {worst.mode} "
        f"({worst.interference}): stop them and ask again; 'gradbench doctor' measures the noise."
    )


def gain(advice: Advice) -> str:
    """How much faster the fastest mode is than the usual choice."""
    rows, first = advice.rows(), advice.first
    best = winner(rows)
    if best is None:
        return ""
    if best.mode == first:
        return f"{best.mode}, the usual choice, is the fastest."
    usual = next((row for row in rows if row.mode == first), None)
    if usual is None or usual.to_fastest is None:
        why = f": {usual.status}, {usual.reason}" if usual is not None and usual.reason else ""
        return f"{best.mode} is the fastest. The usual choice, {first}, was not timed{why}."
    ratio = usual.to_fastest
    if usual.verdict != Verdict.SLOWER and (ratio.low <= 1 or usual.sessions > 1):
        against = f"against {first}, the usual choice, it is too close to call"
        if says_little(ratio):
            against = f"{first}, the usual choice, was measured too briefly to compare"
        return f"{best.mode} is the fastest so far; {against}: {_more(advice)}."
    rough = "" if usual.sessions > 1 else " Measured in one process, so this is rough."
    said = f"{best.mode} is {_times(ratio)} faster than {first}, the usual choice{_ends(ratio)}."
    return said + rough


def _times(ratio: Ratio) -> str:
    return f"more than {number(ratio.low)}×" if says_little(ratio) else f"{number(ratio.value)}×"


def _ends(ratio: Ratio) -> str:
    if says_little(ratio) or ratio.low == ratio.high:
        return ""
    return f" (95 % interval {number(ratio.low)} to {number(ratio.high)})"


def multiple(advice: Advice) -> list[str]:
    """What the derivative costs in evaluations of the function, the headline of every objective."""
    best = winner(advice.rows())
    if best is None or best.to_forward is None or best.to_forward.high > 1e300:
        return []
    ratio = best.to_forward
    return [
        f"The {OPERATORS[advice.operator].words} costs {number(ratio.value)}× the function "
        f"itself{_ends(ratio)}."
    ]


def close(advice: Advice) -> list[str]:
    """The modes that may be as fast as the fastest."""
    rows = advice.rows()
    open_ = {
        row.mode: row.to_fastest
        for row in rows
        if row.verdict == Verdict.UNDECIDED and row.to_fastest and row.to_fastest.low <= 1.01
    }
    open_.pop(advice.first, None)
    brief = [mode for mode, ratio in open_.items() if says_little(ratio)]
    near = [mode for mode in open_ if mode not in brief]
    said = []
    if near:
        verb = "are" if len(near) > 1 else "is"
        said.append(f"{_listed(near)} {verb} too close to it to call")
    if brief:
        verb = "were" if len(brief) > 1 else "was"
        said.append(f"{_listed(brief)} {verb} measured too briefly to compare")
    return [f"{', and '.join(said)}: {_more(advice)}."] if said else []


def says_little(ratio: Ratio) -> bool:
    """Whether a ratio's interval is so wide that no size is known."""
    return ratio.high > TELLING * ratio.low


def _listed(modes: Sequence[str]) -> str:
    return ", ".join(modes[:3]) + (f" and {len(modes) - 3} more" if modes[3:] else "")


def _more(advice: Advice) -> str:
    return f"more time is needed ({_longer(advice)})"


def _longer(advice: Advice) -> str:
    """A larger budget, as an option or, from Python, as an argument."""
    name = "budget=" if advice.question.passed else "--budget "
    return f"{name}{MORE * advice.budget:g}"


def own(advice: Advice) -> list[str]:
    """A sentence for each derivative given with `also`."""
    rows = advice.rows()
    best, said = winner(rows), []
    for row in rows:
        if row.mode not in advice.found["own"] or row is best:
            continue
        if row.to_fastest is None or best is None:
            said.append(f"Your {row.mode} was not timed: {row.status}, {row.reason}.")
        elif row.verdict == Verdict.UNDECIDED:
            why = "measured too briefly" if says_little(row.to_fastest) else "too close to call"
            said.append(f"Your {row.mode} against {best.mode}: {why}.")
        else:
            said.append(f"Your {row.mode} takes {between(row.to_fastest)} times as long.")
    return said


def memory(advice: Advice) -> str:
    """The mode that needs far less memory in nearly the same time as the fastest."""
    rows = [row for row in advice.rows() if PEAK in row.readings and row.seconds]
    best = winner(rows)
    if best is None or best.seconds is None:
        return ""
    near = [row for row in rows if row.seconds and row.seconds <= NEARLY * best.seconds]
    lean = min(near, key=lambda row: row.readings[PEAK])
    if lean.readings[PEAK] > LEAN * best.readings[PEAK] or not lean.seconds:
        return ""
    return (
        f"{lean.mode} needs {reading(lean.readings[PEAK], 'bytes')} of memory instead of "
        f"{reading(best.readings[PEAK], 'bytes')}, in {lean.seconds / best.seconds:.2f}× the time."
    )


def recommendation(advice: Advice) -> list[str]:
    """What to try where nothing was timed, by the count of passes."""
    found, budget = advice.found, advice.budget
    if not found["operators"]:
        lines = [
            f"Nothing was measured: {found['doing']} was not over when the time was up"
            f"{', as the machine is busy' if found['doing'] == IMPORTING else ''}: {_more(advice)}."
        ]
        if found["code"]:
            lines.append("The code below is the best by theory: it picks by the value's size.")
        return lines
    ways = _left(advice)
    if not ways:
        return ["No mode could be timed.", *_all_wrong(advice)]
    reason = f"No time was left to measure in {budget:g} s"
    if advice.stopped:
        reason = "Stopped before anything was timed"
    elif advice.rows():
        reason = "Nothing was timed"
    first, *others = ways
    said = f"{reason}. By the count of passes, try {first} ({_passes(advice, first)})"
    if others:
        said += f", then {others[0]} ({_passes(advice, others[0])})"
    more = [] if advice.stopped else [f"To measure them: {_longer(advice)}."]
    return [f"{said}.", *more]


def _all_wrong(advice: Advice) -> list[str]:
    """What it means where every mode that can do the function is wrong."""
    rows = [row for row in advice.rows() if row.status not in NOT_TRIED]
    if not rows or any(row.status != Status.WRONG for row in rows):
        return []
    modes = "the one mode" if len(rows) == 1 else f"all {len(rows)} modes"
    dtype = advice.question.dtype
    narrow = dtype != "float64" and not any("in float64 too" in row.reason for row in rows)
    alone = f" in {dtype}, which evidence in float64 does not show" * narrow
    return [
        f"As {modes} that can do it give a wrong result, the function itself is the likely cause: "
        f"a backward of its own that is wrong{alone}."
    ]


def recommended(advice: Advice) -> str:
    """The mode whose code is shown: the fastest, or the most promising by the count of passes."""
    best = winner(advice.rows())
    if best is not None:
        return best.mode
    return next(iter(_left(advice)), "")


def _left(advice: Advice) -> list[str]:
    """The modes that may be the best for all that is known, the most promising first."""
    out = {row.mode for row in advice.rows() if row.status in FAILED}
    out |= {FORWARD, *advice.found["ruled_out"]}
    return [mode for mode in theory.in_order(advice.found, advice.found["code"]) if mode not in out]


def _passes(advice: Advice, mode: str) -> str:
    count, batched = theory.passes(advice.found, mode)
    return f"{counted(count, 'pass')}{' in one batch' if batched and count > 1 else ''}"


def statuses(rows: Sequence[Row]) -> list[str]:
    """A line for each reason why modes were not timed, with the modes, but for those that have
    nothing to do."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.seconds is None and not (row.reason or "").startswith(NOT_NEEDED):
            reason = row.reason or row.interference or "no time was left to time it"
            passed = Verdict.UNDECIDED if row.interference else Status.REFUSED
            status = passed if row.status == Status.OK else row.status
            by_reason.setdefault((status, reason), []).append(row.mode)
    return [
        f"{', '.join(modes)}: {status}: {reason}" for (status, reason), modes in by_reason.items()
    ]
