"""The process in which timeit, torch.utils.benchmark and asv's runner measure, as documented.

One JSON request a line, one answer a line. asv runs each benchmark in a process forked from one
that has imported the suite, twice ("rounds"); so does this. pytest-benchmark runs in a forked
process too, which spares it the import of torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from gradbench.studies.peers import subject


def with_timeit(call: Callable[[], Any]) -> dict[str, Any]:
    """timeit.main: autorange, then the best of five repeats."""
    timer = timeit.Timer(call)
    number, _ = timer.autorange()
    return {"min": min(timer.repeat(5, number)) / number}


def with_blocked(call: Callable[[], Any], seconds: float = 0.2) -> dict[str, Any]:
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call})
    return {"median": timer.blocked_autorange(min_run_time=seconds).median}


def with_adaptive(call: Callable[[], Any], most: float = 10.0) -> dict[str, Any]:
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call})
    return {"median": timer.adaptive_autorange(max_run_time=most).median}


LONGER = 0.5
"""Seconds an arm: more than five times what gradbench takes for a comparison of two."""

METHODS: dict[str, Callable[[Callable[[], Any]], dict[str, Any]]] = {
    "timeit": with_timeit,
    "blocked": with_blocked,
    "adaptive": with_adaptive,
    "blocked, longer": partial(with_blocked, seconds=LONGER),
    "adaptive, 2 s": partial(with_adaptive, most=2.0),
}
"""The defaults of torch's own are written out above: 0.2 s, and 10 s at most."""


def with_asv(subjects: subject.Subjects, turns: int, repeats: int) -> dict[str, Any]:
    """Two rounds, each in a process of its own; the first one's number serves the second."""
    samples: list[float] = []
    number, spent = 0, 0.0
    for _ in range(2):
        found = _forked(lambda number=number: _asv_round(subjects, turns, repeats, number))  # type: ignore[misc]
        if "failed" in found:
            return found
        samples += found["samples"]
        number = found["number"]
        spent += found["spent"]
    return {"samples": samples, "number": number, "spent": spent}


def _asv_round(subjects: subject.Subjects, turns: int, repeats: int, number: int) -> dict[str, Any]:
    from asv_runner.benchmarks.time import TimeBenchmark

    call = subjects.make(turns, repeats)

    class Suite:
        pass

    Suite.number = number  # type: ignore[attr-defined]
    benchmark = TimeBenchmark("time_call", call, [Suite])
    start = time.perf_counter()
    found: dict[str, Any] = benchmark.run()
    return {**found, "spent": time.perf_counter() - start}


def with_pytest(asked: dict[str, Any]) -> dict[str, Any]:
    """The fixture of pytest-benchmark on each arm, in this process."""
    import pytest

    os.environ[subject.VARIABLE] = json.dumps(asked)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "result.json"
        words = ["-q", "-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin", "-c", os.devnull]
        case = Path(__file__).with_name("pytest_case.py")
        code = pytest.main([*words, f"--benchmark-json={path}", str(case)])
        if code:
            return {"failed": f"pytest-benchmark: exit code {int(code)}"}
        told = json.loads(path.read_text())["benchmarks"]
    arms = [
        {key: bench["stats"][key] for key in ("median", "mean", "min")}
        | {"spent": bench["stats"]["total"]}
        for bench in sorted(told, key=lambda b: b["params"]["arm"])
    ]
    return {"arms": arms}


def _forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer of a forked process."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer = work()
        except BaseException as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        os.write(into, json.dumps(answer).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(data or b'{"failed": "the forked process died"}')
    return found


def by_arm(asked: dict[str, Any]) -> dict[str, Any]:
    """What a timer says of each arm, one after the other."""
    subjects = subject.Subjects(asked["comparison"], asked["mode"], asked["seed"])
    arms = []
    for turns, repeats in subject.arms(asked):
        if asked["method"] == "asv":
            arm = with_asv(subjects, turns, repeats)
        else:
            call = subjects.make(turns, repeats)
            start = time.perf_counter()
            arm = METHODS[asked["method"]](call)
            arm["spent"] = time.perf_counter() - start
        if "failed" in arm:
            return arm
        arms.append(arm)
    return {"arms": arms}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    method = asked["method"]
    if method == "start":
        # What a forked process would import each time, as far as it is installed.
        for name in asked["modules"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        return {"arms": []}
    if method in ("asv", "pytest-benchmark"):
        rehearse(asked["comparison"], asked["mode"], asked["seed"])
        return _forked(lambda: with_pytest(asked) if method != "asv" else by_arm(asked))
    return by_arm(asked)


@cache
def rehearse(comparison: str, mode: str, seed: int) -> None:
    """Builds and gates a mode once, so that forked processes need not import what that takes."""
    subject.Subjects(comparison, mode, seed).make(0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject.load(tuple(sys.argv[1:]))
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
