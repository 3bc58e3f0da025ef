"""gradbench study aa, power, coverage, peers, load and releases"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import info, on_stop, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Renderer
from gradbench.cli.study.stored import answer
from gradbench.core.extras import require
from gradbench.core.units import counted, duration

F = TypeVar("F", bound=Callable[..., Any])

MOST_TRIALS = 10**6


@dataclass(frozen=True)
class Conditions:
    """Where and on what a study is made, and how it is shown."""

    cases: tuple[str, ...]
    device: str
    files: tuple[str, ...]
    results: Path
    resumed: str | None
    by_case: bool
    form: Renderer


_common = options.all_of(
    options.seed_option,
    options.as_one(
        "conditions",
        Conditions,
        click.option(
            "-c",
            "--case",
            "cases",
            multiple=True,
            type=parameters.Text(),
            metavar="OPERATOR/FUNCTION/MODE",
            shell_complete=completing.case,
            help="Measure this case instead of the study's own; a name or a glob, may be repeated.",
        ),
        click.option(
            "--device",
            type=parameters.Text(),
            metavar="DEVICE",
            callback=options.place_label,
            default="cpu",
            help="Device to measure on.",
        ),
        options.files_option,
        options.results_option,
        options.resume_option("study"),
        click.option("--by-case", is_flag=True, help="Add a line for each case."),
        options.format_option,
    ),
)


def trials_option(default: int, what: str) -> Callable[[F], F]:
    return click.option(
        "--trials", type=parameters.Whole(1, MOST_TRIALS), default=default, help=what
    )


_protocol = options.all_of(
    click.option(
        "--comparisons",
        type=parameters.Whole(0, MOST_TRIALS),
        default=80,
        help="Number of further comparisons by the full protocol, five processes each.",
    ),
    click.option(
        "--between",
        is_flag=True,
        help="Compare two processes of the same build that take turns, several pairs of them per "
        "comparison.",
    ),
    click.option(
        "--pairs",
        type=parameters.Whole(2, 1000),
        default=10,
        help="With --between: pairs of processes per comparison.",
    ),
    options.threshold_option(None, "floor", "  [default: 0.01; with --between: 0.02]"),
)

_load = click.option(
    "--neighbour",
    type=parameters.Choice(["none", "other", "same", "both"]),
    default="none",
    help="Background load: a process that works in bursts on another core, on the measuring "
    "process's own, or on both. The measuring process is then pinned to a core.",
)


@click.command()
@trials_option(1000, "Number of comparisons in one process; with --between, in all.")
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=1.0,
    help="Maximum seconds of measuring per comparison.",
)
@_protocol
@_load
@_common
def aa(conditions: Conditions, **settings: Any) -> int:
    """Compare identical code, and count the false positives."""
    return _study("aa", conditions, settings)


@click.command()
@trials_option(150, "Number of comparisons per slowdown and budget; with --between, per slowdown.")
@click.option(
    "--budget",
    "budgets",
    type=parameters.seconds(),
    multiple=True,
    default=(0.3, 1.0),
    help="Maximum seconds of measuring per comparison; may be repeated.",
)
@click.option(
    "--slowdown",
    "slowdowns",
    type=parameters.Real(0, 1e4, min_open=True),
    multiple=True,
    default=(1.0, 2.0, 5.0, 10.0),
    help="Injected slowdown in percent; may be repeated.",
)
@_protocol
@_load
@_common
def power(conditions: Conditions, **settings: Any) -> int:
    """Inject slowdowns of known size, and count those found."""
    return _study("power", conditions, settings)


@click.command()
@click.option(
    "--sessions",
    type=parameters.Whole(10, MOST_TRIALS),
    default=100,
    help="Number of processes, whose mean is the true ratio.",
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=0.2,
    help="Maximum seconds of measuring per pair and process.",
)
@_load
@_common
def coverage(conditions: Conditions, **settings: Any) -> int:
    """Count how often intervals contain the true ratio of two modes.

    The intervals are those between processes. A case is a pair of modes: vjp/exp/backward:grad.
    """
    return _study("coverage", conditions, settings)


@click.command()
@trials_option(30, "Number of trials; each compares every kind of pair by every method.")
@click.option(
    "--pyperf-trials",
    type=parameters.Whole(0, MOST_TRIALS),
    default=3,
    help="Number of trials with pyperf too, which takes over a minute per comparison.",
)
@_load
@_common
def peers(conditions: Conditions, **settings: Any) -> int:
    """Measure false positives and power of other tools too.

    These are asv, pytest-benchmark, pyperf, torch.utils.benchmark and timeit, each used as its
    documentation says, on the same pairs in the same run as gradbench.
    """
    pyperf = ("pyperf",) if settings["pyperf_trials"] else ()
    require("gradbench study peers", "asv", "pytest_benchmark", *pyperf)
    return _study("peers", conditions, settings)


@click.command()
@trials_option(22, "Number of trials per load and pair; long calls take a part of them.")
@click.option(
    "--tool-trials",
    type=parameters.Whole(0, MOST_TRIALS),
    default=1,
    help="Number of trials per load and pair with other tools, which take minutes beside many "
    "processes.",
)
@click.option(
    "--load",
    "loads",
    type=parameters.Whole(0, 1000),
    multiple=True,
    default=(0, 2, 4, 8, 16),
    help="Busy processes per core; may be repeated. 0, the truth, is always measured.",
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=1.0,
    help="Maximum seconds of measuring per comparison.",
)
@options.threshold_option(None, "floor", "  [default: 0.02]")
@_common
def load(conditions: Conditions, **settings: Any) -> int:
    """Measure known ratios beside busy processes, which the study starts and ends.

    Calls of about 20 µs are compared with the same 15, 250 and 2500 times over, with themselves,
    and with copies slower by 5 %, on as many cores as this process may use ('taskset' limits them).
    """
    return _study("load", conditions, settings)


@click.command()
@click.argument(
    "installed",
    nargs=2,
    type=parameters.Text(),
    metavar="RELEASE TWIN",
    shell_complete=completing.installed,
)
@click.option(
    "--sessions",
    type=parameters.Whole(5, MOST_TRIALS),
    default=20,
    help="Number of pairs of processes; gates of 5, 10 and 20 are replayed from them.",
)
@click.option(
    "--slowdown",
    type=parameters.Real(0, 1e4, min_open=True),
    default=5.0,
    help="Injected slowdown in percent.",
)
@click.option(
    "--profile",
    type=parameters.Choice(["quick", "standard", "gate", "full"]),
    default="gate",
    help="How closely a session measures, as in 'gradbench releases track'.",
)
@_common
def releases(conditions: Conditions, **settings: Any) -> int:
    """Try the gate on one release installed twice, RELEASE and TWIN.

    Whatever the gate calls is a false alarm, and each case in turn is put in slower. Make the twin
    with 'gradbench releases install 2.13.0 twin=2.13.0'.
    """
    return _study("releases", conditions, {**settings, "neighbour": "none"})


def _study(name: str, conditions: Conditions, settings: dict[str, Any]) -> int:
    """Runs or resumes a study and shows what it found."""
    from gradbench.studies import conducting

    c = conditions
    with on_stop("Stopped before anything was measured."):
        if c.resumed is not None:
            options.reject_beside_resume("study", "resumed", "results", "files", "by_case", "form")
            opened = conducting.reopen(name, c.results, c.resumed, c.files, warn)
        else:
            opened = conducting.begin(
                name,
                {**settings, "files": list(c.files)},
                c.cases,
                c.device,
                c.results,
                ["gradbench", *options.given_command()],
            )
    log = opened.log
    hint = (
        f"Stopped. Everything measured so far is in {log.path}.\n"
        f"Resume it with: {log.go_on} {log.path.stem}"
    )
    seconds = opened.expected()
    if seconds:
        info(f"{counted(len(opened.left()), 'measurement')}: about {duration(seconds)}.")
    study = opened.study
    try:
        with log, progress(name) as report:
            opened.carry_out(report)
    except KeyboardInterrupt:
        with on_stop(hint):
            if study.good():
                c.form.write(answer(study, c.by_case))
            raise
    c.form.write(answer(study, c.by_case))
    return 0 if study.good() or not study.trials else 1
