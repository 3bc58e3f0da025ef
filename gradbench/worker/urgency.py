"""A deadline for the computations of the gate, which take passes without end otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gradbench.core.deadline import Deadline


class Late(Exception):
    """The time for a computation is over."""


_deadlines = [Deadline()]


@contextlib.contextmanager
def until(deadline: Deadline) -> Iterator[None]:
    """Inside, what calls `require_time` raises Late once the deadline is over."""
    _deadlines.append(deadline)
    try:
        yield
    finally:
        _deadlines.pop()


def require_time() -> None:
    """Raises Late where the deadline of the innermost `until` is over: long loops call it."""
    if _deadlines[-1].over:
        raise Late
