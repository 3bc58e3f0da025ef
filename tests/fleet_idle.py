"""What an idle node does to a measurement beside it: `tests/fleet_idle.py [aa|power] MINUTES`.

Studies of the same code against itself, or of slowdowns of 5 %, alone and beside a scheduler and a
node that has done its first job, in turns. Everything runs on one core. Prints for both how many
comparisons were called, how wide the intervals are and how long measuring took.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cluster import Cluster, pretend

from gradbench import __version__, statistics
from gradbench.fleet.engine import Dask
from gradbench.fleet.jobs import Look, encode
from gradbench.runner.machine import usable_cores
from gradbench.store import studies
from gradbench.store.studies import Study
from gradbench.studies import tally
from gradbench.studies.engine import sessions_of
from gradbench.studies.rules import logs, rate

STUDIES = {"aa": (), "power": ("--slowdown", "5", "--budget", "1")}
TURN = ("--trials", "50", "--comparisons", "10")
WHERE = ("alone", "beside an idle node")
NAMES = {"process": "in one process", "session": "in five processes"}


@contextlib.contextmanager
def idle_node():
    """A scheduler, and a node that has done its first job."""
    with Cluster(1) as cluster:
        cluster.gather()
        with contextlib.closing(Dask(cluster.address, pretend)) as engine:
            engine.submit("look", encode(Look(__version__, {}, [], 1 << 30, False)), engine.nodes())
            assert engine.answers(60.0)
        yield


def studied(name: str, seed: int, place: Path) -> Study:
    before = set(studies.paths(place))
    words = ("study", name, *TURN, *STUDIES[name], "--seed", str(seed), "--results", str(place))
    subprocess.run(
        [sys.executable, "-m", "gradbench", *words, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (made,) = set(studies.paths(place)) - before
    return studies.read(made)


def half_widths(study: Study, way: str) -> list[float]:
    """Of the interval of each comparison."""
    trials = [t for t in study.good(way) if t.log_ratios]
    if way == "process":
        found = [statistics.median_interval(logs(t.log_ratios)) for t in trials]
        return [(own.high - own.low) / 2 for own in found]
    widths = []
    for sessions in sessions_of(trials).values():
        each = [statistics.median_interval(logs(t.log_ratios)) for t in sessions]
        own = statistics.between_sessions(each, statistics.FLOOR)
        widths.append(math.log(own.high / own.low) / 2)
    return widths


def show(where: str, found: list[Study]) -> None:
    outcomes = [own for study in found for own in tally.outcomes(study.trials, tally.FLOORS)]
    failed = sum(bool(trial.reason) for study in found for trial in study.trials)
    for way, name in NAMES.items():
        alike = [own for own in outcomes if own.way == way]
        called = rate(sum(own.verdict in tally.CALLED for own in alike), len(alike))
        widths = [width for study in found for width in half_widths(study, way)]
        ratios = np.array([own.log for own in alike])
        print(
            f"{where}, {name}: {called.count} of {called.trials} called ({called.low:.1%} to "
            f"{called.high:.1%}), half an interval {np.median(widths):.2%} in the median and "
            f"{np.quantile(widths, 0.95):.2%} in one of twenty, ratios {np.median(ratios):+.2%} "
            f"with a spread of {ratios.std():.2%}, "
            f"{np.mean([own.visiting for own in alike]):.3f} s of visits"
            + (f"; {failed} failed" if failed else ""),
            flush=True,
        )


def main(name: str = "aa", minutes: str = "15") -> None:
    with contextlib.suppress(AttributeError):
        os.sched_setaffinity(0, {usable_cores()[-1]})
    end = time.monotonic() + 60 * float(minutes)
    found: dict[str, list[Study]] = {where: [] for where in WHERE}
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        turn = 0
        while not turn or time.monotonic() + longest < end:
            began = time.monotonic()
            for where in WHERE if turn % 2 else WHERE[::-1]:
                with contextlib.nullcontext() if where == WHERE[0] else idle_node():
                    found[where].append(studied(name, turn, Path(folder)))
            turn += 1
            longest = max(longest, time.monotonic() - began)
    print(f"{turn} turns of each, on one core")
    for where, own in found.items():
        show(where, own)


if __name__ == "__main__":
    main(*sys.argv[1:])
