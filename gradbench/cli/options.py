"""Options that several commands share. Those that belong together reach a command as one value."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from gradbench.cli import completing, family, parameters
from gradbench.cli.output import warn
from gradbench.cli.rendering import FORMATS, Renderer
from gradbench.core.cases import (
    DTYPES,
    Place,
    Selection,
    SelectionError,
    size_glob,
)
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.core.text import line
from gradbench.core.verdicts import CALLED

if TYPE_CHECKING:
    from gradbench.runner.settings import Profile
    from gradbench.runner.wire import WorkerOptions
    from gradbench.runner.workers import Discovery
    from gradbench.statistics import Method

F = TypeVar("F", bound=Callable[..., Any])
Filters = dict[str, Any]
"""Globs as `Comparison.matches` takes them."""


def all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options, in the order of the help."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def as_one(name: str, make: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options whose values reach the command as one: what `make` makes of them, called
    with the options' names."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def called(**given: Any) -> Any:
            values = {field: given.pop(field) for field in fields}
            return command(**given, **{name: make(**values)})

        before = len(getattr(called, "__click_params__", ()))
        all_of(*options)(called)
        fields = [option.name for option in called.__click_params__[before:]]  # type: ignore[attr-defined]
        return called  # type: ignore[return-value]

    return decorate


# ── files and formats ─────────────────────────────────────────────────────────────────────────

results_option = click.option(
    "--results",
    type=parameters.Folder(),
    default=Path("results"),
    help="Results folder.",
)


def _once_each(
    context: click.Context, parameter: click.Parameter, files: tuple[Path, ...]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, files)))


files_option = click.option(
    "--from",
    "files",
    multiple=True,
    type=parameters.ReadableFile((".py",)),
    callback=_once_each,
    help="Python file with functions and modes of your own; may be repeated.",
)


def _renderer(context: click.Context, parameter: click.Parameter, form: str) -> Renderer:
    return FORMATS[form]()


format_option = click.option(
    "--format",
    "form",
    type=parameters.Choice(list(FORMATS)),
    default="table",
    callback=_renderer,
    help="Output format.",
)


def to_option(endings: Sequence[str], **more: Any) -> Callable[[F], F]:
    """`--to`, and `--format` for what has no suffix: they reach the command as `target`, a file,
    and `suffix`, its format."""
    forms = [ending.removeprefix(".") for ending in endings]

    def suffix(context: click.Context, parameter: click.Parameter, form: str | None) -> str:
        target = context.params.get("target")
        own = target.suffix.lower() if target is not None else ""
        if form and own and own != f".{form}":
            said = f"{form!r}: --to {line(str(target), 60)} is another format; remove one of them"
            raise click.BadParameter(said, context, parameter)
        return own or f".{form or forms[0]}"

    return all_of(
        click.option(
            "-t",
            "--to",
            "target",
            required=True,
            is_eager=True,
            type=parameters.NewFile(endings),
            help=f"Output file; its suffix ({', '.join(endings)}) sets the format. "
            "'-' is standard output.",
            **more,
        ),
        click.option(
            "--format",
            "suffix",
            type=parameters.Choice(forms),
            callback=suffix,
            help=f"Format of standard output.  [default: {forms[0]}]",
        ),
    )


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


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────


class Judging(NamedTuple):
    """What verdicts rest on, in the order in which the judging functions take it."""

    threshold: float
    confidence: float
    method: Method


class _Threshold(click.Option):
    """`--threshold`, which answers to its former name `--floor` too."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown, self.opts = self.opts, [*self.opts, "--floor"]
        super().add_to_parser(parser, ctx)
        self.opts = shown


def threshold_option(
    default: float | None, name: str = "threshold", said: str = ""
) -> Callable[[F], F]:
    return click.option(
        "--threshold",
        name,
        cls=_Threshold,
        type=parameters.share(),
        default=default,
        help=f"Relative difference up to which two times count as the same.{said}",
    )


def _judging(threshold: float) -> Callable[[F], F]:
    return as_one(
        "judging",
        Judging,
        threshold_option(threshold),
        click.option(
            "--confidence",
            type=parameters.Real(0.5, 1, max_open=True),
            default=0.95,
            help="Confidence level of the intervals.",
        ),
        click.option(
            "--method",
            type=parameters.Choice(["benjamini-hochberg", "holm"]),
            default="benjamini-hochberg",
            help="How false positives are controlled over the whole table: their share "
            "(benjamini-hochberg, to explore) or the chance of any (holm, for CI).",
        ),
    )


judging_options = _judging(0.01)
shown_options = all_of(
    click.option(
        "--fail-on",
        type=parameters.Choice([*(verdict.value for verdict in CALLED), "any"]),
        help="Exit with code 1 if any case has this verdict.",
    ),
    click.option(
        "--all", "everything", is_flag=True, help="Show unchanged and undecided cases too."
    ),
)
"""Which changes are shown, and which fail a check."""

change_options = all_of(_judging(0.02), shown_options)
"""Where runs, or releases, are compared with each other."""


# ── filters and selections ────────────────────────────────────────────────────────────────────


def _size_globs(
    context: click.Context, parameter: click.Parameter, globs: tuple[str, ...]
) -> tuple[str, ...]:
    """The globs, with sizes as the names of cases have them. An impossible size is refused."""
    try:
        return tuple(map(size_glob, globs))
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _globs(complete: Callable[[str], Any]) -> list[Callable[[Any], Any]]:
    names = [
        click.option(
            short,
            f"--{field}",
            f"{field}s",
            multiple=True,
            type=parameters.Text(),
            metavar="GLOB",
            shell_complete=complete(field),
            help=f"Only matching {field}s; may be repeated.",
        )
        for short, field in (("-f", "function"), ("-o", "operator"), ("-m", "mode"))
    ]
    size = click.option(
        "--size",
        "sizes",
        multiple=True,
        type=parameters.Text(),
        callback=_size_globs,
        shell_complete=complete("size"),
        metavar="SIZE",
        help="Only this size: n=64, m=3,n=5, 'documents' (small example inputs) or a glob; may "
        "be repeated.",
    )
    dtype = click.option(
        "--dtype",
        "dtypes",
        multiple=True,
        type=parameters.Choice(DTYPES),
        help="Only this dtype; may be repeated.  [default: per function]",
    )
    return [*names, size, dtype]


def place_label(context: click.Context, parameter: click.Parameter, label: str) -> str:
    """A device as the names of cases have it. An impossible one is refused."""
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
    devices = []
    for glob in globs:
        try:
            devices.append(str(Place.parse(glob)))
        except ValueError:
            devices.append(glob)
    return tuple(devices)


_FILTERS = (
    *_globs(completing.stored),
    click.option(
        "--device",
        "devices",
        multiple=True,
        type=parameters.Text(),
        metavar="GLOB",
        shell_complete=completing.stored("device"),
        callback=_device_globs,
        help="Only cases on this device: cuda, cuda:0+cold or 'cuda*'; may be repeated.",
    ),
)
filter_options = as_one("filters", dict, *_FILTERS, family.stored)
"""Which of the stored cases of runs are shown."""

track_filter_options = as_one("filters", dict, *_FILTERS)
"""Which of those of tracks are."""

_DEVICE = click.option(
    "--device",
    "devices",
    multiple=True,
    type=parameters.Text(),
    metavar="DEVICE",
    callback=_places,
    default=("cpu",),
    help="cpu, cuda or cuda:1; with +cold (emptied caches), +transfer (copies timed too) or "
    "+8sets (inputs change from call to call); may be repeated.",
)


def _selection(*more: Callable[[Any], Any]) -> Callable[[F], F]:
    return as_one(
        "selection",
        Selection,
        *_globs(completing.offered),
        family.selected,
        click.option(
            "-d",
            "--document",
            "documents",
            multiple=True,
            type=parameters.Text(),
            metavar="LETTER",
            help="Only functions of this source notebook: G, S, A, V or B; may be repeated.",
        ),
        _DEVICE,
        click.option(
            "--threads",
            multiple=True,
            type=parameters.Whole(1, parameters.MOST_THREADS),
            default=(1,),
            help="Threads that torch may use inside an operation; may be repeated.",
        ),
        click.option(
            "--compiled",
            is_flag=True,
            help="Add the modes that compile and, on CUDA, those that replay a CUDA graph: slow.",
        ),
        *more,
    )


selection_options = _selection()
"""Which cases are measured; their sizes are the profile's."""


def swept_options(default: str) -> Callable[[F], F]:
    """The same where there is no profile to say which sizes."""
    return _selection(
        click.option(
            "--sweep",
            type=parameters.Choice(Selection.SWEEPS),
            default=default,
            help="Sizes: small example inputs (documents), those of the standard profile, or all.",
        )
    )


def discovered(worker: WorkerOptions) -> Discovery:
    """What a worker offers. Packages whose entry points do not load are named on stderr. Raises
    WorkerError where the worker cannot be started."""
    from gradbench.cli.progress import starting
    from gradbench.runner.workers import discover

    with starting("starting a worker: it imports torch"):
        discovery = discover(worker)
    for problem in discovery.broken:
        warn(problem)
    if not worker.files:
        completing.keep(discovery)
    return discovery


# ── measuring ─────────────────────────────────────────────────────────────────────────────────

seed_option = click.option(
    "--seed", type=parameters.seed(), default=0, help="Random seed of inputs and orders."
)


def _in_bytes(context: click.Context, parameter: click.Parameter, gib: float) -> int:
    return int(gib * 2**30)


memory_limit_option = click.option(
    "--memory-limit",
    type=parameters.gib(),
    default=4.0,
    callback=_in_bytes,
    help="GiB that measured code may take; a case is refused at once where it needs more by an "
    "estimate.",
)

limit_options = all_of(
    click.option(
        "--timeout",
        type=parameters.seconds(),
        default=60.0,
        help="Seconds that preparing one case, or one visit, may take.",
    ),
    memory_limit_option,
)


def profile_options(
    profiles: dict[str, Profile],
    default: str,
    least_sessions: int,
    instruments: tuple[str, ...],
    *more: Callable[[Any], Any],
) -> Callable[[F], F]:
    """How much is measured, and how closely."""
    from gradbench.runner.choosing import Measuring

    beside = "" if instruments else "  [default: wall_time; on CUDA also device_time]"
    return as_one(
        "measuring",
        Measuring,
        click.option(
            "--profile",
            type=parameters.Choice(list(profiles)),
            default=default,
            help="; ".join(f"{name}: {profile.summary}" for name, profile in profiles.items())
            + ".",
        ),
        click.option(
            "--sessions",
            type=parameters.Whole(least_sessions, 100),
            help="Number of processes.  [default: the profile's]",
        ),
        click.option(
            "--budget",
            type=parameters.seconds(),
            help="Seconds of visits per comparison and process.  [default: the profile's]",
        ),
        click.option(
            "--instrument",
            "instruments",
            multiple=True,
            type=parameters.Choice([WALL_TIME, *INSTRUMENTS]),
            default=instruments or None,
            help=f"What to measure; may be repeated.{beside}",
        ),
        *more,
        seed_option,
        limit_options,
    )


_LOGS = {"run": completing.run, "track": completing.track, "study": completing.study}


def resume_option(what: str) -> Callable[[F], F]:
    return click.option(
        "--resume",
        "resumed",
        type=parameters.Text(),
        metavar=what.upper(),
        help=f"Resume an interrupted {what}: 'latest', its name or the beginning of it. It keeps "
        "its own selection and settings.",
        shell_complete=_LOGS[what],
    )


def typed() -> dict[str, str]:
    """The parameters that the command line sets, and how it calls each."""
    context = click.get_current_context()
    found = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        # To click 8.1, arguments are of the command line where there are none.
        absent = isinstance(parameter, click.Argument) and not context.params.get(name)
        # How much is said goes with everything.
        counts = parameter.expose_value and not absent
        if counts and source is click.core.ParameterSource.COMMANDLINE:
            argument = str(parameter.metavar or parameter.name).upper().strip("[].")
            found[name] = parameter.opts[0] if isinstance(parameter, click.Option) else argument
    return found


def reject_beside(said: str, *allowed: str) -> None:
    """Raises SelectionError, with the reason, for an option or argument of the command line that
    would be ignored; `allowed` are the names of those that would not."""
    for name, shown in typed().items():
        if name not in allowed:
            raise SelectionError(f"{said}: remove {shown}")


def reject_beside_resume(what: str, *allowed: str) -> None:
    """What is resumed has its own plan, which no option changes."""
    reject_beside(f"--resume continues the {what}'s own plan", *allowed)
