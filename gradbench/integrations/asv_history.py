"""A track of releases in asv's files: its site shows what `gradbench releases track` measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from gradbench.core.cases import Case, Offer
from gradbench.integrations import asv_files
from gradbench.integrations.asv_files import AsvRow
from gradbench.store.runs import LOST
from gradbench.store.tracks import EnvironmentUsed, Side, Track

CONFIDENCE = 0.99
"""asv's own: its files name the interval by it."""


def folder(results: Path) -> Path:
    """Where asv's files are, as `asv.conf.json` says."""
    return results / "asv"


def write(
    results: Path, track: Track, offers: Iterable[Offer] = ()
) -> tuple[list[Path], list[EnvironmentUsed]]:
    """Merges a track into asv's files: those written, and the environments left out.

    asv knows one build of a release. Of several, the one that goes by the release's own name is
    shown, else the first; the others are left out. Raises StoreError (`asv_files.write`).
    """
    offers = list(offers)
    chosen, left = _one_a_release(track.environments.values())
    written: list[Path] = []
    for used in chosen:
        mine = list(rows(track, used.name))
        if mine:
            written += asv_files.write(
                folder(results), track.started.machine, used.release, used.identity, mine, offers
            )
    return written, left


def _one_a_release(
    environments: Iterable[EnvironmentUsed],
) -> tuple[list[EnvironmentUsed], list[EnvironmentUsed]]:
    chosen: dict[str, EnvironmentUsed] = {}
    left = []
    # Sorting is stable: those named as their release come first, in their order.
    for used in sorted(environments, key=lambda one: one.name != one.release.version):
        if chosen.setdefault(used.release.tag, used) is not used:
            left.append(used)
    return list(chosen.values()), left


def rows(track: Track, environment: str) -> Iterator[AsvRow]:
    """A row for each case that a build took part in.

    Its value is the median over sessions of their median visit minima; the interval is Student's
    between the sessions' logarithms, 99 %. What is not supported has the value NaN. What is wrong,
    or failed in any session, or crashed in all, has none: asv shows it as failed.
    """
    sides: dict[Case, list[Side]] = {}
    for part in track.parts:
        for measured in part.cases:
            case = Case.parse(f"{part.comparison}/{measured.mode}")
            sides.setdefault(case, []).extend(
                side for side in measured.sides if side.environment == environment
            )
    for case, found in sides.items():
        statuses = {side.entrant.status for side in found}
        timed = [side for side in found if np.isfinite(side.minima).any()]
        if statuses - {*LOST} == {"ok"} and timed:
            yield _row(case, timed)
        elif statuses and statuses <= {"unsupported", "refused"}:
            yield AsvRow(case, math.nan)
        elif statuses - {"ok"}:
            yield AsvRow(case, None)


def _row(case: Case, sides: list[Side]) -> AsvRow:
    medians = [float(np.nanmedian(side.minima)) for side in sides]
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
        number=sides[0].entrant.number,
        repeat=len(medians),
        samples=tuple(medians),
    )
