"""A deadline: by when a stretch of work should be over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Deadline:
    """The moment `seconds` from now, by a monotonic clock. By default there is none."""

    def __init__(
        self, seconds: float = math.inf, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """The seconds that are left; 0 when it is over."""
        return max(0.0, self._end - self._clock())

    @property
    def over(self) -> bool:
        return self.left == 0.0

    def within(self, seconds: float) -> float:
        """These seconds, or what is left if that is less."""
        return min(seconds, self.left)

    def share(self, part: float) -> Deadline:
        """An earlier deadline, after this part of what is left."""
        return Deadline(self.left * part, self._clock)
