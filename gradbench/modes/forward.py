"""The forward pass alone: what every mode is a multiple of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gradbench.core.operators import OPERATORS
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode


@mode(*OPERATORS, memory=lambda problem: 3 * (problem.outputs + problem.coordinates))
def forward(problem: Problem) -> Call:
    """The function's value, without any derivative"""
    f = problem.forward

    def call(inputs: Tensors, seed: Any = None) -> Tensor:
        return f(*inputs)

    return call
