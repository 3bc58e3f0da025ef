"""The two sides of an explanation of releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradbench.core.cases import Selection, SelectionError
from gradbench.core.naming import one_entry
from gradbench.releases.builds import held_to
from gradbench.releases.environments import Environment
from gradbench.runner.machine import lacks
from gradbench.runner.profiling import Side
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery

AGAIN = "again"
"""What follows the name of a release that is measured a second time."""


def sides(
    case: str,
    chosen: Selection,
    installed: Sequence[Environment],
    base: WorkerOptions,
    cpu_capability: str,
    discover: Callable[[WorkerOptions], Discovery],
) -> list[Side]:
    """One case in two releases; `chosen` is what its name selects.

    Raises SelectionError where there is no such case or the processor lacks the instructions.
    """
    if cpu_capability and lacks(cpu_capability):
        raise SelectionError(f"--cpu-capability {cpu_capability}: this processor does not have it")
    workers = [held_to(environment.worker(base), cpu_capability) for environment in installed]
    discovery = discover(workers[0])
    entry = one_entry(discovery.offers, case, chosen)
    (mode,) = entry.modes
    names = [environment.name for environment in installed]
    if names[0] == names[1]:
        names[1] = f"{names[1]} {AGAIN}"
    return [
        Side(name, entry.comparison.case(mode), worker, mode in discovery.opt_in)
        for name, worker in zip(names, workers)
    ]
