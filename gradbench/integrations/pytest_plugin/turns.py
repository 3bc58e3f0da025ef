"""Turns of pytest-xdist's workers: while one measures, no other runs a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

WAY_IN = "way-in.turn"


class Turns:
    """The locks of one worker in a folder that all workers of a session share.

    A worker holds its own lock during each test. One that measures lets go of it, closes the way
    in, and waits for every other worker to end its test; the next tests wait at the way in.
    """

    def __init__(self, place: Path, worker: str) -> None:
        self.place = place
        self.name = f"{worker}.turn"
        self._own = FileLock(place / self.name)
        self._way_in = FileLock(place / WAY_IN)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """During a test."""
        with self._way_in:
            self._own.acquire()
        try:
            yield
        finally:
            self._own.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """During a measurement inside a test."""
        # Two that both wait to measure would wait for each other's tests.
        self._own.release()
        with self._way_in, ExitStack() as others:
            for path in sorted(self.place.glob("*.turn")):
                if path.name not in (WAY_IN, self.name):
                    others.enter_context(FileLock(path))
            self._own.acquire()
            yield
