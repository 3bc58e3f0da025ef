"""gradbench run"""

from __future__ import annotations

import os
from pathlib import Path

import click

from gradbench.advise.yours import say_if_changed
from gradbench.analysis.conditions import BUSY
from gradbench.cli import completing, options, parameters
from gradbench.cli.fleet_options import busy_option, on_option, require_on
from gradbench.cli.output import hint, info, on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Renderer, Terminal
from gradbench.cli.yours import Yours, own_options
from gradbench.core.cases import Selection
from gradbench.core.instruments import WALL_TIME
from gradbench.core.units import counted, duration
from gradbench.runner import machine
from gradbench.runner.choosing import Measuring, Opened, plan, reopen
from gradbench.runner.plan import lacking, start
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES
from gradbench.runner.sparing import SETTLED
from gradbench.runner.wire import WorkerOptions
from gradbench.store.runs import KIND, Run


@click.command()
@options.selection_options
@options.profile_options(
    PROFILES,
    "quick",
    1,
    (),
    click.option(
        "--baseline",
        type=parameters.Text(),
        shell_complete=completing.offered("mode"),
        help="Baseline, which is measured twice.",
    ),
)
@own_options
@options.files_option
@options.results_option
@options.resume_option("run")
@on_option
@busy_option
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
@options.format_option
def command(
    selection: Selection,
    measuring: Measuring,
    yours: Yours,
    files: tuple[str, ...],
    results: Path,
    resumed: str | None,
    address: str | None,
    even_if_busy: bool,
    dry_run: bool,
    form: Renderer,
) -> int:
    """Measure every selected case, store what was measured, and show the table.

    '--function MODULE:FUNCTION' or 'FILE.py:FUNCTION' measures a function of your own, at the
    inputs that --input or --inputs give: no derivative by hand is needed.

    Every mode passes the correctness gate before and after it is timed. What was measured is
    stored comparison by comparison: Ctrl-C stops the run, and --resume continues it.
    """
    require_on(address, even_if_busy)
    if resumed is not None:
        allowed = ("resumed", "results", "files", "form", "address", "even_if_busy")
        options.reject_beside_resume("run", *allowed)
        if address is not None:
            from gradbench.cli import on_fleet

            return on_fleet.go_on(address, results, resumed, files, not even_if_busy, form)
        return _measure(reopen(results, resumed, files, options.discovered, warn), form)
    suite = yours.suite(selection, files, measuring, None if dry_run else results, info)
    if address is not None:
        from gradbench.cli import on_fleet

        return on_fleet.run(address, suite, measuring, results, not even_if_busy, dry_run, form)
    worker = WorkerOptions(files=suite.files, memory_limit=measuring.memory_limit)
    discovery = options.discovered(worker)
    profile = PROFILES[measuring.profile]
    entries, settings = plan(discovery, suite.selection, measuring, profile, warn)
    cases = sum(len(entry.modes) for entry in entries)
    first = min(SETTLED, settings.sessions) if settings.enough else settings.sessions
    planned = (
        f"{counted(cases, 'case')} in {counted(len(entries), 'comparison')}, "
        f"{counted(first, 'process')}"
    )
    if first < settings.sessions:
        more = settings.sessions - first
        planned += f" and up to {more} more within {duration(settings.enough)}"
    if settings.instruments != (WALL_TIME,):
        planned += f": {', '.join(settings.instruments)}"
    if dry_run:
        say(planned)
        return 0
    info(f"Measuring {planned}; {machine.load()}")
    say_if_changed(suite.own, KIND, results, warn)
    command = options.given_command()
    log, run = start(results, entries, settings, discovery, suite.files, command, suite.loaded)
    return _measure(Opened(log, run, settings, worker, discovery), form)


def _measure(opened: Opened[Run], form: Renderer) -> int:
    from gradbench.cli.show_command import show_run

    run = opened.stored
    load, cores = os.getloadavg()[0], len(machine.usable_cores())
    if load > BUSY * cores:
        warn(f"The machine is busy (load {load:.1f} on {counted(cores, 'core')}): times suffer")
    stop = (
        f"Stopped. Everything measured so far is in {run.path}.\n"
        f"Resume it with: gradbench run --resume {run.name}"
    )
    with on_stop(stop), opened.log, progress("measuring") as report:
        run = measure(opened.log, run, opened.settings, opened.worker, opened.discovery, report)
    measured = show_run(run, form)
    if not isinstance(form, Terminal):
        info(f"Stored in {run.path}")
        return 0 if measured else 1
    end = run.ends[-1]
    share = f", {end.visiting / end.elapsed:.0%} of it timing" if end.visiting else ""
    hint(f"Took {duration(end.elapsed)}{share}; {machine.load()}.")
    say(f"Stored in {run.path}")
    if not measured:
        warn("gradbench: no mode could be measured; the table says why")
        return 1
    if lacking(run, opened.settings):
        resume = f"gradbench run --resume {run.name}"
        hint(f"What crashed or ran out of memory: '{resume}' tries it again")
    hint("Next: 'gradbench show' has each function, '--comparison NAME' all modes of one")
    return 0
