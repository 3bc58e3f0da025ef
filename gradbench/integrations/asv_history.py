"""Writes a track of releases to asv's files, for asv's site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from gradbench.core.cases import Case, Offer
from gradbench.core.own import is_own
from gradbench.core.verdicts import Status
from gradbench.integrations import asv_files
from gradbench.integrations.asv_files import AsvRow
from gradbench.store.runs import LOST
from gradbench.store.tracks import EnvironmentUsed, Side, Track

CONFIDENCE = 0.99
"""The confidence level of asv's intervals."""


def folder(results: Path) -> Path:
    """The folder of asv's files, as in `asv.conf.json`."""
    return results / "asv"


def write(
    results: Path, track: Track, offers: Iterable[Offer] = ()
) -> tuple[list[Path], list[EnvironmentUsed]]:
    """Merges a track into asv's files; returns the files written and the environments left out.

    asv knows one build per release: the one named after the release, or else the first. Raises
    StoreError (`asv_files.write`).
    """
    offers = list(offers)
    chosen: dict[str, EnvironmentUsed] = {}
    left_out = []
    # Sorting is stable: environments named after their release come first, in their order.
    environments = track.environments.values()
    for used in sorted(environments, key=lambda used: used.name != used.release.version):
        if chosen.setdefault(used.release.tag, used) is not used:
            left_out.append(used)
    written: list[Path] = []
    held = str(track.started.settings.get("cpu_capability", ""))
    for used in chosen.values():
        machine, asv_rows = track.started.machine, list(rows(track, used.name))
        if asv_rows:
            written += asv_files.write(
                folder(results), machine, used.release, used.identity, asv_rows, offers, held
            )
    return written, left_out


def rows(track: Track, environment: str) -> Iterator[AsvRow]:
    """A row for each case that was measured in an environment.

    The value is the median over sessions of the median of their visit minima; the interval is the
    99 % Student interval of the sessions' logarithms. A case that is wrong in any session has no
    value, and asv shows it as failed; one that could not be measured has NaN, which asv shows as
    n/a. Functions that only the user's own command declares are left out.
    """
    sides: dict[Case, list[Side]] = {}
    times: dict[Case, list[float]] = {}
    for part in track.parts:
        for measured in part.cases:
            case = part.comparison.case(measured.mode)
            own = [side for side in measured.sides if side.environment == environment]
            sides.setdefault(case, []).extend(own)
            visits = np.array(measured.times().get(environment, ()))
            if np.isfinite(visits).any():
                times.setdefault(case, []).append(float(np.nanmedian(visits)))
    for case, measured_sides in sides.items():
        if is_own(case.comparison.function):
            continue
        statuses = {side.entrant.status for side in measured_sides}
        if statuses - {*LOST} == {"ok"} and case in times:
            yield _row(case, times[case], measured_sides[0].entrant.number)
        elif statuses - {Status.OK}:
            yield AsvRow(case, None if Status.WRONG in statuses else math.nan)


def _row(case: Case, medians: list[float], number: int) -> AsvRow:
    low, high = -math.inf, math.inf
    if len(medians) > 1:
        logs = np.log(medians)
        quantile = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
        half = quantile * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        low, high = (float(np.exp(logs.mean() + sign * half)) for sign in (-1, 1))
    return AsvRow(
        case,
        float(np.median(medians)),
        low,
        high,
        number=number,
        repeat=len(medians),
        samples=tuple(medians),
    )
