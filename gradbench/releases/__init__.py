"""Torch releases: environments, tracks of several builds in turns, bisection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbench.analysis.timelines import timeline

__all__ = ["timeline"]


def __getattr__(name: str) -> Any:
    if name == "timeline":
        from gradbench.analysis import timelines as frame

        return frame.timeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
