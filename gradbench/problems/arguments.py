"""The arguments of a problem: example or random inputs and the seed, as modes get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradbench.core.cases import TF32, Size
from gradbench.problems.function import Function, Tensors, as_tuple
from gradbench.problems.operators import Problem, draw_seed, torch_dtype


@dataclass(frozen=True)
class Arguments:
    """One set of arguments of a mode, on the CPU, in the measured dtype."""

    inputs: Tensors
    seed: Any
    """A tensor, a tuple of tangents, or None."""

    def cast(self, dtype: torch.dtype) -> Arguments:
        seed = self.seed
        if isinstance(seed, tuple):
            seed = _cast(seed, dtype)
        elif seed is not None:
            seed = seed.to(dtype)
        return Arguments(_cast(self.inputs, dtype), seed)

    def tensors(self) -> Tensors:
        """All tensors, inputs first."""
        return self.inputs + (() if self.seed is None else as_tuple(self.seed))

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def replaced(self, tensors: Tensors) -> Arguments:
        """Arguments of the same structure with other tensors, in the order of `tensors()`."""
        inputs, rest = tensors[: len(self.inputs)], tensors[len(self.inputs) :]
        if self.seed is None:
            return Arguments(inputs, None)
        return Arguments(inputs, rest if isinstance(self.seed, tuple) else rest[0])

    def deliver(
        self, problem: Problem, leaves: bool, device: torch.device | None = None
    ) -> tuple[Any, ...]:
        """A private copy as the positional arguments of a mode's callable, on `device` or the
        problem's; `leaves` sets requires_grad of the differentiated inputs."""
        target = problem.device if device is None else device
        copies = tuple(t.detach().to(target, copy=True) for t in self.tensors())
        if leaves:
            for tensor in copies[: problem.differentiated]:
                tensor.requires_grad_()
        copy = self.replaced(copies)
        return (copy.inputs,) if copy.seed is None else (copy.inputs, copy.seed)


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def pose(
    function: Function, operator: str, size: Size | None, dtype: str, device: str, seed: int
) -> tuple[Problem, Arguments]:
    """The problem and its first arguments; `size` None stands for the example inputs.

    Raises whatever the function's own example, draw or forward raises.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = function.example() if size is None else function.draw(size, generator)
    kind = torch_dtype(dtype)
    inputs = _cast(tuple(t.detach() for t in inputs), kind)
    # With grad mode on: the function may differentiate inside.
    output = function.forward(*inputs)
    problem = Problem(
        function=function,
        operator=operator,
        inputs=tuple(tuple(t.shape) for t in inputs),
        output=tuple(output.shape),
        dtype=kind,
        device=torch.device(device),
        tf32=dtype == TF32,
    )
    return problem, _seeded(problem, inputs, generator)


def draw(problem: Problem, size: Size, seed: int) -> Arguments:
    """Fresh arguments of the problem's shapes and dtype."""
    generator = torch.Generator().manual_seed(seed)
    inputs = _cast(problem.function.draw(size, generator), problem.dtype)
    return _seeded(problem, inputs, generator)


def _seeded(problem: Problem, inputs: Tensors, generator: torch.Generator) -> Arguments:
    return Arguments(inputs, draw_seed(problem, generator)).cast(problem.dtype)
