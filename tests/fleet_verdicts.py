"""Whether a fleet says what a machine says that measures by itself: `make fleet-check`.

A scheduler and four nodes on this machine pose as machines of three kinds, by the vector
instructions that torch dispatches to. They measure a part of the quick profile, and so does this
machine directly, before and after. Prints how many verdicts of the kind that this machine is agree;
the two direct runs say how many would by themselves.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from cluster import Cluster

from gradbench.analysis.runs import judge_run, ratios_to
from gradbench.analysis.table import judge
from gradbench.core.cases import Case
from gradbench.core.units import counted
from gradbench.core.verdicts import Verdict
from gradbench.statistics import Estimate
from gradbench.store import runs
from gradbench.store.runs import Run

FUNCTIONS = ("exp", "softmax", "affine", "mlp_mse", "sine", "affine_softmax_mse")
SELECTED = ("--profile", "quick", *(word for name in FUNCTIONS for word in ("-f", name)))
KINDS = {"a": "avx512", "b": "avx512", "c": "avx2", "d": "default"}
"""The instructions of each node: two nodes are alike."""

FLOOR, CONFIDENCE, METHOD = 0.01, 0.95, "benjamini-hochberg"
OPEN = (Verdict.UNDECIDED, Verdict.NONE)


def measured(place: Path, *words: str) -> list[Run]:
    """The runs that a command adds to a results folder."""
    before = set(runs.paths(place))
    command = (sys.executable, "-m", "gradbench", "run", *SELECTED, *words, "--results", str(place))
    began = time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    made = [runs.read(path) for path in runs.paths(place) if path not in before]
    where = "by the nodes" if words else "directly"
    print(
        f"{where}: {counted(len(made), 'run')}, {sum(len(run.sessions) for run in made)} sessions, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return made


def verdicts(run: Run, fastest: dict[Case, str]) -> dict[Case, tuple[Estimate, Verdict]]:
    """Every mode against the one that is given for its comparison, judged as one table."""
    found: dict[Case, Estimate] = {}
    for row in judge_run(run).rows:
        reference = fastest.get(row.case)
        if reference not in (None, row.mode):
            own = ratios_to(run, row.comparison, reference, FLOOR, CONFIDENCE).get(row.mode)
            if own is not None:
                found[row.case] = own
    judged, _ = judge([*found.values()], FLOOR, CONFIDENCE, METHOD)
    return {case: (own, said) for (case, own), (said, _) in zip(found.items(), judged)}


def compared(what: str, first: Run, second: Run) -> None:
    """Prints how many verdicts of two runs agree, against the fastest mode of the first."""
    fastest: dict[Case, str] = {}
    for rows in judge_run(first).comparisons().values():
        best = [row.mode for row in rows if row.verdict == Verdict.FASTEST]
        fastest |= {row.case: best[0] for row in rows if best and row.to_fastest}
    ours, theirs = verdicts(first, fastest), verdicts(second, fastest)
    both = [(ours[case], theirs[case], case) for case in ours if case in theirs]
    outcomes: Counter[str] = Counter()
    for (_, one), (_, other), case in both:
        if one == other:
            outcomes["agree"] += 1
        elif one in OPEN or other in OPEN:
            outcomes["too close to call in one of the two"] += 1
        else:
            outcomes["contradict"] += 1
            print(
                f"  {case}: {one} and {other}, {ours[case][0].ratio:.3f} and "
                f"{theirs[case][0].ratio:.3f} times {fastest[case]}"
            )
    apart = [abs(math.log(two.ratio / one.ratio)) for (one, _), (two, _), _ in both]
    overlapping = sum(o.low <= t.high and t.low <= o.high for (o, _), (t, _), _ in both)
    print(
        f"{what}: {len(both)} verdicts, {outcomes['agree']} agree, {outcomes['contradict']} "
        f"contradict, {outcomes['too close to call in one of the two']} are too close to call in "
        f"one of the two; {overlapping} intervals overlap; the ratios differ by "
        f"{math.expm1(float(np.median(apart))):.2%} in the median, "
        f"{math.expm1(float(np.quantile(apart, 0.95))):.1%} in one of twenty"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (before,) = measured(place / "before")
        own = str(before.first_environment["cpu_capability"]).lower()
        with Cluster() as cluster:
            for name, capability in KINDS.items():
                cluster.add(name, ATEN_CPU_CAPABILITY=capability)
            cluster.gather()
            found = measured(place / "fleet", "--on", cluster.address)
        (after,) = measured(place / "after")
        for run in found:
            nodes = Counter(str(run.environment(s.process)["node"]) for s in run.sessions)
            capability = str(run.first_environment["cpu_capability"])
            said = ", ".join(f"{count} by {name}" for name, count in sorted(nodes.items()))
            print(f"{capability}: {len(run.sessions)} sessions, {said}; finished: {run.finished}")
            if capability.lower() == own:
                compared("directly before and by the nodes", before, run)
                compared("directly after and by the nodes", after, run)
        compared("directly before and after", before, after)


if __name__ == "__main__":
    main()
