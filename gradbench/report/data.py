"""The judged rows of one or many runs as the frame that figures and findings use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench import statistics
from gradbench.analysis.runs import judged
from gradbench.analysis.table import Judged, record
from gradbench.core import arguments
from gradbench.core.cases import Comparison, nothing_fits
from gradbench.core.families import of_families
from gradbench.core.instruments import INSTRUMENTS
from gradbench.report import machines
from gradbench.runner.machine import usable_cores
from gradbench.store import runs as log
from gradbench.store.environment import LIBRARIES

MACHINE = ("cpu", "machine", "torch", *LIBRARIES, "gradbench")
"""Of the run, in each of its rows."""


@dataclass(frozen=True)
class Stored:
    """A run as the report needs it: its header and its judged rows."""

    header: log.Header
    judged: Judged

    @property
    def name(self) -> str:
        return self.judged.run

    @property
    def machine(self) -> str:
        return machines.named(self.header.started.machine)

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was measured, by the names a reader looks for."""
        machine, worker = self.header.started.machine, self.header.environment
        return {
            "cpu": str(machine.get("cpu") or "unknown"),
            "machine": self.machine,
            "cores": machine.get("usable_cores") or machine.get("cores"),
            "system": machine.get("system", ""),
            "load at start": machine.get("load"),
            **{k: worker.get(k) for k in ("torch", *LIBRARIES)},
            "gradbench": worker.get("gradbench"),
            "devices": ", ".join(worker.get("device_names") or worker.get("devices") or []),
            "GPU driver": machine.get("gpu_driver"),
            "conditions": "; ".join(self.judged.conditions),
        }


def read(
    results: Path,
    runs: Iterable[str] = (),
    floor: float = statistics.FLOOR,
    confidence: float = statistics.CONFIDENCE,
    method: str = "benjamini-hochberg",
    told: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[list[Stored], list[str]]:
    """The runs named, or all of a results folder, oldest first; and what had to be skipped.

    `told` hears how many of how many runs are judged. Raises StoreError for a name that there is
    not.
    """
    names = list(runs)
    headers, problems = log.read_headers(results)
    if names:
        chosen = {log.locate(results, name).resolve() for name in names}
        there = {h.path.resolve() for h in headers}
        headers = [h for h in headers if h.path.resolve() in chosen]
        headers += [log.read_header(path) for path in sorted(chosen - there)]
        headers, problems = log.KIND.once(headers)
    found = []
    judge = partial(judged, floor=floor, confidence=confidence, method=method)
    # Judging a run that is not in the cache takes a second or two: several are shared out.
    lanes = min(len(usable_cores()), len(headers) // 2)
    lane = ProcessPoolExecutor(lanes, initializer=_leave_signals) if lanes > 1 else nullcontext()
    with lane as pool:
        paths = [header.path for header in headers]
        rows = pool.map(judge, paths) if pool else map(judge, paths)
        try:
            for number, header in enumerate(headers):
                told(number, len(headers), header.name)
                found.append(Stored(header, next(rows)))
        except BaseException:
            if pool:
                pool.shutdown(wait=False, cancel_futures=True)
            raise
    told(len(headers), len(headers), "")
    return found, problems


def _leave_signals() -> None:
    """In a process of the pool: the one that started it sees to signals, and ends its pool."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def rows(stored: Iterable[Stored]) -> pd.DataFrame:
    """A row per case and run, as `gradbench.verdicts` has them, with the run's machine and build.

    `comparison` is the comparison's name, `machine` the machine's (`machines.named`), `newest`
    whether no later run on the same machine, build and device has the comparison; `device_name` is
    what the CUDA device is called, empty on the processor.
    """
    made: list[dict[str, Any]] = []
    for run in stored:
        environment = run.environment
        extra = {name: environment[name] for name in MACHINE}
        for row in run.judged.rows:
            made.append(
                record(row, run.judged)
                | extra
                | {
                    "comparison": str(row.comparison),
                    "device_name": row.comparison.place.name(run.header.environment),
                }
            )
    frame = pd.DataFrame(made)
    if frame.empty:
        return frame
    numbers = [
        str(c)
        for c in frame
        if str(c).startswith(("to_", "of_", "seconds")) or c in (*INSTRUMENTS, "ulps", "q")
    ]
    frame[numbers] = frame[numbers].astype(float)
    place = ["comparison", "machine", "device_name", "torch"]
    last = frame.groupby(place, dropna=False)["run"].transform("max")
    frame["newest"] = frame["run"] == last
    return frame


def table(
    results: str | Path = "results",
    runs: str | Iterable[str] = (),
    floor: float = statistics.FLOOR,
    confidence: float = statistics.CONFIDENCE,
    method: str = "benjamini-hochberg",
) -> pd.DataFrame:
    """The frame that the figures take: see `rows`. Raises StoreError where there are no runs.

    `runs`: one or several of names, beginnings of names, 'latest' or paths; () for all.
    """
    place = log.KIND.results(results, "runs")
    names = arguments.several("runs", runs)
    arguments.share("floor", floor)
    arguments.confidence("confidence", confidence)
    arguments.choice("method", method, arguments.METHODS)
    found, _ = read(place, names, floor, confidence, method)
    if not found:
        raise log.StoreError(f"there are no runs in {log.folder(place)}; 'gradbench run' makes one")
    return rows(found)


def selected(
    frame: pd.DataFrame, families: Sequence[str] = (), **globs: Iterable[str]
) -> pd.DataFrame:
    """The rows of these families that fit globs by functions, operators, modes, sizes, dtypes,
    devices. Raises SelectionError for a family that no row is of."""
    import fnmatch

    if families and len(frame):
        there = list(dict.fromkeys(frame["family"].astype(str)))
        frame = frame[frame["family"].isin(of_families(there, families, str))]
    for kind, patterns in globs.items():
        patterns = tuple(patterns)
        if patterns and len(frame):
            column = frame[kind.removesuffix("s")].astype(str)
            fits = column.map(lambda v, p=patterns: any(fnmatch.fnmatchcase(v, one) for one in p))
            frame = frame[fits]
    return frame


def why_none(frame: pd.DataFrame, families: Sequence[str] = (), **globs: Iterable[str]) -> str:
    """Why `selected` leaves nothing of a frame, in a line."""
    if frame.empty:
        return "no stored case was measured"
    frame = selected(frame, families)
    different = frame[["comparison", "mode"]].drop_duplicates().itertuples(index=False)
    return nothing_fits((Comparison.parse(row[0]).case(str(row[1])) for row in different), **globs)
