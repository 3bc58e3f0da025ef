"""gradbench study"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, notes, plain, progress, say, stopped, table
from gradbench.core.units import counted, duration

F = TypeVar("F", bound=Callable[..., Any])

MOST_TRIALS = 10**6


@click.group(cls=parameters.Group)
def command() -> None:
    """Measure how far this suite can be trusted on this machine.

    Each study measures what is known beforehand and counts the verdicts: false alarms on the same
    code (aa), slowdowns found (power), the same for other tools (peers), and how often an interval
    holds the true ratio (coverage). 'report' writes the evidence page from what is stored.
    """


def _common(command: F) -> F:
    made = [
        click.option(
            "-c",
            "--case",
            "cases",
            multiple=True,
            type=parameters.Text(),
            metavar="OPERATOR/FUNCTION/MODE",
            help="Measure this case instead of the study's own; globs, may be repeated.",
        ),
        click.option(
            "--device",
            type=parameters.Text(),
            callback=options.place_label,
            default="cpu",
            show_default=True,
            help="Where the cases are measured.",
        ),
        options.seed_option,
        options.files_option,
        options.results_option,
        click.option(
            "--resume",
            "resumed",
            type=parameters.Text(),
            metavar="STUDY",
            help="Go on with an interrupted study ('latest', or its name or the beginning of it); "
            "its settings are its own.",
        ),
        click.option("--by-case", is_flag=True, help="A line for each case too."),
        options.format_option("json", "csv", "md"),
    ]
    for option in reversed(made):
        command = option(command)
    return command


def _trials(default: int, what: str) -> Callable[[F], F]:
    return click.option(
        "--trials",
        type=parameters.Whole(1, MOST_TRIALS),
        default=default,
        show_default=True,
        help=what,
    )


_comparisons = click.option(
    "--comparisons",
    type=parameters.Whole(0, MOST_TRIALS),
    default=80,
    show_default=True,
    help="Comparisons by the full protocol, five processes each, besides.",
)

_between = click.option(
    "--between",
    is_flag=True,
    help="Two processes of the same build that take turns, several pairs of them a comparison.",
)

_pairs = click.option(
    "--pairs",
    type=parameters.Whole(2, 1000),
    default=10,
    show_default=True,
    help="Pairs of processes in a comparison, with --between.",
)

_neighbour = click.option(
    "--neighbour",
    type=parameters.Choice(["none", "other", "same", "both"]),
    default="none",
    show_default=True,
    help="A process that works in bursts while the study runs, on another core, on the measuring "
    "process's own, or on both; the measuring process is then tied to a core.",
)


@command.command()
@_trials(1000, "Comparisons in one process; with --between, comparisons in all.")
@_comparisons
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=0.5,
    show_default=True,
    help="Seconds of measuring per comparison, at most.",
)
@_between
@_pairs
@_neighbour
@options.study_floor_option
@_common
def aa(**given: Any) -> int:
    """The same code against itself: how often a difference is called that is not there."""
    return _study("aa", **given)


@command.command()
@_trials(150, "Comparisons per slowdown and budget; with --between, per slowdown.")
@_comparisons
@click.option(
    "--budget",
    "budgets",
    type=parameters.seconds(),
    multiple=True,
    default=(0.3, 1.0),
    show_default=True,
    help="Seconds of measuring per comparison, at most; may be repeated.",
)
@click.option(
    "--slowdown",
    "slowdowns",
    type=parameters.Real(0, 1e4, min_open=True),
    multiple=True,
    default=(1.0, 2.0, 5.0, 10.0),
    show_default=True,
    help="Injected slowdown in percent; may be repeated.",
)
@_between
@_pairs
@_neighbour
@options.study_floor_option
@_common
def power(**given: Any) -> int:
    """Injected slowdowns of known size: how often they are found."""
    return _study("power", **given)


@command.command()
@click.option(
    "--sessions",
    type=parameters.Whole(10, MOST_TRIALS),
    default=100,
    show_default=True,
    help="Processes in the pool that stands for the long run.",
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=0.2,
    show_default=True,
    help="Seconds of measuring per pair and process, at most.",
)
@_neighbour
@_common
def coverage(**given: Any) -> int:
    """How often the interval between processes holds the long-run ratio of two modes.

    Here a case is a pair of modes, as vjp/exp/backward:grad.
    """
    return _study("coverage", **given)


@command.command()
@_trials(30, "Trials; each is one comparison of every kind by every method.")
@click.option(
    "--pyperf-trials",
    type=parameters.Whole(0, MOST_TRIALS),
    default=3,
    show_default=True,
    help="Of these with pyperf, which takes over a minute a comparison.",
)
@_neighbour
@_common
def peers(**given: Any) -> int:
    """False alarms and power of asv, pytest-benchmark, pyperf, torch.utils.benchmark, timeit.

    Each is used as its documentation says, on the same pairs in the same run as gradbench.
    """
    return _study("peers", **given)


def _percents(name: str, default: tuple[float, ...], what: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}",
        f"{name}s",
        type=parameters.percent(),
        multiple=True,
        default=default,
        show_default=True,
        help=f"{what}, in percent; may be repeated.",
    )


@command.command("asv-steps")
@_trials(400, "Histories of each kind.")
@_percents("noise", (1.0, 3.0, 8.0), "Scatter of one process's times, their standard deviation")
@_percents("step", (0.0, 5.0, 10.0, 20.0, 30.0, 50.0), "Planted slowdown; 0 plants none")
@click.option(
    "--before",
    type=parameters.Whole(1, 1000),
    default=10,
    show_default=True,
    help="Releases before the slowdown.",
)
@click.option(
    "--after",
    "afters",
    type=parameters.Whole(1, 1000),
    multiple=True,
    default=(1, 2, 3),
    show_default=True,
    help="Releases from it on; may be repeated.",
)
@click.option(
    "--sessions",
    type=parameters.Whole(2, 1000),
    default=5,
    show_default=True,
    help="Processes behind each point.",
)
@click.option(
    "--threshold",
    type=parameters.percent(),
    default=5.0,
    show_default=True,
    help="Steps below this are not reported, in percent, as regressions_thresholds in "
    "asv.conf.json.",
)
@options.seed_option
@options.format_option("json", "csv", "md")
def asv_steps(
    trials: int,
    noises: tuple[float, ...],
    steps: tuple[float, ...],
    before: int,
    afters: tuple[int, ...],
    sessions: int,
    threshold: float,
    seed: int,
    form: str,
) -> int:
    """Which planted slowdowns asv's regressions page reports, on made-up histories.

    Nothing is measured or stored: the numbers follow from the seed.
    """
    import time

    from gradbench.runner.progress import Progress
    from gradbench.studies import asv_steps as room

    noise, step = ([percent / 100 for percent in given] for given in (noises, steps))
    chosen = room.settings(noise, step, before, afters)
    began = time.perf_counter()
    with progress("asv-steps") as report:

        def told(done: int, total: int, label: str) -> None:
            report(Progress(done, total, label, time.perf_counter() - began))

        found = list(room.study(chosen, trials, sessions, threshold / 100, seed, told))
    if form != "table":
        emit([room.row(one) for one in found], form)
        return 0
    shown = table(
        "Reported on asv's regressions page",
        ["noise", "step", *((f"{after} after", "right") for after in afters)],
    )
    for cells in room.cells(found, afters):
        shown.add_row(*(plain(cell) for cell in cells))
    console().print(shown)
    console().print(
        plain(
            f"{trials} histories each: {before} releases before the step; a point is the median "
            f"of {counted(sessions, 'process')}.\n"
            "Reported at the step, and (behind +) anywhere else, with "
            f"a threshold of {threshold:g} %."
        )
    )
    return 0


@command.command()
@click.option(
    "-f",
    "--function",
    "names",
    multiple=True,
    type=parameters.Text(),
    help="Only this one; may be repeated.",
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=30.0,
    show_default=True,
    help="Seconds for each answer.",
)
@options.results_option
@options.format_option("json", "csv", "md")
def experts(names: tuple[str, ...], budget: float, results: Path, form: str) -> int:
    """Whether advice on six functions is as good as what an expert writes by hand."""
    from gradbench.runner.wire import WorkerError
    from gradbench.store.runs import StoreError
    from gradbench.studies import experts as room

    known = [asked.name for asked in room.FUNCTIONS]
    for name in names:
        if name not in known:
            raise click.UsageError(f"-f {name!r} is none of {', '.join(known)}")
    found = []
    try:
        with progress("experts") as report:
            found = list(room.study(names, budget, results, report))
    except (StoreError, WorkerError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if form != "table":
        emit(found, form)
        return 0
    heads = ("usual / fastest", "expert / best", "seconds")
    shown = table(
        "", ["function", "operator", "best of advice", "usual", *((h, "right") for h in heads)]
    )
    for one in found:
        if "refused" in one:
            shown.add_row(plain(one["field"]), plain(one["refused"]), *[""] * 5)
            continue
        ratios = [_with_interval(one, name) for name in ("usual", "expert")]
        took = f"{one['seconds']:.0f} of {one['budget']:g}"
        cells = (one["field"], one["operator"], one["best"], one["usual"], *ratios, took)
        shown.add_row(*map(plain, cells))
    console().print(shown)
    asked = [
        ("Behind the expert", [o["function"] for o in found if o.get("as_fast") is False]),
        ("Later than the budget", [o["function"] for o in found if o.get("in_time") is False]),
        ("No answer", [o["function"] for o in found if "refused" in o]),
    ]
    for what, those in asked:
        console().print(plain(f"{what}: {', '.join(those) or 'none'}."))
    return 1 if any(those for _, those in asked) else 0


def _with_interval(row: dict[str, Any], name: str) -> str:
    if f"{name}_ratio" not in row:
        return str(row.get(f"{name}_status", ""))
    told = f"{row[f'{name}_ratio']:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"
    verdict = row[f"{name}_verdict"]
    return told + (f" {verdict}" if verdict in ("undecided", "same") else "")


@command.command()
@click.argument("names", nargs=-1, type=parameters.Text(), metavar="[STUDY]...")
@click.option(
    "--docs",
    type=parameters.Folder(),
    help="Write evidence.md and its figures into this folder.",
)
@options.results_option
@click.option("--by-case", is_flag=True, help="A line for each case too.")
@options.format_option("json", "csv", "md")
def report(
    names: tuple[str, ...], docs: Path | None, results: Path, by_case: bool, form: str
) -> int:
    """Show stored studies, or write the evidence page from them.

    Without a name, the newest finished study of each kind and condition.
    """
    from gradbench.store import studies as store
    from gradbench.store.runs import StoreError
    from gradbench.studies import evidence

    try:
        if names:
            chosen = [store.find(results, name, name.partition("-")[0]) for name in names]
        else:
            studies, problems = store.read_all(results)
            notes(problems)
            chosen = evidence.newest(studies)
        if not chosen:
            raise StoreError(f"there are no finished studies in {store.folder(results)}")
        if docs is not None:
            for path in evidence.write(chosen, docs):
                say(path)
            return 0
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = error.filename or docs
        raise click.ClickException(f"cannot write {where}: {error.strerror or error}") from error
    for study in chosen:
        _show(study, by_case, form)
    return 0


def _study(
    name: str,
    cases: Sequence[str],
    device: str,
    files: tuple[str, ...],
    results: Path,
    resumed: str | None,
    by_case: bool,
    form: str,
    **settings: Any,
) -> int:
    """Runs or resumes a study and shows what it found."""
    from gradbench.core.cases import SelectionError
    from gradbench.runner import machine
    from gradbench.runner.wire import WorkerError, WorkerOptions
    from gradbench.runner.workers import discover, require_same
    from gradbench.store import studies as store
    from gradbench.store.executed import executed
    from gradbench.store.runs import StoreError
    from gradbench.studies import STUDIES, engine
    from gradbench.studies.neighbour import NoPinning, places

    module = importlib.import_module(STUDIES[name])
    log: Any = None
    try:
        if resumed is not None:
            study = store.find(results, resumed, name)
            _require_no_settings()
            study.require_unfinished()
            files = executed(
                study.path,
                store.folder(results),
                study.settings.get("files", ()),
                study.started.digests,
                files,
                f"gradbench study {name} --resume",
                partial(say, err=True),
            )
            found = discover(WorkerOptions(files=files))
            require_same("this study", study.started.environment, found.environment)
            log = store.KIND.reopen(study)
            study = store.read(study.path)
        else:
            places(settings.get("neighbour", "none"))
            found = discover(WorkerOptions(files=files))
            default = getattr(module, "CASES", engine.CASES)
            resolve = getattr(module, "resolve", engine.resolve)
            options.require_devices((device,), found.environment)
            chosen = engine.placed(resolve(found, cases or default), device)
            log, study = store.begin(
                results,
                name,
                {**settings, "cases": chosen, "files": list(files)},
                machine.facts(),
                found.environment,
                ["gradbench", *options.given_command()],
            )
        with log, progress(name) as report:
            try:
                steps = module.plan(study.settings, study.settings["cases"])
            except (LookupError, TypeError, ValueError) as error:
                raise StoreError(
                    f"{study.name} cannot go on: its settings are damaged ({error!r})"
                ) from error
            carry_out = getattr(module, "carry_out", engine.carry_out)
            study = carry_out(log, study, steps, report, WorkerOptions(files=files))
    except KeyboardInterrupt:
        if log is None:
            return stopped("Stopped before anything was measured.")
        return stopped(
            f"Stopped; all that was measured is kept in {log.path}.\n"
            f"Go on with: {log.go_on} {log.path.stem}"
        )
    except (SelectionError, NoPinning) as error:
        raise click.UsageError(str(error)) from error
    except (StoreError, WorkerError) as error:
        raise click.ClickException(str(error)) from error
    _show(study, by_case, form)
    return 0 if study.good() or not study.trials else 1


def _require_no_settings() -> None:
    context = click.get_current_context()
    for name in context.params:
        if name in ("resumed", "results", "files", "by_case", "form"):
            continue
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--resume goes on with the study's own settings: leave --{name} out"
            )


def _show(study: Any, by_case: bool, form: str) -> None:
    from gradbench.studies.evidence import cells, rows_of, show_columns

    rows = rows_of(study, by_case)
    if form != "table":
        emit(rows, form)
        return
    shown = table("", show_columns(rows))
    for row in rows:
        shown.add_row(*(plain(cell) for cell in cells(row)))
    out = console()
    out.print(shown)
    failed = [trial for trial in study.trials if trial.reason]
    if failed:
        out.print(
            plain(
                f"{counted(len(failed), 'measurement')} gave no result; "
                f"the first: {failed[0].reason}"
            )
        )
    if rows:
        told = ("torch", "cpu", "cores", "threads", "load")
        out.print(plain(", ".join(f"{key} {rows[0][key]}" for key in told if key in rows[0])))
    out.print(plain(f"{duration(study.elapsed)} in all. Stored in {study.path}"))
