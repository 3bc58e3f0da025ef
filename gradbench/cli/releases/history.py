"""gradbench releases show and compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradbench.analysis.filters import fails
from gradbench.cli import completing, options, parameters
from gradbench.cli.output import warn
from gradbench.cli.releases.judging import Asked, release_options
from gradbench.cli.rendering import Renderer

if TYPE_CHECKING:
    from gradbench.analysis.scope import Scope
    from gradbench.analysis.tracks import Judged

history_options = options.all_of(
    click.option(
        "--track",
        "tracks",
        multiple=True,
        type=parameters.Text(),
        metavar="TRACK",
        shell_complete=completing.track,
        help="Only this track ('latest', its name or the beginning of it); may be repeated.",
    ),
    options.track_filter_options,
    release_options,
    options.results_option,
    options.format_option,
)
"""Which tracks are read, and how changes are judged."""


@click.command()
@history_options
@click.option("--top", type=parameters.Whole(1, 10**6), default=20, help="Number of changes shown.")
@click.option(
    "--by",
    type=parameters.Choice(["mode", "operator", "function"]),
    help="Show one line for each of these instead of single cases.",
)
def show(
    tracks: tuple[str, ...],
    filters: options.Filters,
    asked: Asked,
    fail_on: str | None,
    allow_fewer: bool,
    everything: bool,
    results: Path,
    form: Renderer,
    top: int,
    by: str | None,
) -> int:
    """Show what changed between each measured release and the one before.

    Beside the steps stands the change from the first release to the last. A selection of at most
    three cases is shown over all releases.
    """
    from gradbench.analysis.scope import newest_scope
    from gradbench.cli.releases import by_group, tables
    from gradbench.releases.stored import history

    past = history(results, tracks, _note, filters, beside=True)
    course = tables.Course.of(past, asked.judging(gate=fail_on is not None))
    scope = newest_scope(past, course.judged.changes)
    if by is None:
        form.write(tables.changes(course, scope, top, everything))
    else:
        form.write(by_group.groups(course, by))
    return _gated(course.judged, scope, fail_on, allow_fewer)


@click.command()
@click.argument("old", type=parameters.Text(), shell_complete=completing.measured)
@click.argument("new", type=parameters.Text(), shell_complete=completing.measured)
@history_options
def compare(
    old: str,
    new: str,
    tracks: tuple[str, ...],
    filters: options.Filters,
    asked: Asked,
    fail_on: str | None,
    allow_fewer: bool,
    everything: bool,
    results: Path,
    form: Renderer,
) -> int:
    """Compare release NEW with release OLD, case by case.

    Each case is judged by the newest track that has it in both releases. Two releases of one track
    took turns and are compared directly; two of different tracks, through the baseline that both
    tracks have.
    """
    from gradbench.analysis.scope import scope
    from gradbench.cli.releases import tables
    from gradbench.releases.stored import compared, history

    past = history(results, tracks, _note, filters, beside=True)
    before, after, judged = compared(past, old, new, asked.judging(gate=True))
    covered = scope(past, judged.changes, before, after)
    form.write(tables.comparison(past, judged, (before, after), covered, everything))
    return _gated(judged, covered, fail_on, allow_fewer)


def _gated(judged: Judged, scope: Scope, fail_on: str | None, allow_fewer: bool) -> int:
    """The exit code. A check that compares less than it could does not pass."""
    short = fail_on is not None and bool(scope.fewer) and not allow_fewer
    if short:
        warn(
            f"gradbench: {scope} --fail-on {fail_on} fails for it: measure them, narrow the "
            "question (-f, -o, -m …), or accept it with --allow-fewer"
        )
    return int(short or fails((change.verdict for change in judged.changes), fail_on))


def _note(problem: str) -> None:
    warn(f"note: {problem}")
