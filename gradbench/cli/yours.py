"""Options by which a function of the user's own is measured: its inputs, and what else is known."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradbench.advise import DEFINITIONS
from gradbench.cli import options, parameters
from gradbench.core import own
from gradbench.core.cases import Selection, SelectionError
from gradbench.runner.choosing import Measuring, Say, Suite
from gradbench.store.lines import StoreError, stem
from gradbench.store.logs import Kind

if TYPE_CHECKING:
    from gradbench.advise.question import Question
    from gradbench.advise.registering import Registered

F = TypeVar("F", bound=Callable[..., Any])

INPUT = click.option(
    "--input",
    "inputs",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=EXPR",
    help="Input, in the function's order: randn(3,4), load(w.pt), tensor([1.,2.]) or a literal; "
    "may be repeated.",
)
INPUTS = click.option(
    "--inputs",
    "maker",
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Function that returns the inputs, as a dict by name or a tuple in order.",
)
ALSO = click.option(
    "--also",
    multiple=True,
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Derivative of your own to measure too; it takes the function's arguments. May be "
    "repeated.",
)
WRT = click.option(
    "--wrt",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME",
    help="Differentiate with respect to this input only; may be repeated.",
)
DEFINITION = click.option(
    "--definition",
    type=parameters.Choice(DEFINITIONS),
    default="differences",
    help="What the derivative is where autograd and finite differences disagree: 'differences' "
    "refuses the function; 'autograd' is for derivatives that differ on purpose.",
)
function_options = options.all_of(INPUT, INPUTS, ALSO, WRT, DEFINITION)
"""How a function of the user's is called, and what is known of it."""

LOOKING = 60.0
"""Seconds that looking at a function may take."""


def pairs(inputs: Sequence[str], maker: str | None) -> tuple[tuple[str, str], ...]:
    """The inputs as pairs of a name and an expression. Raises UsageError."""
    made: dict[str, str] = {}
    for given in inputs:
        name, equals, text = given.partition("=")
        if not (equals and name.isidentifier() and text.strip()):
            raise click.UsageError(f"--input {given!r} is not of the form NAME=EXPR")
        if name in made:
            raise click.UsageError(f"--input {name} is given twice")
        made[name] = text
    if not (made or maker):
        raise click.UsageError("give the inputs: --input NAME=EXPR, or --inputs MODULE:FUNCTION")
    return tuple(made.items())


def looked_at(
    question: Question, label: str, operators: Sequence[str], results: Path, say: Say
) -> Registered:
    """Registers a function, and says what its derivatives were held against.

    Raises SelectionError where they cannot be measured.
    """
    from gradbench.advise.looking import IMPORTING
    from gradbench.advise.question import Refusal
    from gradbench.advise.registering import register
    from gradbench.cli.progress import starting

    try:
        with starting(f"looking at {question.target}: {IMPORTING}"):
            made = register(question, label, operators, results)
    except Refusal as error:
        raise SelectionError(f"{question.target}: {error}") from error
    for sentence in made.evidence:
        say(f"{label}: {sentence}")
    return made


@dataclass(frozen=True)
class Yours:
    """What is said of a function of the user's own, beside the selection that names it."""

    inputs: tuple[str, ...]
    maker: str | None
    also: tuple[str, ...]
    wrt: tuple[str, ...]
    definition: str
    label: str | None

    def suite(
        self,
        selection: Selection,
        files: tuple[str, ...],
        measuring: Measuring,
        results: Path | None,
        say: Say,
    ) -> Suite:
        """The selection, and the files that workers load for it, with the user's function among
        what they declare where one is selected.

        Without `results`, as in a dry run, the files do not outlast the command. `say` is told
        what the function's derivatives were held against. Raises UsageError and SelectionError
        where that cannot be.
        """
        target = self._target(selection)
        if not target:
            return Suite(selection, files)
        from gradbench.advise.question import Question
        from gradbench.advise.registering import asked

        question = Question(
            target,
            pairs(self.inputs, self.maker),
            self.wrt,
            asked(selection.operators),
            self._dtype(selection),
            max(LOOKING, measuring.timeout),
            measuring.timeout,
            measuring.memory_limit,
            measuring.seed,
            maker=self.maker or "",
            also=self.also,
            definition=self.definition,
            device="cpu" if "cpu" in selection.devices else selection.devices[0].split("+")[0],
            identify=True,
        )
        label = self.label or own.label(target)
        made = looked_at(question, label, selection.operators, results or _scratch(), say)
        chosen = replace(selection, functions=(made.name,), operators=made.operators)
        return Suite(chosen, (*files, made.suite), made.loaded, made.name)

    def _target(self, selection: Selection) -> str:
        """The function of the user's that is selected; empty where none is."""
        named = [name for name in selection.functions if own.is_target(name)]
        if not named:
            for option, given in (
                ("--input", self.inputs),
                ("--inputs", self.maker),
                ("--also", self.also),
                ("--wrt", self.wrt),
                ("--name", self.label),
            ):
                if given:
                    raise click.UsageError(
                        f"{option} is for a function of your own: name it, --function "
                        "MODULE:FUNCTION or FILE.py:FUNCTION"
                    )
            return ""
        if len(selection.functions) > 1:
            raise click.UsageError(
                f"--function {named[0]} is measured alone: remove --function "
                f"{next(name for name in selection.functions if name != named[0])}"
                if len(set(selection.functions)) > 1
                else f"--function {named[0]} is given twice"
            )
        if selection.documents or selection.sizes:
            option = "--document" if selection.documents else "--size"
            raise click.UsageError(
                f"{option} is for the catalogue: the inputs of a function of your own have the "
                "size that they are given with"
            )
        return named[0]

    def _dtype(self, selection: Selection) -> str:
        if len(selection.dtypes) > 1:
            raise click.UsageError("a function of your own is measured in one --dtype at a time")
        return selection.dtypes[0] if selection.dtypes else "float32"


@functools.cache
def _scratch() -> Path:
    """A folder that the end of the command deletes."""
    place = tempfile.TemporaryDirectory(prefix="gradbench-")
    atexit.register(place.cleanup)
    return Path(place.name)


def _label(context: click.Context, parameter: click.Parameter, label: str | None) -> str | None:
    if label is not None and ("/" in label or "@" in label):
        raise click.BadParameter(f"{label!r}: a name has no '/' and no '@'", context, parameter)
    return label


own_options = options.as_one(
    "yours",
    Yours,
    function_options,
    click.option(
        "--name",
        "label",
        type=parameters.Text(),
        callback=_label,
        metavar="NAME",
        help="Name of your function in results.  [default: MODULE:FUNCTION]",
    ),
)
"""A function of the user's own among what is measured: ``--function MODULE:FUNCTION``."""


def say_if_changed(name: str, kind: Kind[Any, Any], results: Path, say: Say) -> None:
    """Tells that a function of the user's was measured before in another version, if it was."""
    for path in reversed(kind.paths(results) if name else []):
        try:
            with kind.opened(path) as lines:
                plan = lines.header.plan
        except (StoreError, OSError):
            continue
        for other in dict.fromkeys(entry.comparison.function for entry in plan):
            if other == name:
                return
            if own.unversioned(other) == own.unversioned(name):
                say(
                    f"{own.unversioned(name)} or its inputs have changed since {stem(path)} "
                    f"({other}, now {name}): times are compared within a version only"
                )
                return
