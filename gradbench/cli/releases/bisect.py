"""gradbench releases bisect"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.cli.releases.environments import install_options
from gradbench.core.units import counted
from gradbench.releases.wanted import Installing

if TYPE_CHECKING:
    from gradbench.releases.environments import Request


@click.command()
@click.argument("case", type=parameters.Text(), metavar="CASE")
@click.option("--from", "old", type=parameters.Text(), metavar="RELEASE", help="Older end.")
@click.option("--to", "new", type=parameters.Text(), metavar="RELEASE", help="Newer end.")
@click.option(
    "--among",
    multiple=True,
    type=parameters.Text(),
    metavar="RELEASE",
    help="Search only these builds, in this order, from the first to the last; repeat for each.",
)
@click.option("--installed", is_flag=True, help="Search only installed releases.")
@click.option(
    "--sessions",
    type=parameters.Whole(2, 100),
    default=10,
    help="Number of processes; more resolve smaller changes.",
)
@options.threshold_option(0.02)
@options.suite_option
@options.limit_options
@install_options
@options.results_option
def bisect(
    case: str,
    old: str | None,
    new: str | None,
    among: tuple[str, ...],
    installed: bool,
    sessions: int,
    threshold: float,
    timeout: float,
    memory_limit: int,
    files: tuple[str, ...],
    results: Path,
    installing: Installing,
) -> int:
    """Find the release in which CASE changed.

    As few releases as possible are installed for it. CASE is a full name, as 'gradbench list cases'
    prints it, or OPERATOR/FUNCTION/MODE. Each step measures one release between the two ends, in
    turns with both.
    """
    from gradbench.releases import bisect as searching
    from gradbench.releases import seeking
    from gradbench.runner.wire import WorkerOptions

    base = WorkerOptions(files=files, memory_limit=memory_limit)
    hint = "Stopped. Measurements and installations are kept: the same command resumes."
    with on_stop(hint):
        ends, between = seeking.candidates(old, new, among, installed)
        warn(
            f"{counted(len(between), 'release')} between {ends[0].name} and {ends[1].name}; "
            f"at most {seeking.most_installations(between)} to install"
        )

        def install(requests: Sequence[Request]) -> str:
            failed = installing.install(requests, warn, progress)
            return "; ".join(failure.reason for failure in failed)

        with progress("bisecting") as report:
            seeker = seeking.Seeker(
                case, results, base, sessions, threshold, timeout, install, report
            )
            ratio = seeker.ends(*ends)
            warn(f"{ends[1].name} compared with {ends[0].name}: {ratio}")
            found = searching.bisect(
                *ends,
                between,
                seeking.is_installed,
                seeker.measure,
                lambda request, said: warn(f"{request.name}: {said}"),
            )
    before, after = found.before.name, found.after.name
    if found.left:
        names = ", ".join(request.name for request in found.left)
        say(f"Changed between {before} and {after}; too close to call in between: {names}")
        return 1
    say(f"Changed in {after}: {before} is as before, {after} as after")
    return 0
