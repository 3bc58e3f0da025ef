"""gradbench init"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradbench.advise.yours import LOOKING, looked_at, pairs
from gradbench.cli import options, parameters, yours
from gradbench.cli.output import say, warn
from gradbench.cli.progress import starting as shown
from gradbench.core import own
from gradbench.core.extras import DISTRIBUTION, installed
from gradbench.integrations import starting
from gradbench.store.files import write_text

if TYPE_CHECKING:
    from gradbench.integrations.starting import Start

NEEDS = {"tests": ("pytest", "pytest"), "asv": ("asv", "asv")}
"""The module that a part needs to run, and the extra that brings it."""


@click.command()
@click.argument("directory", type=parameters.Folder(), default=Path("."))
@click.option(
    "-f",
    "--function",
    "target",
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Function of the project, or FILE.py:FUNCTION.  [default: an example]",
)
@yours.function_options
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=parameters.Choice(starting.PARTS),
    default=starting.PARTS,
    show_default=False,
    help="Write only tests (pytest), asv or workflow (GitHub Actions); may be repeated.  "
    "[default: all]",
)
@options.limit_options
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--dry-run", is_flag=True, help="Only list what would be written.")
def command(
    directory: Path,
    target: str | None,
    inputs: tuple[str, ...],
    maker: str | None,
    also: tuple[str, ...],
    wrt: tuple[str, ...],
    definition: str,
    parts: tuple[str, ...],
    timeout: float,
    memory_limit: int,
    force: bool,
    dry_run: bool,
) -> int:
    """Write benchmarks of a project's own function, for pytest, asv and CI.

    DIRECTORY is the project's folder, in which modules and files are looked for. The function is
    looked at first, as by 'gradbench advise'. Files that exist are left alone, and then nothing is
    written.
    """
    start = _asked(directory, target, inputs, maker, also, wrt, definition)
    try:
        planned = starting.files(start, parts)
        _require_free(directory, planned, force)
        if not dry_run:
            directory.mkdir(parents=True, exist_ok=True)
            if target is not None:
                start = _looked_at(start, definition, timeout, memory_limit)
            planned = starting.files(start, parts)
            for path, (text, _) in planned.items():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                write_text(directory / path, text)
    except starting.Unwritable as error:
        raise click.UsageError(str(error)) from error
    width = max(map(len, planned))
    for path, (_, what) in planned.items():
        say(f"{'Would write' if dry_run else 'Wrote'} {path:<{width}}  {what}")
    if not dry_run:
        say("\n".join(_next(directory, parts)))
    return 0


def _asked(
    directory: Path,
    target: str | None,
    inputs: tuple[str, ...],
    maker: str | None,
    also: tuple[str, ...],
    wrt: tuple[str, ...],
    definition: str,
) -> Start:
    """What is asked for. Raises UsageError."""
    if target is None:
        for option, given in (
            ("--input", inputs),
            ("--inputs", maker),
            ("--also", also),
            ("--wrt", wrt),
        ):
            if given:
                raise click.UsageError(f"{option} is for a function: name it with --function")
        example, made = starting.EXAMPLE
        return starting.Start(directory.absolute(), example, made, "", "gradient", {})
    if not own.is_target(target):
        raise click.UsageError(f"--function {target!r} is not MODULE:FUNCTION or FILE.py:FUNCTION")
    if inputs and maker:
        raise click.UsageError("give the inputs by --input or by --inputs, not by both")
    more = {"wrt": wrt, "also": also}
    if definition != "differences":
        more["definition"] = (definition,)
    named = pairs(inputs, maker)
    return starting.Start(directory.absolute(), target, named, maker or "", "gradient", more)


def _require_free(directory: Path, planned: dict[str, tuple[str, str]], force: bool) -> None:
    """Raises UsageError where files exist that are not to be replaced, or cannot be."""
    there = [path for path in planned if os.path.lexists(directory / path)]
    for path in there:
        if not (directory / path).is_file():
            raise click.UsageError(f"{directory / path} is no file: move it")
    if there and not force:
        verb = "exists" if len(there) == 1 else "exist"
        raise click.UsageError(
            f"{', '.join(there)} {verb} already, and nothing was written: choose other parts with "
            "--part, or replace them with --force"
        )


def _looked_at(start: Start, definition: str, timeout: float, memory_limit: int) -> Start:
    """The same with the operator that suits the function. Raises SelectionError."""
    from gradbench.advise.question import Question

    question = Question(
        start.target,
        start.inputs,
        start.more["wrt"],
        budget=max(LOOKING, timeout),
        timeout=timeout,
        memory_limit=memory_limit,
        maker=start.maker,
        also=start.more["also"],
        definition=definition,
        identify=True,
    )
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch, _inside(start.folder):
        found = looked_at(question, own.label(start.target), (), Path(scratch), warn, shown)
    return replace(start, operator=found.operators[0])


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In this folder, from which modules are imported."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _next(directory: Path, parts: tuple[str, ...]) -> Iterator[str]:
    """What to do with the files."""
    yield "Next:" if directory == Path(".") else f"Next, in {directory}:"
    extras = [NEEDS[part][1] for part in parts if part in NEEDS and not installed(NEEDS[part][0])]
    steps = []
    if extras:
        steps.append((f"pip install '{DISTRIBUTION}[{','.join(extras)}]'", "what they need"))
    if "tests" in parts:
        steps += [
            ("pytest benchmarks", "checks the derivatives"),
            ("pytest benchmarks --gradbench", "times them too"),
        ]
    if "asv" in parts:
        steps += [
            (f"asv run v{starting.baseline()}^!", "measures a torch release"),
            ("asv publish && asv preview", "shows the history"),
        ]
    if "workflow" in parts:
        steps.append((f"git add {starting.WORKFLOW}", "runs in CI"))
    width = max(len(words) for words, _ in steps)
    for words, what in steps:
        yield f"  {words:<{width}}  {what}"
    yield "git should ignore results/ and .asv/."
