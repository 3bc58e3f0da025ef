"""A user's function as a file that workers load, so that a run, a track or a test measures what
`advise` would: the function is looked at once, and its reference rests on the same evidence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradbench.advise.looking import Look, Tick
from gradbench.advise.question import Question, Refusal
from gradbench.core.cases import fits
from gradbench.core.operators import ADVISED
from gradbench.core.suggest import hint
from gradbench.store.files import write_text
from gradbench.store.lines import digest, new_id

FOLDER = "own"
"""The folder of the files, in the results."""

DIGITS = 8
"""Hexadecimal digits of the digest in a function's name."""


@dataclass(frozen=True)
class Registered:
    """A function that a worker can measure once it has loaded `suite`."""

    name: str
    """With the digest of its source and inputs: an edited function is another one."""
    operators: tuple[str, ...]
    suite: str
    loaded: tuple[str, ...]
    """The files that `suite` loads in turn."""
    evidence: tuple[str, ...]
    """What its derivatives were held against, in sentences."""


def register(
    question: Question,
    label: str,
    operators: Sequence[str],
    results: Path,
    tick: Tick = lambda doing: None,
) -> Registered:
    """Looks at a function, and writes the file that declares it into a folder of `results`.

    `operators` are globs; without any it is the one that suits the function. Raises Refusal where
    its derivatives cannot be measured, SelectionError for an operator that it does not have.
    """
    question.require_valid()
    folder = (results / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{new_id()}.pt"
    try:
        with Look(question, str(draft)) as look:
            found = look.findings(tick)
        if not (look.settled and found["identity"]):
            raise Refusal(f"it was not looked at within {question.budget:g} s: {look.doing}")
        name = f"{label}@{found['identity'][:DIGITS]}"
        pattern = ""
        if draft.exists():
            pattern = str(folder / f"{_stem(name)}-{digest(draft)[:DIGITS]}.pt")
            os.replace(draft, pattern)
    finally:
        draft.unlink(missing_ok=True)
    chosen = _operators(question, found, operators)
    spec = question.spec(pattern) | {
        "operators": list(chosen),
        "name": name,
        "folder": os.getcwd(),
        **{k: found[k] for k in ("structured", "per_sample", "manner")},
    }
    said = "".join(f"# {' '.join(sentence.split())}\n" for sentence in found["evidence"])
    text = f"{said}from gradbench.worker.subject import register\n\nregister({spec!r})\n"
    suite = folder / f"{_stem(name)}.py"
    if not (suite.exists() and suite.read_text("utf-8") == text):
        # What another log was begun with stays as it is.
        suite = suite if not suite.exists() else suite.with_stem(f"{suite.stem}_{_serial()}")
        write_text(suite, text)
    loaded = tuple(dict.fromkeys([*([pattern] if pattern else []), *_readable(found["files"])]))
    return Registered(name, chosen, str(suite), loaded, tuple(found["evidence"]))


def _serial() -> str:
    return new_id().replace("-", "_")


def _stem(name: str) -> str:
    """The name as that of a Python file."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[:100]


def _readable(files: Sequence[str]) -> list[str]:
    return [file for file in files if os.path.isfile(file)]


def _operators(question: Question, found: dict[str, Any], globs: Sequence[str]) -> tuple[str, ...]:
    """The operators to measure. Raises Refusal."""
    there: list[str] = found["operators"]
    refusals: dict[str, str] = found["refusals"]
    if not globs:
        if there[0] in refusals:
            raise Refusal(refusals[there[0]])
        return (there[0],)
    chosen = [name for name in there if fits(name, globs) and name not in refusals]
    for glob in globs:
        if not any(fits(name, (glob,)) for name in chosen):
            refused = [refusals[name] for name in there if fits(name, (glob,)) and name in refusals]
            near = "" if glob in ADVISED else hint(glob, ADVISED)
            raise Refusal(
                refused[0]
                if refused
                else f"operator {glob}: for this function there are "
                f"{', '.join(name for name in there if name not in refusals)}"
                + (f"; {near}" if near else "")
            )
    return tuple(chosen)


def asked(globs: Sequence[str]) -> str:
    """The operator that a look is asked about: the only one that is meant, if it is one."""
    meant = [name for name in ADVISED if globs and fits(name, globs)]
    return meant[0] if len(meant) == 1 else ""
