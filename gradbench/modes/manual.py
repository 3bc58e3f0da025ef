"""Derivatives written by hand: the function's own formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.operators import OPERATORS
from gradbench.problems.function import Formula, Tensors, as_tuple
from gradbench.problems.mode import Call, Unsupported, full_jacobian
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode


def by_formula(problem: Problem, formula: Formula) -> Call:
    """The call of a formula, which takes the seed first where the operator has one."""
    if not OPERATORS[problem.operator].seed:
        return lambda inputs: formula(*inputs)
    return lambda inputs, seed: formula(seed, *inputs)


@mode(*OPERATORS, by_hand=True, document="GSAVB")
def manual(problem: Problem) -> Call:
    """The analytic derivative, written by hand"""
    return by_formula(problem, problem.function.formulas[problem.operator])


@mode("gradient", "vjp", by_hand=True, document="G", memory=full_jacobian)
def manual_materialised(problem: Problem) -> Call:
    """The analytic derivative by way of a jacobian that is formed and multiplied"""
    variants = problem.function.variants.get(problem.operator, {})
    if "manual_materialised" not in variants:
        raise Unsupported("the function has no formula that forms the jacobian")
    return by_formula(problem, variants["manual_materialised"])


@mode("vjp", by_hand=True, document="V", memory=full_jacobian)
def numpy_explicit(problem: Problem) -> Call:
    """vᵀJ in NumPy, with the jacobian J by its formula"""
    formulas = problem.function.derivatives
    names = [name for name in ("jacobian", "gradient", "derivative") if name in formulas]
    if not names:
        raise Unsupported("the function has no formula of its jacobian")
    try:
        torch.empty(0, dtype=problem.dtype, device=problem.device).numpy()
    except (TypeError, RuntimeError) as error:
        raise Unsupported("NumPy: " + str(error).partition("\n")[0]) from None
    formula = formulas[names[0]]

    def call(inputs: Tensors, v: Tensor) -> Tensors:
        v_transposed = v.numpy().reshape(1, -1)
        blocks = [block.numpy() for block in as_tuple(formula(*inputs))]
        products = [v_transposed @ J.reshape(v.numel(), -1) for J in blocks]
        return tuple(
            torch.from_numpy(product.reshape(shape))
            for product, shape in zip(products, problem.wrt)
        )

    return call
