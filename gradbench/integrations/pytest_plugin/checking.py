"""A derivative is checked where the test runs: the look at a function, and the gate."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradbench import state
from gradbench.advise.question import Question, Refusal
from gradbench.core import arguments
from gradbench.core.cases import DOCUMENTS, FORWARD, YOURS, Comparison
from gradbench.problems import registry
from gradbench.worker import subject
from gradbench.worker.evidence import Refused
from gradbench.worker.failures import line_of, where
from gradbench.worker.loading import Unusable
from gradbench.worker.probe import Look
from gradbench.worker.session import Refused as RequestRefused
from gradbench.worker.session import Session

LOOKING = 20.0
"""Seconds from which the look takes its parts: see `worker.probe`."""


@dataclass(frozen=True)
class Checked:
    """What the gate says of derivatives, and what there is to compare them with."""

    comparison: Comparison
    modes: tuple[str, ...]
    """The modes that could be measured, the user's own among them."""
    answers: dict[str, dict[str, Any]]
    """By derivative: its `status` and, where it is not ok, the `reason` and perhaps `where`."""


def known_modes(operator: str = "") -> set[str]:
    """The names of the modes of an operator, or of all."""
    with _quiet():
        registry.load()
    return {name for of, name in registry.MODES if operator in ("", of)}


def check(question: Question, content: bytes, names: Sequence[str]) -> Checked:
    """Looks at the function of a question and its content (see `advise.live.asked`) and gates the
    derivatives of these names: modes, or the user's own.

    Raises Refusal, in one line, where the function's derivative cannot be told.
    """
    try:
        passed = pickle.loads(pickle.loads(content)[2])
    except Exception as error:
        raise Refusal(f"it cannot be sent to the measuring process: {line_of(error)}") from error
    try:
        with _untouched(), tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
            return _checked(question, passed, names, str(Path(scratch, "pattern.pt")))
    except (Refused, Unusable, RequestRefused) as error:
        raise Refusal(arguments.of_options(str(error))) from error
    except state.StateLost as error:
        raise Refusal(f"it {error}") from error
    except Exception as error:
        place = where(error).rpartition("; ")[2]
        said = f"it raises {line_of(error)}" + (f" (at {place})" if place else "")
        raise Refusal(said) from error


def _checked(question: Question, passed: Any, names: Sequence[str], pattern: str) -> Checked:
    spec = question.spec(pattern) | {"passed": passed, "until": time.monotonic() + LOOKING}
    found: dict[str, Any] = {}

    def tell(**fields: Any) -> None:
        found.update(fields.get("found", {}))

    Look(spec, tell).run()
    operator = question.operator or found["operators"][0]
    if operator in found["refusals"]:
        raise Refused(found["refusals"][operator])
    if operator not in found["operators"]:
        raise Refused(f"{operator}: for this function there are {', '.join(found['operators'])}")
    known = {key: found[key] for key in ("structured", "per_sample", "manner")}
    subject.register(spec | known | {"operators": [operator]})
    comparison = Comparison(
        operator, YOURS, DOCUMENTS, question.dtype, question.device, question.threads
    )
    session = Session(question.memory_limit)
    session.open(str(comparison), question.seed, [1, 2])
    return Checked(
        comparison,
        tuple(m.name for m in registry.modes_of(operator) if m.name != FORWARD),
        {name: session.prepare(name, 0, 0, [0, 1]) for name in names},
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ignores what torch deprecates: the modes call all of it, and the test can change nothing."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module="torch")
        yield


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Puts back what checking changes in the process of the tests: the registry, the state that
    the gate watches, threads and random numbers."""
    with _quiet():
        registry.load()
    functions, modes = dict(registry.FUNCTIONS), dict(registry.MODES)
    threads = torch.get_num_threads()
    drawn, plain = torch.get_rng_state(), random.getstate()
    numpy = sys.modules.get("numpy")
    drawn_numpy = numpy.random.get_state() if numpy is not None else None
    try:
        with contextlib.ExitStack() as stack:
            for context in (torch.inference_mode(False), torch.enable_grad(), _quiet()):
                stack.enter_context(context)
            stack.enter_context(state.preserve(state.Changes()))
            yield
    finally:
        for kept, now in ((functions, registry.FUNCTIONS), (modes, registry.MODES)):
            now.clear()
            now.update(kept)  # type: ignore[arg-type]
        torch.set_num_threads(threads)
        torch.set_rng_state(drawn)
        random.setstate(plain)
        if numpy is not None:
            numpy.random.set_state(drawn_numpy)
