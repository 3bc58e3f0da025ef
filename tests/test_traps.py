"""The mistakes that the documents make or invite: what each yields, beside what is right."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd.functional import jacobian

from gradbench.problems import registry
from gradbench.problems.function import vector

registry.load_builtin()
FUNCTIONS = dict(registry.FUNCTIONS)


def leaves(name):
    """A function's example in float32, the differentiated inputs as leaves."""
    f = FUNCTIONS[name]
    inputs = tuple(t.float() for t in f.example())
    for x in inputs[: f.differentiated]:
        x.requires_grad_()
    return f, inputs


# 1: the transposed W


def transposed_dx(x, W, b, y):
    """The document's dx = dz·Wᵀ, which is W dz where Wᵀdz is right."""
    dz = FUNCTIONS["affine_softmax_mse"].derivatives["gradient"](x, W, b, y)[2]
    return dz @ W.T


def test_transposed_W_fits_a_square_W_and_is_wrong():
    f = FUNCTIONS["affine_softmax_mse"]
    W = torch.tensor([[0.5, -0.5], [0.3, 0.8]], dtype=torch.float64)
    inputs = (vector(1, 2), W, vector(0.1, 0.2), vector(0, 1))
    wrong, right = transposed_dx(*inputs), f.derivatives["gradient"](*inputs)[0]
    assert wrong.shape == right.shape
    torch.testing.assert_close(wrong, vector(0.0106, -0.0053), rtol=0, atol=5e-5)
    torch.testing.assert_close(right, vector(0.0021, -0.0138), rtol=0, atol=5e-5)
    x = inputs[0].clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(f.forward(x, *inputs[1:]), x)
    assert torch.allclose(by_autograd, right)
    assert not torch.allclose(by_autograd, wrong)


def test_transposed_W_is_found_by_a_random_square_W_but_not_by_a_symmetric_one():
    f = FUNCTIONS["affine_softmax_mse"]
    x, W, b, y = f.draw({"m": 4, "n": 4}, torch.Generator().manual_seed(0))
    assert not torch.allclose(transposed_dx(x, W, b, y), f.derivatives["gradient"](x, W, b, y)[0])
    W = W + W.T
    assert torch.allclose(transposed_dx(x, W, b, y), f.derivatives["gradient"](x, W, b, y)[0])


def test_transposed_W_does_not_even_fit_where_m_is_not_n():
    inputs = FUNCTIONS["affine_softmax_mse"].example()
    with pytest.raises(RuntimeError, match=r"size|shapes"):
        transposed_dx(*inputs)


# 2: a pullback of ones taken for the jacobian


def test_pullback_of_ones_is_not_the_jacobian():
    f, (x, W, b) = leaves("affine")
    z = f.forward(x, W, b)
    dz = torch.ones_like(z)
    (collapsed,) = torch.autograd.grad(z, W, torch.ones_like(z))
    plain = tuple(t.detach() for t in (x, W, b))
    J = f.derivatives["jacobian"](*plain)[1]
    assert collapsed.shape == (2, 3)
    assert J.shape == (2, 2, 3)
    assert torch.equal(collapsed, J.sum(0))
    assert torch.equal(dz @ collapsed, torch.tensor([2.0, 4.0, 6.0]))
    right = FUNCTIONS["affine_sum"].derivatives["gradient"](*plain)[1]
    assert torch.equal(torch.tensordot(dz, J, dims=1), right)
    assert torch.equal(right, torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))


# 3: the .grad of a tensor that is no leaf


def test_grad_of_an_intermediate_is_none_and_warns():
    f, inputs = leaves("affine")
    z = f.forward(*inputs)
    z.sum().backward()
    with pytest.warns(UserWarning, match="not a leaf"):
        assert z.grad is None


def test_retained_grad_is_added_to_by_every_later_pass_through_it():
    """`autograd.grad` returns its result and leaves the leaves alone, but not retained grads."""
    f, inputs = leaves("affine")
    z = f.forward(*inputs)
    z.retain_grad()
    L = z.sum()
    L.backward(retain_graph=True)
    assert torch.equal(z.grad, torch.ones(2))
    before = [x.grad.clone() for x in inputs]
    torch.autograd.grad(L, z, retain_graph=True)
    torch.autograd.grad(z, inputs[1], torch.ones_like(z), retain_graph=True)
    assert torch.equal(z.grad, torch.full((2,), 3.0))
    assert all(torch.equal(x.grad, then) for x, then in zip(inputs, before))


# 4: functional.jacobian where gradients are switched off, or where its name is taken


def test_functional_jacobian_is_right_under_no_grad():
    f = FUNCTIONS["affine"]
    inputs = f.example()
    with torch.no_grad():
        found = jacobian(f.forward, inputs)
    for block, right in zip(found, f.derivatives["jacobian"](*inputs)):
        assert torch.equal(block, right)


def test_functional_jacobian_is_not_to_be_trusted_under_inference_mode():
    """torch 2.13 returns zeros without an error (issue 128264); a later one may do better."""
    f = FUNCTIONS["exp"]
    (x,) = f.example()
    right = f.derivatives["jacobian"](x)
    try:
        with torch.inference_mode():
            found = jacobian(f.forward, x)
    except RuntimeError:
        return
    assert not found.any() or torch.allclose(found, right)


def test_strict_functional_jacobian_never_returns_silent_zeros_under_inference_mode():
    f = FUNCTIONS["exp"]
    (x,) = f.example()
    try:
        with torch.inference_mode():
            found = jacobian(f.forward, x, strict=True)
    except RuntimeError:
        return
    torch.testing.assert_close(found, f.derivatives["jacobian"](x))


def test_a_tensor_that_shadows_jacobian_cannot_be_called():
    f = FUNCTIONS["exp"]
    (x,) = f.example()
    shadowing = jacobian(f.forward, x)
    with pytest.raises(TypeError, match="not callable"):
        shadowing(f.forward, x)


# 5: a second derivative of a gradient that carries no graph


def test_gradient_without_create_graph_cannot_be_differentiated():
    f = FUNCTIONS["batched_scalar_field_xy"]
    x, y = (t.requires_grad_() for t in f.example())
    value = f.forward(x, y)
    by_x, _ = torch.autograd.grad(value, (x, y), torch.ones_like(value))
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(by_x, x, torch.ones_like(by_x))


def test_gradient_with_create_graph_can_be_differentiated():
    f = FUNCTIONS["batched_scalar_field_xy"]
    inputs = f.example()
    x, y = (t.clone().requires_grad_() for t in inputs)
    value = f.forward(x, y)
    first = torch.autograd.grad(value, (x, y), torch.ones_like(value), create_graph=True)
    second = [
        block
        for g in first
        for block in torch.autograd.grad(g, (x, y), torch.ones_like(g), retain_graph=True)
    ]
    for found, right in zip(second, f.derivatives["batch_hessian"](*inputs)):
        torch.testing.assert_close(found, right)


# 6: a .grad that is not reset


@pytest.mark.parametrize("name", ["weighted_quadratic", "affine_mse", "twice_dot"])
def test_loop_that_does_not_reset_grad_returns_a_wrong_derivative(name):
    f, inputs = leaves(name)
    n = f.differentiated
    right = f.derivatives["gradient"](*(t.detach() for t in inputs))
    right = right if isinstance(right, tuple) else (right,)
    for passes in range(1, 5):
        f.forward(*inputs).backward()
        for x, g in zip(inputs[:n], right):
            torch.testing.assert_close(x.grad, passes * g)
    for _ in range(3):
        for x in inputs[:n]:
            x.grad = None
        f.forward(*inputs).backward()
        for x, g in zip(inputs[:n], right):
            torch.testing.assert_close(x.grad, g)


def test_autograd_grad_leaves_nothing_behind():
    f, inputs = leaves("affine_mse")
    wrt = inputs[: f.differentiated]
    first, again = (torch.autograd.grad(f.forward(*inputs), wrt) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(x.grad is None for x in inputs)
