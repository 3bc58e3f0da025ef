"""Monte Carlo arithmetic: what is rounded, what is not, and that anything runs under it."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradbench.problems.arguments import Arguments
from gradbench.worker import rounding
from gradbench.worker.allowance import ENTRY, LEVELS, SPREAD, Allowance
from gradbench.worker.rounding import Kind, Rounding, kind_of

UNIT = 2.0**-23
aten = torch.ops.aten


def draw(f, seed=0, unit=UNIT, dtype=torch.float32):
    with Rounding(unit, dtype, seed):
        return f()


def deviation(f, draws=8):
    exact = f()
    return torch.stack([(draw(f, seed) - exact).abs() for seed in range(draws)]).amax(0)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_operation_that_is_listed_exists():
    listed = rounding.EXACT | rounding.LINEAR | rounding.BASIC | rounding.COMPOSITE
    missing = [name for name in listed if not hasattr(aten, name) and not hasattr(aten, name + "_")]
    assert missing == []


@pytest.mark.parametrize(
    ("func", "kind"),
    [
        (aten.view.default, Kind.EXACT),
        (aten.rand.default, Kind.EXACT),
        (aten.native_dropout.default, Kind.EXACT),
        (aten.relu_.default, Kind.EXACT),
        (aten.mul_.Tensor, Kind.RESULT),
        (aten._foreach_add.List, Kind.RESULT),
        (aten.mm.default, Kind.LINEAR),
        (aten._softmax.default, Kind.COMPOSITE),
        (aten.native_layer_norm_backward.default, Kind.COMPOSITE),
        (aten._linalg_svd.default, Kind.NORMWISE),
        (aten.lgamma.default, Kind.ARGUMENTS),
    ],
)
def test_how_an_operation_is_rounded(func, kind):
    assert kind_of(func) is kind


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.T.reshape(-1)[::2].clone(),
        lambda x: torch.relu(-x).amax(1),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)).sort().values,
        lambda x: torch.cat([x, x[torch.tensor([2, 0])]]).flip(0),
        lambda x: F.max_pool2d(x[None, None], 2),
        lambda x: x.index_put((torch.tensor([1]),), x[0]),
    ],
)
def test_what_moves_or_chooses_numbers_is_not_rounded(f):
    x = numbers(6, 6)
    assert torch.equal(draw(lambda: f(x)), f(x))


def test_a_product_is_rounded_by_up_to_a_unit_and_repeats_by_its_seed():
    x, y = numbers(1000), numbers(1000).flip(0)
    relative = ((draw(lambda: x * y) - x * y) / (x * y)).abs()
    assert UNIT / 2 < relative.max() <= 1.6 * UNIT
    assert torch.equal(draw(lambda: x * y, 3), draw(lambda: x * y, 3))
    assert not torch.equal(draw(lambda: x * y, 3), draw(lambda: x * y, 4))


def test_a_sum_is_rounded_on_the_scale_of_its_terms():
    x = torch.tensor([1e6, 1.0, -1e6], dtype=torch.float64)
    assert deviation(lambda: x.sum()) > 1e5 * UNIT
    assert deviation(lambda: x[None] @ torch.ones_like(x)[:, None]) > 1e5 * UNIT


def test_what_cancels_inside_a_kernel_is_seen():
    x = torch.tensor([20.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)

    def slope():
        return torch.autograd.grad(torch.log_softmax(x, 0)[0], x)[0]

    exact = slope()
    # 1 - softmax is 3e-9, of which float32 keeps no digit.
    assert deviation(slope)[0] > exact[0].abs()


FACTORS = {
    "eigenvectors": lambda x: torch.linalg.eigh(x + x.T).eigenvectors,
    "singular vectors": lambda x: torch.linalg.svd(x).U,
    "orthonormal basis": lambda x: torch.linalg.qr(x).Q,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_the_error_of_orthonormal_factors_is_that_of_their_largest_entry(factor, seed):
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x + torch.diag(torch.arange(4.0) * 4)).float()

    def slope(x):
        # The sums of squares are ones: their derivatives are zero.
        x = x.clone().requires_grad_()
        return torch.autograd.grad(factor(x).square().sum(0)[-1], x)[0]

    off = (slope(x).double() - slope(x.double())).abs()
    assert bool((off <= 4 * deviation(lambda: slope(x.double()), 34) + 1e-45).all())


def test_infinity_stays_and_what_overflows_or_underflows_does():
    mask = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    for seed in range(4):
        assert torch.equal(draw(lambda: mask + mask, seed), mask + mask)
    big = torch.tensor([1e30, 1e-30], dtype=torch.float64)
    assert draw(lambda: big * big).tolist() == [torch.inf, 0.0]
    assert draw(lambda: big * 2, dtype=torch.float16).tolist() == [torch.inf, 0.0]


def test_a_python_number_is_rounded_as_the_dtype_does():
    x = torch.tensor([0.1], dtype=torch.float64)
    assert deviation(lambda: x - 0.1) > UNIT / 100
    y = torch.tensor([0.5], dtype=torch.float64)
    assert deviation(lambda: y - 0.5) == 0


def _lstm(x):
    torch.manual_seed(0)
    return nn.LSTM(3, 4).double()(x[None])[0].sum()


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


def _in_place(x):
    out = torch.zeros(8, dtype=x.dtype)
    out[:4] = x[0, :1] * x[:, 0]
    out[2:6].mul_(1.3).add_(0.1)
    torch.mul(x.detach(), x.detach(), out=torch.empty_like(x))
    return (out.index_add_(0, torch.tensor([1, 1]), x[0, :2]) * out).sum()


@pytest.mark.parametrize(
    "f",
    [
        _lstm,
        _in_place,
        lambda x: Cubed.apply(x).sum(),
        lambda x: torch.func.vmap(torch.func.grad(lambda row: (row**3).sum()))(x).sum(),
        lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1].sum(),
        lambda x: sum(t.sum() for t in torch._foreach_mul([x, x], [x, 2 * x])),
        lambda x: torch.linalg.svd(x)[1].sum() + torch.linalg.eigh(x @ x.T)[0].sum(),
        lambda x: torch.linalg.solve(x @ x.T + torch.eye(4), x).sum(),
        lambda x: torch.fft.rfft(x).abs().sum(),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]).sum(),
        lambda x: F.batch_norm(x, None, None, training=True).square().sum() + x.std(),
        lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2, 0])),
        lambda x: F.grid_sample(x[None, None], x[None, :, :2, None].expand(1, 4, 2, 2)).sum(),
        lambda x: (
            x.norm(torch.inf) + x.topk(2).values.sum() + x.cummax(0)[0].sum() + x.cumprod(0).sum()
        ),
        lambda x: x.median() * x.prod() + torch.cdist(x, 2 * x).sum(),
        lambda x: (F.dropout(x, 0.5) * x).sum(),
    ],
)
def test_everything_runs_and_keeps_its_value_up_to_rounding(f):
    x = numbers(4, 3).requires_grad_() + torch.eye(4, 3, dtype=torch.float64)

    def both():
        torch.manual_seed(1)
        value = f(x)
        return torch.cat([value.reshape(1), torch.autograd.grad(value, x)[0].reshape(-1)])

    exact = both()
    drawn = draw(both)
    assert 0 < (drawn - exact).abs().max() < 1e-3 * exact.abs().max()


def test_what_depends_on_nothing_has_tangents_of_zero_that_nothing_reads():
    a, c, x = numbers(7, 4), numbers(4), numbers(4) / 9

    def slope():
        return torch.func.jacfwd(lambda x: c @ x - torch.log(9 - a @ x).sum())(x)

    assert torch.allclose(draw(slope), slope(), rtol=1e-3)


def test_the_random_numbers_of_the_function_stay_the_same():
    def f():
        torch.manual_seed(1)
        return torch.rand(5, dtype=torch.float64)

    assert torch.equal(draw(f), f())


def test_results_of_a_narrower_dtype_are_rounded_as_that():
    x = SimpleNamespace(value=torch.ones(50))
    moved = draw(lambda: x.value * 3, unit=2.0**-52, dtype=torch.float64)
    assert moved.dtype == torch.float32
    assert (moved != 3).any()


PRODUCTS = {
    "mv": (lambda a, b: a.T @ b[:, 0]),
    "vector and matrix": (lambda a, b: b[:, 0] @ a),
    "mm": (lambda a, b: a.T @ b),
    "dot": (lambda a, b: torch.dot(a[:, 0].contiguous(), b[:, 0].contiguous())),
    "addmm": (lambda a, b: torch.addmm(a[:8], a.T, b)),
    "bmm": (lambda a, b: torch.bmm(a.T[None], b[None])[0]),
    "linear": (lambda a, b: F.linear(a.T, b.T, b[0])),
    "addmm_": (lambda a, b: a[:8].clone().addmm_(a.T, b)),
    "baddbmm_": (lambda a, b: a[None, :8].clone().baddbmm_(a.T[None], b[None])),
    "addmv_": (lambda a, b: a[0].clone().addmv_(a.T, b[:, 0])),
    "addr_": (lambda a, b: (a.T @ b).addr_(a[0], b[0])),
    "into out": (lambda a, b: torch.mm(a.T, b, out=a.new_empty(8, 8))),
    "sum into out": (lambda a, b: torch.sum(a * b, 0, out=a.new_empty(8))),
    "index_add_": (lambda a, b: a[:1].clone().index_add_(0, torch.zeros(len(b)).long(), b)),
    "scatter_add_": (
        lambda a, b: a[0].clone().scatter_add_(0, torch.arange(8).repeat(len(b)), b.ravel())
    ),
    "index_put_": (lambda a, b: a[:1].clone().index_put_((torch.zeros(len(b)).long(),), b, True)),
}


@pytest.mark.parametrize("terms", [300, 3000, 100_000])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_long_product_is_off_by_no_more_than_draws_allow(name, terms):
    """Kernels add up one term after the other: their error grows with the number of terms."""
    f = PRODUCTS[name]
    for factors in (numbers(2, terms, 8), numbers(2, terms, 8).abs()):
        a, b = factors.float().double()
        found = f(a.float(), b.float()).double()
        allowed = ENTRY * UNIT * f(a, b).abs() + SPREAD * deviation(lambda a=a, b=b: f(a, b))
        assert bool(((found - f(a, b)).abs() <= allowed).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_products_of_narrow_dtypes_are_rounded_on_the_scale_of_their_terms_alone(dtype):
    a, b = numbers(2, 3000, 8).to(dtype).double()
    unit, terms = torch.finfo(dtype).eps, a.abs().T @ b.abs()
    drawn = torch.stack([draw(lambda: a.T @ b, seed, unit, dtype) for seed in range(8)])
    assert bool(((drawn - a.T @ b).abs() <= 1.6 * unit * terms).all())
    assert bool(((a.to(dtype).T @ b.to(dtype)).double() - a.T @ b).abs().le(unit * terms).all())


def test_other_ways_are_drawn_only_where_the_formula_does_not_explain_an_error():
    """A jacobian's other way takes a pass for each row under Monte Carlo arithmetic."""
    evaluated = []

    def by(name):
        def way(arguments):
            evaluated.append(name)
            (x,) = arguments.inputs
            return ((x + 1) - x * (1 if name == "formula" else 2) + x,)

        return way

    x = torch.linspace(1, 2, 5, dtype=torch.float64)
    formula, other, further = map(by, ("formula", "other", "further"))
    unit = float(torch.finfo(torch.float32).eps)
    allowance = Allowance(
        *([formula, other], [further], Arguments((x,), None), 1, [1]),
        unit=unit,
        dtype=torch.float32,
    )
    found, said = [allowance.allowed(0)], [set(evaluated)]
    for level in range(1, allowance.levels):
        evaluated.clear()
        found.append(allowance.allowed(level))
        said.append(set(evaluated))
    assert said == [
        *({"formula"}, {"formula"}, {"other", "formula"}, {"other", "formula"}),
        {"formula", "other", "further"},
    ]
    for (less,), (more,) in itertools.pairwise(found):
        assert bool((more >= less).all())


def test_the_rounding_of_a_formula_that_is_taken_where_nothing_watches_counts():
    """As torch's derivative of `prod`, which divides by the numbers unless a mode is on."""

    def way(arguments):
        (x,) = arguments.inputs
        watched = torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        return (x * 0 if watched else (x * x.prod()) / x - x.prod(),)

    x = torch.linspace(0.3, 2.7, 12, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        unit = float(torch.finfo(dtype).eps)
        allowance = Allowance([way], [], Arguments((x,), None), 1, [1], unit=unit, dtype=dtype)
        (error,) = way(Arguments((x.to(dtype),), None))
        (last,) = allowance.allowed(allowance.levels - 1)
        assert bool((error.double().abs() <= last).all())
        assert bool((last < 100 * unit * x.prod()).all())


def test_a_single_way_has_no_level_of_its_own():
    x = torch.ones(3, dtype=torch.float64)
    allowance = Allowance(
        *([lambda arguments: (arguments.inputs[0] * 3,)], [], Arguments((x,), None), 1, [1]),
        unit=1e-7,
        dtype=torch.float32,
    )
    assert allowance.levels == len(LEVELS)


def test_what_the_formula_cannot_be_rounded_in_is_left_to_the_other_way():
    def formula(arguments):
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("no rounding here")
        return (arguments.inputs[0] * 3,)

    x = torch.ones(3, dtype=torch.float64)
    ways = [formula, lambda arguments: (arguments.inputs[0] * 3,)]
    for given, levels in ((ways, len(LEVELS) + 1), ([formula, formula], 3), ([formula], 2)):
        allowance = Allowance(
            *(given, [], Arguments((x,), None), 1, [1]), unit=1e-7, dtype=torch.float32
        )
        for level in (1, 2):
            if level < allowance.levels:
                allowance.allowed(level)
        assert allowance.levels == levels
        assert bool(allowance.trouble) == (given is not ways)


def halved(x):
    """Twice x, of which the half goes through a buffer in float32."""
    buffer = torch.zeros(x.shape, dtype=torch.float32)
    buffer[:] = x
    return buffer + x


@pytest.mark.parametrize(
    "f", [halved, lambda x: x.float().double(), lambda x: x.to(torch.bfloat16).to(torch.float64)]
)
def test_what_is_moved_to_a_coarser_dtype_is_rounded_as_that(f):
    x = numbers(50).requires_grad_()

    def slopes():
        return torch.autograd.grad(f(x).double().sum(), x)[0]

    moved = draw(slopes, unit=2.0**-52, dtype=torch.float64)
    assert moved.dtype == torch.float64
    assert 2.0**-28 < (moved - slopes()).abs().max() < 2.0**-6


def test_what_is_moved_to_a_wider_dtype_or_within_the_measured_one_is_not_rounded():
    x = numbers(50)
    assert torch.equal(draw(x.float().double, unit=2.0**-52), x.float().double())
    assert torch.equal(draw(x.float), x.float())


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(1),
        lambda x: x @ x.new_ones(x.shape[1]),
        lambda x: x @ x.new_ones(x.shape[1], 2),
        lambda x: x.cumsum(1)[:, -1],
        lambda x: x.new_zeros(len(x), 1).addmm_(x, x.new_ones(x.shape[1], 1)),
        lambda x: x.new_zeros(len(x)).addmv_(x, x.new_ones(x.shape[1])),
        lambda x: x.new_zeros(len(x), 1).index_add_(1, torch.zeros(x.shape[1]).long(), x),
        lambda x: x.new_zeros(len(x), 1).scatter_add_(1, torch.zeros_like(x).long(), x),
        lambda x: torch.sum(x, 1, out=x.new_empty(len(x))),
    ],
)
def test_the_error_of_a_sum_grows_with_the_root_of_its_terms(f):
    short, long = (numbers(1, n).abs() for n in (64, 64 * 400))
    small = (deviation(lambda: f(short)) / f(short)).max()
    large = (deviation(lambda: f(long)) / f(long)).max()
    assert small < 2 * UNIT
    assert 5 * UNIT < large < 40 * UNIT


def test_what_is_narrower_than_float32_is_added_up_in_float32():
    x = numbers(1, 64 * 400).abs()
    moved = draw(lambda: x.sum(1), unit=2.0**-7, dtype=torch.bfloat16)
    assert ((moved - x.sum(1)) / x.sum(1)).abs().max() < 2.0**-6
