"""The status and the reason of a case whose code raised an error."""

from __future__ import annotations

import gc
import os
import sys
import traceback

import torch

from gradbench.core.text import line
from gradbench.modes.capability import device_lost, message_of, out_of_memory, own_rule

DEVICE_LOST = 70
"""The exit code of a process that can no longer use its device."""


def line_of(error: BaseException) -> str:
    """An exception as one short line."""
    said = message_of(error)
    return line(f"{type(error).__name__}: {said}" if said.strip() else type(error).__name__)


def where(error: BaseException) -> str:
    """The last lines of a traceback that lie outside torch and this package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = os.path.dirname(os.path.abspath(torch.__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((here, beside, "<"))
    ]
    return "; ".join(f"{f.filename}:{f.lineno} {f.line}" for f in frames[-2:])


def failure(error: Exception) -> dict[str, str]:
    """The status of a case with this error, and the reason in one line.

    After running out of memory, memory is freed and the process can continue. After an error that
    breaks the device's context it cannot: it ends, and the driver starts another.
    """
    if device_lost(error):
        print(line_of(error), file=sys.stderr, flush=True)
        os._exit(DEVICE_LOST)
    asked = out_of_memory(error)
    if asked is None:
        rule = own_rule(error)
        said = f"the function's own {rule} raises {line_of(error)}" if rule else line_of(error)
        return {"status": "failed", "reason": said, "where": where(error)}
    # The traceback's frames keep the allocations.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return {"status": "out of memory", "reason": asked}
