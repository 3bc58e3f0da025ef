"""The table of pytest-benchmark, filled with times that gradbench has measured."""

from __future__ import annotations

import copy
from typing import Any

from gradbench.core.cases import FORWARD
from gradbench.core.verdicts import Status
from gradbench.integrations.pytest_plugin.claims import Timed


def fill(benchmark: Any, timed: Timed) -> None:
    """Adds a row for each mode that was timed, in a group of their own, to the table of the
    `benchmark` fixture of a test. A time is that of a sub-block, of every round in every process.

    pytest-benchmark has no public way to add times that it did not take itself: this uses what
    its fixture does after it has timed (5.0 to 5.3).
    """
    # Else it warns that the fixture was not used.
    benchmark._mode = "gradbench"
    if timed.run is None or not benchmark.enabled:
        return
    rows: dict[str, tuple[int, list[float]]] = {}
    for session in timed.run.sessions:
        for entrant in session.entrants:
            if entrant.control or entrant.status != Status.OK or entrant.mode == FORWARD:
                continue
            number, seconds = rows.setdefault(entrant.mode, (entrant.number, []))
            for visit in entrant.samples:
                # Blocks of another process may have another number of calls.
                seconds += [1e-9 * t * number / entrant.number for t in visit]
    group = benchmark.group or benchmark.fullname
    for mode, (number, seconds) in rows.items():
        if not seconds:
            continue
        row = copy.copy(benchmark)
        row.name, row.group = mode, group
        row.fullname = f"{benchmark.fullname}:{mode}"
        row.extra_info = {**benchmark.extra_info, "gradbench": str(timed.comparison)}
        stats = row._make_stats(number)
        for time in seconds:
            stats.update(time)
