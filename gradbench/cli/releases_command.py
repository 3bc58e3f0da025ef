"""gradbench releases"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, notes, plain, progress, say, stopped, table
from gradbench.cli.run_command import (
    adjusted,
    limit_options,
    require_instruments,
    worker_options,
)
from gradbench.core.cases import SelectionError, nothing_fits
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.core.units import counted, duration
from gradbench.runner.machine import capabilities, lacks

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=parameters.Group)
def command() -> None:
    """Torch releases: install, measure in turns, compare, bisect.

    A release is named by its version (2.9.0). NAME=WHAT gives an environment a name of its own:
    WHAT is a version, a wheel, or a Python that has torch (mine=/path/to/bin/python).
    """


@contextlib.contextmanager
def _clear() -> Iterator[None]:
    """What the user can mend is one line and exit code 2."""
    from gradbench.core.releases import ReleaseError
    from gradbench.runner.wire import WorkerError
    from gradbench.store.lines import StoreError

    try:
        yield
    except (ReleaseError, SelectionError, StoreError, WorkerError) as error:
        raise click.UsageError(str(error)) from error


def installer_options(command: F) -> F:
    """How environments are made."""
    made = [
        click.option(
            "--installer",
            type=parameters.Choice(["auto", "uv", "pip"]),
            default="auto",
            show_default=True,
            help="auto: uv where it is there, else venv and pip.",
        ),
        click.option(
            "--python",
            type=parameters.Text(),
            metavar="PYTHON",
            help="The interpreter to build environments with, instead of this one.",
        ),
        click.option("--index-url", type=parameters.Text(), help="Passed to the installer."),
        click.option(
            "--torch-backend",
            type=parameters.Text(),
            metavar="BACKEND",
            help="Passed to uv: cpu, cu128, auto …",
        ),
        click.option(
            "--pip-arg",
            "arguments",
            multiple=True,
            type=parameters.Text(),
            metavar="ARG",
            help="A further argument for the installer, such as --pip-arg=--pre; may be repeated.",
        ),
        click.option(
            "--yes", "-y", is_flag=True, help="Install even where the disk may be too small."
        ),
    ]
    for option in reversed(made):
        command = option(command)
    return command


# ── environments ──────────────────────────────────────────────────────────────────────────────


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Known releases that are not there too.")
@options.format_option("json", "csv", "md")
def list_(everything: bool, form: str) -> int:
    """The environments that are installed, and the releases that are known."""
    from gradbench.core import releases as known
    from gradbench.releases import environments

    there = environments.installed()
    rows = [
        {
            "name": e.name,
            "torch": e.torch,
            "released": str(known.build(e.torch).date),
            "state": "installed" if e.ours else "pointed at",
            "gib": round(e.size / environments.GIB, 1),
            "numpy": e.identity.get("numpy"),
            "cpu_capability": e.identity.get("cpu_capability"),
            "reason": "",
        }
        for e in there
    ]
    rows += [
        dict(zip(rows[0] if rows else _FIELDS, (f.name, "", "", "failed", 0, "", "", f.reason)))
        for f in environments.failures()
    ]
    names = {row["name"] for row in rows}
    if everything:
        rows += [
            dict(zip(_FIELDS, (r.version, "", str(r.date), "", 0, "", "", "")))
            for r in known.RELEASES
            if r.version not in names
        ]
    if form != "table":
        emit(rows, form)
        return 0
    if rows:
        shown = table("", [*_FIELDS[:4], ("GiB", "right"), "NumPy", "CPU capability", ""])
        for row in rows:
            cells = [row[field] or "" for field in _FIELDS]
            shown.add_row(*(plain(cell) for cell in cells))
        console().print(shown)
    free = environments.free_bytes() / environments.GIB
    size = sum(e.size for e in there) / environments.GIB
    say(
        f"{counted(len(there), 'environment')} of {size:.1f} GiB in {environments.home()}, "
        f"{free:.0f} GiB free there."
    )
    if not everything:
        say("'gradbench releases list --all' shows every known release")
    return 0


_FIELDS = ("name", "torch", "released", "state", "gib", "numpy", "cpu_capability", "reason")


@command.command()
@click.argument("names", nargs=-1, required=True, type=parameters.Text(), metavar="RELEASE...")
@installer_options
def install(names: tuple[str, ...], yes: bool, **given: Any) -> int:
    """Make one environment for each release. What is there already stays as it is."""
    from gradbench.releases import builds, environments

    try:
        with _clear():
            requests = builds.different([environments.named(name) for name in names])
            _, failed = _install(requests, yes, **given)
    except KeyboardInterrupt:
        return stopped("Stopped; what is installed stays: the same command installs the rest.")
    say(f"installed: {len(requests) - len(failed)} of {counted(len(requests), 'release')}")
    return 1 if failed else 0


def _install(
    requests: Sequence[Any],
    yes: bool,
    installer: str,
    python: str | None,
    index_url: str | None,
    torch_backend: str | None,
    arguments: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    """Installs what is missing and says what it takes beforehand."""
    import sys

    from gradbench.core import releases as known
    from gradbench.core.releases import ReleaseError
    from gradbench.releases import environments, installing

    wanted = environments.missing(requests)
    if not wanted:
        return [], []
    for request in wanted:
        known.require_published(request.what)
    how = installing.Installer.choose(
        installer, python or sys.executable, index_url or "", torch_backend or "", arguments
    )
    needed, free = environments.estimate(wanted), environments.free_bytes()
    gib = environments.GIB
    said = ", ".join(request.name for request in wanted)
    say(
        f"Installing {said} by {how.name} into {environments.home()}: up to "
        f"{needed / gib:.0f} GiB, {free / gib:.0f} GiB are free",
        err=True,
    )
    if needed > free and not yes:
        raise ReleaseError(
            f"these may need {needed / gib:.0f} GiB and {free / gib:.0f} GiB are free: remove "
            "some ('gradbench releases remove'), take CPU builds (--index-url or "
            "--torch-backend cpu), or insist with --yes"
        )
    with progress("installing") as report:
        made, failed = environments.install_all(wanted, how, report)
    for failure in failed:
        kept = environments.output(failure.name)
        where = f" (all output: {kept})" if kept.exists() else ""
        say(f"{failure.name} could not be installed: {failure.reason}{where}", err=True)
    return made, failed


@command.command()
@click.argument("names", nargs=-1, type=parameters.Text(), metavar="[RELEASE]...")
@click.option("--all", "everything", is_flag=True, help="Every environment that was installed.")
def remove(names: tuple[str, ...], everything: bool) -> int:
    """Remove environments. What was measured with them is kept."""
    from gradbench.releases import environments

    with _clear():
        if everything:
            names += tuple(e.name for e in environments.installed())
            names += tuple(f.name for f in environments.failures())
        if not names:
            raise SelectionError("name the releases to remove, or say --all")
        # All are looked at before the first is touched.
        chosen = list(dict.fromkeys(environments.removable(name) for name in names))
        freed = sum(environments.remove(name) for name in chosen)
    say(f"Removed {counted(len(chosen), 'environment')}, {freed / environments.GIB:.1f} GiB")
    return 0


# ── measuring ─────────────────────────────────────────────────────────────────────────────────


@command.command()
@click.argument("names", nargs=-1, type=parameters.Text(), metavar="[RELEASE]...")
@click.option(
    "--baseline",
    type=parameters.Text(),
    metavar="RELEASE",
    help="The release that all are measured with; its results join those of other tracks.  "
    "[default: the last track's, else the newest of these]",
)
@options.selection_options
@click.option(
    "--profile",
    type=parameters.Choice(["quick", "standard", "full"]),
    default="standard",
    show_default=True,
    help="quick: the documents' inputs, 4 rounds in 5 sessions; standard: 5 rounds in 10; full: "
    "larger sizes too, 16 to 100 rounds in 10.",
)
@click.option(
    "--sessions", type=parameters.Whole(2, 100), help="Sessions, not the profile's number."
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    help="Seconds of visits per case and session over all releases, instead of the profile's.",
)
@click.option(
    "--instrument",
    "instruments",
    multiple=True,
    type=parameters.Choice([WALL_TIME, *INSTRUMENTS]),
    default=(WALL_TIME,),
    show_default=True,
    help="What is measured, may be repeated.",
)
@click.option(
    "--cpu-capability",
    type=parameters.Choice(capabilities()),
    help="Hold all releases to these instructions, so that none owes a difference to newer ones.",
)
@click.option(
    "--date",
    "dates",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=YYYY-MM-DD",
    help="The day of a build that is no known release; today without it. May be repeated.",
)
@options.seed_option
@worker_options
@installer_options
@options.results_option
@click.option(
    "--resume",
    "resumed",
    type=parameters.Text(),
    metavar="TRACK",
    help="Go on with an interrupted track ('latest', or its name or the beginning of it).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
def track(
    names: tuple[str, ...],
    baseline: str | None,
    profile: str,
    sessions: int | None,
    budget: float | None,
    instruments: tuple[str, ...],
    cpu_capability: str | None,
    dates: tuple[str, ...],
    seed: int,
    timeout: float,
    memory_limit: float,
    files: tuple[str, ...],
    results: Path,
    resumed: str | None,
    dry_run: bool,
    yes: bool,
    installer: str,
    python: str | None,
    index_url: str | None,
    torch_backend: str | None,
    arguments: tuple[str, ...],
    **selection: Any,
) -> int:
    """Measure the cases with workers of all releases taking turns, in several short sessions.

    Missing releases are installed first. Every case is stored as soon as it is measured: Ctrl-C
    stops, and --resume goes on. Without releases, the installed ones are tracked.
    """
    from gradbench.cli.releases_tables import show_history
    from gradbench.releases import builds, environments
    from gradbench.releases import track as tracking
    from gradbench.releases.track import settings_of
    from gradbench.runner.wire import WorkerOptions
    from gradbench.store import tracks as log
    from gradbench.store.executed import executed

    base = WorkerOptions(files=files, memory_limit=int(memory_limit * 2**30))

    def install(requests: Sequence[environments.Request]) -> list[environments.Failure]:
        if dry_run:
            return []
        return _install(requests, yes, installer, python, index_url, torch_backend, arguments)[1]

    try:
        with _clear():
            if resumed is not None:
                _reject_plan(names)
                made = log.find(results, resumed)
                settings = settings_of(made)
                files = executed(
                    made.path,
                    log.folder(results),
                    made.started.files,
                    made.started.digests,
                    files,
                    "gradbench releases track --resume",
                    partial(say, err=True),
                )
                base = replace(base, files=files, memory_limit=settings.memory_limit)
                base = builds.held_to(base, made.started.settings.get("cpu_capability", ""))
                opened, settings = tracking.resume(made)
                with opened.closed_on_error():
                    made = log.read(made.path)
                    found = options.offered(environments.find(made.baseline).worker(base))
            else:
                if cpu_capability is not None and lacks(cpu_capability):
                    raise SelectionError(
                        f"--cpu-capability {cpu_capability}: this processor does not have it"
                    )
                base = builds.held_to(base, cpu_capability or "")
                those = builds.gather(names, baseline or "", dates, results, base, install)
                found = options.offered(environments.find(those.baseline).worker(base))
                options.require_devices(selection["devices"], found.environment)
                require_instruments(instruments, found)
                chosen = tracking.PROFILES[profile]
                selection["dtypes"] = selection["dtypes"] or chosen.dtypes
                entries = options.planned(
                    found.offers, options.selection(chosen.sweep, **selection)
                )
                settings = replace(
                    adjusted(chosen.settings, sessions, budget),
                    instruments=instruments,
                    seed=seed,
                    timeout=timeout,
                    memory_limit=base.memory_limit,
                )
                cases = sum(len(entry.modes) for entry in entries)
                say(
                    f"Measuring {counted(cases, 'case')} in "
                    f"{counted(len(those.installed), 'build')} of torch, "
                    f"{counted(settings.sessions, 'session')}; baseline {those.baseline}",
                    err=True,
                )
                if dry_run:
                    return 0
                opened, made = tracking.begin(
                    log.folder(results),
                    entries,
                    settings,
                    those,
                    files,
                    options.given_command(),
                    cpu_capability or "",
                )
    except KeyboardInterrupt:
        return stopped("Stopped before anything was measured; what is installed stays.")
    try:
        with opened, _clear(), progress("tracking") as report:
            tracking.measure(opened, made, settings, base, found, report)
    except KeyboardInterrupt:
        return stopped(
            f"Stopped; all that was measured is kept in {made.path}.\n"
            f"Go on with: gradbench releases track --resume {made.name}"
        )
    finally:
        _write_asv(results, made, found.offers)
    with _clear():
        history = _history(results, [made.name])
    show_history(history, history.changes(history.steps()), "table")
    say(f"{duration(made.elapsed)} in all. Stored in {made.path}")
    if not any(side.minima for part in made.parts for case in part.cases for side in case.sides):
        say("gradbench: no case could be timed in any build", err=True)
        return 1
    say("Next: 'gradbench releases compare A B', or 'show -f FUNCTION' for a course")
    return 0


def _reject_plan(names: tuple[str, ...]) -> None:
    context = click.get_current_context()
    for name in context.params:
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if names or (given and name not in ("resumed", "results", "files", "names")):
            raise SelectionError(
                "--resume goes on with the track's own plan: leave out what selects or sets "
                f"({'RELEASE' if names else name})"
            )


def _write_asv(results: Path, made: Any, offers: Sequence[Any]) -> None:
    """Has asv's files tell the same history; what cannot be written there is said, not raised."""
    from gradbench.integrations import asv_history
    from gradbench.store.lines import StoreError

    try:
        _, left = asv_history.write(results, made, offers)
    except StoreError as error:
        say(f"note: asv's files were left as they are: {error}", err=True)
        return
    if left:
        names = ", ".join(used.name for used in left)
        say(f"note: asv shows one build a release; {names} left out there", err=True)


# ── reading ───────────────────────────────────────────────────────────────────────────────────


def judging_options(command: F) -> F:
    """How changes are judged, and over what."""
    made = [
        click.option(
            "--track",
            "tracks",
            multiple=True,
            type=parameters.Text(),
            metavar="TRACK",
            help="Only this track ('latest', or its name or the beginning of it); may be repeated.",
        ),
        options.filter_options,
        options.change_floor_option,
        options.confidence_option,
        options.method_option,
        click.option(
            "--fail-on",
            type=parameters.Choice(["slower", "faster", "any"]),
            help="Exit with code 1 where a case is called so.",
        ),
        click.option("--all", "everything", is_flag=True, help="Undecided and unchanged ones too."),
        options.results_option,
        options.format_option("json", "csv", "md"),
    ]
    for option in reversed(made):
        command = option(command)
    return command


@command.command()
@judging_options
@click.option(
    "--top",
    type=parameters.Whole(1, 10**6),
    default=20,
    show_default=True,
    help="Changes shown in the table.",
)
@click.option(
    "--by",
    type=parameters.Choice(["mode", "operator", "function"]),
    help="A line for each of these, over all releases, in place of single cases.",
)
def show(
    tracks: tuple[str, ...],
    floor: float,
    confidence: float,
    method: str,
    fail_on: str | None,
    everything: bool,
    results: Path,
    form: str,
    top: int,
    by: str | None,
    **filters: Any,
) -> int:
    """What changed between each measured release and the one before.

    A selection of at most three cases is shown as their course over all releases.
    """
    from gradbench.cli.releases_tables import show_groups, show_history

    with _clear():
        history = _history(results, tracks, filters)
    judged = history.changes(history.steps(), floor, confidence, method)
    if by is None:
        show_history(history, judged, form, top, everything)
    else:
        show_groups(history, judged, by, form)
    return _exit_code(judged, fail_on)


@command.command()
@click.argument("old", type=parameters.Text())
@click.argument("new", type=parameters.Text())
@judging_options
def compare(
    old: str,
    new: str,
    tracks: tuple[str, ...],
    floor: float,
    confidence: float,
    method: str,
    fail_on: str | None,
    everything: bool,
    results: Path,
    form: str,
    **filters: Any,
) -> int:
    """Hold release NEW against release OLD, case by case.

    Where both were in one track they were measured in turns; else each is held against the
    baseline that both tracks have.
    """
    from gradbench.cli.releases_tables import show_comparison

    with _clear():
        history = _history(results, tracks, filters)
        before, after = history.find(old), history.find(new)
        if before == after:
            raise SelectionError(f"{old!r} and {new!r} are the same build")
        judged = history.changes([(before, after)], floor, confidence, method)
        if not judged.changes:
            raise SelectionError(
                f"{old!r} and {new!r} have no case in common that was timed in both; measure them "
                f"together: 'gradbench releases track {old} {new}'"
            )
    show_comparison(history, judged, before, after, form, everything)
    return _exit_code(judged, fail_on)


def _history(results: Path, names: Sequence[str], filters: dict[str, Any] | None = None) -> Any:
    """The history of these tracks; without a name, of all that the newest one's machine measured.

    Raises SelectionError where the selection fits nothing, StoreError where there is none.
    """
    from gradbench.analysis.tracks import History
    from gradbench.store.lines import StoreError

    tracks = _tracks(results, names)
    history = History.of(tracks, filters)
    if not history.cases:
        given = filters or {}
        planned = [
            (entry.comparison, mode)
            for track in tracks
            for entry in track.entries()
            for mode in entry.modes
        ]
        if any(given.values()):
            raise SelectionError(nothing_fits(planned, **given))
        raise StoreError("no case of these tracks was measured in any build")
    return history


def _stored_tracks(results: Path, names: Sequence[str]) -> list[Any]:
    """These tracks, or all, oldest first; what was left out is named on stderr.

    Raises StoreError where there is none."""
    from gradbench.store import tracks as log
    from gradbench.store.lines import StoreError

    if names:
        found, problems = log.KIND.once([log.find(results, name) for name in names])
    else:
        found, problems = log.read_all(results)
    notes(problems + [p for t in found for p in t.problems])
    if not found:
        raise StoreError(
            f"there are no tracks in {log.folder(results)}; 'gradbench releases track' makes one"
        )
    return found


def _tracks(results: Path, names: Sequence[str]) -> list[Any]:

    found = _stored_tracks(results, names)
    if names:
        return found
    cpu = found[-1].started.machine.get("cpu")
    mine = [t for t in found if t.started.machine.get("cpu") == cpu]
    if len(mine) < len(found):
        say(
            f"note: left out are {counted(len(found) - len(mine), 'track')} of other machines; "
            "--track names them",
            err=True,
        )
    return mine


def _exit_code(judged: Any, fail_on: str | None) -> int:
    calls = {change.verdict for change in judged.changes}
    wanted = {"slower", "faster"} if fail_on == "any" else {fail_on}
    return 1 if fail_on and calls & wanted else 0


@command.command()
@click.argument("names", nargs=-1, type=parameters.Text(), metavar="[TRACK]...")
@options.results_option
def asv(names: tuple[str, ...], results: Path) -> int:
    """Write stored tracks into asv's files, for 'asv publish'. 'track' does so by itself.

    Without a name, all of them, oldest first.
    """
    from gradbench.runner.wire import WorkerOptions
    from gradbench.runner.workers import discover

    with _clear():
        tracks = _stored_tracks(results, names)
        offers = discover(WorkerOptions()).offers
        for track in tracks:
            _write_asv(results, track, offers)
            builds = counted(len(track.environments), "build")
            say(f"{track.name}: {builds}, {counted(len(track.parts), 'part')}")
    say("Next: 'asv publish' writes the site, 'asv preview' shows it")
    return 0


# ── bisecting ─────────────────────────────────────────────────────────────────────────────────


@command.command()
@click.argument("case", type=parameters.Text(), metavar="CASE")
@click.option("--from", "old", type=parameters.Text(), metavar="RELEASE", help="The older end.")
@click.option("--to", "new", type=parameters.Text(), metavar="RELEASE", help="The newer end.")
@click.option(
    "--among",
    multiple=True,
    type=parameters.Text(),
    metavar="RELEASE",
    help="Search these builds only, in this order, from the first to the last; repeated.",
)
@click.option("--installed", is_flag=True, help="Search only releases that are there already.")
@click.option("--sessions", type=parameters.Whole(2, 100), default=10, show_default=True)
@options.change_floor_option
@options.suite_option
@limit_options
@installer_options
@options.results_option
def bisect(
    case: str,
    old: str | None,
    new: str | None,
    among: tuple[str, ...],
    installed: bool,
    sessions: int,
    floor: float,
    timeout: float,
    memory_limit: float,
    files: tuple[str, ...],
    results: Path,
    yes: bool,
    **given: Any,
) -> int:
    """Find the release in which CASE changed, in the fewest installations.

    CASE is a full name, as 'gradbench list cases' prints it, or OPERATOR/FUNCTION/MODE. Each step
    measures one release between the two ends, in turns with both.
    """
    from gradbench.releases import bisect as searching
    from gradbench.releases import environments, seeking
    from gradbench.runner.wire import WorkerOptions

    base = WorkerOptions(files=files, memory_limit=int(memory_limit * 2**30))
    try:
        with _clear():
            ends, between = seeking.candidates(old, new, among, installed)
            needed = seeking.most_installations(between)
            say(
                f"{counted(len(between), 'release')} between {ends[0].name} and {ends[1].name}; "
                f"at most {needed} to install",
                err=True,
            )

            def install(requests: Sequence[environments.Request]) -> str:
                _, failed = _install(requests, yes, **given)
                return "; ".join(failure.reason for failure in failed)

            with progress("bisecting") as report:
                seeker = seeking.Seeker(
                    case, results, base, sessions, floor, timeout, install, report
                )
                ratio = seeker.ends(*ends)
                say(f"{ends[1].name} against {ends[0].name}: {ratio}", err=True)
                found = searching.bisect(
                    *ends,
                    between,
                    seeking.is_installed,
                    seeker.measure,
                    lambda request, said: say(f"{request.name}: {said}", err=True),
                )
    except KeyboardInterrupt:
        return stopped(
            "Stopped; what was measured and installed is kept, and the same command goes on "
            "with it."
        )
    before, after = found.before.name, found.after.name
    if found.left:
        names = ", ".join(request.name for request in found.left)
        say(f"Changed between {before} and {after}; not told apart in between: {names}")
        return 1
    say(f"Changed in {after}: {before} is as before, {after} as after")
    return 0
