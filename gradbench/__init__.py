"""Measuring derivatives in PyTorch.

The public API reads stored runs as pandas data frames (`load`, `samples`, `verdicts`, `machines`),
says which mode to try first by a run (`recommend`), measures (`run`, `track`), registers functions
and modes (`function`, `mode`) and advises on a function of yours (`compare`). Importing this
package imports neither torch nor pandas; each name is loaded when it is first used.
"""

from __future__ import annotations

# The typing module takes longer to import than all else here, and only type checkers need it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gradbench.advise.live import compare
    from gradbench.advise.question import Refusal
    from gradbench.analysis.frames import load, samples, verdicts
    from gradbench.analysis.recommend import recommend
    from gradbench.api.run import run
    from gradbench.api.track import track
    from gradbench.problems.registry import function, mode
    from gradbench.report.agreement import machines

__version__ = "0.1.0"

__all__ = [
    "Refusal",
    "__version__",
    "compare",
    "function",
    "load",
    "machines",
    "mode",
    "recommend",
    "run",
    "samples",
    "track",
    "verdicts",
]


_HOMES = {
    "Refusal": "advise.question",
    "compare": "advise.live",
    "function": "problems.registry",
    "load": "analysis.frames",
    "machines": "report.agreement",
    "mode": "problems.registry",
    "recommend": "analysis.recommend",
    "run": "api.run",
    "samples": "analysis.frames",
    "track": "api.track",
    "verdicts": "analysis.frames",
}


def __dir__() -> list[str]:
    """With the names that are not loaded yet, for completion and for Python's own suggestions."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"gradbench.{_HOMES[name]}"), name)
