"""gradbench study asv-steps"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Renderer, Table, places
from gradbench.cli.study.measured import trials_option
from gradbench.core.extras import require
from gradbench.core.units import counted


def _percents(name: str, default: tuple[float, ...], what: str) -> Callable[[Any], Any]:
    return click.option(
        f"--{name}",
        f"{name}s",
        type=parameters.percent(),
        multiple=True,
        default=default,
        help=f"{what}, in percent; may be repeated.",
    )


@click.command("asv-steps")
@trials_option(400, "Number of histories of each kind.")
@_percents("noise", (1.0, 3.0, 8.0), "Standard deviation of one process's times")
@_percents("step", (0.0, 5.0, 10.0, 20.0, 30.0, 50.0), "Injected slowdown (0: none)")
@click.option(
    "--before",
    type=parameters.Whole(1, 1000),
    default=10,
    help="Number of releases before the slowdown.",
)
@click.option(
    "--after",
    "afters",
    type=parameters.Whole(1, 1000),
    multiple=True,
    default=(1, 2, 3),
    help="Number of releases with the slowdown; may be repeated.",
)
@click.option(
    "--sessions", type=parameters.Whole(2, 1000), default=5, help="Number of processes per point."
)
@click.option(
    "--threshold",
    type=parameters.percent(),
    default=5.0,
    help="asv's regressions_thresholds: smaller steps are not reported, in percent.",
)
@options.seed_option
@options.format_option
def asv_steps(
    trials: int,
    noises: tuple[float, ...],
    steps: tuple[float, ...],
    before: int,
    afters: tuple[int, ...],
    sessions: int,
    threshold: float,
    seed: int,
    form: Renderer,
) -> int:
    """Count injected slowdowns that asv reports in simulated histories.

    What counts is asv's regressions page. Nothing is measured or stored: the numbers follow from
    the seed.
    """
    require("gradbench study asv-steps", "asv")
    from gradbench.runner.progress import Progress
    from gradbench.studies import asv_steps as study

    noise, step = ([percent / 100 for percent in given] for given in (noises, steps))
    settings = study.settings(noise, step, before, afters)
    began = time.perf_counter()
    with progress("asv-steps") as report:

        def told(done: int, total: int, label: str) -> None:
            elapsed = time.perf_counter() - began
            report(Progress(done, total, label, elapsed, unit="histories"))

        results = list(study.study(settings, trials, sessions, threshold / 100, seed, told))
    numbers = [f"{after} after" for after in afters]
    title = "Reported on asv's regressions page"
    rows = list(study.cells(results, afters))
    table = Table(places(["noise", "step", *numbers], numbers), rows, title)
    legend = (
        f"{trials} histories each: {before} releases before the step; a point is the median of "
        f"{counted(sessions, 'process')}.\nReported at the step, and (after +) anywhere else, with "
        f"a threshold of {threshold:g} %."
    )
    form.write(Answer(map(study.row, results), details=[table], summary=[legend]))
    return 0
