"""Reverse mode with checkpoints: blocks keep their inputs alone and are computed again, which
trades time for memory (T. Chen et al., Training deep nets with sublinear memory cost, 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gradbench.core.verdicts import NOT_NEEDED
from gradbench.modes.common import filled
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode


def in_segments(steps: Sequence[Callable[[Any], Any]], state: Any) -> Any:
    """What the steps make of a state, one after another, in √k checkpointed segments of k steps."""
    length = math.isqrt(len(steps) - 1) + 1

    def segment(part: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def run(state: Any) -> Any:
            for step in part:
                state = step(state)
            return state

        return run

    for start in range(0, len(steps), length):
        run = segment(steps[start : start + length])
        state = checkpoint(run, state, use_reentrant=False)
    return state


def with_own_parameters(module: torch.nn.Module) -> Callable[..., Any]:
    """The module with the parameters that it has now, also where it is called again later."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def run(*arguments: Any, **named: Any) -> Any:
        return torch.func.functional_call(module, held, arguments, named)

    return run


class BlocksCheckpointed:
    """While it is entered, each layer of a `ModuleList` is a checkpointed block, and so are √k
    segments of a `Sequential` of k layers; blocks inside of a block are not.

    `called` counts the layers that were called so.
    """

    def __init__(self) -> None:
        self.called = 0
        self.layers: set[torch.nn.Module] = set()
        self.inside = False
        self.plain = torch.nn.Module.__call__

    def __enter__(self) -> BlocksCheckpointed:
        calls = self

        def call(module: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
            return calls.call(module, arguments, named)

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        return self

    def __exit__(self, *exception: object) -> None:
        torch.nn.Module.__call__ = self.plain  # type: ignore[method-assign]

    def call(self, module: torch.nn.Module, arguments: Any, named: Any) -> Any:
        """What a call of a module does meanwhile."""
        if self.inside:
            return self.plain(module, *arguments, **named)
        for child in module.children():
            if isinstance(child, torch.nn.ModuleList):
                self.layers.update(child)
        if module.training and next(module.buffers(), None) is not None:
            # What updates buffers would take another step where it is computed again.
            return self.plain(module, *arguments, **named)
        if module in self.layers:
            self.called += 1
            return checkpoint(self.block(module), *arguments, use_reentrant=False, **named)
        if isinstance(module, torch.nn.Sequential) and len(module) > 2 and not named:
            self.called += len(module)
            return in_segments([self.block(layer) for layer in module], *arguments)
        return self.plain(module, *arguments, **named)

    def block(self, module: torch.nn.Module) -> Callable[..., Any]:
        """A module as a block, in which calls of modules are plain."""
        run = with_own_parameters(module)

        def block(*arguments: Any, **named: Any) -> Any:
            before, self.inside = self.inside, True
            try:
                return run(*arguments, **named)
            finally:
                self.inside = before

        return block


def checkpointed_value(problem: Problem, inputs: Tensors) -> Tensor:
    """The value, whose graph keeps the ends of its blocks alone."""
    f = problem.forward
    with BlocksCheckpointed() as blocks:
        y = f(*inputs)
    if not blocks.called:
        raise Unsupported(NOT_NEEDED + "it calls no layers of a torch.nn.Sequential or ModuleList")
    return y


@mode(
    "gradient",
    "vjp",
    leaves=True,
    workloads=True,
    needs=("torch.func.functional_call",),
)
def checkpointed_grad(problem: Problem) -> Call:
    """`autograd.grad` through checkpointed layers, which are computed again in the backward pass"""
    n = problem.differentiated

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        y = checkpointed_value(problem, inputs)
        return filled(torch.autograd.grad(y, inputs[:n], v, allow_unused=True), inputs)

    return call


@mode("gradient", "vjp", leaves=True, workloads=True)
def checkpointed_steps(problem: Problem) -> Call:
    """`autograd.grad` through √k checkpointed segments of the k steps that the function declares"""
    steps, n = problem.function.steps, problem.differentiated
    if steps is None:
        raise Unsupported(NOT_NEEDED + "it does not declare its steps")

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        state, parts = steps(*inputs)
        y = in_segments(parts, state)
        return filled(torch.autograd.grad(y, inputs[:n], v, allow_unused=True), inputs)

    return call
