"""How long a page of a large history takes: `gradbench report` beside `asv publish`.

The history is made up: every case of the catalogue at the documents' inputs, in as many torch
releases and sessions as make the rows asked for. Both tools get the same one, each in its own
format, and run as a user would run them, the commands' own starts included. What is stored as
runs, a row a case and session, is timed too; asv has nothing to hold against that.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradbench import machine
from gradbench.cases import Entry
from gradbench.releases import asv_history, log
from gradbench.releases.known import RELEASES
from gradbench.run import Discovery
from gradbench.store.lines import new_id, now
from gradbench.store.log import (
    Entrant,
    PlanEntry,
    RunEnded,
    RunLog,
    RunStarted,
    SessionMeasured,
    WorkerStarted,
)

SESSIONS = 5
ROUNDS = 5
SPREAD = 0.01


class _Times:
    """Made-up visits: a time of its own for each case, scatter between sessions and rounds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def entrant(self, mode: str, place: int) -> Entrant:
        own = 20_000 * (1 + place) * self.random.lognormvariate(0, SPREAD)
        samples = [[int(own * self.random.lognormvariate(0, SPREAD))] for _ in range(ROUNDS)]
        return Entrant(mode, "ok", number=1, ulps=0.5, samples=samples)


def _plan(entries: Sequence[Entry]) -> list[PlanEntry]:
    return [PlanEntry(str(entry.comparison), list(entry.modes)) for entry in entries]


def track(results: Path, entries: Sequence[Entry], found: Discovery, rows: int, seed: int) -> int:
    """Writes a made-up track of about so many rows, a row a case, release and session.

    Gives the number of rows; that of releases is rounded up, two at least.
    """
    cases = sum(len(entry.modes) for entry in entries)
    count = min(len(RELEASES), max(2, -(-rows // (cases * SESSIONS))))
    releases = RELEASES[-count:]
    names = [release.version for release in releases]
    settings = {"sessions": SESSIONS, "cpu_capability": ""}
    header = log.TrackStarted(
        log.SCHEMA, new_id(), now(), settings, machine.facts(), _plan(entries), names[0], [names]
    )
    times = _Times(seed)
    with log.TrackLog.create(log.folder(results), header) as opened:
        for release in releases:
            identity = {**found.environment, "torch": release.version}
            used = log.EnvironmentUsed(
                release.version, release.version, str(release.date), identity
            )
            opened.append(used)
        for session in range(SESSIONS):
            for entry in entries:
                measured = [
                    log.CaseMeasured(
                        mode,
                        [log.Side(name, times.entrant(mode, place)) for name in names],
                        "rounds",
                    )
                    for place, mode in enumerate(entry.modes)
                ]
                name = str(entry.comparison)
                opened.append(log.PartMeasured(name, session, 0, measured, 1.0, 2.0, 0.1))
        opened.append(log.TrackEnded(now(), True, 1.0))
    return cases * count * SESSIONS


def runs(results: Path, entries: Sequence[Entry], found: Discovery, rows: int, seed: int) -> int:
    """Writes made-up runs of about so many rows, a row a case and session; gives their number."""
    cases = sum(len(entry.modes) for entry in entries)
    count = max(1, -(-rows // (cases * SESSIONS)))
    for number in range(count):
        times = _Times(seed + number)
        # Names sort by time; those of one second would not.
        name = f"20260101-{number:06d}-000000"
        header = RunStarted(1, name, now(), {"sessions": SESSIONS}, machine.facts(), _plan(entries))
        with RunLog.create(results, header) as opened:
            for session in range(SESSIONS):
                opened.append(WorkerStarted(session + 1, found.environment, now()))
                for entry in entries:
                    entrants = [times.entrant(mode, i) for i, mode in enumerate(entry.modes)]
                    order = [list(range(len(entrants)))] * ROUNDS
                    comparison = str(entry.comparison)
                    baseline = found.first(entry.comparison.operator)
                    opened.append(
                        SessionMeasured(
                            *(comparison, session, session + 1, baseline, entrants, order),
                            *("rounds", 1.0, 2.0, 0.1),
                        )
                    )
            opened.append(RunEnded(now(), True, 1.0, 1.0))
    return count * cases * SESSIONS


def study(
    entries: Sequence[Entry],
    found: Discovery,
    rows: int,
    seed: int,
    told: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """A row for each command: what it read, its seconds from start to end and on the processors
    (which other work on the machine changes less), and what it wrote."""
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        history, stored = Path(scratch, "history"), Path(scratch, "stored")
        told("making up a history")
        tracked = track(history, entries, found, rows, seed)
        made = log.read_all(history)[0][0]
        asv_history.write(history, made, found.offers)
        counted = runs(stored, entries, found, rows, seed)
        report = [sys.executable, "-m", "gradbench", "report", "--no-code", "--results"]
        told("gradbench report of the history")
        yield _timed("gradbench report", "a track", tracked, [*report, history], history / "report")
        told("asv publish of the history")
        yield _timed(
            "asv publish",
            "the same in asv's files",
            tracked,
            [sys.executable, "-m", "asv", "publish", "--config", _asv_conf(history, scratch)],
            Path(scratch, "html"),
        )
        told("gradbench report of runs, never judged before")
        yield _timed("gradbench report", "runs", counted, [*report, stored], stored / "report")
        told("gradbench report of runs, judged before")
        again = "runs, judged before"
        yield _timed("gradbench report", again, counted, [*report, stored], stored / "report")


def _timed(
    command: str, what: str, rows: int, words: Sequence[str | Path], place: Path
) -> dict[str, Any]:
    began, before = time.perf_counter(), os.times()
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    busy = after.children_user + after.children_system
    busy -= before.children_user + before.children_system
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{command}: {said[-1][:200]}")
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {
        "command": command,
        "of": what,
        "rows": rows,
        "seconds": round(seconds, 1),
        "processor_seconds": round(busy, 1),
        "written_bytes": size,
    }


def _asv_conf(history: Path, scratch: str) -> Path:
    """asv's settings for a history, those of the project with other folders."""
    import json

    path = Path(scratch, "asv.conf.json")
    settings = {
        "version": 1,
        "project": "gradbench",
        "project_url": "https://example.org",
        "plugins": [".gradbench.releases.asv_plugin"],
        "dvcs": "releases",
        "branches": ["releases"],
        "repo": str(history / "releases.json"),
        "environment_type": "releases",
        "matrix": {"env_nobuild": {"GRADBENCH_DEVICE": ["cpu"]}},
        "results_dir": str(asv_history.folder(history)),
        "html_dir": str(Path(scratch, "html")),
        "env_dir": str(Path(scratch, "env")),
    }
    path.write_text(json.dumps(settings))
    return path
