"""The answers of a measuring process, by request: shapes, types and ranges.

Measured code runs in that process and may write anything on the wire, so the driver uses only
answers that passed `checked`. docs/architecture.md explains each field.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gradbench.core.cases import Offer
from gradbench.core.process import PROTOCOL
from gradbench.core.text import line, storable
from gradbench.store.environment import WorkerEnvironment
from gradbench.store.fields import (
    Amount,
    Bytes,
    Finite,
    Index,
    Label,
    Nanoseconds,
    Positive,
    check_clocks,
    reason,
)

LONGEST_CODE = 100_000
"""The most characters of one piece of code."""

Count = Annotated[int, Meta(ge=0, le=1 << 60)]
Times = Annotated[int, Meta(ge=1, le=10**12)]
"""How often something is called."""
Status = Literal["ok", "unsupported", "refused", "wrong", "failed", "out of memory"]


class Malformed(Exception):
    """Not an answer to the request, with the reason in one line."""


class Answer(msgspec.Struct):
    """An answer without fields, as to `close`."""


class Refusal(Answer):
    """The reason why there is no answer."""

    reason: str
    where: str = ""
    status: Literal["failed", "out of memory"] = "failed"


class Facts(Answer):
    """Facts in every process's environment."""

    gradbench: Label
    torch: Label
    python: Label
    pid: Annotated[int, Meta(ge=1)]
    devices: Annotated[list[Label], Meta(min_length=1)]


class Hello(Answer):
    protocol: int
    environment: dict[str, Any]
    failed: list[Label] = []
    places: dict[Label, Label] = {}

    def __post_init__(self) -> None:
        if self.protocol != PROTOCOL:
            raise ValueError(f"it speaks protocol {self.protocol}, not {PROTOCOL}")
        msgspec.convert(self.environment, Facts)
        WorkerEnvironment.of(self.environment)


class ModeTold(Answer):
    operator: str
    mode: str
    summary: str
    document: str
    opt_in: bool
    by_hand: bool
    missing: str | None
    source: str


class Discovered(Answer):
    offers: list[Offer]
    modes: list[dict[str, Any]]
    unavailable: dict[str, str | None]
    broken: list[str]

    def __post_init__(self) -> None:
        msgspec.convert(self.modes, list[ModeTold])


class Opened(Answer):
    outputs: Count
    coordinates: Count
    result_bytes: Bytes
    argument_bytes: Bytes


class Plan(msgspec.Struct):
    """How a contestant is visited: see `instruments.wall.Visit`."""

    number: Annotated[int, Meta(ge=1, le=10**12)]
    blocks: Annotated[int, Meta(ge=1, le=1000)]
    untimed: Annotated[int, Meta(ge=0, le=1000)]
    call: Nanoseconds


class Estimated(Answer):
    calls: list[Nanoseconds]


class Planned(Answer):
    visit: Plan


class Prepared(Answer):
    status: Status
    reason: str = ""
    where: str = ""
    error: float = 0.0
    ulps: float = 0.0
    note: str = ""
    visit: Plan | None = None
    takes: Amount = 0.0

    def __post_init__(self) -> None:
        _require_errors(self.error, self.ulps)
        if self.status != "ok":
            self.visit = None


class Visited(Answer):
    """See `worker.interference.Visited`: a list for each visit."""

    blocks: list[list[Nanoseconds]]
    spent: Count
    cpu: list[list[Nanoseconds]] = []
    disturbed: list[list[Index]] = []

    def __post_init__(self) -> None:
        self.cpu = self.cpu or [[] for _ in self.blocks]
        self.disturbed = self.disturbed or [[] for _ in self.blocks]
        check_clocks(self.blocks, self.cpu, self.disturbed)
        if self.spent < sum(map(sum, self.blocks)):
            raise ValueError("the visits took longer than all the time that was spent")


class Checked(Answer):
    status: Status
    reason: str = ""
    error: float = 0.0
    ulps: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        _require_errors(self.error, self.ulps)


class ReadAnswer(Answer):
    values: dict[str, list[Amount]]
    reasons: dict[str, str]


class Traced(Answer):
    operations: dict[str, Times]
    python_calls: dict[str, Times]


class ProfilesWritten(Answer):
    calls: Times


class Dose(Answer):
    turns: Count
    share: Finite
    call: Finite
    visit: Plan | None = None


class Curve(Answer):
    formula: str
    value: list[float]
    automatic: list[float]
    by_hand: list[float]


class LimitsMeasured(Answer):
    bandwidth: Positive
    rates: dict[str, Positive]
    cache: Bytes


ANSWERS: dict[str, type[Answer]] = {
    "hello": Hello,
    "load": Answer,
    "discover": Discovered,
    "open": Opened,
    "prepare": Prepared,
    "estimate": Estimated,
    "plan": Planned,
    "visit": Visited,
    "check": Checked,
    "trust": Answer,
    "read": ReadAnswer,
    "trace": Traced,
    "profile": ProfilesWritten,
    "slow": Dose,
    "curve": Curve,
    "limits": LimitsMeasured,
    "ping": Answer,
    "close": Answer,
}


def _require_errors(*errors: float) -> None:
    """Infinite errors and NaN are allowed."""
    if min(errors) < 0:
        raise ValueError("an error is negative")


def checked(text: bytes, op: str, token: str) -> Answer:
    """The answer in a line to the request with a name and a token. Raises Malformed."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({line(str(error), 80)}): {line(start(text), 60)}") from None
    if not isinstance(message, dict):
        raise Malformed(f"not an object: {line(start(text), 60)}")
    if message.pop("id", None) != token:
        raise Malformed(f"not to this request: {line(start(text), 60)}")
    ok = message.pop("ok", None)
    if not isinstance(ok, bool):
        raise Malformed(f"neither an answer nor a refusal: {line(start(text), 60)}")
    try:
        answer: Answer = msgspec.convert(cleaned(message), ANSWERS[op] if ok else Refusal)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(reason(error)) from None
    return answer


def start(text: bytes | bytearray) -> str:
    """The beginning of a message, to show it."""
    return text[:400].decode(errors="backslashreplace")


CODE = ("source", "own", "code")
"""Fields that hold code, which is not shortened."""

LINES = ("reason", "reasons", "where", "note", "broken", "unavailable", "missing", "places")
"""Fields that hold one line each."""


def cleaned(value: Any, key: str = "") -> Any:
    """A message in which every string can be stored and shown."""
    if isinstance(value, str):
        if key in LINES:
            return line(value, 600)
        return storable(value, LONGEST_CODE) if key in CODE else storable(value)
    if isinstance(value, list):
        return [cleaned(item, key) for item in value]
    if isinstance(value, dict):
        return {
            storable(name): cleaned(item, key if key in (*LINES, *CODE) else name)
            for name, item in value.items()
        }
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return storable(str(value))
    return value
