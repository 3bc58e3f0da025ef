"""Measures what one call of a case executes: gated and traced in an ordinary process, then profiled
in one under Callgrind.

The processes under Callgrind start at the same time, since they start slowly and others do not
affect their counts.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbench.analysis import callgraphs
from gradbench.analysis.callgraphs import Profile
from gradbench.core.cases import Case, SelectionError
from gradbench.core.text import line
from gradbench.runner import callgrind
from gradbench.runner.arms import Arm, open_comparison, prepare
from gradbench.runner.progress import Progress, Report
from gradbench.runner.readings import SLOWEST_TIMEOUT, START_TIMEOUT, WARM
from gradbench.runner.settings import Settings
from gradbench.runner.wire import Worker, WorkerError, WorkerOptions, WorkerRefused
from gradbench.store.explanations import FunctionCost, SideProfiled

KEPT_OWN, KEPT_INCLUSIVE = 1e-4, 2e-3
"""The least share of all instructions with which a function is kept, by what it executes itself or
with all that it calls."""

NOT_READ = 1
"""Profiles at the start that are not read: see `worker/instruments/profiles.py`."""

FEWEST_CALLS = 9
"""The calls of a case under Callgrind at least."""

LONGEST = 120.0
"""Seconds under Callgrind beyond which a case is refused, by estimate."""

STARTS = 3
"""A start under Callgrind takes about as long as so many of the other steps."""


@dataclass(frozen=True)
class Side:
    """What is explained: a case in a build, under the name of the release or the mode."""

    name: str
    case: Case
    worker: WorkerOptions
    compiles: bool = False


@dataclass
class _Steps:
    """Tells how far it is, in steps of about equal length."""

    report: Report
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, what: str, steps: int = 1) -> None:
        """Says what comes next, and that it is so many steps."""
        elapsed = time.perf_counter() - self._began
        self.report(Progress(self.done, self.total, what, elapsed))
        self.done += steps


def require_valgrind() -> None:
    """Raises SelectionError where Callgrind cannot be started."""
    if shutil.which("valgrind") is None:
        raise SelectionError(
            "valgrind is not installed, and explaining counts instructions under it: apt-get "
            "install valgrind (or your system's package)"
        )


def profiled(sides: Sequence[Side], settings: Settings, report: Report) -> list[SideProfiled]:
    """Measures each side. Raises SelectionError where one cannot be explained, and WorkerError
    where a process cannot be started or ends."""
    for side in sides:
        if side.compiles and (reason := callgrind.refusal(0, side.compiles)):
            raise SelectionError(_why(side, "refused", reason))
    steps = _Steps(report, (3 + STARTS) * len(sides))
    traced = []
    for side in sides:
        steps(f"{side.name}: checking and tracing")
        traced.append(_traced(side, settings))
    with contextlib.ExitStack() as stack:
        started = []
        for side in sides:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradbench-")))
            options = replace(
                side.worker,
                prefix=callgrind.prefix(scratch, profiles=True),
                environment={**side.worker.environment, **callgrind.environment(scratch)},
                start_timeout=START_TIMEOUT,
            )
            started.append((stack.enter_context(Worker(options, greet=False)), scratch))
        for side, (worker, _) in zip(sides, started):
            steps(f"{side.name}: starting under Callgrind", STARTS)
            worker.greet()
        found = []
        for side, trace, (worker, scratch) in zip(sides, traced, started):
            steps(f"{side.name}: counting instructions", 2)
            found.append(_counted(side, trace, worker, scratch, settings))
            worker.kill()
    steps("")
    return found


@dataclass(frozen=True)
class _Trace:
    """What an ordinary process says of a side."""

    environment: dict[str, Any]
    call: int
    """Nanoseconds."""
    operations: dict[str, int]
    python_calls: dict[str, int]


def _traced(side: Side, settings: Settings) -> _Trace:
    comparison, mode = side.case.comparison, side.case.mode
    with _named(side), Worker(side.worker) as worker:
        open_comparison(worker, comparison, settings)
        arm = prepare(worker, mode, settings.timeout, handle=0, warm=WARM)
        if not isinstance(arm, Arm):
            raise SelectionError(_why(side, arm.status, arm.reason))
        call = int(arm.plan["call"])
        trace = worker.request("trace", settings.timeout, handle=0)
        arm.check(settings.timeout)
        if arm.entrant.status != "ok":
            raise SelectionError(_why(side, arm.entrant.status, arm.entrant.reason))
        refusal = callgrind.refusal(call, False, FEWEST_CALLS, LONGEST)
        if refusal is not None:
            raise SelectionError(f"{side.name}: {side.case} cannot be explained: {refusal}")
        return _Trace(worker.environment, call, trace["operations"], trace["python_calls"])


def _counted(
    side: Side, trace: _Trace, worker: Worker, scratch: Path, settings: Settings
) -> SideProfiled:
    def request(op: str, **arguments: Any) -> dict[str, Any]:
        return worker.request(op, SLOWEST_TIMEOUT, **arguments)

    with _named(side, "under Callgrind: "):
        request("open", comparison=side.case.comparison, salt=settings.seed, fresh=[])
        request("trust", mode=side.case.mode, handle=0, call=trace.call, rehearse=True)
        calls = request("profile", handle=0)["calls"]
    profile = _profile(scratch, calls)
    return SideProfiled(
        side=side.name,
        case=side.case,
        environment=trace.environment,
        capability=str(worker.environment.get("cpu_capability") or ""),
        call=trace.call * 1e-9,
        calls=calls,
        repeats=[round(total, 1) for total in profile.totals],
        groups={name: round(number, 1) for name, number in profile.groups.items()},
        functions=kept(profile),
        operations=trace.operations,
        python_calls=trace.python_calls,
    )


def _profile(scratch: Path, calls: int) -> Profile:
    """What the profiles in a folder say of one call. Raises WorkerError where some are missing."""
    files = sorted(scratch.glob(f"{callgrind.PROFILE}.*"), key=lambda path: int(path.suffix[1:]))[
        NOT_READ:
    ]
    try:
        empty, *repeats = (callgraphs.read(path) for path in files)
        return callgraphs.combined(empty, repeats, calls)
    except (ValueError, IndexError) as error:
        raise WorkerError(f"Callgrind's profiles cannot be read: {line(str(error))}") from error


def kept(profile: Profile) -> list[FunctionCost]:
    """The functions of a profile that are stored, those that execute most first."""
    total = sum(profile.groups.values())
    costs = [
        FunctionCost(
            f.library,
            f.name,
            profile.group_of[f],
            round(cost.own, 1),
            None if cost.inclusive is None else round(cost.inclusive, 1),
        )
        for f, cost in profile.costs.items()
        if cost.own >= KEPT_OWN * total or (cost.inclusive or 0.0) >= KEPT_INCLUSIVE * total
    ]
    return sorted(costs, key=lambda cost: -cost.own)


@contextlib.contextmanager
def _named(side: Side, where: str = "") -> Any:
    """Errors of a side name it."""
    try:
        yield
    except WorkerRefused as error:
        raise SelectionError(f"{side.name}: {where}{error}") from error
    except WorkerError as error:
        raise WorkerError(f"{side.name}: {where}{error}") from error


def _why(side: Side, status: str, reason: str) -> str:
    said = f": {reason}" if reason else ""
    return f"{side.name}: {side.case} cannot be explained: {status}{said}"
