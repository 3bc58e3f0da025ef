"""One gradient per sample by what all samples share, such as the parameters of a model.

The differentiated inputs are shared; a constant with as many rows as there are samples has one for
each. The function returns a value per sample, or one number, such as a mean loss: a sample's value
is what the function makes of that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradbench.core.verdicts import NOT_NEEDED
from gradbench.modes.chunked import fitting, result_and_chunk
from gradbench.modes.common import (
    InDims,
    argnums,
    bound,
    filled,
    one_hot,
    reshaped,
    stacked,
    taken,
)
from gradbench.modes.compiled import NEEDS, compiled
from gradbench.modes.training import Model
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    Passes,
    Unsupported,
    columns_at_once,
    jacobian_by_columns,
)
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

OPERATOR = "per_sample_gradient"


def of_samples(problem: Problem) -> InDims:
    """The `in_dims` of vmap: an input of the samples has one row for each, all share the others."""
    rows, n = (problem.samples,), problem.differentiated
    dims = tuple(0 if i >= n and s[:1] == rows else None for i, s in enumerate(problem.inputs))
    if 0 not in dims:
        raise Unsupported("no constant has a row for each sample")
    return dims


def of_one(problem: Problem) -> Callable[..., Tensor]:
    """The function of one sample, whose value is a number, for vmap."""
    f, in_dims = problem.forward, of_samples(problem)

    def one(*inputs: Tensor) -> Tensor:
        batch = (x if dim is None else x.unsqueeze(0) for x, dim in zip(inputs, in_dims))
        return f(*batch).sum()

    return one


def losses_of(problem: Problem) -> Callable[..., Tensor]:
    """The function that returns a value per sample: itself, or mapped over the samples."""
    if problem.output:
        return problem.forward
    return torch.func.vmap(of_one(problem), of_samples(problem))


def parted(problem: Problem, inputs: Tensors) -> list[Tensors]:
    """The inputs of each sample alone, in a batch of one."""
    in_dims = of_samples(problem)
    return [
        tuple(x if dim is None else x[i : i + 1] for x, dim in zip(inputs, in_dims))
        for i in range(counted(inputs, in_dims))
    ]


def counted(inputs: Tensors, in_dims: InDims) -> int:
    """The number of samples."""
    return len(inputs[in_dims.index(0)])


def samples_at_once(problem: Problem) -> Passes:
    """One pass for all samples, of which each is as many as they are in the batch."""
    return Passes(problem.samples, batched=True)


def samples_in_turn(problem: Problem) -> Passes:
    """A pass over the whole batch for each sample."""
    return Passes(problem.samples)


def copied_parameters(problem: Problem) -> int:
    """Peak of the modes with a copy of the parameters, and its gradient, for each sample."""
    return 3 * problem.result_numel


@mode(OPERATOR, leaves=True)
def loop_grad(problem: Problem) -> Call:
    """`autograd.grad` in a loop over the samples, each alone"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        wrt, rows = inputs[:n], []
        for one in parted(problem, inputs):
            row = torch.autograd.grad(f(*one).sum(), wrt, allow_unused=True)
            rows.append(filled(row, wrt))
        return tuple(torch.stack(column) for column in zip(*rows))

    return call


@mode(OPERATOR, leaves=True)
def loop_backward(problem: Problem) -> Call:
    """`.backward()` in a loop over the samples, each alone, `.grad` read and reset"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        wrt, rows = inputs[:n], []
        for one in parted(problem, inputs):
            f(*one).sum().backward()
            rows.append(filled(taken(wrt), wrt))
        return tuple(torch.stack(column) for column in zip(*rows))

    return call


@mode(OPERATOR, needs=("torch.func.grad",))
def loop_func_grad(problem: Problem) -> Call:
    """`torch.func.grad` in a loop over the samples, each alone"""
    f, n = problem.forward, problem.differentiated
    gradient = torch.func.grad(lambda *inputs: f(*inputs).sum(), tuple(range(n)))

    def call(inputs: Tensors) -> Tensors:
        rows = [gradient(*one) for one in parted(problem, inputs)]
        return tuple(torch.stack(column) for column in zip(*rows))

    return call


@mode(OPERATOR, needs=("torch.func.grad", "torch.func.functional_call"))
def loop_functional_call(problem: Problem) -> Call:
    """`torch.func.grad` of a module's `functional_call`, in a loop over the samples"""
    model, n = Model(problem), problem.differentiated

    def loss(parameters: dict[str, Tensor], constants: Tensors) -> Tensor:
        value: Tensor = torch.func.functional_call(model, parameters, constants)
        return value.sum()

    gradient = torch.func.grad(loss)

    def call(inputs: Tensors) -> Tensors:
        parameters = dict(zip(model.names, inputs))
        rows = [gradient(parameters, one[n:]) for one in parted(problem, inputs)]
        return tuple(torch.stack([row[name] for row in rows]) for name in model.names)

    return call


@mode(
    OPERATOR,
    needs=("torch.func.vmap", "torch.func.grad"),
    memory=copied_parameters,
    passes=samples_at_once,
)
def vmap_grad(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample"""
    gradient = torch.func.grad(of_one(problem), argnums(problem))
    gradients = torch.func.vmap(gradient, of_samples(problem))
    return lambda inputs: gradients(*inputs)


@mode(
    OPERATOR,
    needs=("torch.func.vmap", "torch.func.grad", "torch.func.functional_call"),
    memory=copied_parameters,
    passes=samples_at_once,
)
def vmap_functional_call(problem: Problem) -> Call:
    """`vmap(grad)` of a module's `functional_call` at one sample"""
    model, n = Model(problem), problem.differentiated
    in_dims = of_samples(problem)[n:]

    def loss(parameters: dict[str, Tensor], *constants: Tensor) -> Tensor:
        batch = tuple(x if dim is None else x.unsqueeze(0) for x, dim in zip(constants, in_dims))
        value: Tensor = torch.func.functional_call(model, parameters, batch)
        return value.sum()

    gradients = torch.func.vmap(torch.func.grad(loss), (None, *in_dims))

    def call(inputs: Tensors) -> Tensors:
        found = gradients(dict(zip(model.names, inputs)), *inputs[n:])
        return tuple(found[name] for name in model.names)

    return call


@mode(
    OPERATOR,
    workloads=True,
    needs=("torch.func.vmap", "torch.func.grad"),
    memory=result_and_chunk,
    passes=samples_at_once,
)
def vmap_grad_by_memory(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample, in chunks of as many samples as fit 256 MiB"""
    gradient = torch.func.grad(of_one(problem), argnums(problem))
    in_dims, samples = of_samples(problem), 0

    def call(inputs: Tensors) -> Any:
        nonlocal samples
        if not samples:
            samples = fitting(*bound(problem, parted(problem, inputs)[0]))
        if samples >= problem.samples:
            raise Unsupported(NOT_NEEDED + "all samples fit at once: as vmap_grad")
        return torch.func.vmap(gradient, in_dims, chunk_size=samples)(*inputs)

    return call


@mode(
    OPERATOR,
    needs=("torch.func.vmap", "torch.func.jacrev"),
    memory=copied_parameters,
    passes=samples_at_once,
)
def vmap_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample"""
    jacobian = torch.func.jacrev(of_one(problem), argnums(problem))
    jacobians = torch.func.vmap(jacobian, of_samples(problem))
    return lambda inputs: jacobians(*inputs)


@mode(OPERATOR, leaves=True, needs=("torch.func.vmap",), memory=copied_parameters)
def expanded_grad(problem: Problem) -> Call:
    """`autograd.grad` of the sum of all values by a copy of the parameters for each sample"""
    n, in_dims = problem.differentiated, of_samples(problem)
    values = torch.func.vmap(of_one(problem), (0,) * n + in_dims[n:])

    def call(inputs: Tensors) -> Tensors:
        own = tuple(x.expand(counted(inputs, in_dims), *x.shape) for x in inputs[:n])
        grads = torch.autograd.grad(values(*own, *inputs[n:]).sum(), own, allow_unused=True)
        return filled(grads, own)

    return call


@mode(OPERATOR, leaves=True, passes=samples_in_turn)
def loop_rows(problem: Problem) -> Call:
    """`autograd.grad` of the whole batch in a loop over the samples, each with a one-hot seed"""
    f, n = losses_of(problem), problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        rows = [
            torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
            for seed in one_hot(y)
        ]
        return stacked(rows, y, wrt, 0)

    return call


@mode(OPERATOR, leaves=True, memory=copied_parameters, passes=samples_at_once)
def grads_batched(problem: Problem) -> Call:
    """`autograd.grad` of the whole batch once for all one-hot seeds, with `is_grads_batched`"""
    f, n = losses_of(problem), problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        rows = torch.autograd.grad(y, wrt, one_hot(y), is_grads_batched=True, allow_unused=True)
        return reshaped(rows, y, wrt, 0)

    return call


@mode(OPERATOR, needs=("torch.func.jacrev",), memory=copied_parameters, passes=samples_at_once)
def jacrev(problem: Problem) -> Call:
    """`torch.func.jacrev` of the values of the whole batch"""
    jacobian = torch.func.jacrev(losses_of(problem), argnums(problem))
    return lambda inputs: jacobian(*inputs)


@mode(OPERATOR, needs=("torch.func.jacfwd",), memory=jacobian_by_columns, passes=columns_at_once)
def jacfwd(problem: Problem) -> Call:
    """`torch.func.jacfwd` of the values of the whole batch"""
    jacobian = torch.func.jacfwd(losses_of(problem), argnums(problem))
    return lambda inputs: jacobian(*inputs)


@mode(OPERATOR, passes=samples_in_turn)
def functional_jacobian(problem: Problem) -> Call:
    """`functional.jacobian` of the values of the whole batch"""
    f, n = losses_of(problem), problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        wrt, constants = inputs[:n], inputs[n:]
        return tuple(torch.autograd.functional.jacobian(lambda *w: f(*w, *constants), wrt))

    return call


@mode(
    OPERATOR,
    opt_in=True,
    needs=(*NEEDS, "torch.func.vmap", "torch.func.grad"),
    memory=copied_parameters,
)
def compiled_vmap_grad(problem: Problem) -> Call:
    """`vmap(grad)` of the function of one sample, compiled"""
    gradient = torch.func.grad(of_one(problem), argnums(problem))
    gradients = compiled(torch.func.vmap(gradient, of_samples(problem)))
    return lambda inputs: gradients(*inputs)
