"""Measuring derivatives in PyTorch.

The public API reads stored runs as pandas data frames: `load`, `samples` and `verdicts`. Importing
this package imports neither torch nor pandas; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbench.store.frame import load, samples, verdicts

__version__ = "0.1.0"

__all__ = ["__version__", "load", "samples", "verdicts"]


def __getattr__(name: str) -> Any:
    if name in ("load", "samples", "verdicts"):
        from gradbench.store import frame

        return getattr(frame, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
