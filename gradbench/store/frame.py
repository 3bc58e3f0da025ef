"""Stored runs as pandas data frames: flat rows, one schema, raw samples too.

docs/results.md documents every column.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from gradbench.cases import Comparison
from gradbench.instruments import INSTRUMENTS
from gradbench.judge import judged, read_values, record, with_readings
from gradbench.store.log import (
    BUILD,
    Entrant,
    Run,
    SessionMeasured,
    StoreError,
    folder,
    locate,
    minima,
    read,
    read_all,
)
from gradbench.text import shown

ENVIRONMENT = (*BUILD, "gradbench")
"""Fields of the measuring process that every row carries."""


def _runs(results: str | Path, runs: Iterable[str] | None) -> list[Run]:
    place = Path(results)
    if runs is not None:
        return [read(locate(place, name)) for name in runs]
    found, problems = read_all(place)
    for problem in problems + [p for run in found for p in run.problems]:
        warnings.warn(shown(problem), stacklevel=3)
    if not found:
        raise StoreError(f"there are no runs in {folder(place)}; 'gradbench run' makes one")
    return found


def load(results: str | Path = "results", runs: Iterable[str] | None = None) -> pd.DataFrame:
    """Every stored case, one row per case and session.

    `runs`: names, beginnings of names, 'latest' or paths; None for all. `seconds` is the median
    of the session's visit minima, seconds per call, and `seconds_min` the smallest. Cases that
    were not timed have a status, a reason and no time. What other instruments read of a case
    stands in each of its rows. Raises StoreError where there are none.
    """
    rows = []
    for run in _runs(results, runs):
        readings = read_values(run)
        for session in [*run.sessions, *_untimed(run)]:
            case = Comparison.parse(session.comparison)
            environment = run.environment(session.process)
            for entrant in session.entrants:
                times = np.array(minima(entrant.number, entrant.samples))
                times = times[~np.isnan(times)]
                compared = entrant.status in ("ok", "wrong")
                read_here = readings.get((session.comparison, entrant.mode), {})
                rows.append(
                    {
                        "run": run.name,
                        "operator": case.operator,
                        "function": case.function,
                        "size": case.size,
                        "dtype": case.dtype,
                        "device": case.device,
                        "threads": case.threads,
                        "mode": entrant.mode,
                        "control": entrant.control,
                        "session": session.session,
                        "process": session.process,
                        "status": entrant.status,
                        "reason": entrant.reason,
                        "note": entrant.note,
                        "seconds": float(np.median(times)) if times.size else np.nan,
                        "seconds_min": float(times.min()) if times.size else np.nan,
                        "rounds": int(times.size),
                        "number": entrant.number,
                        "error": entrant.error if compared else np.nan,
                        "ulps": entrant.ulps if compared else np.nan,
                        **{name: read_here.get(name, np.nan) for name in INSTRUMENTS},
                        "stopped": session.stopped,
                        "load": session.load,
                        "cpu": run.started.machine.get("cpu", ""),
                        "device_name": case.place.name(environment),
                        **{name: environment.get(name) for name in ENVIRONMENT},
                    }
                )
    return pd.DataFrame(rows)


def _untimed(run: Run) -> list[SessionMeasured]:
    """Comparisons that were read by other instruments and not timed, as sessions without times."""
    timed = {session.comparison for session in run.sessions}
    entrants: dict[str, list[Entrant]] = {}
    for row in with_readings([], run):
        if row.comparison not in timed:
            entrants.setdefault(row.comparison, []).append(
                # It was checked, but how far off it was is not kept.
                Entrant(row.mode, row.status, row.reason, error=math.nan, ulps=math.nan)
            )
    processes = {reading.comparison: reading.process for reading in reversed(run.readings)}
    return [
        SessionMeasured(
            comparison=name,
            session=0,
            process=processes[name],
            baseline="",
            entrants=found,
            order=[],
            stopped="not timed",
            visiting=0.0,
            elapsed=0.0,
            load=math.nan,
        )
        for name, found in entrants.items()
    ]


def samples(results: str | Path = "results", runs: Iterable[str] | None = None) -> pd.DataFrame:
    """Every raw sample: one row per sub-block, with its round and its place in the visit.

    `nanoseconds` is the sub-block's whole length, `number` the calls in it. Raises StoreError
    where there are no runs.
    """
    columns: dict[str, list[object]] = {
        name: []
        for name in (
            *("run", "comparison", "mode", "control", "session", "process"),
            *("round", "block", "number", "nanoseconds"),
        )
    }
    for run in _runs(results, runs):
        for session in run.sessions:
            for entrant in session.entrants:
                for turn, blocks in enumerate(entrant.samples):
                    for block, nanoseconds in enumerate(blocks):
                        for name, value in zip(
                            columns,
                            (
                                *(run.name, session.comparison, entrant.mode, entrant.control),
                                *(session.session, session.process, turn, block),
                                *(entrant.number, nanoseconds),
                            ),
                        ):
                            columns[name].append(value)
    return pd.DataFrame(columns)


def verdicts(
    results: str | Path = "results",
    run: str = "latest",
    floor: float = 0.01,
    confidence: float = 0.95,
    method: str = "benjamini-hochberg",
) -> pd.DataFrame:
    """One judged row per case of a run: ratios with intervals, verdicts, statuses.

    `floor` is the smallest difference that matters, as a share; `method` how false alarms are
    held down over the table. Raises StoreError where there is no such run.
    """
    found = judged(locate(Path(results), run), floor, confidence, method)
    return pd.DataFrame([record(row, found) for row in found.rows])
