"""Reverse mode by `.backward()` and `autograd.grad`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradbench.modes.common import block_shapes, filled, reshaped, row_seeds, stacked, taken
from gradbench.problems.function import Tensors
from gradbench.problems.mode import (
    Call,
    Unsupported,
    jacobian_by_rows,
    rows_at_once,
    rows_in_turn,
)
from gradbench.problems.operators import ACCUMULATED_SEEDS, Problem
from gradbench.problems.registry import mode


@mode("derivative", "gradient", "vjp", leaves=True, document="GSAV")
def backward(problem: Problem) -> Call:
    """`.backward()`, with the seed where there is one, then `.grad` is read and reset"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        f(*inputs).backward(v)
        return filled(taken(inputs[:n]), inputs)

    return call


@mode("derivative", "gradient", "vjp", leaves=True, document="GB")
def grad(problem: Problem) -> Call:
    """`autograd.grad`, with the seed where there is one; `.grad` stays out of it"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, v: Tensor | None = None) -> Tensors:
        grads = torch.autograd.grad(f(*inputs), inputs[:n], v, allow_unused=True)
        return filled(grads, inputs)

    return call


@mode(
    "jacobian",
    "batch_jacobian",
    leaves=True,
    document="B",
    memory=jacobian_by_rows,
    passes=rows_in_turn,
)
def loop_grad(problem: Problem) -> Call:
    """`autograd.grad` in a loop over the outputs (of one sample), each with a one-hot seed"""
    f, n = problem.forward, problem.differentiated
    seeds, dim = row_seeds(problem)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        rows = [
            torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
            for seed in seeds(y)
        ]
        return stacked(rows, y, wrt, dim)

    return call


@mode(
    "jacobian",
    "batch_jacobian",
    leaves=True,
    document="B",
    memory=jacobian_by_rows,
    passes=rows_in_turn,
)
def loop_backward(problem: Problem) -> Call:
    """`.backward()` in a loop over the outputs (of one sample), `.grad` reset for each row"""
    f, n = problem.forward, problem.differentiated
    seeds, dim = row_seeds(problem)

    def call(inputs: Tensors) -> Tensors:
        y, wrt, rows = f(*inputs), inputs[:n], []
        for seed in seeds(y):
            y.backward(seed, retain_graph=True)
            rows.append(taken(wrt))
        return stacked(rows, y, wrt, dim)

    return call


@mode("jacobian", "batch_jacobian", leaves=True, memory=jacobian_by_rows, passes=rows_at_once)
def grads_batched(problem: Problem) -> Call:
    """`autograd.grad` once for all one-hot seeds, with `is_grads_batched`"""
    f, n = problem.forward, problem.differentiated
    seeds, dim = row_seeds(problem)

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        blocks = torch.autograd.grad(y, wrt, seeds(y), is_grads_batched=True, allow_unused=True)
        return reshaped(blocks, y, wrt, dim)

    return call


@mode("diagonal", leaves=True, document="AV")
def ones_backward(problem: Problem) -> Call:
    """`.backward()` once, with a seed of ones"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        y = f(*inputs)
        y.backward(torch.ones_like(y))
        return filled(taken(inputs[:n]), inputs)

    return call


@mode("diagonal", leaves=True, document="GB")
def ones_grad(problem: Problem) -> Call:
    """`autograd.grad` once, with a seed of ones"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors) -> Tensors:
        y = f(*inputs)
        grads = torch.autograd.grad(y, inputs[:n], torch.ones_like(y), allow_unused=True)
        return filled(grads, inputs)

    return call


@mode("batch_jacobian", name="ones_grad", leaves=True, document="GB")
def ones_grad_per_sample(problem: Problem) -> Call:
    """`autograd.grad` once, with a seed of ones"""
    f, n = problem.forward, problem.differentiated
    if math.prod(problem.output[1:]) != 1:
        raise Unsupported("a sample's value is not one number")

    def call(inputs: Tensors) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        grads = torch.autograd.grad(y, wrt, torch.ones_like(y), allow_unused=True)
        blocks = filled(grads, wrt)
        if y.dim() == 1:
            return blocks
        return tuple(b.reshape(shape) for b, shape in zip(blocks, block_shapes(y, wrt, 1)))

    return call


@mode("vjp_sum", leaves=True, document="AV")
def accumulated_backward(problem: Problem) -> Call:
    """`.backward()` once per seed, which adds up in `.grad`"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        y = f(*inputs)
        for v in seeds:
            y.backward(v, retain_graph=True)
        return filled(taken(inputs[:n]), inputs)

    return call


@mode("vjp_sum", leaves=True, document="AV")
def summed_backward(problem: Problem) -> Call:
    """`.backward()` once, with the sum of the seeds"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        f(*inputs).backward(seeds.sum(0))
        return filled(taken(inputs[:n]), inputs)

    return call


@mode("vjp_sum", leaves=True)
def accumulated_grad(problem: Problem) -> Call:
    """`autograd.grad` once per seed, the results added"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        y, wrt = f(*inputs), inputs[:n]
        pulled = [
            filled(torch.autograd.grad(y, wrt, v, retain_graph=True, allow_unused=True), wrt)
            for v in seeds
        ]
        return tuple(sum(terms[1:], terms[0]) for terms in zip(*pulled))

    return call


@mode("vjp_sum", leaves=True)
def summed_grad(problem: Problem) -> Call:
    """`autograd.grad` once, with the sum of the seeds"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        grads = torch.autograd.grad(f(*inputs), inputs[:n], seeds.sum(0), allow_unused=True)
        return filled(grads, inputs)

    return call


def every_seed(problem: Problem) -> int:
    """Peak of the modes that pull all seeds back at once before they are added."""
    return 3 * ACCUMULATED_SEEDS * (problem.coordinates + problem.outputs)


@mode("vjp_sum", name="grads_batched", leaves=True, memory=every_seed)
def added_grads_batched(problem: Problem) -> Call:
    """`autograd.grad` once for all seeds, with `is_grads_batched`, the results added"""
    f, n = problem.forward, problem.differentiated

    def call(inputs: Tensors, seeds: Tensor) -> Tensors:
        grads = torch.autograd.grad(
            f(*inputs), inputs[:n], seeds, is_grads_batched=True, allow_unused=True
        )
        return filled([None if g is None else g.sum(0) for g in grads], inputs)

    return call
