"""Modes that disturb the process they are measured in, each in a run of its own beside good ones.

Whatever such a mode does, the run ends with exit code 0 and without a traceback, the modes beside
it are ok in every session, and their times and dispatched operations are those of a run without it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from commands import Command

from gradbench.analysis.runs import judge_run
from gradbench.store import runs as log

SUITES = [
    Path(__file__).parent.parent / "suites" / name
    for name in ("hostile_wire.py", "meddling.py", "faults.py")
]
MEDDLING = "meddling.py"
"""The suite whose modes all leave something changed in the process, but for TIDY."""

TIDY = "tidy"
GOOD = ("forward", "grad", "backward")
BESIDE = 3.0
"""How much slower a good mode may be than alone: these are loaded machines, and what a disturbed
process costs (anomaly mode, a profile hook) is more."""


def modes(number: int, seed: int, place: Path) -> Iterator[str]:
    """Runs so many modes, of all suites alike as far as they go."""
    found = _chosen(number, random.Random(f"hostile/{seed}"))
    alone: dict[tuple[str, str], dict[str, float]] = {}
    for position, (suite, function, operator, mode) in enumerate(found):
        comparison = (function, operator)
        if comparison not in alone:
            before, problem = _run(place / f"alone-{position}", suite, comparison, ())
            if problem:
                yield f"{operator} of {function} by itself: {problem}"
                continue
            alone[comparison] = before
        times, problem = _run(place / str(position), suite, comparison, (mode,))
        slower = [
            f"{good} takes {times[good] / seconds:.1f} times as long beside it"
            for good, seconds in alone[comparison].items()
            if not problem and times[good] > BESIDE * seconds
        ]
        problem = problem or next(iter(slower), "")
        yield f"{suite.name} {mode}: {problem}" if problem else ""


def _chosen(number: int, draw: random.Random) -> list[tuple[Path, str, str, str]]:
    """Modes of the suites in turn, each suite's in random order."""
    left = {suite: _declared(suite) for suite in SUITES}
    for cases in left.values():
        draw.shuffle(cases)
    found = []
    while len(found) < number and any(left.values()):
        found += [(suite, *cases.pop()) for suite, cases in left.items() if cases]
    return found[:number]


def _declared(suite: Path) -> list[tuple[str, str, str]]:
    """The modes that a suite adds, each with a function and an operator to measure it under."""

    def listed(what: str, *words: str) -> list[dict[str, str]]:
        command = [sys.executable, "-m", "gradbench", "list", what, "--format", "json", *words]
        answer = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        found: list[dict[str, str]] = json.loads(answer.stdout)
        return found

    known = {(row["operator"], row["mode"]) for row in listed("modes")}
    added = [
        (row["operator"], row["mode"])
        for row in listed("modes", "--from", str(suite))
        if (row["operator"], row["mode"]) not in known
    ]
    functions = {"vjp": "exp", "gradient": "sum"}
    return [
        (functions[operator], operator, mode) for operator, mode in added if operator in functions
    ]


def _run(
    results: Path, suite: Path, comparison: tuple[str, str], hostile: Sequence[str]
) -> tuple[dict[str, float], str]:
    """Seconds of each good mode in such a run, and what was wrong with it."""
    results.mkdir()
    function, operator = comparison
    words = ["run", "--from", str(suite), "-f", function, "-o", operator, "--sessions", "2"]
    for mode in (*GOOD[:1], *hostile, *GOOD[1:]):
        words += ["-m", mode]
    words += ["--budget", "0.02", "--timeout", "20", "--results", str(results)]
    command = Command(words, results).start()
    if not command.ended(300):
        command.process.kill()
        return {}, "no end within 300 s"
    said = command.said()
    if command.process.returncode or "Traceback" in said:
        return {}, f"exit code {command.process.returncode}: {said.strip()[-300:]}"
    if left := command.orphans(3):
        return {}, f"{len(left)} processes outlived the run"
    run = log.find(results, "latest")
    rows = {row.mode: row for row in judge_run(run).rows}
    for mode in GOOD:
        for session in run.sessions:
            for entrant in session.entrants:
                if entrant.mode == mode and entrant.status != "ok":
                    return {}, f"{mode} is {entrant.status}: {entrant.reason}"
        if not rows[mode].seconds:
            return {}, f"{mode} has no time"
    unnamed = [mode for mode in hostile if rows[mode].status == "ok" and not rows[mode].note]
    if suite.name == MEDDLING and set(unnamed) - {TIDY}:
        return {}, "ok, without a word of what it did"
    return {mode: rows[mode].seconds or 0.0 for mode in GOOD}, ""
