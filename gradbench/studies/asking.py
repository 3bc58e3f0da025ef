"""One question to advice as a measurement of a study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import Advice
from gradbench.runner.progress import silent
from gradbench.runner.wire import WorkerError
from gradbench.store.lines import StoreError
from gradbench.store.studies import Trial
from gradbench.studies.engine import Step


def answered(
    step: Step, question: Question, results: Path, told: Callable[[Advice], dict[str, Any]]
) -> Trial:
    """A step's record: how long the answer took, what is `told` of it, or why it was refused. The
    run of the answer is stored in `results`."""
    began = time.perf_counter()
    values: dict[str, Any] = {}
    reason = ""
    try:
        values = told(advise(question, results, silent, []))
    except Refusal as error:
        values = {"refused": str(error)}
    except (WorkerError, StoreError) as error:
        reason = str(error)
    return step.trial(
        values=values,
        reason=reason,
        elapsed=round(time.perf_counter() - began, 2),
        load=round(os.getloadavg()[0], 2),
    )
