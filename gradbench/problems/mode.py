"""The declaration of a mode: one way of computing one or more operators."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradbench.core.cases import FORWARD
from gradbench.core.operators import OPERATORS
from gradbench.problems.operators import Problem

Call = Callable[..., Any]
"""``call(inputs)`` or, where the operator takes a seed, ``call(inputs, seed)``. Both are exactly
what is timed and what is gated. The result is one tensor per block, or a bare tensor for one."""


class Unsupported(Exception):
    """This mode cannot do this problem; the message says why in a few words."""


@dataclass(frozen=True)
class Passes:
    """How often a mode goes through the function, forward or backward, in one call."""

    number: int
    batched: bool = False
    """Whether all of them are one pass over a batch."""


def rows_in_turn(problem: Problem) -> Passes:
    """A pass for each output, of one sample where the problem is of a batch."""
    return Passes(_of_a_sample(problem, problem.outputs))


def rows_at_once(problem: Problem) -> Passes:
    """One pass for all outputs, of one sample where the problem is of a batch."""
    return Passes(_of_a_sample(problem, problem.outputs), batched=True)


def all_rows_in_turn(problem: Problem) -> Passes:
    """A pass for each output of every sample."""
    return Passes(problem.outputs)


def columns_in_turn(problem: Problem) -> Passes:
    """A pass for each coordinate, of one sample where the problem is of a batch."""
    return Passes(_of_a_sample(problem, problem.coordinates))


def columns_at_once(problem: Problem) -> Passes:
    """One pass for all coordinates, of one sample where the problem is of a batch."""
    return Passes(_of_a_sample(problem, problem.coordinates), batched=True)


def columns_of_columns(problem: Problem) -> Passes:
    """One pass for all pairs of coordinates."""
    return Passes(problem.coordinates**2, batched=True)


def rows_then_entries(problem: Problem) -> Passes:
    """A pass for each output, then one for each entry of the jacobian."""
    return Passes(problem.outputs * (1 + problem.coordinates))


def _of_a_sample(problem: Problem, number: int) -> int:
    samples = problem.output[0] if problem.per_sample else 1
    return max(1, number // max(1, samples))


@dataclass(frozen=True)
class Mode:
    """One way of computing an operator.

    `build` gets the problem, outside the timed region, and returns the callable that is timed:
    everything a user must execute to get from the inputs to the derivative, each time. It raises
    Unsupported if the mode cannot do the problem.
    """

    name: str
    operators: tuple[str, ...]
    build: Callable[[Problem], Call]
    summary: str
    leaves: bool = False
    """Whether the differentiated inputs arrive as leaves that require grad."""
    needs: tuple[str, ...] = ()
    """Dotted names of the APIs it uses, looked up in the installed torch."""
    document: str = ""
    """Letters of the source notebooks that use it; empty for an added mode."""
    by_hand: bool = False
    """Whether it uses a hand-written derivative: a reference, not a candidate for fastest."""
    opt_in: bool = False
    """Measured only on request, because compiling or recording takes seconds."""
    cuda: bool = False
    """Whether it works only on CUDA devices."""
    workloads: bool = False
    """Whether it pays on large functions: those of the source notebooks, most of them tiny, are
    measured with it on request alone."""
    memory: Callable[[Problem], int] | None = None
    """Estimates how many numbers are alive at the peak; None: three times the result."""
    passes: Callable[[Problem], Passes] | None = None
    """Counts its passes; None: few, whatever the size of the problem."""

    def rank(self, operator: str) -> int:
        """Its position among the modes of an operator; ties keep the order of registration.

        The forward pass comes first, then hand-written modes, the usual choice, modes of the source
        notebooks, added modes, and compiled or recorded ones.
        """
        places = (
            self.name == FORWARD,
            self.name.startswith("manual"),
            self.name == OPERATORS[operator].first,
            bool(self.document),
            not self.opt_in,
        )
        return (*places, True).index(True)

    def missing(self) -> str | None:
        """The first API that the installed torch lacks, or None."""
        for name in self.needs:
            if not available(name):
                return name
        return None

    def numbers_at_peak(self, problem: Problem) -> int:
        """How many numbers are alive at the peak, by estimate, for the memory limit."""
        if self.memory is None:
            return 3 * problem.result_numel
        return self.memory(problem)

    def source(self) -> str:
        """The source code of the mode; empty where Python knows none."""
        try:
            return inspect.getsource(self.build)
        except (OSError, TypeError):
            return ""


def available(name: str) -> bool:
    """Whether a dotted name such as ``torch.func.jacrev`` exists here."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            member: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(member, part):
                return False
            member = getattr(member, part)
        return True
    return False


def jacobian_by_rows(problem: Problem) -> int:
    """Peak of the modes that pull back one seed per row: the rows, their parts, the seeds."""
    return 3 * problem.result_numel + _one_hot(problem, problem.outputs)


def jacobian_by_columns(problem: Problem) -> int:
    """Peak of the modes that push one tangent per column: columns, parts, tangents.

    So too for a hessian, the jacobian of a map with as many outputs as coordinates.
    """
    return 3 * problem.result_numel + _one_hot(problem, problem.coordinates)


def _one_hot(problem: Problem, numbers: int) -> int:
    # The samples of a batch share their seeds, which are as nothing beside the result.
    return 0 if problem.per_sample else numbers**2


def tangents_of_tangents(problem: Problem) -> int:
    """Peak of an inner jacfwd under a vectorised outer transform: for each of n rows or columns
    outside, n tangents inside, each of n numbers."""
    return 3 * problem.result_numel + 2 * problem.coordinates**3


def tangents_at_once(problem: Problem) -> int:
    """Peak of the modes that push a tangent for each coordinate of a sample through the gradient at
    once: the tangents, their products, their parts."""
    return 3 * problem.coordinates * _of_a_sample(problem, problem.coordinates)


def full_jacobian(problem: Problem) -> int:
    """Peak of the modes that form the whole jacobian, zeros included, to use a part of it."""
    return 3 * problem.outputs * problem.coordinates


def full_jacobian_by_rows(problem: Problem) -> int:
    """As `full_jacobian`, of the modes that pull back a seed for each row at once."""
    return full_jacobian(problem) + problem.outputs**2


def full_jacobian_by_columns(problem: Problem) -> int:
    """As `full_jacobian`, of the modes that push a tangent for each column at once."""
    return full_jacobian(problem) + problem.coordinates**2


def full_hessian(problem: Problem) -> int:
    """Peak of the modes that form the whole hessian, zeros included, to use a part of it."""
    return 3 * problem.coordinates**2
