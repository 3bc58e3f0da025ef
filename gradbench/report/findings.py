"""The findings and caveats of a report, as sentences with a link to their figure or table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradbench.analysis.readings import LAUNCH_BOUND, launch_bound
from gradbench.core.cases import FORWARD
from gradbench.core.units import counted, false_positives, reading
from gradbench.core.verdicts import CALLED
from gradbench.report import pareto, places, sizes
from gradbench.report.data import Stored
from gradbench.report.ratios import multiple


@dataclass(frozen=True)
class Note:
    """A sentence, and the id of the part of the page that shows the evidence."""

    text: str
    evidence: str


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


def _ratio(low: float, high: float, confidence: str) -> str:
    end = "more" if high > 1e300 else f"{multiple(high)}×"
    return f"[{multiple(low)}×, {end}] at {confidence}"


def findings(frame: pd.DataFrame, stored: Sequence[Stored], changes: pd.DataFrame) -> list[Note]:
    """The main results of the newest run of each comparison."""
    if frame.empty:
        return []
    frame = frame[frame["newest"]]
    made = _odds(frame, stored)
    for operator, rows in frame.groupby("operator", sort=False):
        made += _operator(str(operator), rows, f"{stored[-1].judged.confidence:.0%}")
    for rows in sizes.families(frame):
        first: dict[Any, Any] = rows.iloc[0].to_dict()
        _, name = sizes.sized(rows)
        at = scaling_anchor(first)
        where = "{operator} of {function} ({dtype}, {device})".format(**first)
        for cross in sizes.crossovers(rows):
            text = (
                f"{where}: above {name} ≈ {cross.about}, {cross.after} is faster than "
                f"{cross.before} (clear at {cross.low} and {cross.high}, interpolated between)."
            )
            made.append(Note(text, at))
    for rows in places.families(frame):
        own: dict[Any, Any] = rows.iloc[0].to_dict()
        at = anchor("devices", *(str(own[column]) for column in places.PROBLEM))
        where = "{operator} of {function} ({dtype})".format(**own)
        made += [Note(f"{where}: {said}", at) for said in places.told(rows)]
    made += _launches(frame) + _limits(frame)
    for rows in pareto.readable(frame)[:6]:
        made += _memory(rows)
    made += _changes(changes)
    return made


def _odds(frame: pd.DataFrame, stored: Sequence[Stored]) -> list[Note]:
    judged = frame[~frame["verdict"].isin(("", "fastest"))]
    made = []
    if len(judged):
        counts = judged["verdict"].value_counts()
        each = ", ".join(f"{counts.get(v, 0)} {v}" for v in ("slower", "faster", "same"))
        expected = sum(run.judged.expected_false for run in stored)
        bound = sum(run.judged.expected_false_alarms for run in stored)
        calls = sum(run.judged.calls for run in stored)
        made.append(
            Note(
                f"{counted(len(judged), 'mode')} against the fastest of their comparison: {each}, "
                f"{counts.get('undecided', 0)} too close to call; {counted(len(stored), 'run')}, "
                f"{false_positives(calls, expected, bound)}.",
                "cases",
            )
        )
    bad = frame[~frame["status"].isin(("ok", "unsupported"))]
    counts = frame["status"].value_counts()
    said = ", ".join(f"{n} {status}" for status, n in counts.items())
    text = f"{counted(len(frame), 'case')}: {said}."
    if len(bad):
        names = list(dict.fromkeys(bad["mode"]))
        text += f" Not measurable: {', '.join(names[:6])}{'…' if len(names) > 6 else ''}."
    made.append(Note(text, "cases"))
    return made


def _operator(operator: str, rows: pd.DataFrame, confidence: str) -> list[Note]:
    at = anchor("operator", operator)
    best = rows[(rows["verdict"] == "fastest") & ~rows["by_hand"]]
    if best.empty:
        return []
    comparisons = len(best)
    counts = best["mode"].value_counts()
    mode, times = str(counts.index[0]), int(counts.iloc[0])
    ties = rows[(rows["mode"] == mode) & rows["verdict"].isin(("undecided", "same"))]
    text = f"{operator}: {mode} is the fastest automatic mode in {times} of "
    text += counted(comparisons, "comparison")
    if len(ties):
        text += f", and too close to call in {len(ties)} more"
    # Significant gains only.
    own = np.isclose(rows["to_baseline_low"], 1) & np.isclose(rows["to_baseline_high"], 1)
    beaten = rows[own & (rows["verdict"] == "slower")]
    gain = best.merge(beaten[["comparison", "run"]], on=["comparison", "run"])
    if len(gain):
        top = gain.sort_values("to_baseline").iloc[0]
        text += (
            f". The usual choice ({_names(beaten['mode'])}) is slower in {len(gain)} of "
            f"{comparisons}"
        )
        if len(gain) > 1:
            factor = multiple(float(np.median(1 / gain["to_baseline"])))
            text += f", by {factor}× in the median; most"
        text += (
            f" for {top['function']} ({top['size']}), where {top['mode']} is "
            f"{multiple(1 / top['to_baseline'])}× faster"
        )
        if top["sessions"] > 1:
            low, high = 1 / top["to_baseline_high"], 1 / max(top["to_baseline_low"], 1e-300)
            text += " " + _ratio(low, high, confidence)
    if best["to_forward"].notna().any():
        costs = multiple(float(best["to_forward"].median()))
        text += f". In the median, the fastest mode costs {costs} evaluations of the function"
    return [Note(text + ".", at)]


def _names(modes: pd.Series[str]) -> str:
    return ", ".join(dict.fromkeys(modes))


def _launches(frame: pd.DataFrame) -> list[Note]:
    """How many cases are bound by launch overhead, where the time on the device was measured."""
    if "device_time" not in frame:
        return []
    read = frame[frame["device_time"].notna() & frame["seconds"].notna()]
    bound = [r for r in read.itertuples() if launch_bound(r.seconds, r.device_time)]  # type: ignore[arg-type]
    if not bound:
        return []
    return [
        Note(
            f"Launch overhead dominates in {len(bound)} of {counted(len(read), 'case')}: the "
            f"device works for less than {LAUNCH_BOUND:.0%} of the time. '--compiled' adds modes "
            "that launch all operations at once, as a graph.",
            "cases",
        )
    ]


def _limits(frame: pd.DataFrame) -> list[Note]:
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
            text = (
                f"Large cases on {on}: the fastest modes of {counted(len(rows), 'comparison')} "
                f"reach {reach} {what}."
            )
            made.append(Note(text, "cases"))
    return made


def _memory(rows: pd.DataFrame) -> list[Note]:
    timed = rows[(rows["mode"] != FORWARD) & ~rows["by_hand"]]
    if timed.empty:
        return []
    fast = timed.sort_values("seconds").iloc[0]
    lean = timed.sort_values(["peak_memory", "seconds"]).iloc[0]
    first = rows.iloc[0]
    where = f"{first.operator} of {first.function} at {first['size']}"
    if fast["peak_memory"] <= lean["peak_memory"]:
        text = f"{where}: the fastest mode, {fast['mode']}, also needs the least memory"
        text += f" ({reading(fast['peak_memory'], 'bytes')})."
    else:
        text = (
            f"{where}: the fastest mode, {fast['mode']}, peaks at "
            f"{reading(fast['peak_memory'], 'bytes')}; {lean['mode']} at "
            f"{reading(lean['peak_memory'], 'bytes')} takes "
            f"{multiple(lean['seconds'] / fast['seconds'])}× its time."
        )
    return [Note(text, anchor("memory", first.comparison, first.run))]


def _changes(changes: pd.DataFrame) -> list[Note]:
    if changes.empty:
        return []
    counts = changes["verdict"].value_counts()
    names = list(dict.fromkeys(changes["release"]))
    return [
        Note(
            f"Over {len(names)} torch builds ({names[0]} to {names[-1]}): "
            f"{counts.get('slower', 0)} changes are slower, {counts.get('faster', 0)} faster, "
            f"{counts.get('undecided', 0)} too close to call. {_largest(changes)}",
            "releases",
        )
    ]


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


def warnings(frame: pd.DataFrame, stored: Sequence[Stored], problems: Sequence[str]) -> list[str]:
    """The caveats of the report."""
    said = list(problems)
    for run in stored:
        found, environment = run.judged, run.environment
        said += found.problems + [f"Run {run.name}: {line}" for line in found.cautions]
        if not found.finished:
            said.append(f"Run {run.name} is not finished; resume it with 'gradbench run --resume'.")
        if found.sessions == 1:
            said.append(f"Run {run.name} has one session: too few for a verdict.")
        voided = sum(row.voided > 0 for row in found.rows)
        if voided:
            said.append(
                f"Run {run.name}: sessions of {counted(voided, 'case')} are left out: their "
                "control differed."
            )
        load, cores = environment["load at start"], environment["cores"]
        if load is not None and cores and load > 0.5 * cores:
            said.append(
                f"Run {run.name}: the machine was busy at the start (load {load:.1f} on {cores} "
                "cores). Times are inflated, intervals wider."
            )
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
