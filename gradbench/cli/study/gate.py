"""gradbench study gate, budgets and experts"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import info, on_stop, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Renderer
from gradbench.cli.study.stored import answer
from gradbench.core.units import counted, duration
from gradbench.store.studies import Study

if TYPE_CHECKING:
    from gradbench.studies.engine import Step

F = TypeVar("F", bound=Callable[..., Any])

_functions_option = click.option(
    "-f",
    "--function",
    "names",
    multiple=True,
    type=parameters.Text(),
    help="Only this function; may be repeated.",
)


def _number_option(default: int) -> Callable[[F], F]:
    return click.option(
        "--functions",
        "number",
        type=parameters.Whole(1, 1000),
        default=default,
        help="Number of functions, from all parts of the corpus; without --function.",
    )


@click.command()
@_functions_option
@_number_option(1000)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=parameters.Choice(["float32", "float64", "bfloat16"]),
    help="Only this dtype; may be repeated.  [default: all three]",
)
@click.option(
    "--points", type=parameters.Whole(1, 1000), default=5, help="Random points per function."
)
@click.option("--quick", is_flag=True, help="One point, and errors planted in six functions only.")
@options.seed_option
@options.results_option
@options.resume_option("study")
@options.format_option
def gate(
    names: tuple[str, ...],
    number: int,
    dtypes: tuple[str, ...],
    points: int,
    quick: bool,
    seed: int,
    results: Path,
    resumed: str | None,
    form: Renderer,
) -> int:
    """Try the gate and the evidence on real functions, and on planted errors.

    Functions from many fields, whose derivatives are right, are looked at and gated as 'gradbench
    advise' does, without times. Then known errors are planted in results and in backwards. Exit
    code 1: a right derivative was refused or called wrong, or an error was missed.
    """
    from gradbench.studies import gate as study

    def settings() -> dict[str, Any]:
        chosen = _chosen(names, number)
        kinds = dtypes or study.DTYPES
        return study.settings(chosen, kinds, 1 if quick else points, seed, quick)

    def expect(left: Sequence[Step]) -> None:
        seconds = study.SECONDS * len(left)
        info(f"{counted(len(left), 'case')}: about {duration(seconds)}.")

    done = _carried_out("gate", settings, expect, results, resumed)
    form.write(answer(done, by_case=False))
    return int(bool(study.faults(done) or study.missed(done)))


@click.command()
@_functions_option
@_number_option(30)
@click.option("--budget", type=parameters.seconds(), default=30.0, help="Seconds for each answer.")
@click.option(
    "--busy",
    type=parameters.Whole(0, 1000),
    default=4,
    help="Busy processes beside the second answer on each function; 0: no second answer.",
)
@options.seed_option
@options.results_option
@options.resume_option("study")
@options.format_option
def budgets(
    names: tuple[str, ...],
    number: int,
    budget: float,
    busy: int,
    seed: int,
    results: Path,
    resumed: str | None,
    form: Renderer,
) -> int:
    """Ask for advice on real functions, and count late and empty answers.

    Each function is asked about alone, then beside busy processes. Exit code 1: an answer took more
    than 10 % longer than its budget, or said nothing.
    """
    from gradbench.studies import budgets as study

    def settings() -> dict[str, Any]:
        return study.settings(_chosen(names, number), budget, busy, seed)

    done = _carried_out("budgets", settings, _most, results, resumed)
    form.write(answer(done, by_case=False))
    return int(any(row["late"] or row["empty"] for row in study.rows(done)))


@click.command()
@_functions_option
@click.option("--budget", type=parameters.seconds(), default=30.0, help="Seconds for each answer.")
@options.results_option
@options.resume_option("study")
@options.format_option
def experts(
    names: tuple[str, ...], budget: float, results: Path, resumed: str | None, form: Renderer
) -> int:
    """Compare advice on 17 functions with code written by an expert.

    Exit code 1: an expert is ahead by more than 2 %, or was not timed, or an answer was late.
    """
    from gradbench.studies import experts as study

    def settings() -> dict[str, Any]:
        try:
            return study.settings(names, budget)
        except ValueError as error:
            raise click.UsageError(f"-f {error}") from error

    done = _carried_out("experts", settings, _most, results, resumed)
    form.write(answer(done, by_case=False))
    behind = study.behind(done)
    for said in behind:
        warn(said)
    return int(bool(behind))


def _most(left: Sequence[Step]) -> None:
    """Says how long the answers that are left take at most."""
    longest = duration(sum(step.budget for step in left))
    info(f"{counted(len(left), 'answer')}: up to {longest}.")


def _chosen(names: tuple[str, ...], number: int) -> list[str]:
    from gradbench.studies import gate as study

    try:
        chosen = study.chosen(study.listed(), names)
        return chosen if names else study.some(chosen, number)
    except ValueError as error:
        raise click.UsageError(f"-f {error}") from error


def _carried_out(
    name: str,
    settings: Callable[[], dict[str, Any]],
    expect: Callable[[Sequence[Step]], None],
    results: Path,
    resumed: str | None,
) -> Study:
    """A new study, or the rest of an interrupted one; `expect` says how long what is left takes."""
    from gradbench.studies import conducting

    with on_stop("Stopped before anything was tried."):
        if resumed is not None:
            options.reject_beside_resume("study", "resumed", "results", "form")
            opened = conducting.reopen(name, results, resumed, (), warn)
        else:
            command = ["gradbench", *options.given_command()]
            opened = conducting.begin(name, settings(), (), "cpu", results, command)
    expect(opened.left())
    log = opened.log
    hint = (
        f"Stopped. Everything tried so far is in {log.path}.\n"
        f"Resume it with: {log.go_on} {log.path.stem}"
    )
    with on_stop(hint), log, progress(name) as report:
        return opened.carry_out(report)
