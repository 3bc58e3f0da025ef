"""The documents' printed values, by autograd and by the catalogue's formulas.

Values are written as PyTorch prints them. One that ends in a point is a whole number and has to
be met exactly; the digits of any other say how closely it has to be met.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest
import torch

from gradbench.problems import registry
from gradbench.problems.function import as_tuple

registry.load_builtin()
FUNCTIONS = dict(registry.FUNCTIONS)


@dataclass(frozen=True)
class Golden:
    """What a document prints for an operator, block by block; None where it prints nothing."""

    name: str
    function: str
    operator: str
    printed: tuple[str | None, ...]
    inputs: tuple | None = None
    """The documents' own where None."""
    seed: list | None = None


AFFINE = (
    [10, 15, 20, 30, 40],
    [[0.1, 0.2, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.8, 1.0], [0.4, 0.5, 0.6, 0.8, 1.0]],
    [0.1, 0.2, 0.7],
)
WIDER = ([10, 15, 20], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], [0.1, 0.2])
TWO_CLASSES = ([1, 2], [[0.5, -0.5], [0.3, 0.8]], [0.1, 0.2], [0, 1])
SEEDS = [1, 10, 100, 1000]

GOLDENS = [
    # G: reductions and elementwise maps at [1, 2, 3, 4]
    Golden("sum", "sum", "gradient", ("1. 1. 1. 1.",)),
    Golden("mean", "mean", "gradient", ("0.2500 0.2500 0.2500 0.2500",)),
    Golden("exp ones", "exp", "vjp", ("2.7183 7.3891 20.0855 54.5982",), seed=[1, 1, 1, 1]),
    Golden("exp diagonal", "exp", "diagonal", ("2.7183 7.3891 20.0855 54.5982",)),
    Golden(
        "exp jacobian",
        "exp",
        "jacobian",
        (
            "2.7183 0.0000 0.0000 0.0000 "
            "0.0000 7.3891 0.0000 0.0000 "
            "0.0000 0.0000 20.0855 0.0000 "
            "0.0000 0.0000 0.0000 54.5982",
        ),
    ),
    Golden("log ones", "log", "vjp", ("1.0000 0.5000 0.3333 0.2500",), seed=[1, 1, 1, 1]),
    Golden("log diagonal", "log", "diagonal", ("1.0000 0.5000 0.3333 0.2500",)),
    Golden(
        "log jacobian",
        "log",
        "jacobian",
        (
            "1.0000 0.0000 0.0000 0.0000 "
            "0.0000 0.5000 0.0000 0.0000 "
            "0.0000 0.0000 0.3333 0.0000 "
            "0.0000 0.0000 0.0000 0.2500",
        ),
    ),
    # G: the affine map, its sum and its losses
    Golden(
        "affine",
        "affine",
        "jacobian",
        (
            "0.1000 0.2000 0.3000 0.4000 0.5000 0.6000",
            "1. 2. 3.  0. 0. 0.   0. 0. 0.  1. 2. 3.",
            "1. 0. 0. 1.",
        ),
    ),
    Golden(
        "affine at a second x",
        "affine",
        "jacobian",
        (
            "0.1000 0.2000 0.3000 0.4000 0.5000 0.6000",
            "10. 15. 20.  0. 0. 0.   0. 0. 0.  10. 15. 20.",
            "1. 0. 0. 1.",
        ),
        inputs=WIDER,
    ),
    Golden(
        "affine ones",
        "affine",
        "vjp",
        (None, "1. 2. 3. 1. 2. 3.", None),
        seed=[1, 1],
    ),
    Golden(
        "affine_sum",
        "affine_sum",
        "gradient",
        ("0.5000 0.7000 0.9000", "1. 2. 3. 1. 2. 3.", "1. 1."),
    ),
    Golden(
        "affine_sum at a second x",
        "affine_sum",
        "gradient",
        ("0.5000 0.7000 0.9000", "10. 15. 20. 10. 15. 20.", "1. 1."),
        inputs=WIDER,
    ),
    Golden("affine_mse z", "affine", "value", ("42.1000 87.7000 88.2000",), inputs=AFFINE),
    Golden(
        "affine_mse",
        "affine_mse",
        "gradient",
        (
            "45.6467 59.1133 72.5800 96.7733 120.9667",
            "274.0000 411.0000 548.0000 822.0000 1096.0000 "
            "551.3333 827.0000 1102.6666 1654.0000 2205.3333 "
            "521.3333 782.0000 1042.6666 1564.0000 2085.3333",
            "27.4000 55.1333 52.1333",
        ),
    ),
    Golden("mse", "mse", "gradient", ("27.4000 55.1333 52.1333", "-27.4000 -55.1333 -52.1333")),
    Golden(
        "affine_softmax_mse two classes",
        "affine_softmax_mse",
        "gradient",
        ("0.0021 -0.0138", "0.0106 0.0213 -0.0106 -0.0213", "0.0106 -0.0106"),
        inputs=TWO_CLASSES,
    ),
    Golden(
        "affine_softmax_mse random",
        "affine_softmax_mse",
        "gradient",
        (
            "-0.0630 0.0657 -0.1086 0.1757 0.0383",
            "-5.1207e-04 9.7506e-05 7.2401e-04 -1.8889e-04 3.6038e-04 "
            "1.3595e-01 -2.5887e-02 -1.9222e-01 5.0148e-02 -9.5679e-02 "
            "-1.3544e-01 2.5789e-02 1.9149e-01 -4.9959e-02 9.5318e-02",
            "-0.0003 0.0882 -0.0879",
        ),
    ),
    # S
    Golden("squared_residual", "squared_residual", "derivative", ("-36.",)),
    Golden("scalar_affine", "scalar_affine", "gradient", ("2.5000", "5.", "1.")),
    Golden("sum_of_squares value", "sum_of_squares", "value", ("62.",)),
    Golden("sum_of_squares", "sum_of_squares", "gradient", ("2. 10. 12.",)),
    Golden("recurrence", "recurrence", "gradient", ("2.", "4.")),
    Golden("linear_layer_sum", "linear_layer_sum", "gradient", (None, None, "5. 5. 5.")),
    # A
    Golden("weighted_quadratic value at 1", "weighted_quadratic", "value", ("40.5000",)),
    Golden("weighted_quadratic at 1", "weighted_quadratic", "gradient", ("9. 9. 9.",)),
    Golden(
        "weighted_quadratic value at 2",
        "weighted_quadratic",
        "value",
        ("72.",),
        inputs=([2, 2, 2], [0.5, 0.5, 0.5]),
    ),
    Golden(
        "weighted_quadratic at 2",
        "weighted_quadratic",
        "gradient",
        ("12. 12. 12.",),
        inputs=([2, 2, 2], [0.5, 0.5, 0.5]),
    ),
    Golden("shifted_square value", "shifted_square", "value", ("27. 27. 27. 27.",)),
    Golden("shifted_square ones", "shifted_square", "vjp", ("18. 18. 18. 18.",), seed=[1] * 4),
    Golden(
        "shifted_square at 0, 1, 2",
        "shifted_square",
        "diagonal",
        ("12. 18. 24.",),
        inputs=([0, 1, 2],),
    ),
    # V
    Golden("twice_dot value", "twice_dot", "value", ("28.",)),
    Golden("twice_dot", "twice_dot", "gradient", ("0. 4. 8. 12.",)),
    Golden("three_x_squared value", "three_x_squared", "value", ("3. 12.",)),
    Golden("three_x_squared ones", "three_x_squared", "vjp", ("6. 12.",), seed=[1, 1]),
    Golden("three_x_squared seeded", "three_x_squared", "vjp", ("6. 120.",), seed=[1, 10]),
    Golden("square", "square", "derivative", ("2.",)),
    Golden("square seeded", "square", "vjp", ("200.",), seed=100),
    Golden("square accumulated", "square", "vjp_sum", ("2222.",), seed=SEEDS),
    Golden("fan_out_square value", "fan_out_square", "value", ("1. 1. 1. 1.",)),
    Golden("fan_out_square", "fan_out_square", "vjp", ("2222.",), seed=SEEDS),
    Golden("builtin_sum value", "builtin_sum", "value", ("3.",)),
    Golden("builtin_sum", "builtin_sum", "gradient", ("1. 1.",)),
    Golden("builtin_sum seeded", "builtin_sum", "vjp", ("100. 100.",), seed=100),
    Golden("builtin_sum accumulated", "builtin_sum", "vjp_sum", ("1111. 1111.",), seed=SEEDS),
    Golden("fan_out_sum value", "fan_out_sum", "value", ("3. 3. 3. 3.",)),
    Golden("fan_out_sum", "fan_out_sum", "vjp", ("1111. 1111.",), seed=SEEDS),
    *(
        golden
        for name in ("polynomial_map", "polynomial_map_in_place")
        for golden in (
            Golden(f"{name} value", name, "value", ("3. 17. 20.",)),
            Golden(f"{name} jacobian", name, "jacobian", ("6. 0. 2. 24. 0. 10.",)),
            Golden(f"{name} seeded", name, "vjp", ("26. 1240.",), seed=[1, 10, 100]),
        )
    ),
    Golden("norm_doubling", "norm_doubling", "derivative", ("409600.",)),
]


def assert_printed(block, printed):
    """Whether a tensor's numbers print as these do."""
    words = printed.split()
    assert block.numel() == len(words)
    for found, word in zip(block.reshape(-1).tolist(), words):
        right = Decimal(word)
        if word.endswith("."):
            assert found == float(right)
        else:
            unit = Decimal((0, (1,), right.as_tuple().exponent))
            # The printed digits are those of a float32, which has rounded once already.
            spare = 2 * torch.finfo(torch.float32).eps * abs(found)
            assert abs(found - float(right)) <= float(unit) / 2 + spare, (found, word)


def arguments(golden, dtype):
    f = FUNCTIONS[golden.function]
    if golden.inputs is None:
        inputs = f.example()
    else:
        inputs = tuple(torch.tensor(value, dtype=torch.float64) for value in golden.inputs)
    inputs = tuple(t.to(dtype) for t in inputs)
    seed = None if golden.seed is None else torch.tensor(golden.seed, dtype=dtype)
    return f, inputs, seed


def by_autograd(f, operator, inputs, seed):
    n = f.differentiated
    leaves = tuple(x.clone().requires_grad_() for x in inputs[:n])
    if operator == "jacobian":
        return torch.autograd.functional.jacobian(lambda *wrt: f.forward(*wrt, *inputs[n:]), leaves)
    y = f.forward(*leaves, *inputs[n:])
    if operator == "vjp_sum":
        for v in seed:
            y.backward(v, retain_graph=True)
        return tuple(leaf.grad for leaf in leaves)
    if operator == "diagonal":
        seed = torch.ones_like(y)
    return torch.autograd.grad(y, leaves, seed)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name.replace(" ", "_"))
def test_printed_value(golden):
    f, inputs, seed = arguments(golden, torch.float32)
    if golden.operator == "value":
        assert_printed(f.forward(*inputs), golden.printed[0])
        return
    formula = f.derivatives[golden.operator]
    analytic = as_tuple(formula(*inputs) if seed is None else formula(seed, *inputs))
    automatic = by_autograd(f, golden.operator, inputs, seed)
    assert len(analytic) == len(automatic) == len(golden.printed)
    for mine, theirs, printed in zip(analytic, automatic, golden.printed):
        assert mine.shape == theirs.shape
        if printed is not None:
            assert_printed(mine, printed)
            assert_printed(theirs, printed)


def test_digits_of_a_printed_value_are_all_held_to():
    assert_printed(torch.tensor([0.33333]), "0.3333")
    with pytest.raises(AssertionError):
        assert_printed(torch.tensor([0.3334]), "0.3333")
    with pytest.raises(AssertionError):
        assert_printed(torch.tensor([2222.001]), "2222.")


def example(name, dtype=torch.float32):
    """The function and its example, the differentiated inputs as leaves."""
    f = FUNCTIONS[name]
    inputs = tuple(t.to(dtype) for t in f.example())
    for x in inputs[: f.differentiated]:
        x.requires_grad_()
    return f, inputs


def test_random_softmax_inputs_are_the_documents():
    f = FUNCTIONS["affine_softmax_mse"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [torch.randn(*shape) for shape in ((5,), (3, 5), (3,), (3,))]
    for mine, theirs in zip(f.example(), drawn):
        assert torch.equal(mine.float(), theirs)


def test_softmax_gradient_by_hand_and_by_autograd_differ_by_exactly_zero():
    f, inputs = example("affine_softmax_mse")
    f.forward(*inputs).backward()
    by_hand = f.derivatives["gradient"](*(x.detach() for x in inputs))
    for x, mine in zip(inputs, by_hand):
        assert torch.equal(x.grad, mine)


def test_derivative_of_the_sum_by_the_affine_map_is_ones():
    """The intermediate ∂L/∂z of L = Σ(Wx + b)."""
    affine, inputs = example("affine")
    z = affine.forward(*inputs)
    (dz,) = torch.autograd.grad(FUNCTIONS["sum"].forward(z), z)
    assert_printed(dz, "1. 1.")
    assert_printed(FUNCTIONS["sum"].derivatives["gradient"](z.detach()), "1. 1.")


def test_linear_layer_rows_of_dX_are_the_row_sums_of_W():
    f, inputs = example("linear_layer_sum", torch.float64)
    _, W, _ = inputs
    row_sums = torch.stack([sum(row) for row in W.detach()])
    f.forward(*inputs).backward()
    analytic, *_ = f.derivatives["gradient"](*(t.detach() for t in inputs))
    for dX in (inputs[0].grad, analytic):
        assert dX.shape == (5, 2)
        for row in dX:
            torch.testing.assert_close(row, row_sums)


def test_linear_layer_bias_and_weight_gradients():
    f, inputs = example("linear_layer_sum", torch.float64)
    f.forward(*inputs).backward()
    _, dW, dB = f.derivatives["gradient"](*(t.detach() for t in inputs))
    torch.testing.assert_close(inputs[1].grad, dW)
    assert torch.equal(inputs[2].grad, dB)
    assert torch.equal(dB, torch.full((1, 3), 5.0, dtype=torch.float64))


def test_norm_doubling_gradient_is_the_quotient():
    f, (a,) = example("norm_doubling")
    d = f.forward(a)
    d.backward()
    assert a.grad == d / a
    assert a.grad == 409600


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, f in FUNCTIONS.items()
        if "B" in f.document and "batch_jacobian" in f.derivatives
    ],
)
def test_batched_jacobians_are_close_in_float64(name):
    f, inputs = example(name, torch.float64)
    assert f.dtype == "float64"
    assert inputs[0].shape[0] == 1000
    assert all(x.min() >= -1 and x.max() < 1 for x in inputs)
    y = f.forward(*inputs)
    columns = y.unbind(-1) if y.dim() > 1 else [y]
    rows = [torch.autograd.grad(c, inputs, torch.ones_like(c), retain_graph=True) for c in columns]
    for mine, parts in zip(as_tuple(f.derivatives["batch_jacobian"](*inputs)), zip(*rows)):
        theirs = torch.stack(parts, dim=1) if y.dim() > 1 else parts[0]
        assert torch.allclose(mine, theirs)


# Accumulation


def test_weighted_quadratic_accumulates_into_whatever_grad_holds():
    f, (w, x) = example("weighted_quadratic")
    z = f.forward(w, x)
    z.backward(retain_graph=True)
    assert_printed(w.grad, "9. 9. 9.")
    z.backward(retain_graph=True)
    assert_printed(w.grad, "18. 18. 18.")
    w.grad = torch.tensor([1.0, 2.0, 3.0])
    z.backward(retain_graph=True)
    assert_printed(w.grad, "10. 11. 12.")
    assert x.grad is None, "the constant got a gradient"


def test_second_backward_needs_the_graph_retained():
    f, inputs = example("weighted_quadratic")
    z = f.forward(*inputs)
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


def test_shifted_square_accumulates_until_it_is_reset():
    f, (x,) = example("shifted_square")
    z = f.forward(x)
    ones = torch.ones_like(z)
    for printed in ("18. 18. 18. 18.", "36. 36. 36. 36.", "54. 54. 54. 54."):
        z.backward(ones, retain_graph=True)
        assert_printed(x.grad, printed)
    x.grad = torch.zeros_like(x)
    z.backward(ones, retain_graph=True)
    assert_printed(x.grad, "18. 18. 18. 18.")
    passes = ones.expand(3, -1)
    assert_printed(f.derivatives["vjp_sum"](passes, x.detach()), "54. 54. 54. 54.")


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("square", ["2.", "22.", "222.", "2222."]),
        ("builtin_sum", ["1. 1.", "11. 11.", "111. 111.", "1111. 1111."]),
    ],
)
def test_seeds_of_growing_powers_of_ten_accumulate(name, printed):
    f, (x,) = example(name)
    seeds = torch.tensor(SEEDS, dtype=torch.float32)
    y = f.forward(x)
    for count, so_far in enumerate(printed, start=1):
        y.backward(seeds[count - 1], retain_graph=True)
        assert_printed(x.grad, so_far)
        assert_printed(f.derivatives["vjp_sum"](seeds[:count], x.detach()), so_far)


@pytest.mark.parametrize(
    ("fan_out", "single"), [("fan_out_square", "square"), ("fan_out_sum", "sum")]
)
def test_one_pass_through_the_copies_is_all_passes_through_one(fan_out, single):
    """A vector of seeds into k copies, and the sum of the seeds into one."""
    many, one = FUNCTIONS[fan_out], FUNCTIONS[single]
    inputs = tuple(t.float() for t in many.example())
    seeds = torch.tensor(SEEDS, dtype=torch.float32)
    together = many.derivatives["vjp"](seeds, *inputs)
    assert torch.equal(together, as_tuple(one.derivatives["vjp"](seeds.sum(), inputs[0]))[0])


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("fan_out_square", SEEDS),
        ("fan_out_sum", SEEDS),
        ("three_x_squared", [1, 10]),
        ("polynomial_map", [1, 10, 100]),
    ],
)
def test_explicit_product_with_the_jacobian_in_numpy(name, seed):
    """vᵀJ with the jacobian written out, as the document does it."""
    f = FUNCTIONS[name]
    inputs = tuple(t.float() for t in f.example())
    J = f.derivatives["jacobian"](*inputs).reshape(len(seed), -1).numpy()
    v = torch.tensor([seed], dtype=torch.float32)
    product = torch.from_numpy(v.numpy() @ J).reshape(inputs[0].shape)
    assert torch.equal(product, as_tuple(f.derivatives["vjp"](v[0], *inputs))[0])
