"""Which planted slowdowns asv's regressions page reports, on made-up histories over releases.

Each history has `before` releases at one level and `after` more that are slower by a share. A
release's value is the median of `sessions` processes, whose times scatter by `noise` (the standard
deviation of their logarithms); with it goes the interval that gradbench stores, 99 % by Student's t
on the logarithms, by the width of which asv weighs the point. The steps are found by asv's own
`detect_steps` and `detect_regressions`, with the threshold of `asv.conf.json`, as `asv publish`
does. It needs no measuring, and the seed fixes every number.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gradbench.studies.rules import Rate, rate

CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True)
class Setting:
    """One kind of history; noise and step are shares, 0.02 for 2 %."""

    noise: float
    step: float
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Found:
    """In how many of the histories of a setting something was reported."""

    setting: Setting
    at_step: Rate
    """A slowdown was reported that begins at the planted release."""
    elsewhere: Rate
    """One was reported that begins anywhere else."""


def settings(
    noises: Sequence[float], steps: Sequence[float], before: int, afters: Sequence[int]
) -> list[Setting]:
    return [
        Setting(noise, step, before, after)
        for noise, step, after in itertools.product(noises, steps, afters)
    ]


def history(
    setting: Setting, sessions: int, random: np.random.Generator
) -> tuple[list[float], list[float | None]]:
    """Values in seconds and asv's weights, oldest release first."""
    from asv._stats import get_weight
    from scipy.special import stdtrit

    level = [0.0] * setting.before + [math.log1p(setting.step)] * setting.after
    logs = np.array(level)[:, None] + setting.noise * random.standard_normal((len(level), sessions))
    middles = np.median(logs, axis=1)
    quantile = float(stdtrit(sessions - 1, (1 + CONFIDENCE) / 2))
    half = quantile * logs.std(axis=1, ddof=1) / math.sqrt(sessions)
    means = logs.mean(axis=1)
    weights = [
        get_weight({"ci_99_a": low, "ci_99_b": high})
        for low, high in zip(np.exp(means - half), np.exp(means + half))
    ]
    return list(map(float, np.exp(middles))), weights


def reported(
    values: Sequence[float], weights: Sequence[float | None], threshold: float
) -> set[int]:
    """The positions at which asv reports that a slowdown begins."""
    from asv.step_detect import detect_regressions, detect_steps

    _, _, jumps = detect_regressions(detect_steps(list(values), list(weights)), threshold)
    return {after for _, after, _, _ in jumps or ()}


def study(
    chosen: Sequence[Setting],
    trials: int,
    sessions: int,
    threshold: float,
    seed: int,
    report: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> Iterator[Found]:
    """What asv reports in `trials` histories of each setting."""
    for position, setting in enumerate(chosen):
        report(position, len(chosen), f"{setting.step:.0%} at {setting.noise:.1%} noise")
        # By its own name, so that a setting has the same histories in every selection.
        random = np.random.default_rng([seed, zlib.crc32(repr(setting).encode())])
        hits = others = 0
        for _ in range(trials):
            found = reported(*history(setting, sessions, random), threshold)
            planted = {setting.before} if setting.step else set()
            hits += bool(found & planted)
            others += bool(found - planted)
        yield Found(setting, rate(hits, trials), rate(others, trials))
    report(len(chosen), len(chosen), "")


def row(found: Found) -> dict[str, Any]:
    """One setting as a flat row; the intervals are 95 % (Clopper and Pearson)."""
    return {
        **dataclasses.asdict(found.setting),
        "trials": found.at_step.trials,
        "reported": found.at_step.value,
        "reported_low": found.at_step.low,
        "reported_high": found.at_step.high,
        "elsewhere": found.elsewhere.value,
        "elsewhere_low": found.elsewhere.low,
        "elsewhere_high": found.elsewhere.high,
    }


def cells(found: Sequence[Found], afters: Sequence[int]) -> Iterator[list[str]]:
    """A line per noise and step, a cell per number of releases after it: the rate reported at the
    step, and behind ``+`` the rate reported elsewhere."""
    by_setting = {one.setting: one for one in found}
    for line in dict.fromkeys(dataclasses.replace(one.setting, after=0) for one in found):
        shown = []
        for after in afters:
            one = by_setting[dataclasses.replace(line, after=after)]
            hits = f"{one.at_step.value:.2f}" if line.step else "–"
            shown.append(f"{hits} + {one.elsewhere.value:.2f}")
        yield [f"{line.noise:.1%}", f"{line.step:.0%}" if line.step else "none", *shown]
