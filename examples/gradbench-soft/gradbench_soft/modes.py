"""The diagonal of an elementwise map by one pullback of ones."""

import torch

import gradbench
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem


@gradbench.mode("diagonal")
def ones_pullback(problem: Problem) -> Call:
    """a pullback of ones by `torch.func.vjp`"""
    f = problem.forward

    def call(inputs: Tensors) -> Tensors:
        y, pullback = torch.func.vjp(f, *inputs)
        return pullback(torch.ones_like(y))

    return call
