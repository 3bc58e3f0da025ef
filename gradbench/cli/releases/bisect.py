"""gradbench releases bisect"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gradbench.advise.yours import say_if_changed
from gradbench.cli import completing, options, parameters
from gradbench.cli.output import info, on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.cli.releases.environments import (
    capability_option,
    dry_run_option,
    install_options,
)
from gradbench.cli.rendering import Renderer
from gradbench.cli.yours import Yours, own_options
from gradbench.core.cases import Selection
from gradbench.core.releases import ReleaseError
from gradbench.core.units import counted, duration
from gradbench.releases.environments import Request
from gradbench.releases.wanted import Installing, require_available
from gradbench.runner.choosing import Measuring


@click.command()
@click.argument(
    "words",
    nargs=-1,
    required=True,
    type=parameters.Text(),
    metavar="[CASE] RELEASE RELEASE...",
    shell_complete=completing.bisected,
)
@click.option("--installed", is_flag=True, help="Search only installed releases.")
@options.selection_options
@click.option(
    "--sessions",
    type=parameters.Whole(2, 100),
    default=10,
    help="Number of processes; more resolve smaller changes.",
)
@options.threshold_option(0.02)
@capability_option
@own_options
@options.files_option
@options.seed_option
@options.limit_options
@install_options
@options.results_option
@dry_run_option
@options.format_option
def bisect(
    words: tuple[str, ...],
    installed: bool,
    selection: Selection,
    sessions: int,
    threshold: float,
    cpu_capability: str | None,
    yours: Yours,
    files: tuple[str, ...],
    seed: int,
    timeout: float,
    memory_limit: int,
    installing: Installing,
    results: Path,
    dry_run: bool,
    form: Renderer,
) -> int:
    """Find the release in which a case changed.

    Of two releases, all between them are searched, and as few as possible installed; of more, only
    those, in this order. CASE is named as in 'gradbench explain'; the options of 'releases track'
    select one case too, also of a function of your own. Each step measures one release between two
    others, in turns with both, and is stored like a track.
    """
    from gradbench.cli.releases import searched
    from gradbench.core.naming import narrowed
    from gradbench.releases import bisect as searching
    from gradbench.releases import builds, environments, room, seeking
    from gradbench.releases.plan import require_capability
    from gradbench.releases.track import foreseen_seconds
    from gradbench.runner.wire import WorkerOptions
    from gradbench.store.tracks import KIND

    hint = "Stopped. Measurements and installations are kept: the same command resumes."
    with on_stop(hint):
        require_capability(cpu_capability or "")
        case, names = _split(words)
        ends, between = seeking.candidates(names, installed)
        between = _available(between, installing.interpreter)
        require_available(environments.missing(ends), installing.interpreter)
        if case:
            selection = narrowed(case, selection)
        settings = seeking.settings_for(sessions, timeout, memory_limit, seed)
        measuring = Measuring("", sessions, None, (), seed, timeout, memory_limit)
        suite = yours.suite(selection, files, measuring, None if dry_run else results, info)
        base = WorkerOptions(files=suite.files, memory_limit=memory_limit)
        base = builds.held_to(base, cpu_capability or "")
        # Before anything is fetched: what this Python offers, the releases offer too.
        entry = seeking.one_case(options.discovered(base).offers, suite.selection)
        foreseen = installing.foreseen(ends)
        most = seeking.most_installations(between)
        steps = len(between).bit_length()
        seconds = foreseen_seconds([entry], settings, 2 + 3 * steps)
        said = (
            f"{counted(len(between), 'release')} between {ends[0].name} and {ends[1].name}; at "
            f"most {most} to install, {counted(1 + steps, 'step')}"
        )
        if dry_run:
            if foreseen:
                say(f"Would install {foreseen}")
            if most:
                each = room.estimate([Request("", "2")], installing.on_cpu) / room.GIB
                say(f"Would install at most {most} more, up to {each:.0f} GiB each")
            say(f"Would search {said}: about {duration(seconds)} for a small case")
            return 0
        say_if_changed(suite.own, KIND, results, warn)
        info(said)

        def install(requests: Sequence[Request]) -> str:
            failed = installing.install(requests, warn, progress)
            return "; ".join(f"{failure.name}: {failure.reason}" for failure in failed)

        with progress("bisecting") as report:
            seeker = seeking.Seeker(
                suite.selection,
                results,
                base,
                settings,
                threshold,
                install,
                report,
                suite.loaded,
                options.given_command(),
                warn,
            )
            whole = seeker.ends(*ends)
            info(searched.described(whole))
            found = searching.bisect(
                *ends,
                between,
                seeking.is_installed,
                seeker.measure,
                lambda request, said: info(f"{request.name}: {said}"),
            )
    form.write(searched.answer(found, whole))
    return int(bool(found.left))


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The case, if one is named, and the releases. A case has slashes and no path of a build."""
    cases = [word for word in words if "/" in word and "=" not in word.partition("/")[0]]
    if len(cases) > 1:
        raise ReleaseError(
            f"{cases[1]!r} is no release: a build of your own has a name, as in mine={cases[1]}"
        )
    return (cases[0] if cases else ""), [word for word in words if word not in cases]


def _available(requests: Sequence[Request], python: str) -> list[Request]:
    """The releases that are installed or have a wheel for the Python; the others are named."""
    from gradbench.releases import environments

    missing, left = environments.missing(requests), []
    for request in missing:
        try:
            require_available([request], python)
        except ReleaseError:
            left.append(request)
    if left:
        warn(f"left out, without a wheel for this Python: {', '.join(r.name for r in left)}")
    return [request for request in requests if request not in left]
