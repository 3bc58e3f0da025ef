"""Ending a process that was started as the leader of a group, with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kills a process and its group, which may outlive it. `process.wait()` then returns soon."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # Right after its start a process may not lead its group yet.
    process.kill()
