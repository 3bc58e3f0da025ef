"""The progress of a measurement, and the end of a stretch of it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradbench.runner.wire import WorkerError
from gradbench.store.lines import LineLog, StoreError


@dataclass(frozen=True)
class Progress:
    """The progress of a measurement, in steps: of a run, comparisons times sessions."""

    done: int
    total: int
    label: str
    elapsed: float
    skipped: int = 0
    """Steps done in an earlier stretch."""
    limit: float = 0.0
    """Seconds after which it ends in any case; 0: no limit."""


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def stretch(log: LineLog, end: Callable[[bool, float], None]) -> Iterator[None]:
    """One stretch of measuring into a log.

    Whatever ends it, `end` is called with whether it finished and its seconds, to write the log's
    last line. An error of the workers tells how to resume.
    """
    began = time.perf_counter()
    finished = False
    try:
        yield
        finished = True
    except WorkerError as error:
        raise WorkerError(f"{error}; {log.hint}") from error
    finally:
        # Where the disk is full the first error is the one to show.
        if finished or not isinstance(sys.exc_info()[1], StoreError):
            end(finished, time.perf_counter() - began)
