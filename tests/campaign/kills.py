"""Real runs whose driver or workers are killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from commands import PLAN, Command

from gradbench.analysis.runs import judge_run
from gradbench.store import runs as log
from gradbench.store.runs import Run, StoreError

LIFE = 6.0
"""Seconds that a stretch of a run lives at most: some end before the log begins, some late."""


def driver_killed(number: int, seed: int, place: Path) -> Iterator[str]:
    """Kills the driver, looks at what is left, resumes, and kills again."""
    return _driver(number, seed, place, [signal.SIGKILL])


def driver_stopped(number: int, seed: int, place: Path) -> Iterator[str]:
    """The same with signals that a driver can answer."""
    return _driver(number, seed, place, [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])


def _driver(number: int, seed: int, place: Path, signals: list[signal.Signals]) -> Iterator[str]:
    draw = random.Random(f"driver/{seed}")
    tried = 0
    results = place / "0"
    begun, command = _begin(results)
    while tried < number:
        if command.ended(draw.uniform(0, LIFE)):
            problem = _whole(results, command)
            if problem:
                tried += 1
                yield problem
            results = place / str(int(results.name) + 1)
            begun, command = _begin(results)
            continue
        stored = _stored(results)
        measuring = len(stored) > begun
        chosen = draw.choice(signals)
        command.send(chosen)
        if not command.ended(30):
            command.send(signal.SIGKILL)
            command.ended(30)
            problem = f"still ran 30 s after {chosen.name}: {command.said().strip()[-200:]!r}"
        else:
            problem = _kept(results, stored) or _manners(command, chosen, measuring)
        if not problem and (left := command.orphans()):
            problem = f"{len(left)} processes outlived the driver"
        tried += 1
        yield problem
        begun, command = _begin(results)
    while not command.ended(600):
        pass
    if problem := _whole(results, command):
        yield problem


def _begin(results: Path) -> tuple[int, Command]:
    """Starts the plan's run, or resumes the one that is there; the bytes that its log has."""
    results.mkdir(exist_ok=True)
    try:
        words = ["run", "--resume", log.find(results, "latest").name]
    except StoreError:
        words = ["run", *PLAN, "--sessions", "3"]
    length = len(_stored(results))
    return length, Command([*words, "--results", str(results)], results).start()


def _stored(results: Path) -> bytes:
    """All whole lines of the run's log."""
    for path in log.paths(results):
        data = path.read_bytes()
        return data[: data.rfind(b"\n") + 1]
    return b""


def _kept(results: Path, stored: bytes) -> str:
    """What is wrong with a log that held `stored` before its writer ended."""
    if not _stored(results).startswith(stored):
        return "lines that were stored are gone"
    runs, problems = log.read_all(results)
    if stored and not runs:
        return f"the log cannot be read: {problems}"
    wrong = [p for run in runs for p in run.problems if "cut off" not in p]
    return wrong[0] if wrong else ""


def _manners(command: Command, sent: signal.Signals, measuring: bool) -> str:
    """What is wrong with how the driver took its leave; `measuring`: it had begun to write."""
    said, code = command.said(), command.process.returncode
    if "Traceback" in said:
        return "a traceback: " + said.strip().splitlines()[-1]
    # It may have ended by itself just before, or had nothing left to resume.
    if sent == signal.SIGKILL or code == 0 or (code == 2 and "is finished" in said):
        return ""
    # Before Python has come as far as gradbench, the signal's own action ends it.
    if code not in ((128 + sent,) if measuring else (128 + sent, -sent)):
        return f"exit code {code} after {sent.name}: {said.strip()[-200:]!r}"
    if measuring and "--resume" not in said:
        return f"no hint to resume after {sent.name}: {said.strip()[-200:]!r}"
    return ""


def _whole(results: Path, command: Command) -> str:
    """What is missing from a run that has ended by itself."""
    code, said = command.process.returncode, command.said()
    if "is finished" in said and code == 2:
        # The kill came after the last line.
        code = 0
    if code:
        return f"exit code {code}: {said.strip()[-300:]}"
    left = command.orphans()
    if left:
        return f"{len(left)} processes outlived the command"
    return _complete(log.find(results, "latest"))


def _complete(run: Run) -> str:
    """What a run lacks: sessions, or cases that are not ok."""
    sessions = int(run.started.settings["sessions"])
    wanted = sorted((p.comparison, s) for p in run.started.plan for s in range(sessions))
    if sorted((s.comparison, s.session) for s in run.sessions) != wanted:
        return f"{len(run.sessions)} sessions stored, {len(wanted)} planned"
    wrong = [
        f"{r.comparison}/{r.mode}: {r.reason}" for r in judge_run(run).rows if r.status != "ok"
    ]
    return wrong[0] if wrong else ""


def worker_killed(number: int, seed: int, place: Path) -> Iterator[str]:
    """Kills one worker after the other, each at a random moment of a comparison of its own."""
    draw = random.Random(f"worker/{seed}")
    tried = 0
    while tried < number:
        results = place / str(tried)
        results.mkdir()
        sessions = str(min(8, number - tried))
        words = ["run", *PLAN, "--sessions", sessions, "--results", str(results)]
        words += ["--instrument", "wall_time", "--instrument", "dispatches"]
        command = Command(words, results).start()
        killed = 0
        lines = -3
        while not command.ended(0.005):
            now = _stored(results).count(b"\n")
            # Two new lines lie between two kills: what is counted is one kill a comparison.
            if now < lines + 3 or tried + killed >= number:
                continue
            time.sleep(draw.uniform(0, 2.5))
            for pid in command.workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                    lines = _stored(results).count(b"\n")
        problem = _whole(results, command)
        if not problem and "Traceback" in command.said():
            problem = "a traceback"
        # What is lost cannot be put down to one of the kills: it counts as one of them.
        for _ in range(max(killed - 1, 0)):
            yield ""
        yield problem
        tried += max(killed, 1)
