"""How far a report can be trusted: its caveats, and what its verdicts rest on, in sentences."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradbench.analysis.readings import LAUNCH_BOUND, launch_bound
from gradbench.core.cases import FORWARD
from gradbench.core.units import counted, false_positives, multiple, short
from gradbench.core.verdicts import CALLED
from gradbench.report import history, sizes
from gradbench.report.data import Stored

LONGEST_ANCHOR = 180
"""Characters; a file system allows some 250 for a name with its ending."""


def anchor(*parts: str) -> str:
    """An id for a part of the page and the name of its file, whatever is in the names."""
    kept = ["".join(c if c.isascii() and c.isalnum() else "-" for c in part) for part in parts]
    name = "-".join(kept)
    # It names files too, and a file's name has an end.
    if len(name) <= LONGEST_ANCHOR:
        return name
    digest = hashlib.sha256("/".join(parts).encode(errors="replace")).hexdigest()[:12]
    return f"{name[: LONGEST_ANCHOR - 13]}-{digest}"


def scaling_anchor(row: Mapping[Any, Any]) -> str:
    """The id of the figure of time over size that a row belongs to."""
    return anchor("scaling", *(str(row[name]) for name in sizes.FAMILY))


def trust(frame: pd.DataFrame, stored: Sequence[Stored]) -> list[str]:
    """How far the verdicts of one machine can be trusted, in sentences."""
    if frame.empty:
        return []
    frame = frame[frame["newest"]]
    return [*_odds(frame, stored), *_checked(frame), *_launches(frame), *_limits(frame)]


def _odds(frame: pd.DataFrame, stored: Sequence[Stored]) -> list[str]:
    judged = frame[~frame["verdict"].isin(("", "fastest"))]
    made = []
    if len(judged):
        counts = judged["verdict"].value_counts()
        each = ", ".join(f"{counts.get(v, 0)} {v}" for v in ("slower", "faster", "same"))
        expected = sum(run.judged.expected_false for run in stored)
        bound = sum(run.judged.expected_false_alarms for run in stored)
        calls = sum(run.judged.calls for run in stored)
        one = stored[-1].judged
        made.append(
            f"{counted(len(judged), 'mode')} against the fastest of their comparison: {each}, "
            f"{counts.get('undecided', 0)} too close to call; {counted(len(stored), 'run')}, "
            f"{false_positives(calls, expected, bound)}. Intervals are at {one.confidence:.0%}; "
            f"differences below {one.floor:.0%} count as none."
        )
    bad = frame[~frame["status"].isin(("ok", "unsupported"))]
    counts = frame["status"].value_counts()
    said = ", ".join(f"{n} {status}" for status, n in counts.items())
    text = f"{counted(len(frame), 'case')}: {said}."
    if len(bad):
        names = list(dict.fromkeys(bad["mode"]))
        text += f" Not measurable: {', '.join(names[:6])}{'…' if len(names) > 6 else ''}."
    return [*made, text]


def _checked(frame: pd.DataFrame) -> list[str]:
    """The largest error of what was timed: every mode is checked before it is."""
    checked = frame[frame["status"].eq("ok") & frame["mode"].ne(FORWARD) & frame["ulps"].notna()]
    if checked.empty:
        return []
    worst = checked.sort_values("ulps").iloc[-1]
    return [
        "Every mode is compared with the analytic derivative before and after it is timed. The "
        f"largest error is {short(worst['ulps'])} units in the last place of the block's largest "
        f"entry ({worst['mode']}, {worst['operator']} of {worst['function']})."
    ]


def _launches(frame: pd.DataFrame) -> list[str]:
    """How many cases are bound by launch overhead, where the time on the device was measured."""
    if "device_time" not in frame:
        return []
    read = frame[frame["device_time"].notna() & frame["seconds"].notna()]
    bound = [r for r in read.itertuples() if launch_bound(r.seconds, r.device_time)]  # type: ignore[arg-type]
    if not bound:
        return []
    return [
        f"Launch overhead dominates in {len(bound)} of {counted(len(read), 'case')}: the "
        f"device works for less than {LAUNCH_BOUND:.0%} of the time. '--compiled' adds modes "
        "that launch all operations at once, as a graph."
    ]


def _limits(frame: pd.DataFrame) -> list[str]:
    """The share of the device's limits that the fastest modes of large cases reach."""
    made = []
    fastest = frame[frame["verdict"] == "fastest"]
    for column, what in (
        ("of_bandwidth", "of the bandwidth of a copy, counting only inputs and result"),
        ("of_rate", "of the rate of a matmul"),
    ):
        known = fastest[fastest[column].notna()]
        for (device, threads), rows in known.groupby(["device", "threads"]):
            low, high = rows[column].min(), rows[column].max()
            reach = f"{low:.0%}" if len(rows) == 1 else f"{low:.0%} to {high:.0%}"
            on = f"{device}, {counted(int(str(threads)), 'thread')}" if device == "cpu" else device
            made.append(
                f"Large cases on {on}: the fastest modes of {counted(len(rows), 'comparison')} "
                f"reach {reach} {what}."
            )
    return made


def over_releases(changes: pd.DataFrame) -> str:
    """What changed over the tracked builds of one machine, in a sentence."""
    counts = changes["verdict"].value_counts()
    names = history.ordered(changes)
    return (
        f"Over {len(names)} torch builds ({names[0]} to {names[-1]}): "
        f"{counts.get('slower', 0)} changes are slower, {counts.get('faster', 0)} faster, "
        f"{counts.get('undecided', 0)} too close to call. {_whole(changes)}{_largest(changes)}"
    )


def _whole(changes: pd.DataFrame) -> str:
    """What changed from the first release to the last, where there are others between."""
    if "from_first_verdict" not in changes or not changes["from_first_verdict"].any():
        return ""
    counts = changes["from_first_verdict"].value_counts()
    return (
        f"From the first release to the last, {counted(counts.get('slower', 0), 'case')} became "
        f"slower and {counts.get('faster', 0)} faster. "
    )


def _largest(changes: pd.DataFrame) -> str:
    """The release with most significant changes, and the mode that it changed most."""
    called = changes[changes["verdict"].isin(CALLED)]
    if called.empty:
        return "No significant changes."
    release = called["release"].value_counts().index[0]
    here = changes[(changes["release"] == release) & changes["change"].notna()]
    typical = here.groupby("mode")["change"].agg(lambda c: float(np.log(c).median()))
    mode = str(typical.abs().idxmax())
    mine = here[here["mode"] == mode]
    said = mine["verdict"].value_counts()
    note = next((str(n) for n in here["note"] if n), "")
    return (
        f"Most changed with {release}: {mode} takes {multiple(math.exp(typical[mode]))}× the time "
        f"in the median of {counted(len(mine), 'case')} ({said.get('slower', 0)} slower, "
        f"{said.get('faster', 0)} faster)" + (f"; besides torch, {note}." if note else ".")
    )


def run_caveats(run: Stored) -> list[str]:
    """The caveats of one run, a busy machine first."""
    found = run.judged
    said = [found.busy] if found.busy else []
    said += found.cautions
    if not found.finished:
        said.append("The run is not finished; resume it with 'gradbench run --resume'.")
    if found.sessions == 1:
        said.append("The run has one session: too few for a verdict.")
    voided = sum(row.voided > 0 for row in found.rows)
    if voided:
        said.append(f"Sessions of {counted(voided, 'case')} are left out: their control differed.")
    return said + found.problems


def warnings(frame: pd.DataFrame, stored: Sequence[Stored]) -> list[str]:
    """The caveats of the runs of one machine."""
    said = [f"{run.name}: {line}" for run in stored for line in run_caveats(run)]
    if frame.empty:
        return said
    apart = frame[frame["groups"].map(bool)]
    if len(apart):
        said.append(
            f"Sessions disagree in {counted(len(apart), 'case')}: processes fall into groups with "
            "different ratios, which the rows list."
        )
    for name, what in (
        ("torch", "torch builds"),
        ("cpu", "processors"),
        ("device_name", "GPUs"),
        ("cpu_capability", "CPU capabilities"),
        ("python", "Python versions"),
    ):
        values = sorted({str(v) for v in frame[name]} - {""})
        if len(values) > 1:
            said.append(
                f"This report has several {what} ({', '.join(values)}): compare absolute times "
                "only within one."
            )
    called = frame[frame["verdict"].isin((*CALLED, "fastest"))]
    key = ["comparison", "mode", "cpu", "device_name", "torch"]
    both = called.groupby(key, dropna=False)["verdict"].nunique()
    if (both > 1).any():
        said.append(
            f"The verdicts of {counted(int((both > 1).sum()), 'case')} differ between runs of one "
            "build; the figures show the newest run."
        )
    return said
