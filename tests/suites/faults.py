"""Modes that fail in many ways, which the gate and the driver must catch.

Loaded by `gradbench --from` and by the tests themselves.
"""

import os
import signal
import sys
import time

import torch

from gradbench.problems import registry
from gradbench.problems.function import (
    Function,
    as_tuple,
    normal,
    scalar_valued,
    vector_valued,
)

registry.function(
    Function(
        name="square_chain",
        document="X",
        formula="mse-like: Σ ((W x + b) − y)² with W square and not symmetric",
        derivative="dx = 2 Wᵀ(z − y)",
        forward=lambda x, W: ((W @ x) ** 2).sum(),
        example=lambda: (
            torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
            torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]], dtype=torch.float64),
        ),
        example_size={"n": 3},
        draw=lambda size, g: (normal(g, size["n"]), normal(g, size["n"], size["n"])),
        inputs=("x", "W"),
        constants=("W",),
        derivatives=scalar_valued(lambda x, W: 2 * (W.T @ (W @ x))),
    )
)

registry.function(
    Function(
        name="wide_map",
        document="X",
        formula="x ↦ A x, R³ → R²",
        derivative="A",
        forward=lambda x, A: A @ x,
        example=lambda: (
            torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
            # The last column is small beside the others: a tolerance by the largest entry
            # would not see it missing.
            torch.tensor([[1e3, 2e3, 1e-3], [4e3, 5e3, 2e-3]], dtype=torch.float64),
        ),
        example_size={"m": 2, "n": 3},
        draw=lambda size, g: (
            normal(g, size["n"]),
            normal(g, size["m"], size["n"]) * torch.tensor([1e3, 1e3, 1e-3]).double(),
        ),
        inputs=("x", "A"),
        constants=("A",),
        derivatives=vector_valued(
            jacobian=lambda x, A: A.clone(),
            vjp=lambda v, x, A: A.T @ v,
            jvp=lambda t, x, A: A @ t[0],
        ),
    )
)


@registry.mode("gradient")
def wrong_transpose(problem):
    """dx = dz·W instead of Wᵀdz: the shapes fit where W is square"""
    return lambda inputs: 2 * ((inputs[1] @ inputs[0]) @ inputs[1].T)


@registry.mode("gradient", leaves=True)
def unreset_grad(problem):
    """.backward() without resetting .grad: right once, then accumulated"""

    def call(inputs):
        problem.forward(*inputs).backward()
        return inputs[0].grad

    return call


@registry.mode("gradient")
def late_liar(problem):
    """right for the first thirty calls, then wrong"""
    formula = problem.function.derivatives["gradient"]
    calls = 0

    def call(inputs):
        nonlocal calls
        calls += 1
        return tuple(b * (1 if calls <= 30 else 1.01) for b in as_tuple(formula(*inputs)))

    return call


@registry.mode("gradient")
def late_raiser(problem):
    """right for the gate, and for the first hundred calls of pytest-benchmark; then raises"""
    formula = problem.function.derivatives["gradient"]
    calls = 0

    def call(inputs):
        nonlocal calls
        calls += sys._getframe(1).f_globals.get("__name__", "").startswith("pytest_benchmark")
        if calls > 100:
            raise RuntimeError("no more than a hundred calls")
        return formula(*inputs)

    return call


@registry.mode("gradient")
def remembers(problem):
    """returns its first result for all inputs: a stale cache"""
    kept = []

    def call(inputs):
        if not kept:
            kept.append(problem.function.derivatives["gradient"](*inputs))
        return kept[0].clone()

    return call


@registry.mode("gradient")
def mutates(problem):
    """changes its input after using it"""

    def call(inputs):
        result = problem.function.derivatives["gradient"](*inputs)
        inputs[0].mul_(1.0000001)
        inputs[0].add_(1e-3)
        return result

    return call


@registry.mode("gradient")
def wrong_dtype(problem):
    """returns another dtype"""
    return lambda inputs: problem.function.derivatives["gradient"](*inputs).to(torch.float16)


@registry.mode("gradient")
def not_a_number(problem):
    """returns NaN"""
    return lambda inputs: problem.function.derivatives["gradient"](*inputs) * torch.nan


@registry.mode("gradient")
def raises(problem):
    """raises an error"""

    def call(inputs):
        raise RuntimeError("no such [bold]luck[/bold] today")

    return call


@registry.mode("jacobian")
def zero_column(problem):
    """returns zeros in one column, whose entries are small"""

    def call(inputs):
        result = problem.function.derivatives["jacobian"](*inputs)
        result[:, -1] = 0
        return result

    return call


@registry.mode("jacobian")
def transposed(problem):
    """the transposed jacobian"""
    return lambda inputs: problem.function.derivatives["jacobian"](*inputs).T.contiguous()


@registry.mode("vjp")
def dies(problem):
    """kills its process"""

    def call(inputs, seed):
        os.kill(os.getpid(), signal.SIGSEGV)

    return call


@registry.mode("vjp")
def dies_later(problem):
    """kills its process while it is timed"""
    calls = 0

    def call(inputs, seed):
        nonlocal calls
        calls += 1
        if calls > 40:
            os._exit(3)
        return problem.function.derivatives["vjp"](seed, *inputs)

    return call


@registry.mode("vjp")
def hangs(problem):
    """never returns"""

    def call(inputs, seed):
        while True:
            time.sleep(0.01)

    return call


@registry.mode("vjp")
def prints(problem):
    """prints to standard output, which was the wire"""

    def call(inputs, seed):
        print("x" * 1000)
        return problem.function.derivatives["vjp"](seed, *inputs)

    return call


@registry.mode("jvp", memory=lambda problem: 1 << 50)
def huge(problem):
    """needs more memory than the machine has"""

    def call(inputs, tangents):
        raise AssertionError("called although it was to be refused")

    return call


@registry.mode("vjp")
def asks_for_much(problem):
    """allocates more memory than the machine has while it is timed"""
    calls = 0

    def call(inputs, seed):
        nonlocal calls
        calls += 1
        if calls > 40:
            torch.empty(1 << 50, dtype=torch.int8)
        return problem.function.derivatives["vjp"](seed, *inputs)

    return call


@registry.mode("vjp")
def breaks_device(problem):
    """raises torch's error for a broken CUDA context"""

    def call(inputs, seed):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    return call
