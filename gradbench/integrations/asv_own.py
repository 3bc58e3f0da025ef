"""Functions of the user's own in asv: what `asv.conf.json` says of them, and their registration.

    "gradbench": {"functions": [{"function": "model.py:loss", "inputs": "model.py:inputs"}]}

has the fields of FIELDS, which are the options of `gradbench releases track`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradbench.advise import DEFINITIONS
from gradbench.advise.question import Question, Refusal
from gradbench.advise.registering import Registered, asked, register
from gradbench.core import own
from gradbench.core.suggest import hint

FIELDS = ("function", "input", "inputs", "wrt", "also", "operator", "dtype", "definition", "name")

LOOKING = 60.0
"""Seconds that looking at a function may take."""


class OwnError(Exception):
    """A function in the configuration cannot be measured; the message says which, and why."""


@dataclass(frozen=True)
class Declared:
    """A function in the configuration: what is asked of it, its label, and globs of operators."""

    question: Question
    label: str
    operators: tuple[str, ...]


def declared(configured: Any) -> list[Declared]:
    """The functions under ``"gradbench"`` in asv's configuration. Raises OwnError."""
    functions = configured.get("functions", []) if isinstance(configured, dict) else None
    if not isinstance(functions, list):
        raise OwnError('asv.conf.json: "gradbench" should be {"functions": [{"function": …}]}')
    found = [_declared(entry) for entry in functions]
    labels = [one.label for one in found]
    for label in labels:
        if labels.count(label) > 1:
            raise OwnError(
                f'asv.conf.json: there are two functions {label}: give one of them a "name"'
            )
    return found


def _declared(entry: Any) -> Declared:
    if not isinstance(entry, dict) or not own.is_target(str(entry.get("function", ""))):
        raise OwnError(f'asv.conf.json: "function" should be MODULE:FUNCTION in {entry!r}')
    target = entry["function"]
    for field in entry:
        if field not in FIELDS:
            near = hint(field, FIELDS) or f"there are {', '.join(FIELDS)}"
            raise OwnError(f"asv.conf.json: {target} has a field {field!r}; {near}")
    expressions = [text.partition("=") for text in _texts(target, entry, "input")]
    if any(not (equals and name.isidentifier()) for name, equals, _ in expressions):
        raise OwnError(f'asv.conf.json: "input" of {target} should be ["NAME=EXPR"]')
    if not expressions and not entry.get("inputs"):
        raise OwnError(f'asv.conf.json: {target} needs "inputs", as MODULE:FUNCTION')
    definition = entry.get("definition", DEFINITIONS[0])
    if definition not in DEFINITIONS:
        raise OwnError(
            f'asv.conf.json: "definition" of {target} is one of {", ".join(DEFINITIONS)}'
        )
    operators = _texts(target, entry, "operator")
    question = Question(
        target,
        tuple((name, text) for name, _, text in expressions),
        _texts(target, entry, "wrt"),
        asked(operators),
        str(entry.get("dtype", "float32")),
        LOOKING,
        LOOKING,
        maker=str(entry.get("inputs", "")),
        also=_texts(target, entry, "also"),
        definition=definition,
        identify=True,
    )
    # asv splits names at dots and hyphens.
    label = str(entry.get("name") or own.label(target)).replace(".", ":").replace("-", "_")
    if not set("/@").isdisjoint(label):
        raise OwnError(f"asv.conf.json: {label!r}: a name has no '/' and no '@'")
    return Declared(question, label, operators)


def _texts(target: str, entry: dict[str, Any], field: str) -> tuple[str, ...]:
    """A field that is a text or a list of them."""
    value = entry.get(field, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise OwnError(f'asv.conf.json: "{field}" of {target} should be a list of texts')
    return tuple(texts)


def registered(one: Declared, results: Path, say: Callable[[str], None]) -> Registered:
    """Looks at a function and writes the file that declares it to a folder of `results`. Raises
    OwnError."""
    say(f"Looking at {one.question.target}")
    try:
        return register(one.question, one.label, one.operators, results)
    except (Refusal, ValueError) as error:
        raise OwnError(f"{one.question.target}: {error}") from error
