"""What torch leaves in the temporary folder where nothing was compiled."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import tempfile
from pathlib import Path


def _cache() -> Path:
    """The folder that torch makes for compiled code when it loads torch._dynamo, as its function
    transforms do (`torch._inductor.runtime.cache_dir_utils`)."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    sanitized = re.sub(r'[\\/:*?"<>|]', "_", user)
    return Path(tempfile.gettempdir()) / f"torchinductor_{sanitized}"


_was_there = _cache().exists()


def tidy() -> None:
    """Removes torch's folder for compiled code if it is empty and this process has not found it."""
    if not _was_there:
        with contextlib.suppress(OSError):
            _cache().rmdir()
