"""The course of every case over torch releases as a pandas data frame."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench import statistics
from gradbench.analysis import schema
from gradbench.analysis.tracks import History
from gradbench.core import arguments
from gradbench.statistics import Estimate
from gradbench.store import tracks as log
from gradbench.store.environment import BUILD
from gradbench.store.lines import StoreWarning

COLUMNS = tuple(schema.TIMELINE)


def timeline(
    results: str | Path = "results",
    tracks: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    floor: float = statistics.RELEASE_FLOOR,
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """A row per case and build that was tracked, in the releases' order; empty without any.

    `seconds` is the median over sessions of a call's time, descriptive. `to_baseline` is the ratio
    to the build `baseline`, `change` that to the build `before` it (NaN for the first), and
    `from_first`, in the last row of a case, that to the `first` build of all; each with its
    interval between sessions. `verdict` and `from_first_verdict` are those of the changes, with
    false positives controlled over the whole table. Each ratio is of the newest measurement that
    has both builds. `note` names what else changed with the release. `tracks`: one or several of
    names, beginnings of names, paths, and what `gradbench.track` returned; None for all. Columns
    are of the kinds that `gradbench.load` says; times are in seconds, ratios plain numbers. Raises
    StoreError for a track that does not exist.

    >>> from gradbench.releases import timeline
    >>> timeline("results")["change"].dtype
    dtype('float64')
    """
    place = log.KIND.results(results, "tracks")
    names = arguments.texts("tracks", tracks)
    arguments.share("floor", floor)
    arguments.confidence("confidence", confidence)
    if names is None:
        chosen, problems = log.read_all(place)
    else:
        chosen, problems = log.KIND.once([log.find(place, name) for name in names])
    for problem in problems + [p for track in chosen for p in track.problems]:
        warnings.warn(problem, StoreWarning, stacklevel=2)
    return schema.of_records(_rows(History.of(chosen), floor, confidence), schema.TIMELINE)


def frame(
    history: History,
    floor: float = statistics.RELEASE_FLOOR,
    confidence: float = statistics.CONFIDENCE,
) -> pd.DataFrame:
    """As `timeline`, of a history, with names as strings, for figures and findings."""
    return pd.DataFrame(_rows(history, floor, confidence), columns=list(COLUMNS))


def _rows(history: History, floor: float, confidence: float) -> list[dict[str, Any]]:
    steps = history.steps()
    judged = history.changes(steps, floor, confidence)
    changes = {(c.case, c.after): c for c in judged.changes}
    wider = history.changes(history.ranges(steps), floor, confidence)
    ranges = {(c.case, c.after): c for c in wider.changes}
    rows = []
    for case, (reference, to_baseline) in zip(history.cases, history.to_baseline(history.cases)):
        for build in history.builds:
            point = history.point(build, case)
            if point is None:
                continue
            used = history.used(build)
            change, whole = changes.get((case, build)), ranges.get((case, build))
            row: dict[str, Any] = {
                "operator": case.comparison.operator,
                "function": case.comparison.function,
                "size": case.comparison.size,
                "dtype": case.comparison.dtype,
                "device": case.comparison.device,
                "threads": case.comparison.threads,
                "mode": case.mode,
                "release": history.key(build),
                "date": used.date,
                "status": point.status,
                "reason": point.reason,
                "seconds": point.seconds,
                "clock": point.clock,
                "wall_seconds": point.wall_seconds,
                "processor_seconds": point.processor_seconds,
                **_ratio("to_baseline", to_baseline.get(build)),
                "before": history.key(change.before) if change else "",
                **_ratio("change", change.estimate if change else None),
                "verdict": change.verdict if change else "",
                "first": history.key(whole.before) if whole else "",
                **_ratio("from_first", whole.estimate if whole else None),
                "from_first_verdict": whole.verdict if whole else "",
                "baseline": history.key(reference) if reference else "",
                "instructions": point.instructions,
                **{name: used.identity.get(name) for name in BUILD},
                "machine": build.machine,
                "track": history.track(build, case),
                "note": change.note if change else "",
            }
            if build == reference:
                row |= {"to_baseline": 1.0, "to_baseline_low": 1.0, "to_baseline_high": 1.0}
            rows.append(row)
    return rows


def _ratio(name: str, estimate: Estimate | None) -> dict[str, float]:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    return {name: estimate.ratio, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
