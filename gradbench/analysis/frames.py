"""Stored runs as pandas data frames: flat rows, one schema, raw samples too.

docs/results.md documents every column.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from gradbench import statistics
from gradbench.analysis import clocks, schema
from gradbench.analysis.readings import read_values, with_readings
from gradbench.analysis.runs import judged
from gradbench.analysis.table import record
from gradbench.core import arguments
from gradbench.core.cases import Case, Comparison
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.text import shown
from gradbench.core.verdicts import Status
from gradbench.store.environment import COLUMNS
from gradbench.store.lines import StoreWarning
from gradbench.store.runs import (
    KIND,
    Entrant,
    Run,
    SessionMeasured,
    SessionTimed,
    StoreError,
    condensing,
    folder,
    locate,
    read,
    read_header,
    read_headers,
)

R = TypeVar("R")


Runs = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One run or several: names, beginnings of names, 'latest', paths, or what `gradbench.run` gave."""


def _each_run(
    results: str | Path,
    runs: Runs | None,
    make: Callable[[Run], R],
    *,
    condensed: bool,
) -> list[R]:
    """What `make` makes of each run; only one of them is in memory at a time."""
    place = KIND.results(results, "runs")
    runs = arguments.texts("runs", runs)
    problems: list[str] = []

    def made(path: Path) -> R:
        run = read(path, condensed=condensed)
        problems.extend(run.problems)
        return make(run)

    if runs is not None:
        headers, skipped = KIND.once([read_header(locate(place, name)) for name in runs])
    else:
        headers, skipped = read_headers(place)
    found = [made(header.path) for header in headers]
    for problem in skipped + problems:
        warnings.warn(shown(problem), StoreWarning, stacklevel=3)
    if not found and runs is None:
        raise StoreError(f"there are no runs in {folder(place)}; 'gradbench run' makes one")
    return found


def load(results: str | Path = "results", runs: Runs | None = None) -> pd.DataFrame:
    """Loads every stored case, one row per case and session.

    `runs` is a name, the beginning of a name, 'latest', a path or what `gradbench.run` returned, or
    several of these; None loads all runs. `seconds` is the median of the session's visit minima, in
    seconds per call, and `seconds_min` the smallest. Cases that were not timed have a status, a
    reason and no time. Each row of a case repeats the case's readings of other instruments.

    Names are categorical, numbers int64 or float64, flags bool, whatever the runs contain;
    `attrs["units"]` has the units. Raises StoreError if there are no runs.

    >>> cases = gradbench.load("results")
    >>> cases["seconds"].dtype, cases.attrs["units"]["seconds"]
    (dtype('float64'), 's')
    >>> cases["status"].dtype.name
    'category'
    """
    parts = _each_run(results, runs, _cases, condensed=True)
    columns: dict[str, Any] = {}
    for name in schema.LOAD:
        values = [part.pop(name) for part in parts]
        arrays = bool(values) and isinstance(values[0], np.ndarray)
        columns[name] = np.concatenate(values) if arrays else itertools.chain.from_iterable(values)
    return schema.framed(columns, schema.LOAD)


def _cases(run: Run) -> dict[str, Any]:
    """The columns of a run's rows in `load`: arrays of numbers, and iterators over anything else,
    which take no memory until they are asked for."""
    sessions = list(map(condensing(), [*run.sessions, *_untimed(run)]))
    entrants = [entrant for session in sessions for entrant in session.entrants]
    counts = [len(session.entrants) for session in sessions]
    cases = [session.comparison for session in sessions]
    builds = {worker.process: worker.environment for worker in reversed(run.workers)}
    environments = [builds.get(session.process, {}) for session in sessions]

    def each_session(values: Iterable[Any]) -> Iterator[Any]:
        return itertools.chain.from_iterable(map(itertools.repeat, values, counts))

    def constant(value: Any) -> Iterator[Any]:
        return itertools.repeat(value, len(entrants))

    compared = np.array(
        [entrant.status in (Status.OK, Status.WRONG) for entrant in entrants], dtype=bool
    )
    errors, ulps = np.array([(e.error, e.ulps) for e in entrants], dtype=float).reshape(-1, 2).T
    seconds, smallest, rounds = _times(sessions)
    readings = read_values(run)
    return {
        "run": constant(run.name),
        "operator": each_session(case.operator for case in cases),
        "function": each_session(case.function for case in cases),
        "size": each_session(case.size for case in cases),
        "dtype": each_session(case.dtype for case in cases),
        "device": each_session(case.device for case in cases),
        "threads": each_session(case.threads for case in cases),
        "mode": (entrant.mode for entrant in entrants),
        "control": np.array([entrant.control for entrant in entrants], dtype=bool),
        "session": each_session(session.session for session in sessions),
        "process": each_session(session.process for session in sessions),
        "status": (Status(entrant.status).value for entrant in entrants),
        "reason": (entrant.reason for entrant in entrants),
        "note": (entrant.note for entrant in entrants),
        "seconds": seconds,
        "seconds_min": smallest,
        "rounds": rounds,
        "clock": each_session(str(session.clock) for session in sessions),
        "wall_seconds": clocks.medians(sessions, "wall"),
        "processor_seconds": clocks.medians(sessions, "processor"),
        "disturbed": _disturbed(sessions),
        "number": np.array([entrant.number for entrant in entrants], dtype=int),
        "error": np.where(compared, errors, math.nan),
        "ulps": np.where(compared, ulps, math.nan),
        **{name: _read_by(name, readings, sessions, len(entrants)) for name in INSTRUMENTS},
        "stopped": each_session(session.stopped for session in sessions),
        "load": each_session(session.load for session in sessions),
        "cpu": constant(run.started.machine.get("cpu", "")),
        "device_name": each_session(
            case.place.name(environment) for case, environment in zip(cases, environments)
        ),
        **{
            name: each_session(map(operator.methodcaller("get", name), environments))
            for name in COLUMNS
        },
    }


def _times(sessions: Sequence[SessionTimed]) -> tuple[Any, Any, Any]:
    """Median, minimum and number of the visits of each contestant of each session."""
    parts: list[tuple[Any, Any, Any]] = [(np.empty(0), np.empty(0), np.empty(0, dtype=int))]
    for times in clocks.batches(sessions, "minima"):
        timed = ~np.isnan(times)
        smallest = np.min(times, axis=-1, where=timed, initial=math.inf)
        count = timed.sum(axis=-1)
        parts.append((statistics.middles(times), np.where(count > 0, smallest, math.nan), count))
    middles, smallest, rounds = map(np.concatenate, zip(*parts))
    return middles, smallest, rounds


def _disturbed(sessions: Sequence[SessionTimed]) -> Any:
    """The share of each contestant's sub-blocks that were disturbed; NaN where a log does not
    tell."""
    shares = [np.empty(0)]
    for session in sessions:
        own = np.array(session.disturbed, dtype=float)
        known = len(session.processor) or own.any()
        with np.errstate(invalid="ignore"):
            shares.append(own / np.array(session.blocks) if known else np.full(own.shape, math.nan))
    return np.concatenate(shares)


def _read_by(
    instrument: str,
    readings: dict[Case, dict[str, float]],
    sessions: Sequence[SessionTimed],
    size: int,
) -> Any:
    """What an instrument read of each row's case; NaN where it read nothing."""
    known = {case: read[instrument] for case, read in readings.items() if instrument in read}
    if not known:
        return np.full(size, math.nan)
    values = [
        known.get(session.comparison.case(entrant.mode), math.nan)
        for session in sessions
        for entrant in session.entrants
    ]
    return np.array(values, dtype=float)


def _untimed(run: Run) -> list[SessionMeasured]:
    """Comparisons that were read by other instruments and not timed, as sessions without times."""
    timed = {session.comparison for session in run.sessions}
    entrants: dict[Comparison, list[Entrant]] = {}
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


def samples(results: str | Path = "results", runs: Runs | None = None) -> pd.DataFrame:
    """Loads every raw sample: one row per sub-block, with its round and its position in the visit.

    `nanoseconds` is the length of the whole sub-block in ns, `number` its calls. `runs` and the
    kinds of columns are as for `load`. Raises StoreError if there are no runs.

    >>> raw = gradbench.samples("results", "latest")
    >>> per_call = raw["nanoseconds"] / raw["number"]
    >>> raw.attrs["units"]["nanoseconds"], bool((per_call > 0).all())
    ('ns', True)
    """
    parts = _each_run(results, runs, _samples, condensed=False)
    columns = {
        name: pd.concat([part.pop(name) for part in parts], ignore_index=True)
        if name in _OWNED
        else np.concatenate([part.pop(name) for part in parts])
        for name in schema.SAMPLES
    }
    return schema.framed(columns, schema.SAMPLES)


_OWNED = ("run", "comparison", "mode", "control", "session", "process", "number")
"""The columns of `samples` that are the same in all sub-blocks of a contestant."""


def _samples(run: Run) -> dict[str, Any]:
    """The columns of a run's rows in `samples`."""
    owners = [(session, entrant) for session in run.sessions for entrant in session.entrants]
    counts = [sum(map(len, entrant.samples)) for _, entrant in owners]
    rounds, blocks, nanoseconds = array("q"), array("q"), array("q")
    processor, disturbed = array("d"), array("b")
    for _, entrant in owners:
        missing: list[list[int]] = [[]] * len(entrant.samples)
        for turn, (visit, cpu, marks) in enumerate(
            zip(entrant.samples, entrant.cpu or missing, entrant.disturbed or missing)
        ):
            rounds.extend([turn] * len(visit))
            blocks.extend(range(len(visit)))
            nanoseconds.extend(visit)
            processor.extend(cpu or [math.nan] * len(visit))
            disturbed.extend(place in marks for place in range(len(visit)))

    def repeated(values: list[Any]) -> pd.Series:
        return pd.Series(values).repeat(counts).reset_index(drop=True)

    return {
        "run": repeated([run.name for _ in owners]),
        "comparison": repeated([str(session.comparison) for session, _ in owners]),
        "mode": repeated([entrant.mode for _, entrant in owners]),
        "control": repeated([entrant.control for _, entrant in owners]),
        "session": repeated([session.session for session, _ in owners]),
        "process": repeated([session.process for session, _ in owners]),
        "round": np.array(rounds),
        "block": np.array(blocks),
        "number": repeated([entrant.number for _, entrant in owners]),
        "nanoseconds": np.array(nanoseconds),
        "processor_nanoseconds": np.array(processor),
        "disturbed": np.array(disturbed, dtype=bool),
    }


def verdicts(
    results: str | Path = "results",
    run: Runs = "latest",
    floor: float = 0.01,
    confidence: float = 0.95,
    method: str = "benjamini-hochberg",
) -> pd.DataFrame:
    """Judges a run, one row per case: ratios with intervals, verdicts, statuses.

    `floor` is the threshold: the smallest difference that matters, as a share. `method` is the
    correction for multiple comparisons over the table of a run; of several runs, given as to
    `load`, each is judged by itself. Columns are of the kinds that `load` says; times are in
    seconds, ratios and shares plain numbers. Raises StoreError if there is no such run.

    >>> table = gradbench.verdicts("results", run="latest")
    >>> table.loc[table["verdict"] == "fastest", "to_fastest"].tolist()
    [1.0]
    """
    place = KIND.results(results, "run")
    arguments.share("floor", floor)
    arguments.confidence("confidence", confidence)
    arguments.choice("method", method, arguments.METHODS)
    paths = [locate(place, name) for name in arguments.texts("run", run, needed=True) or ()]
    found = [judged(path, floor, confidence, method) for path in dict.fromkeys(paths)]
    records = (record(row, one) for one in found for row in one.rows)
    return schema.of_records(records, schema.VERDICTS)
