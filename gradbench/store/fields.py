"""What the fields of stored records may hold: ranges, lengths, patterns.

msgspec checks these where a line is decoded. What depends on several fields at once is checked by
one function beside each kind of file. docs/results.md states the limits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from gradbench.core.cases import NAME, Case, Comparison
from gradbench.core.text import UNSAFE, line

LARGEST = sys.float_info.max
DAY = 86_400 * 10**9
"""Nanoseconds that one sample takes at most."""

LONGEST_TEXT = 100_000

FILE_NAME = rf"\A[^/\t\n{UNSAFE}]{{1,200}}\Z"
LABEL = rf"\A[^\t\n{UNSAFE}]{{0,1000}}\Z"
DAY_OF_YEAR = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"
SHA256 = r"\A[0-9a-f]{64}\Z"

WORDS = {
    NAME: "a name without control characters",
    FILE_NAME: "a name of a file, without '/' and control characters",
    LABEL: "one line without control characters",
    DAY_OF_YEAR: "a day as 2026-01-31",
    SHA256: "a SHA-256 in hexadecimal",
}
"""What each pattern stands for."""

Name = Annotated[str, Meta(pattern=NAME)]
"""Of a mode, an instrument, an environment."""

FileName = Annotated[str, Meta(pattern=FILE_NAME)]
"""Of a run, a track, a study: what their files are called."""

Label = Annotated[str, Meta(pattern=LABEL)]
"""One line without control characters, perhaps empty."""

Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
"""A message. It may hold anything: what shows it makes it fit to be shown."""

Texts = Annotated[list[Text], Meta(max_length=10_000)]
Names = Annotated[list[Name], Meta(max_length=10_000)]

Index = Annotated[int, Meta(ge=0, le=10**6)]
"""Of a process, a session, a group, a round."""

Calls = Annotated[int, Meta(ge=0, le=10**12)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Nanoseconds = Annotated[int, Meta(ge=1, le=DAY)]

Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST)]
"""Seconds, a load, a rate, an error: a finite number that is never negative."""

Positive = Annotated[float, Meta(gt=0, le=LARGEST)]

Schema = Annotated[int, Meta(ge=1, le=10**6)]
Day = Annotated[str, Meta(pattern=DAY_OF_YEAR)]
Digest = Annotated[str, Meta(pattern=SHA256)]


def parsed(kind: type[Comparison | Case], value: Any) -> Comparison | Case:
    """The comparison or case of a stored text, as msgspec asks for it. Raises ValueError where it
    is none."""
    if isinstance(value, str):
        return kind.parse(value)
    raise ValueError(f"expected a {kind.__name__.lower()}, got {type(value).__name__}")


def reason(error: Exception) -> str:
    """What is wrong with a record, in one line that shows no patterns."""
    said = str(error)
    for pattern, words in WORDS.items():
        said = said.replace(f"`str` matching regex {pattern!r}", words)
    return line(said)


class _Machine(msgspec.Struct):
    """What is known of the facts of a machine; there may be more."""

    cpu: Label | None = None
    cores: Index | None = None
    logical_cores: Index | None = None
    usable_cores: Index | None = None
    memory: Bytes | None = None
    system: Label | None = None
    architecture: Label | None = None
    governor: Label | None = None
    turbo: Label | None = None
    load: Amount | None = None
    gpu_driver: Label | None = None
    machine: Label | None = None


def check_machine(facts: dict[str, Any]) -> None:
    """Raises ValueError where a fact of a machine is of the wrong type or out of range."""
    converted("machine", facts, _Machine)


S = TypeVar("S", bound=msgspec.Struct)


def converted(what: str, facts: Mapping[str, Any], wanted: type[S]) -> S:
    """The facts that a struct knows. Raises ValueError where one is of the wrong type or out of
    range."""
    try:
        return msgspec.convert(facts, wanted)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: {error}") from error


K = TypeVar("K")


def require_once(what: str, values: Sequence[K]) -> None:
    """Raises ValueError where a value stands twice in a list."""
    if len(set(values)) != len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"{what} {twice!r} stands twice")


def check_clocks(
    samples: Sequence[Sequence[int]],
    cpu: Sequence[Sequence[int]],
    disturbed: Sequence[Sequence[int]],
) -> None:
    """Raises ValueError where the processor times or the marks of sub-blocks do not fit these."""
    for name, values in (("cpu", cpu), ("disturbed", disturbed)):
        if values and len(values) != len(samples):
            raise ValueError(f"{name}: {len(values)} visits, samples of {len(samples)}")
    if any(own and len(own) != len(blocks) for blocks, own in zip(samples, cpu)):
        raise ValueError("cpu: unequal numbers of sub-blocks")
    if any(marks and max(marks) >= len(blocks) for blocks, marks in zip(samples, disturbed)):
        raise ValueError("disturbed: a sub-block that is not there")
