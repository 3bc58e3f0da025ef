"""The code of the modes and the curves of some functions, from a worker: what a page needs torch
for."""

from __future__ import annotations

from typing import Any

from gradbench.report import curves
from gradbench.runner.wire import Worker, WorkerOptions, once_more


def told_by_worker(
    files: tuple[str, ...], wanted: bool
) -> tuple[tuple[list[dict[str, Any]], str], list[Any]]:
    """The modes as a worker lists them with a sentence on their version, and frames of
    `curves.computed` where they are wanted. Raises WorkerError where no worker starts."""

    def asked(worker: Worker) -> tuple[list[dict[str, Any]], dict[str, Any], list[Any]]:
        drawn = [curves.computed(worker, name) for name in curves.CURVES if wanted]
        return worker.request("discover", 120)["modes"], worker.environment, drawn

    modes, version, drawn = once_more(WorkerOptions(files=files), asked)
    said = (
        f"As installed when this report was made: gradbench {version['gradbench']}, torch "
        f"{version['torch']}. Runs of other versions may have measured other code."
    )
    return (modes, said), drawn
