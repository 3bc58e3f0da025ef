"""gradbench advise"""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import Advice, Interrupted
from gradbench.advise.shown import as_document
from gradbench.advise.yours import pairs
from gradbench.analysis.table import record
from gradbench.cli import ending, options, parameters, yours
from gradbench.cli.output import stopped, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Renderer
from gradbench.core.cases import TORCH_DTYPES
from gradbench.core.operators import ADVISED
from gradbench.store.runs import paths


@click.command()
@click.argument("target", metavar="MODULE:FUNCTION", type=parameters.Text())
@yours.function_options
@click.option(
    "--operator",
    type=parameters.Choice(ADVISED),
    metavar="NAME",
    help="Operator, such as jacobian or vjp.  [default: by the shapes of input and result]",
)
@click.option(
    "--dtype", type=parameters.Choice(TORCH_DTYPES), default="float32", help="Dtype of the inputs."
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=30.0,
    help="Seconds that the answer may take; more resolves smaller differences.",
)
@click.option(
    "--device",
    type=parameters.Text(),
    metavar="DEVICE",
    default="cpu",
    help="Device: cpu, cuda or cuda:1.",
)
@click.option(
    "--timeout",
    type=parameters.seconds(),
    default=60.0,
    help="Seconds that preparing one mode, or one visit, may take.",
)
@options.memory_limit_option
@click.option(
    "--threads",
    type=parameters.Whole(1, parameters.MOST_THREADS),
    default=1,
    help="Threads that torch may use inside an operation.",
)
@options.format_option
@options.results_option
def command(
    target: str,
    inputs: tuple[str, ...],
    maker: str | None,
    also: tuple[str, ...],
    wrt: tuple[str, ...],
    operator: str | None,
    definition: str,
    dtype: str,
    budget: float,
    device: str,
    timeout: float,
    memory_limit: int,
    threads: int,
    form: Renderer,
    results: Path,
) -> int:
    """Find the fastest correct way to differentiate a function of your own.

    MODULE:FUNCTION is imported from the current folder or as installed; FILE.py:FUNCTION works too.
    Exit code 1 if no advice can be given, or no mode could be timed within the budget.
    """
    question = Question(
        target,
        pairs(inputs, maker),
        wrt,
        operator or "",
        dtype,
        budget,
        timeout,
        memory_limit,
        maker=maker or "",
        also=also,
        definition=definition,
        device="cuda:0" if device == "cuda" else device,
        threads=threads,
    )
    before = set(paths(results))
    try:
        with progress("advising") as report:
            advice = advise(question, results, report, options.given_command(), ending.spent())
    except Refusal as error:
        warn(f"gradbench: {target}: {error}")
        return 1
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted):
            _write(form, stop.advice)
        begun = [path for path in paths(results) if path not in before]
        if not begun:
            return stopped("Stopped before anything was timed.")
        return stopped(
            f"Stopped. Everything measured so far is in {begun[-1]}.\n"
            f"Resume it with: gradbench run --resume {begun[-1].stem}"
        )
    for problem in advice.found.get("broken", ()):
        warn(problem)
    _write(form, advice)
    return 0 if advice.winner() else 1


def _write(form: Renderer, advice: Advice) -> None:
    judged = advice.judged
    stored = advice.path if not advice.stopped else None
    form.write(
        Answer(
            records=[record(row, judged) for row in advice.rows()] if judged else [],
            text="\n".join([str(advice), *([f"Stored in {stored}"] if stored else [])]),
            hints=["'gradbench show' shows all of it."] if stored else [],
            document=as_document(advice),
        )
    )
