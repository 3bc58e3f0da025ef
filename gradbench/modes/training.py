"""One step of training: the gradient and what an optimizer does with it."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.operators import LEARNING_RATE
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

Parameters = tuple[torch.nn.Parameter, ...]


class Model(torch.nn.Module):
    """The loss as a module whose parameters are the differentiated inputs."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.loss = problem.forward
        self.names = [f"weight_{i}" for i in range(problem.differentiated)]
        for name, shape in zip(self.names, problem.wrt):
            start = torch.zeros(shape, dtype=problem.dtype, device=problem.device)
            self.register_parameter(name, torch.nn.Parameter(start))

    def forward(self, *constants: Tensor) -> Tensor:
        return self.loss(*[getattr(self, name) for name in self.names], *constants)


def load(parameters: Parameters, inputs: Tensors) -> None:
    """Sets a module's parameters to copies, which the step then overwrites.

    Every mode with a module does this alike: a step is a function of its inputs, and leaves
    them as they are.
    """
    for parameter, value in zip(parameters, inputs):
        parameter.data = value.clone()


def values(parameters: Parameters) -> Tensors:
    """What the parameters are after the step."""
    return tuple(parameter.detach() for parameter in parameters)


@mode("training_step", document="B")
def backward_step(problem: Problem) -> Call:
    """`.backward()`, which fills `.grad` for `optimizer.step()`"""
    model, n = Model(problem), problem.differentiated
    parameters = tuple(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def call(inputs: Tensors) -> Tensors:
        load(parameters, inputs)
        model(*inputs[n:]).backward()
        optimizer.step()
        optimizer.zero_grad()
        return values(parameters)

    return call


@mode("training_step", document="B")
def grad_step(problem: Problem) -> Call:
    """`autograd.grad`, whose result is assigned to `.grad` for `optimizer.step()`"""
    model, n = Model(problem), problem.differentiated
    parameters = tuple(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def call(inputs: Tensors) -> Tensors:
        load(parameters, inputs)
        grads = torch.autograd.grad(model(*inputs[n:]), parameters, allow_unused=True)
        for parameter, g in zip(parameters, grads):
            parameter.grad = g
        optimizer.step()
        optimizer.zero_grad()
        return values(parameters)

    return call


@mode("training_step", needs=("torch.func.grad", "torch.func.functional_call"))
def functional_call_step(problem: Problem) -> Call:
    """`torch.func.grad` of `functional_call`, and the update written out"""
    model, n = Model(problem), problem.differentiated

    def loss(parameters: dict[str, Tensor], constants: Tensors) -> Tensor:
        value: Tensor = torch.func.functional_call(model, parameters, constants)
        return value

    gradient = torch.func.grad(loss)

    def call(inputs: Tensors) -> Tensors:
        parameters = dict(zip(model.names, inputs))
        grads = gradient(parameters, inputs[n:])
        return tuple(p - LEARNING_RATE * grads[name] for name, p in parameters.items())

    return call
