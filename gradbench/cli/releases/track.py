"""gradbench releases track and asv"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gradbench.advise.yours import say_if_changed
from gradbench.cli import completing, options, parameters
from gradbench.cli.fleet_options import busy_option, on_option, require_on
from gradbench.cli.output import hint, info, notes, on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.cli.releases.environments import capability_option, dry_run_option, install_options
from gradbench.cli.rendering import Renderer, Terminal
from gradbench.cli.yours import Yours, own_options
from gradbench.core.cases import Offer, Selection
from gradbench.core.extras import installed, require
from gradbench.core.instruments import WALL_TIME
from gradbench.core.units import counted, duration
from gradbench.releases import track as tracking
from gradbench.releases.environments import Failure, Request
from gradbench.releases.plan import Asked, planned, prepared, reopen
from gradbench.releases.wanted import Installing
from gradbench.runner.choosing import Measuring, Opened, Suite
from gradbench.store.tracks import KIND, Track


@click.command()
@click.argument(
    "names",
    nargs=-1,
    type=parameters.Text(),
    metavar="[RELEASE]...",
    shell_complete=completing.release,
)
@click.option(
    "--baseline",
    type=parameters.Text(),
    metavar="RELEASE",
    shell_complete=completing.release,
    help="Release that all others are measured with; joins the results of tracks with the same "
    "baseline.  [default: the last track's, else the newest of these]",
)
@options.selection_options
@options.profile_options(tracking.PROFILES, "standard", 2, (WALL_TIME,))
@capability_option
@click.option(
    "--date",
    "dates",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=YYYY-MM-DD",
    help="Date of an unlisted build; may be repeated.  [default: today]",
)
@own_options
@options.files_option
@install_options
@options.results_option
@options.resume_option("track")
@on_option
@busy_option
@dry_run_option
@options.format_option
def track(
    names: tuple[str, ...],
    baseline: str | None,
    selection: Selection,
    measuring: Measuring,
    cpu_capability: str | None,
    dates: tuple[str, ...],
    yours: Yours,
    files: tuple[str, ...],
    installing: Installing,
    results: Path,
    resumed: str | None,
    address: str | None,
    even_if_busy: bool,
    dry_run: bool,
    form: Renderer,
) -> int:
    """Measure cases in several releases that take turns.

    Each of several short sessions has a fresh worker process per release. Missing releases are
    installed first. Every case is stored as soon as it is measured: Ctrl-C stops the track, and
    --resume continues it. Default: the installed releases.

    '--function MODULE:FUNCTION' or 'FILE.py:FUNCTION' measures a function of your own, at the
    inputs that --input or --inputs give: no derivative by hand is needed.
    """
    with on_stop("Stopped before anything was measured. Installed releases stay."):
        require_on(address, even_if_busy)
        if resumed is not None:
            allowed = ("resumed", "results", "files", "form", "address", "even_if_busy")
            options.reject_beside_resume("track", *allowed)
            if address is not None:
                from gradbench.cli.releases import on_fleet

                return on_fleet.go_on(address, results, resumed, files, not even_if_busy, form)
            opened = reopen(results, resumed, files, options.discovered, warn)
            return _measure(results, opened, form)
        asked = Asked(names, baseline or "", dates, cpu_capability or "")

        def declare() -> Suite:
            return yours.suite(selection, files, measuring, None if dry_run else results, info)

        if address is not None:
            from gradbench.cli.releases import on_fleet

            return on_fleet.track(
                *(address, asked, declare(), measuring, installing, results),
                *(not even_if_busy, dry_run, form),
            )
        ready = prepared(
            asked,
            measuring,
            results,
            declare,
            installing.interpreter,
            options.discovered,
            warn,
        )
        requests = ready.wanted.requests
        cases = sum(len(entry.modes) for entry in ready.entries)
        seconds = tracking.foreseen_seconds(ready.entries, ready.settings, len(requests))
        said = (
            f"{counted(cases, 'case')} in {counted(len(requests), 'build')} of torch, "
            f"{counted(ready.settings.sessions, 'session')}; baseline {ready.wanted.baseline}"
        )
        foreseen = installing.foreseen(requests)
        say_if_changed(ready.suite.own, KIND, results, warn)
        if dry_run:
            if foreseen:
                say(f"Would install {foreseen}")
            say(f"Would measure {said}: about {duration(seconds)} for small inputs")
            return 0

        def install(requests: Sequence[Request]) -> list[Failure]:
            return installing.install(requests, warn, progress)

        plan = planned(ready, measuring, install, options.discovered, warn)
        info(f"Measuring {said}")
        opened = plan.begin(results, options.given_command())
    return _measure(results, opened, form)


def _measure(results: Path, opened: Opened[Track], form: Renderer) -> int:
    from gradbench.cli.releases import tables
    from gradbench.releases.stored import history

    track = opened.stored
    stop = (
        f"Stopped. Everything measured so far is in {track.path}.\n"
        f"Resume it with: gradbench releases track --resume {track.name}"
    )
    try:
        with on_stop(stop), opened.log, progress("tracking") as report:
            tracking.measure(
                opened.log, track, opened.settings, opened.worker, opened.discovery, report, warn
            )
    finally:
        if installed("asv"):
            _write_asv(results, track, opened.discovery.offers)
    past = history(results, [track.name], lambda problem: notes([problem]))
    form.write(tables.changes(tables.Course.of(past)))
    for_people = isinstance(form, Terminal)
    if for_people:
        hint(f"Took {duration(track.elapsed)}.")
    (say if for_people else info)(f"Stored in {track.path}")
    sides = [side for part in track.parts for case in part.cases for side in case.sides]
    if not any(side.entrant.samples for side in sides):
        warn("gradbench: no case could be timed in any build")
        return 1
    if for_people:
        hint("Next: 'gradbench releases compare A B', or 'gradbench releases show -f FUNCTION'")
    return 0


@click.command()
@click.argument(
    "names", nargs=-1, type=parameters.Text(), metavar="[TRACK]...", shell_complete=completing.track
)
@options.results_option
def asv(names: tuple[str, ...], results: Path) -> int:
    """Write stored tracks as asv's files, for 'asv publish'. 'track' does so where asv is there.

    Default: all tracks, oldest first.
    """
    require("gradbench releases asv", "asv")
    from gradbench.releases import stored
    from gradbench.runner.wire import WorkerOptions
    from gradbench.runner.workers import discover

    tracks = stored.tracks(results, names, lambda problem: notes([problem]))
    offers = discover(WorkerOptions()).offers
    for made in tracks:
        _write_asv(results, made, offers)
        builds = counted(len(made.environments), "build")
        say(f"{made.name}: {builds}, {counted(len(made.parts), 'part')}")
    hint("Next: 'asv publish' writes the site, 'asv preview' shows it")
    return 0


def _write_asv(results: Path, made: Track, offers: Sequence[Offer]) -> None:
    """Has asv's files show the same history; what cannot be written there is no error."""
    from gradbench.integrations import asv_history
    from gradbench.store.lines import StoreError

    try:
        _, left = asv_history.write(results, made, offers)
    except StoreError as error:
        notes([f"asv's files were left as they are: {error}"])
        return
    if left:
        names = ", ".join(used.name for used in left)
        notes([f"asv shows one build per release; left out there: {names}"])
