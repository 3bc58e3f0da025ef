"""Options that several commands share, and how they become a selection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from gradbench.cli import parameters
from gradbench.cli.output import say
from gradbench.core.cases import (
    DTYPES,
    Entry,
    Offer,
    Place,
    Selection,
    SelectionError,
    expand,
    is_size,
    parse_size,
    size_label,
)
from gradbench.core.text import line

if TYPE_CHECKING:
    from gradbench.runner.wire import WorkerOptions
    from gradbench.runner.workers import Discovery

F = TypeVar("F", bound=Callable[..., Any])


def _stored(field: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes from the newest run's plan, which tells the names without importing torch."""

    def complete(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        from gradbench.store import runs as log

        try:
            entries = log.find(Path(ctx.params.get("results") or "results"), "latest").started
        except (log.StoreError, OSError, ValueError):
            return []
        names = set()
        for entry in entries.entries():
            names |= set(entry.modes) if field == "mode" else {getattr(entry.comparison, field)}
        return _items(sorted(names), begun)

    return complete


def _items(names: Iterable[str], begun: str) -> list[CompletionItem]:
    """The names that a shell may be given: not those with characters that it would obey."""
    return [CompletionItem(n) for n in names if n.startswith(begun) and n == line(n)]


def complete_run(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    from gradbench.store import runs as log

    try:
        names = [path.stem for path in log.paths(Path(ctx.params.get("results") or "results"))]
    except (OSError, ValueError, log.StoreError):
        names = []
    return _items(("latest", *names[::-1]), begun)


def given_command() -> list[str]:
    """The command line as the log keeps it: without the folder that the log itself is in, and
    without addresses of registries."""
    from gradbench.releases.installing import public

    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--results":
            next(words, None)
        elif not word.startswith("--results="):
            kept.append(word)
    return public(kept)


results_option = click.option(
    "--results",
    type=parameters.Folder(),
    default=Path("results"),
    envvar="GRADBENCH_RESULTS",
    show_default=True,
    show_envvar=True,
    help="The folder that results are kept in.",
)


def _floor(default: float | None, said: str = "") -> Callable[[F], F]:
    return click.option(
        "--floor",
        type=parameters.share(),
        default=default,
        show_default=default is not None,
        help=f"Differences within this share count as the same.{said}",
    )


floor_option = _floor(0.01)
change_floor_option = _floor(0.02)
"""Where runs, or releases, are compared with each other."""
study_floor_option = _floor(None, "  [default: 0.01; between: 0.02]")

confidence_option = click.option(
    "--confidence",
    type=parameters.Real(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="Coverage of the intervals.",
)

method_option = click.option(
    "--method",
    type=parameters.Choice(["benjamini-hochberg", "holm"]),
    default="benjamini-hochberg",
    show_default=True,
    help="How false alarms are held down over the whole table: their share among the calls "
    "(to explore), or the chance of a single one (to gate).",
)


def _once_each(
    context: click.Context, parameter: click.Parameter, files: tuple[Path, ...]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, files)))


def _python_files(name: str, said: str = "") -> Callable[[F], F]:
    return click.option(
        name,
        "files",
        multiple=True,
        type=parameters.ReadableFile((".py",)),
        callback=_once_each,
        help=f"A Python file whose own functions and modes take part{said}.",
    )


files_option = _python_files("--from")
suite_option = _python_files("--suite", "; elsewhere this is --from")

seed_option = click.option(
    "--seed",
    type=parameters.seed(),
    default=0,
    show_default=True,
    help="Seed of inputs and orders.",
)


def format_option(*formats: str) -> Callable[[F], F]:
    return click.option(
        "--format",
        "form",
        type=parameters.Choice(["table", *formats]),
        default="table",
        show_default=True,
        help="How the answer is written.",
    )


_FILTERS = (
    ("-f", "--function", "functions", "function"),
    ("-o", "--operator", "operators", "operator"),
    ("-m", "--mode", "modes", "mode"),
)


def _size_globs(
    context: click.Context, parameter: click.Parameter, globs: tuple[str, ...]
) -> tuple[str, ...]:
    """The globs, with sizes as the names of cases have them. A size that can be none is refused."""
    try:
        return tuple(size_label(parse_size(glob)) if is_size(glob) else glob for glob in globs)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _glob_options(command: F) -> F:
    """Globs over what is selected; each may be given several times."""
    options = [
        click.option(
            short,
            long,
            name,
            multiple=True,
            type=parameters.Text(),
            metavar="GLOB",
            shell_complete=_stored(field),
            help=f"Only {field}s that match; may be repeated.",
        )
        for short, long, name, field in _FILTERS
    ]
    options += [
        click.option(
            "--size",
            "sizes",
            multiple=True,
            type=parameters.Text(),
            callback=_size_globs,
            metavar="SIZE",
            help="Only this size, as n=64 or m=3,n=5, 'documents', or a glob.",
        ),
        click.option(
            "--dtype",
            "dtypes",
            multiple=True,
            type=parameters.Choice(DTYPES),
            help="Only this dtype; without it, each function's own of the documents.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def place_label(context: click.Context, parameter: click.Parameter, label: str) -> str:
    """A device as the names of cases have it. What can be none is refused."""
    try:
        return str(Place.parse(label))
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _places(
    context: click.Context, parameter: click.Parameter, labels: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place_label(context, parameter, label) for label in labels))


def _device_globs(
    context: click.Context, parameter: click.Parameter, globs: tuple[str, ...]
) -> tuple[str, ...]:
    """The globs, with `cuda` for what it stands for in the names of cases."""
    found = []
    for glob in globs:
        try:
            found.append(str(Place.parse(glob)))
        except ValueError:
            found.append(glob)
    return tuple(found)


def filter_options(command: F) -> F:
    """What of the stored cases is shown."""
    device = click.option(
        "--device",
        "devices",
        multiple=True,
        type=parameters.Text(),
        metavar="GLOB",
        shell_complete=_stored("device"),
        callback=_device_globs,
        help="Only cases on this device, as cuda, cuda:0+cold or 'cuda*'; may be repeated.",
    )
    return _glob_options(device(command))


def selection_options(command: F) -> F:
    """All that decides what is measured."""
    options = [
        click.option(
            "-d",
            "--document",
            "documents",
            multiple=True,
            type=parameters.Text(),
            metavar="LETTER",
            help="Only functions of this document: G, S, A, V or B.",
        ),
        click.option(
            "--device",
            "devices",
            multiple=True,
            type=parameters.Text(),
            callback=_places,
            default=("cpu",),
            show_default=True,
            help="cpu, cuda, cuda:1; with +cold (emptied caches), +transfer (copies timed) or "
            "+8sets (other inputs from call to call); may be repeated.",
        ),
        click.option(
            "--threads",
            multiple=True,
            type=parameters.Whole(1, parameters.MOST_THREADS),
            default=(1,),
            show_default=True,
            help="Threads that torch may use inside an operation.",
        ),
        click.option(
            "--compiled",
            is_flag=True,
            help="Add the modes that compile and, on CUDA, those that replay a CUDA graph: slow.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return _glob_options(command)


def selection(sweep: str, **given: Any) -> Selection:
    """The selection that the options stand for. Raises SelectionError for a device that can be
    none."""
    given["devices"] = tuple(dict.fromkeys(str(_place(d)) for d in given.get("devices", ("cpu",))))
    return Selection(sweep=sweep, **given)


def _place(label: str) -> Place:
    try:
        return Place.parse(label)
    except ValueError as error:
        raise SelectionError(str(error)) from error


def planned(offers: list[Offer], chosen: Selection) -> list[Entry]:
    """The comparisons that are selected. Functions that have none of the sizes asked for are
    named on stderr; raises SelectionError where nothing is left."""
    entries = expand(offers, chosen)
    if chosen.sizes and chosen.functions:
        there = {entry.comparison.function for entry in entries}
        others = expand(offers, replace(chosen, sizes=()))
        out = dict.fromkeys(e.comparison.function for e in others)
        names = [name for name in out if name not in there]
        if names:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            say(
                f"Left out, as they have no size {' or '.join(chosen.sizes)}: {listed} "
                "('gradbench list' shows the sizes of each)",
                err=True,
            )
    return entries


def require_devices(devices: tuple[str, ...], environment: dict[str, Any]) -> None:
    """Raises SelectionError where a device asked for is not there."""
    there = environment["devices"]
    for device in devices:
        if _place(device).device not in there:
            raise SelectionError(
                f"device {device!r}: not available here with torch {environment['torch']} "
                f"(available: {', '.join(there)})"
            )


def offered(worker: WorkerOptions) -> Discovery:
    """What a worker offers. Packages whose entry points do not load are named on stderr.

    Raises WorkerError where the worker cannot be started.
    """
    from gradbench.runner.workers import discover

    found = discover(worker)
    for problem in found.broken:
        say(problem, err=True)
    return found
