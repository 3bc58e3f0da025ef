"""gradbench releases show and compare"""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.analysis.filters import fails
from gradbench.cli import options, parameters
from gradbench.cli.output import warn
from gradbench.cli.rendering import Renderer

history_options = options.all_of(
    click.option(
        "--track",
        "tracks",
        multiple=True,
        type=parameters.Text(),
        metavar="TRACK",
        help="Only this track ('latest', its name or the beginning of it); may be repeated.",
    ),
    options.filter_options,
    options.change_options,
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
    judging: options.Judging,
    fail_on: str | None,
    everything: bool,
    results: Path,
    form: Renderer,
    top: int,
    by: str | None,
) -> int:
    """Show what changed between each measured release and the one before.

    A selection of at most three cases is shown over all releases.
    """
    from gradbench.cli.releases import tables
    from gradbench.releases.stored import history

    past = history(results, tracks, _note, filters)
    judged = past.changes(past.steps(), *judging)
    if by is None:
        form.write(tables.changes(past, judged, top, everything))
    else:
        form.write(tables.groups(past, judged, by))
    return int(fails((change.verdict for change in judged.changes), fail_on))


@click.command()
@click.argument("old", type=parameters.Text())
@click.argument("new", type=parameters.Text())
@history_options
def compare(
    old: str,
    new: str,
    tracks: tuple[str, ...],
    filters: options.Filters,
    judging: options.Judging,
    fail_on: str | None,
    everything: bool,
    results: Path,
    form: Renderer,
) -> int:
    """Compare release NEW with release OLD, case by case.

    Two releases of one track took turns and are compared directly; two of different tracks, through
    the baseline that both tracks have.
    """
    from gradbench.cli.releases import tables
    from gradbench.releases.stored import compared, history

    past = history(results, tracks, _note, filters)
    before, after, judged = compared(past, old, new, judging)
    form.write(tables.comparison(past, judged, before, after, everything))
    return int(fails((change.verdict for change in judged.changes), fail_on))


def _note(problem: str) -> None:
    warn(f"note: {problem}")
