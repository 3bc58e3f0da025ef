"""The status of a measured case and the verdict on its time, as enumerations of words."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """An enumeration whose members are stored, shown and compared as plain strings."""

    __str__ = str.__str__
    __repr__ = str.__repr__
    __format__ = str.__format__  # type: ignore[assignment]


class Status(Word):
    """The state of a mode in one session, or over all sessions."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    WRONG = "wrong"
    FAILED = "failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"


class Verdict(Word):
    """Whether a mode is faster or slower than the reference of its comparison."""

    NONE = ""
    """Not compared."""
    FASTEST = "fastest"
    """The reference itself."""
    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNDECIDED = "undecided"


CALLED = (Verdict.SLOWER, Verdict.FASTER)
"""The verdicts that state a difference."""

NOT_NEEDED = "not needed: "
"""How the reason of an unsupported mode begins that has nothing to do for this function, such as
chunks where everything fits at once. Advice does not list it."""
