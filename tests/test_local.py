"""A derivative that relies on a pattern seen near one input checks its result elsewhere."""

import pytest
import torch

from gradbench.modes.local import checked_hessian, checked_jacobian, checked_sparse
from gradbench.problems.arguments import pose
from gradbench.problems.function import Function


def problem_of(f, *inputs, operator="jacobian", dtype="float64"):
    function = Function(
        name="f", document="", formula="", derivative="", forward=f, example=lambda: inputs,
        example_size={}, draw=lambda size, generator: inputs,
        inputs=tuple("abc"[: len(inputs)]),
        derivatives={operator: lambda *x: None},
    )  # fmt: skip
    return pose(function, operator, {}, dtype, "cpu", 3)[0]


def dense(f):
    return lambda inputs: tuple(torch.autograd.functional.jacobian(f, inputs))


def dense_hessian(f):
    return lambda inputs: tuple(
        block for row in torch.autograd.functional.hessian(f, inputs) for block in row
    )


def without(call, entry):
    """The same result without one entry of the last block."""

    def lacking(inputs):
        blocks = tuple(block.clone() for block in call(inputs))
        blocks[-1].view(-1)[entry] = 0
        return blocks

    return lacking


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("leaves", [True, False])
def test_a_result_without_an_entry_raises_and_one_with_all_is_returned(dtype, leaves):
    kind = getattr(torch, dtype)
    a, b = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)).to(kind)
    inputs = tuple(x.clone().requires_grad_(leaves) for x in (a, b + 3))

    def f(a, b):
        return a.roll(1) * b + torch.tanh(5 * b)

    problem = problem_of(f, a, b, dtype=dtype)
    blocks = checked_jacobian(problem, dense(f))(inputs)
    assert [block.shape for block in blocks] == [(12, 12), (12, 12)]
    with pytest.raises(RuntimeError, match="near another input"):
        checked_jacobian(problem, without(dense(f), 0))(inputs)


@pytest.mark.parametrize("checked", [checked_jacobian, checked_sparse])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_value_of_a_wider_dtype_than_its_input_is_checked_too(checked, wide):
    a = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    scale = torch.linspace(1, 2, 6, dtype=wide)

    def f(a):
        return (a * scale).square().sum(0) * a[0]

    def jacobian(inputs):
        (block,) = torch.autograd.functional.jacobian(f, inputs)
        return (block.to_sparse() if checked is checked_sparse else block,)

    def lacking(inputs):
        block = torch.autograd.functional.jacobian(f, inputs)[0].clone()
        block[0, 0, 0] = 0
        return (block.to_sparse() if checked is checked_sparse else block,)

    problem = problem_of(f, a, dtype="bfloat16")
    assert checked(problem, jacobian)((a,))[0].shape == (6, 2, 6)
    with pytest.raises(RuntimeError, match="outside its pattern"):
        checked(problem, lacking)((a,))


def test_a_hessian_without_an_entry_raises():
    a, b = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def f(a, b):
        return (a**3 * b).sum() + (a[1:] * a[:-1]).prod()

    problem = problem_of(f, a, b, operator="hessian")
    assert len(checked_hessian(problem, dense_hessian(f))((a, b))) == 4

    def lacking(inputs):
        first, *rest = dense_hessian(f)(inputs)
        return first - torch.diag(first.diagonal()), *rest

    with pytest.raises(RuntimeError, match="outside its pattern"):
        checked_hessian(problem, lacking)((a, b))
    linear = problem_of(lambda a, b: (a + b).sum(), a, b, operator="hessian")
    zeros = tuple(torch.zeros(6, 6, dtype=torch.float64) for _ in range(4))
    assert checked_hessian(linear, lambda inputs: zeros)((a, b)) is zeros


def test_rounding_and_nan_are_not_taken_for_entries():
    x = torch.linspace(-12, 12, 40)

    def f(x):
        return torch.sigmoid(x) - torch.sigmoid(-x) * 1e-3 + torch.tanh(x * 3)

    problem = problem_of(f, x, dtype="float32")
    exact = torch.autograd.functional.jacobian(f, x.double()).float()
    checked_jacobian(problem, lambda inputs: (exact,))((x,))
    nowhere = problem_of(lambda x: torch.sqrt(x), x, dtype="float32")
    checked_jacobian(nowhere, dense(torch.sqrt))((x,))
