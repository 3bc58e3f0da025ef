"""Imports pytest-benchmark's JSON of `pytest benchmarks/` as a run.

The run has one session: one process, in which each mode had one visit, not interleaved with the
others. So it does not show the variation between processes, and its verdicts stay undecided.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from gradbench.core.cases import Case, Comparison, Entry
from gradbench.core.verdicts import Status
from gradbench.runner.settings import Settings
from gradbench.store.fields import (
    DAY,
    Amount,
    Calls,
    Label,
    Names,
    Positive,
    Schema,
    Text,
    Texts,
    reason,
)
from gradbench.store.lines import DAMAGE, content
from gradbench.store.runs import (
    KIND,
    Entrant,
    Run,
    RunEnded,
    RunStarted,
    SessionMeasured,
    StoreError,
    WorkerStarted,
    folder,
    read,
)
from gradbench.store.runs import SCHEMA as LOG_SCHEMA

SCHEMA = 1


class _Stats(msgspec.Struct):
    iterations: Calls
    data: list[Positive] | None = None
    """Seconds per call, one for each round."""


class _Info(msgspec.Struct):
    case: Label
    untimed: Calls
    error: Amount
    ulps: Amount


class _Benchmark(msgspec.Struct):
    extra_info: _Info
    stats: _Stats


class _LeftOut(msgspec.Struct):
    case: Label
    status: Status
    reason: Text


class _Ours(msgspec.Struct):
    schema: Schema
    environment: dict[str, Any]
    machine: dict[str, Any]
    by_hand: Names
    first: dict[str, Label]
    files: Texts
    load: Amount
    left_out: list[_LeftOut]


class _File(msgspec.Struct):
    datetime: Label
    benchmarks: list[_Benchmark]
    gradbench: _Ours


def load(path: Path) -> tuple[RunStarted, WorkerStarted, list[SessionMeasured]]:
    """The records of a file. Raises StoreError, in one line, if it is not from gradbench."""
    data = content(path)
    try:
        raw = msgspec.json.decode(data)
    except DAMAGE as error:
        raise StoreError(f"{path} is not JSON, or cut off: {error}") from error
    if not isinstance(raw, dict) or "benchmarks" not in raw:
        raise StoreError(
            f"{path} is not pytest-benchmark's JSON: "
            "'pytest benchmarks/ --benchmark-json FILE' writes one"
        )
    if "gradbench" not in raw:
        raise StoreError(
            f"{path} is pytest-benchmark's, but not from 'pytest benchmarks/': "
            "it does not name the cases it measured"
        )
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if file.gradbench.schema > SCHEMA:
        raise StoreError(f"{path} was written by a newer gradbench")
    entrants: dict[Comparison, list[Entrant]] = {}
    for benchmark in file.benchmarks:
        case = _case(path, benchmark.extra_info.case)
        entrants.setdefault(case.comparison, []).append(_timed(path, case, benchmark))
    for skipped in file.gradbench.left_out:
        case = _case(path, skipped.case)
        entrant = Entrant(case.mode, skipped.status, skipped.reason)
        entrants.setdefault(case.comparison, []).append(entrant)
    if not file.benchmarks:
        raise StoreError(f"{path} has no times: no case was selected, or none passed")
    started = _time(path, file.datetime)
    header = RunStarted(
        schema=LOG_SCHEMA,
        run=f"{started:%Y%m%d-%H%M%S}-{hashlib.sha256(data).hexdigest()[:6]}",
        started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        settings=asdict(Settings(sessions=1)),
        machine=file.gradbench.machine,
        plan=[Entry(name, tuple(e.mode for e in group)) for name, group in entrants.items()],
        command=["import", path.name],
        files=file.gradbench.files,
        by_hand=file.gradbench.by_hand,
    )
    worker = WorkerStarted(1, file.gradbench.environment, header.started)
    sessions = [_session(name, group, file.gradbench) for name, group in entrants.items()]
    try:
        KIND.require_readable((header, worker, *sessions))
    except DAMAGE as error:
        raise StoreError(f"{path} is damaged: {reason(error)}") from error
    return header, worker, sessions


def store(results: Path, path: Path) -> Run:
    """Imports a file into a results folder. Raises StoreError if it is not from gradbench, has been
    imported already, or the run cannot be written."""
    header, worker, sessions = load(path)
    if (folder(results) / f"{header.run}.jsonl").exists():
        raise StoreError(f"{path} has been imported already, as {header.run}")
    visiting = sum(session.visiting for session in sessions)
    with KIND.create(folder(results), header) as log:
        for record in (worker, *sessions):
            log.append(record)
        log.append(RunEnded(header.started, True, visiting, visiting))
    return read(log.path)


def _case(path: Path, name: str) -> Case:
    try:
        return Case.parse(name)
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def _time(path: Path, text: str) -> datetime:
    try:
        # Python 3.10 does not parse "Z".
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def _timed(path: Path, case: Case, benchmark: _Benchmark) -> Entrant:
    info, number, data = benchmark.extra_info, benchmark.stats.iterations, benchmark.stats.data
    if not data:
        raise StoreError(
            f"{path} has no single times: write it with --benchmark-json, "
            "or add --benchmark-save-data"
        )
    if number < 1 or not max(data) * number * 1e9 < DAY:
        raise StoreError(f"{path} is damaged: {case} has invalid times")
    blocks = [max(1, round(seconds * number * 1e9)) for seconds in data]
    return Entrant(
        case.mode,
        Status.OK,
        error=info.error,
        ulps=info.ulps,
        number=number,
        untimed=info.untimed,
        samples=[blocks],
    )


def _session(name: Comparison, entrants: list[Entrant], ours: _Ours) -> SessionMeasured:
    timed = [position for position, entrant in enumerate(entrants) if entrant.samples]
    modes = [entrants[position].mode for position in timed]
    first = ours.first.get(name.operator, "")
    visiting = sum(sum(entrants[position].samples[0]) for position in timed) * 1e-9
    return SessionMeasured(
        comparison=name,
        session=0,
        process=1,
        baseline=first if first in modes else "",
        entrants=entrants,
        order=[timed] if timed else [],
        stopped="rounds" if timed else "nothing to time",
        visiting=visiting,
        elapsed=visiting,
        load=ours.load,
    )
