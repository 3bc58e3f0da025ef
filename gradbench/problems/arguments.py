"""The arguments of a problem: example or drawn inputs, with their seed, as a mode gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradbench.core.cases import TF32, Size
from gradbench.problems.function import Function, Tensors, as_tuple
from gradbench.problems.operators import OPERATORS, Problem, torch_dtype


@dataclass(frozen=True)
class Arguments:
    """One set of arguments as a mode gets them, on the CPU, in the dtype that is measured."""

    inputs: Tensors
    seed: Any  # a tensor, a tuple of tangents, or None

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
        """The same arguments made of other tensors, in the order of `tensors()`."""
        inputs, rest = tensors[: len(self.inputs)], tensors[len(self.inputs) :]
        if self.seed is None:
            return Arguments(inputs, None)
        return Arguments(inputs, rest if isinstance(self.seed, tuple) else rest[0])

    def deliver(
        self, problem: Problem, leaves: bool, device: torch.device | None = None
    ) -> tuple[Any, ...]:
        """A private copy on the device, by default the problem's, as the positional arguments of a
        mode's callable."""
        place = problem.device if device is None else device
        moved = tuple(t.detach().to(place, copy=True) for t in self.tensors())
        if leaves:
            for tensor in moved[: problem.differentiated]:
                tensor.requires_grad_()
        mine = self.replaced(moved)
        return (mine.inputs,) if mine.seed is None else (mine.inputs, mine.seed)


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def pose(
    function: Function, operator: str, size: Size | None, dtype: str, device: str, seed: int
) -> tuple[Problem, Arguments]:
    """The problem and its first argument set; `size` None stands for the example inputs.

    Raises whatever the function's own example, draw or forward raises.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = function.example() if size is None else function.draw(size, generator)
    kind = torch_dtype(dtype)
    inputs = _cast(tuple(t.detach() for t in inputs), kind)
    with torch.no_grad():
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
    make = OPERATORS[problem.operator].seed
    seed = None if make is None else make(problem, generator)
    return Arguments(inputs, seed).cast(problem.dtype)
