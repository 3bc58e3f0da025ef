"""Standard output and error as every command writes to them.

The streams are put in place once, before a command runs, so that nothing written with `print`, by
click, rich or the warnings module gets around them. On them

- a control character from outside is shown, not obeyed;
- a character that the terminal's encoding lacks is replaced, never an error;
- a reader that went away, such as `head`, or a full disk stops what is shown, not the work: what
  is written is dropped from then on, and how it failed is asked for at the end;
- a descriptor that was closed leads nowhere, and no file of ours takes its number.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO

from gradbench.core import text


def prepare() -> None:
    """Puts the streams in place of `sys.stdout` and `sys.stderr`, where these are the system's."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is the one that was closed.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = Stream(1, sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = Stream(2, sys.__stderr__)


class _Descriptor(io.RawIOBase):
    """A file descriptor to write to, whose first failure is kept and not raised."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.failure: OSError | None = None

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        while self.failure is None:
            try:
                return os.write(self.number, view)
            except BlockingIOError:
                # Another program has set the terminal that both use not to block.
                select.select((), (self.number,), ())
            except OSError as error:
                self.failure = error
        return view.nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)


class Stream(io.TextIOWrapper):
    """A text stream on a descriptor, in the encoding of the one it replaces."""

    def __init__(self, number: int, replaced: TextIO | None) -> None:
        self._descriptor = _Descriptor(number)
        super().__init__(
            io.BufferedWriter(self._descriptor),
            encoding=getattr(replaced, "encoding", None) or "utf-8",
            errors=text.ERRORS,
            line_buffering=number == 2 or self._descriptor.isatty(),
        )

    def write(self, said: str) -> int:
        return super().write(text.shown(said))

    def write_styled(self, said: str) -> int:
        """Writes what rich made: escape sequences of its own around text that is `shown`."""
        return super().write(said)

    @property
    def failure(self) -> OSError | None:
        """How writing failed. A reader that has seen enough is no failure."""
        failure = self._descriptor.failure
        return None if failure is None or failure.errno == errno.EPIPE else failure


class Styled:
    """A stream for rich, which alone may write escape sequences. Any other stream is as it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.write = stream.write_styled if isinstance(stream, Stream) else stream.write

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
