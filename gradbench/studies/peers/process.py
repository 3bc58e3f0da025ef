"""The process in which timeit, torch.utils.benchmark and asv's runner measure, as documented.

One JSON request a line, one answer a line. asv runs each benchmark in a process forked from one
that has imported the suite, twice ("rounds"); so does this.
"""

from __future__ import annotations

import json
import os
import sys
import time
import timeit
from collections.abc import Callable
from functools import partial
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


def with_adaptive(call: Callable[[], Any], seconds: float = 0.01) -> dict[str, Any]:
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call})
    return {"median": timer.adaptive_autorange(min_run_time=seconds).median}


LONGER = 0.5
"""Seconds an arm: more than five times what gradbench takes for a comparison of two."""

METHODS: dict[str, Callable[[Callable[[], Any]], dict[str, Any]]] = {
    "timeit": with_timeit,
    "blocked": with_blocked,
    "adaptive": with_adaptive,
    "blocked, longer": partial(with_blocked, seconds=LONGER),
    "adaptive, longer": partial(with_adaptive, seconds=LONGER),
}
"""The defaults of torch's own are written out above: 0.2 s, and 0.01 s at least."""


def with_asv(subjects: subject.Subjects, turns: int, repeats: int) -> dict[str, Any]:
    """Two rounds, each in a process of its own; the first one's number serves the second."""
    samples: list[float] = []
    number = 0
    for _ in range(2):
        found = _forked(lambda number=number: _asv_round(subjects, turns, repeats, number))  # type: ignore[misc]
        if "failed" in found:
            return found
        samples += found["samples"]
        number = found["number"]
    return {"samples": samples, "number": number}


def _asv_round(subjects: subject.Subjects, turns: int, repeats: int, number: int) -> dict[str, Any]:
    from asv_runner.benchmarks.time import TimeBenchmark

    call = subjects.make(turns, repeats)

    class Suite:
        pass

    Suite.number = number  # type: ignore[attr-defined]
    benchmark = TimeBenchmark("time_call", call, [Suite])
    found: dict[str, Any] = benchmark.run()
    return found


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


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    subjects = subject.Subjects(asked["comparison"], asked["mode"], asked["seed"])
    arms = []
    for turns, repeats in subject.arms(asked):
        if asked["method"] == "asv":
            start = time.perf_counter()
            arm = with_asv(subjects, turns, repeats)
        else:
            call = subjects.make(turns, repeats)
            start = time.perf_counter()
            arm = METHODS[asked["method"]](call)
        if "failed" in arm:
            return arm
        arms.append({**arm, "spent": time.perf_counter() - start})
    return {"arms": arms}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject.load(sys.argv[1:])
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
