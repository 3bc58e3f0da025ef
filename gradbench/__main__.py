"""The entry point of the command line: errors that users can fix are one line, exit code 2."""

from __future__ import annotations

# Until `main` has begun Ctrl-C gives a traceback, so nothing is imported here that takes time.
import os
import signal
import time
from types import FrameType


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    """Nothing is measured yet, and nothing open."""
    try:
        os.write(2, b"gradbench: stopped\n")
    finally:
        os._exit(128 + number)


def main() -> None:
    began = time.perf_counter()
    # The modules below take a while to import; Ctrl-C in it is not worth a traceback.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave_at_once)
    from gradbench.cli import cli, ending, streams

    ending.began(began)
    streams.prepare()
    ending.listen()
    try:
        code, message = ending.carried_out(cli)
    except KeyboardInterrupt:
        code, message = ending.stopped_code(), "stopped"
    ending.leave(code, message)


if __name__ == "__main__":
    main()
