"""What becomes of a case: its status when it was measured, and its verdict when it is judged."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """An enumeration of words that are stored, shown and compared as the text that they are."""

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
    """A ratio of times, judged: the contestant is faster or slower than its reference."""

    NONE = ""
    """It was not judged."""
    FASTEST = "fastest"
    """It is the reference itself."""
    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNDECIDED = "undecided"


CALLED = (Verdict.SLOWER, Verdict.FASTER)
"""The verdicts that state a difference."""
