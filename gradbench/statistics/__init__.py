"""Estimators, intervals and verdicts: pure functions on arrays, apart from every measurement.

Terms. A *round* holds one visit of each contestant; a visit's value is the smallest time per call
of its sub-blocks, in seconds. A *session* is one process's share of a comparison: its rounds.
Ratios are formed inside a round, so that a drift of the machine, which both sides of a round share,
cancels. "Log" is the natural logarithm throughout; a log ratio of 0.01 is a slowdown of 1.005 %. A
ratio is time over time of reference: above 1 the contestant is slower. A missing visit is NaN. The
*floor* is the threshold: the smallest difference that matters.

How a verdict comes about:

1. in a session, the median of the paired log ratios, with its order-statistic interval
   (`samples.median_interval`);
2. between sessions, a t-interval over those medians (`between.between_sessions`), because what
   varies from process to process (memory layout, hash seeds) is outside any one session's interval;
3. against the floor, *faster* or *slower* where the whole interval lies beyond it, *same* where it
   lies inside, else *undecided* (`verdicts.verdict`);
4. over a table, faster and slower only where the p-value adjusted for the table's size agrees
   (`verdicts.judge`).

**Multiplicity and the winner's curse.** Three different traps, each handled in one place. Many rows
in one table: `judge` adjusts the p-values and states how many false positives to expect. One
contestant picked as the fastest from the same data: it owes part of its place to luck, so others
look slower against it than they are; `fastest_of_each` pays for the choice with one Bonferroni
factor, which is valid however the choice was made. Many looks while measuring: `enough` never looks
at a difference, only at precision, so stopping cannot select one.

Nothing here imports torch or scipy.stats; scipy.special is imported where a t-distribution is
needed, and not by the stopping rule or the control, which run inside the measuring loop.
"""

from gradbench.statistics.between import TRIM, Estimate, between_sessions, compare_runs
from gradbench.statistics.bounds import Bound, at_most
from gradbench.statistics.fastest import Ranking, fastest_of_each
from gradbench.statistics.groups import Group, clusters
from gradbench.statistics.moderation import Spread, apart, power
from gradbench.statistics.samples import (
    CONFIDENCE,
    ENOUGH,
    FLOOR,
    RELEASE_FLOOR,
    Array,
    SessionEstimate,
    median_interval,
    middle,
    middles,
    session_time,
)
from gradbench.statistics.stopping import Stop, Stopping, controls_differ, enough, half_widths
from gradbench.statistics.tables import BATCH, Tables, relative_to, relative_to_each
from gradbench.statistics.verdicts import Judgement, Method, adjust, judge, verdict

__all__ = [
    "BATCH",
    "CONFIDENCE",
    "ENOUGH",
    "FLOOR",
    "RELEASE_FLOOR",
    "TRIM",
    "Array",
    "Bound",
    "Estimate",
    "Group",
    "Judgement",
    "Method",
    "Ranking",
    "SessionEstimate",
    "Spread",
    "Stop",
    "Stopping",
    "Tables",
    "adjust",
    "apart",
    "at_most",
    "between_sessions",
    "clusters",
    "compare_runs",
    "controls_differ",
    "enough",
    "fastest_of_each",
    "half_widths",
    "judge",
    "median_interval",
    "middle",
    "middles",
    "power",
    "relative_to",
    "relative_to_each",
    "session_time",
    "verdict",
]
