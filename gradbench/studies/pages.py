"""What large stores cost: time and memory of reading them, and of pages beside `asv publish`.

Runs and a history are made up: every case of the catalogue, in as many sizes, or torch releases,
and sessions as make the rows asked for, a row a case and session. asv gets the same history in its
own format. All commands run as a user would run them, their own starts included.
"""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradbench.core.cases import Entry
from gradbench.core.releases import RELEASES
from gradbench.integrations import asv_history
from gradbench.runner import machine
from gradbench.runner.run import Discovery
from gradbench.store import tracks as log
from gradbench.store.lines import new_id, now
from gradbench.store.runs import (
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
        # Names sort by time; those of one second would not.
        _run(results, f"20260101-{number:06d}-000000", entries, found, seed + number)
    return count * cases * SESSIONS


def one_run(results: Path, entries: Sequence[Entry], found: Discovery, rows: int, seed: int) -> int:
    """The same in a single run, in which each case has as many sizes as it takes."""
    cases = sum(len(entry.modes) for entry in entries)
    sizes = max(1, -(-rows // (cases * SESSIONS)))
    sized = [
        Entry(dataclasses.replace(entry.comparison, size=f"n={size + 1}"), entry.modes)
        for size in range(sizes)
        for entry in entries
    ]
    _run(results, "20260101-000000-000000", sized, found, seed)
    return sizes * cases * SESSIONS


def _run(results: Path, name: str, entries: Sequence[Entry], found: Discovery, seed: int) -> None:
    times = _Times(seed)
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


def study(
    entries: Sequence[Entry],
    found: Discovery,
    rows: int,
    seed: int,
    told: Callable[[str], None],
    *,
    pages: bool = True,
) -> Iterator[dict[str, Any]]:
    """A row for each command: what it read, its seconds from start to end and on the processors
    (which other work on the machine changes less), its peak memory and what it wrote.

    Without `pages`, only what reads runs and writes no pages.
    """
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        # Judged rows are cached here, and not where other runs have theirs.
        surroundings = {**os.environ, "XDG_CACHE_HOME": str(Path(scratch, "cache"))}

        def timed(
            command: str, what: str, rows: int, words: Sequence[object], place: Path
        ) -> dict[str, Any]:
            told(f"{command} of {what}")
            return _timed(command, what, rows, words, place, surroundings)

        told("making up runs")
        large, gradbench = Path(scratch, "large"), [sys.executable, "-m", "gradbench"]
        counted = one_run(large, entries, found, rows, seed)
        show = [*gradbench, "show", "--results", large]
        table = large / "cases.csv"
        load = f"import gradbench; gradbench.load({str(large)!r})"
        yield timed("gradbench show", "a run", counted, show, table)
        yield timed("gradbench show", "the run, judged before", counted, show, table)
        yield timed("gradbench.load", "the run", counted, [sys.executable, "-c", load], table)
        export = [*gradbench, "export", "-t", table, "--results", large]
        yield timed("gradbench export", "the run", counted, export, table)
        if not pages:
            return
        told("making up a history")
        history, stored = Path(scratch, "history"), Path(scratch, "stored")
        tracked = track(history, entries, found, rows, seed)
        made = log.read_all(history)[0][0]
        asv_history.write(history, made, found.offers)
        counted = runs(stored, entries, found, rows, seed)
        report = [*gradbench, "report", "--no-code", "--results"]
        releases = [*gradbench, "releases", "show", "--results", history]
        yield timed("gradbench releases show", "a track", tracked, releases, table)
        yield timed("gradbench report", "a track", tracked, [*report, history], history / "report")
        publish = [sys.executable, "-m", "asv", "publish", "--config", _asv_conf(history, scratch)]
        place = Path(scratch, "html")
        yield timed("asv publish", "the same in asv's files", tracked, publish, place)
        for what in ("runs", "runs, judged before"):
            words = [*report, stored]
            yield timed("gradbench report", what, counted, words, stored / "report")


def _timed(
    command: str,
    what: str,
    rows: int,
    words: Sequence[object],
    place: Path,
    surroundings: dict[str, str],
) -> dict[str, Any]:
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(w) for w in words], stdout=said, stderr=subprocess.STDOUT, env=surroundings
        )
        # Unlike subprocess, wait4 tells what this process and its children used.
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"{command}: {(lines or [f'exit code {code}'])[-1][:200]}")
    places = place.rglob("*") if place.is_dir() else [place]
    return {
        "command": command,
        "of": what,
        "rows": rows,
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        # Kilobytes on Linux, bytes on macOS.
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "written_bytes": sum(path.stat().st_size for path in places if path.is_file()),
    }


def _asv_conf(history: Path, scratch: str) -> Path:
    """asv's settings for a history, those of the project with other folders."""
    import json

    path = Path(scratch, "asv.conf.json")
    settings = {
        "version": 1,
        "project": "gradbench",
        "project_url": "https://example.org",
        "plugins": [".gradbench.integrations.asv_plugin"],
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
