"""gradbench run"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import console, progress, say, stopped
from gradbench.core.cases import Entry, Place, SelectionError
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.core.suggest import hint
from gradbench.core.units import counted, duration
from gradbench.runner.plan import lacking, resume, settings_of, start
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES, Settings
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import Discovery
from gradbench.store.executed import executed
from gradbench.store.lines import LineLog
from gradbench.store.runs import Run, StoreError, find, folder

F = TypeVar("F", bound=Callable[..., Any])


def limit_options(command: F) -> F:
    """What bounds a measuring process."""
    made = [
        click.option(
            "--timeout",
            type=parameters.seconds(),
            default=60.0,
            show_default=True,
            help="Seconds that one case may take to be prepared, or one visit to be made.",
        ),
        click.option(
            "--memory-limit",
            type=parameters.gib(),
            default=4.0,
            show_default=True,
            help="GiB beyond which a case is refused, by estimate, before anything is allocated.",
        ),
    ]
    for option in reversed(made):
        command = option(command)
    return command


def worker_options(command: F) -> F:
    """What bounds and feeds a measuring process."""
    return limit_options(options.files_option(command))


@click.command()
@options.selection_options
@click.option(
    "--profile",
    type=parameters.Choice(list(PROFILES)),
    default="quick",
    show_default=True,
    help="; ".join(f"{name}: {profile.summary}" for name, profile in PROFILES.items()),
)
@click.option(
    "--sessions", type=parameters.Whole(1, 100), help="Processes, instead of the profile's."
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    help="Seconds of visits per comparison and process, instead of the profile's.",
)
@click.option(
    "--instrument",
    "instruments",
    multiple=True,
    type=parameters.Choice([WALL_TIME, *INSTRUMENTS]),
    help="What is measured, may be repeated; once given, the clock is read only if it is named. "
    "Without any: wall_time, and on CUDA devices device_time.",
)
@click.option("--baseline", type=parameters.Text(), help="The mode that the control doubles.")
@options.seed_option
@worker_options
@options.results_option
@click.option(
    "--resume",
    "resumed",
    type=parameters.Text(),
    metavar="RUN",
    shell_complete=options.complete_run,
    help="Go on with an interrupted run ('latest', or its name or the beginning of it); "
    "selection and settings are that run's own.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
def command(
    profile: str,
    sessions: int | None,
    budget: float | None,
    instruments: tuple[str, ...],
    baseline: str | None,
    seed: int,
    timeout: float,
    memory_limit: float,
    files: tuple[str, ...],
    results: Path,
    resumed: str | None,
    dry_run: bool,
    **given: Any,
) -> int:
    """Measure every selected case, store what was measured, and show the table.

    Every mode passes the correctness gate before and after it is timed. What was measured is
    stored comparison by comparison: Ctrl-C stops, and --resume goes on.
    """
    worker = WorkerOptions(files=files, memory_limit=int(memory_limit * 2**30))
    try:
        if resumed is not None:
            _reject_selection()
            old = find(results, resumed)
            settings = settings_of(old)
            files = executed(
                old.path,
                folder(results),
                old.started.files,
                old.started.digests,
                files,
                "gradbench run --resume",
                partial(say, err=True),
            )
            worker = WorkerOptions(files=files, memory_limit=settings.memory_limit)
            found = options.offered(worker)
            require_instruments(settings.instruments, found)
            log, run, settings = resume(old)
        else:
            found = options.offered(worker)
            options.require_devices(given["devices"], found.environment)
            instruments = instruments or usual(given["devices"])
            require_instruments(instruments, found)
            chosen = PROFILES[profile]
            given["dtypes"] = given["dtypes"] or chosen.dtypes
            entries = options.planned(found.offers, options.selection(chosen.sweep, **given))
            settings = replace(
                adjusted(chosen.settings, sessions, budget),
                instruments=instruments,
                baseline=baseline or "",
                seed=seed,
                timeout=timeout,
                memory_limit=worker.memory_limit,
            )
            if baseline and not any(baseline in entry.modes for entry in entries):
                near = hint(baseline, (mode for entry in entries for mode in entry.modes))
                raise SelectionError(
                    f"--baseline {baseline!r} is no mode of what is selected"
                    + (f"; {near}" if near else "")
                )
            require_devices_of(instruments, entries)
            cases = sum(len(entry.modes) for entry in entries)
            said = f"{counted(cases, 'case')} in {counted(len(entries), 'comparison')}, "
            said += counted(settings.sessions, "process")
            if instruments != (WALL_TIME,):
                said += f": {', '.join(instruments)}"
            if dry_run:
                say(said)
                return 0
            say(f"Measuring {said}", err=True)
            log, run = start(results, entries, settings, found, files, options.given_command())
    except (SelectionError, StoreError, WorkerError) as error:
        raise click.UsageError(str(error)) from error
    return _go(log, run, settings, worker, found)


def adjusted(made: Settings, sessions: int | None, budget: float | None) -> Settings:
    """The profile's settings with what the user set instead."""
    if sessions is not None:
        made = replace(made, sessions=sessions)
    if budget is not None:
        made = replace(made, stopping=replace(made.stopping, budget=budget))
    return made


def usual(devices: Iterable[str]) -> tuple[str, ...]:
    """What is measured on these devices where nothing is asked for: beside the time on the clock
    that on the device tells which calls wait for their launches."""
    on_cuda = not all(Place.parse(device).on_cpu for device in devices)
    return (WALL_TIME, *(name for name, made in INSTRUMENTS.items() if on_cuda and made.cuda))


def require_devices_of(names: Iterable[str], entries: Iterable[Entry]) -> None:
    """Raises SelectionError where an instrument of CUDA devices has none to read."""
    on_cuda = not all(entry.comparison.place.on_cpu for entry in entries)
    for name in names:
        if name in INSTRUMENTS and INSTRUMENTS[name].cuda and not on_cuda:
            raise SelectionError(f"--instrument {name}: no CUDA device is selected (--device cuda)")


def require_instruments(names: Iterable[str], found: Discovery) -> None:
    """Raises SelectionError where an instrument asked for cannot be used."""
    for name in names:
        reason = found.unavailable.get(name)
        if reason is not None:
            raise SelectionError(f"--instrument {name}: {reason}")


def _reject_selection() -> None:
    """A resumed run has its own plan; an option that would change it is refused."""
    context = click.get_current_context()
    allowed = {"resumed", "results", "files"}
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source is click.core.ParameterSource.COMMANDLINE:
            raise SelectionError(
                f"--resume goes on with the run's own plan: leave out what selects or sets ({name})"
            )


def _go(log: LineLog, run: Run, settings: Settings, worker: WorkerOptions, found: Discovery) -> int:
    from gradbench.cli.show_command import show_run

    try:
        with log, progress("measuring") as report:
            run = measure(log, run, settings, worker, found, report)
    except KeyboardInterrupt:
        return stopped(
            f"Stopped; all that was measured is kept in {run.path}.\n"
            f"Go on with: gradbench run --resume {run.name}"
        )
    except (StoreError, WorkerError) as error:
        raise click.ClickException(str(error)) from error
    measured = show_run(run)
    end = run.ends[-1]
    share = ""
    if end.visiting:
        share = f", {end.visiting / end.elapsed:.0%} of it inside visits"
    console().print(f"{duration(end.elapsed)} in all{share}. Stored in {run.path}")
    if not measured:
        say("gradbench: no mode could be measured; the table says why", err=True)
        return 1
    if lacking(run, settings):
        say(f"Modes crashed: 'gradbench run --resume {run.name}' tries them again")
    say("Next: 'gradbench show --comparison NAME' for one comparison in full")
    return 0
