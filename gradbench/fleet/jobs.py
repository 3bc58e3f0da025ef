"""What the driver asks of a node, and what a node answers: JSON in both directions.

What comes from a node is decoded into these types and checked like a stored line before it is used.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradbench.core.cases import Comparison, Entry, Offer
from gradbench.releases.wanted import Installing
from gradbench.runner.settings import Settings
from gradbench.runner.workers import Discovery
from gradbench.store.fields import Digest, Label, Name, Text, Texts, parsed
from gradbench.store.runs import Entrant, Reading

LONGEST_ANSWER = 256 << 20
"""Characters of an answer at most."""


class Look(msgspec.Struct, frozen=True):
    """Asks a node what it is: its machine, its build of torch, and whether it is quiet."""

    gradbench: Label
    """The driver's version."""
    files: dict[Text, Digest]
    """The user's files with the SHA-256 of each: a node must have the same."""
    suite: list[Text]
    """Those of them that a worker loads."""
    memory_limit: int
    quiet: bool
    """Whether a node that is busy with something else refuses."""
    builds: dict[Name, Text] = {}
    """Of a track: what each build is, as `environments.Request` has it."""
    baseline: Label = ""
    capability: Label = ""
    """The instructions that builds are held to; empty: no limit."""
    installing: Installing | None = None
    """How a node makes the builds that it lacks; None: it says what it lacks."""


class Built(msgspec.Struct, frozen=True):
    """A build that a node has: what its worker states about itself, and how it was installed."""

    identity: dict[str, Any]
    arguments: Texts = []


class Seen(msgspec.Struct, frozen=True):
    """A node as it described itself; `refused` says why it does not measure."""

    machine: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    offers: list[Offer] = []
    modes: list[dict[str, Any]] = []
    unavailable: dict[Name, Text | None] = {}
    broken: list[Text] = []
    refused: Text = ""
    busy: bool = False
    """Whether it refused as it is busy: it may be asked again."""
    builds: dict[Name, Built] = {}

    @property
    def discovery(self) -> Discovery:
        return Discovery(
            self.offers, self.modes, self.environment, dict(self.unavailable), tuple(self.broken)
        )


class Share(msgspec.Struct, frozen=True):
    """A part of a run for one process of a node: comparisons in one session, or their readings by
    other instruments (session -1), or the limits of their devices (session -2)."""

    session: int
    entries: list[Entry]
    settings: Settings
    environment: dict[str, Any]
    """Of the run's first worker: the node's must be of the same build."""
    files: dict[Text, Digest]
    suite: list[Text]
    opt_in: list[Name]
    first: dict[Name, Label]
    """The usual choice of each operator."""
    settled: dict[str, list[Entrant]]
    """What is known not to be measurable, by comparison."""
    resting: dict[str, list[Name]]
    """The modes that sit this session out, by comparison."""
    done: list[Reading]
    """The readings that are stored."""
    quiet: bool


class TrackShare(msgspec.Struct, frozen=True):
    """A part of a track: comparisons of one group of builds in one session; or, with session -1,
    the readings of one build by other instruments."""

    session: int
    group: int
    members: list[Name]
    """The builds that take turns, or the one that is read."""
    entries: list[Entry]
    settings: Settings
    capability: Label
    builds: dict[Name, dict[str, Any]]
    """What the worker of each build stated when the track began."""
    files: dict[Text, Digest]
    suite: list[Text]
    opt_in: list[Name]
    settled: list[tuple[Comparison, Name, Name, Entrant]]
    """What is known not to be measurable, with its mode and build."""
    resting: list[tuple[Comparison, Name]]
    """The modes that sit this session out."""
    done: list[Reading]
    quiet: bool


READINGS, LIMITS = -1, -2


class Answer(msgspec.Struct, frozen=True):
    """What a share gave: lines of the log; `refused` says why there are none, or no more."""

    lines: list[Annotated[str, Meta(max_length=64 << 20)]] = []
    refused: Text = ""
    busy: bool = False
    node: Label = ""


def encode(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def decode(text: str, kind: type[Any]) -> Any:
    """A job or an answer. Raises ValueError where it is malformed."""
    if len(text) > LONGEST_ANSWER:
        raise ValueError(f"longer than {LONGEST_ANSWER >> 20} MiB")
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=parsed)
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
