"""Tracks with made-up times: what each build takes is stated, the rest is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gradbench.core.cases import Comparison, Entry
from gradbench.store import tracks as log
from gradbench.store.logs import Ended
from gradbench.store.runs import Entrant

MODES = ("manual", "jacrev")


def comparison(function: str) -> Comparison:
    return Comparison("jacobian", function, "documents", "float32")


@dataclass(frozen=True)
class Made:
    """A track: the pace of each build, the first the baseline; 100 µs times its pace, with 0.8 %
    between processes.

    `slow`: the pace of some builds in single functions. `status`: that of a build in a function
    where it is not ok. `facts`: what builds state besides their version.
    """

    paces: Mapping[str, float]
    functions: Sequence[str] = ("exp", "sin")
    sessions: int = 10
    planned: int = 10
    slow: Mapping[tuple[str, str], float] = field(default_factory=dict)
    status: Mapping[tuple[str, str], str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    machine: str = "test"
    seed: int = 0

    def write(self, results: Path, place: int) -> None:
        """Stores it as the track of a day, which is also its name."""
        rng = np.random.default_rng(self.seed + 1000 * place)
        day, names = f"2026-01-{place + 1:02d}", list(self.paces)
        plan = [Entry(comparison(function), MODES) for function in self.functions]
        header = log.TrackStarted(
            log.SCHEMA,
            f"track-{day}",
            f"{day}T00:00:00Z",
            {"sessions": self.planned},
            {"cpu": self.machine},
            plan,
            names[0],
            [names],
        )
        with log.KIND.create(log.folder(results), header) as opened:
            for name in names:
                facts = {"torch": name, "cpu_capability": "AVX512", "numpy": "2.0"}
                facts |= {"python": "3.11.7", **self.facts.get(name, {})}
                opened.append(log.EnvironmentUsed(name, name, "2026-01-01", facts))
            for session in range(self.sessions):
                for function in self.functions:
                    opened.append(self._part(rng, function, session))
            if self.sessions == self.planned:
                opened.append(Ended(f"{day}T00:01:00Z", True, 60.0))

    def _part(self, rng: np.random.Generator, function: str, session: int) -> log.PartMeasured:
        cases = []
        for mode in MODES:
            sides = []
            for name, pace in self.paces.items():
                status = self.status.get((name, function), "ok")
                if status != "ok":
                    entrant = Entrant(mode, status, reason="made up")
                else:
                    took = 1e5 * self.slow.get((name, function), pace) * rng.lognormal(0, 0.008)
                    samples = [[int(x)] for x in took * rng.lognormal(0, 0.004, 8)]
                    entrant = Entrant(mode, "ok", number=1, samples=samples)
                sides.append(log.Side(name, entrant))
            cases.append(log.CaseMeasured(mode, sides, "rounds"))
        return log.PartMeasured(comparison(function), session, 0, cases, 1.0, 2.0, 0.5)
