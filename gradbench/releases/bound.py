"""Runs a command that ends when its caller does: `python bound.py COMMAND...`

The caller starts this as the leader of a process group of its own, and holds the other end of its
standard input without writing to it. The end of that input means that the caller is gone, in
whatever way it went: then the whole group is killed, the command and all that it has started.
Nothing but the standard library is imported, so that the file runs by its path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

CANNOT_START = 127


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    threading.Thread(target=_watch, daemon=True).start()
    try:
        code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"error: cannot start {sys.argv[1]}: {error.strerror}")
        return CANNOT_START
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
