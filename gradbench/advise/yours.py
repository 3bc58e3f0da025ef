"""A function of the user's own among what a run, a track, a check or a search measures."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.core import own
from gradbench.core.cases import Selection, SelectionError
from gradbench.core.expressions import read
from gradbench.core.text import line
from gradbench.runner.choosing import Measuring, Say, Suite
from gradbench.store.lines import StoreError, stem
from gradbench.store.logs import Kind

if TYPE_CHECKING:
    from gradbench.advise.question import Question
    from gradbench.advise.registering import Registered

LOOKING = 60.0
"""Seconds that looking at a function may take."""

BY_OPTION = "name it, --function MODULE:FUNCTION or FILE.py:FUNCTION"
BY_CASE = "name it in the case, as in gradient/FILE.py:FUNCTION/grad"
"""How a command that takes no ``--function`` has a function named."""

Watching = Callable[[str], AbstractContextManager[Any]]
"""Shows what takes a while."""


def pairs(inputs: Sequence[str], maker: str | None) -> tuple[tuple[str, str], ...]:
    """The inputs as pairs of a name and an expression. Raises SelectionError."""
    made: dict[str, str] = {}
    for given in inputs:
        name, equals, text = given.partition("=")
        if not (equals and name.isidentifier() and text.strip()):
            raise SelectionError(f"--input {given!r} is not of the form NAME=EXPR")
        if name in made:
            raise SelectionError(f"--input {name} is given twice")
        try:
            read(text)
        except ValueError as error:
            raise SelectionError(f"--input {name}: {error}") from error
        made[name] = text
    if not (made or maker):
        raise SelectionError("give the inputs: --input NAME=EXPR, or --inputs MODULE:FUNCTION")
    return tuple(made.items())


def looked_at(
    question: Question,
    label: str,
    operators: Sequence[str],
    results: Path,
    say: Say,
    watching: Watching = nullcontext,
) -> Registered:
    """Registers a function, and says what its derivatives were held against.

    Raises SelectionError where they cannot be measured.
    """
    from gradbench.advise.looking import IMPORTING
    from gradbench.advise.question import Refusal
    from gradbench.advise.registering import register

    try:
        with watching(f"looking at {question.target}: {IMPORTING}"):
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
        watching: Watching = nullcontext,
        named: str = BY_OPTION,
    ) -> Suite:
        """The selection, and the files that workers load for it, with the user's function among
        what they declare where one is selected.

        Without `results`, as in a dry run, the files do not outlast the command. `say` is told
        what the function's derivatives were held against; `named` is how a function is named here.
        Raises SelectionError where that cannot be.
        """
        target = self._target(selection, named)
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
        place = results or _scratch()
        made = looked_at(question, label, selection.operators, place, say, watching)
        chosen = replace(selection, functions=(made.name,), operators=made.operators)
        return Suite(chosen, (*files, made.suite), made.loaded, made.name)

    def _target(self, selection: Selection, how: str) -> str:
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
                    raise SelectionError(f"{option} is for a function of your own: {how}")
            return ""
        if len(selection.functions) > 1:
            raise SelectionError(
                f"{named[0]} is measured alone: remove "
                f"{next(name for name in selection.functions if name != named[0])}"
                if len(set(selection.functions)) > 1
                else f"{named[0]} is given twice"
            )
        if selection.documents or selection.sizes:
            given = f"size {line(selection.sizes[0], 60)}" if selection.sizes else "--document"
            raise SelectionError(
                f"{given} is for the catalogue: the inputs of a function of your own have the "
                "size that they are given with"
            )
        return named[0]

    def _dtype(self, selection: Selection) -> str:
        if len(selection.dtypes) > 1:
            raise SelectionError("a function of your own is measured in one --dtype at a time")
        return selection.dtypes[0] if selection.dtypes else "float32"


@functools.cache
def _scratch() -> Path:
    """A folder that the end of the process deletes."""
    place = tempfile.TemporaryDirectory(prefix="gradbench-")
    atexit.register(place.cleanup)
    return Path(place.name)


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
