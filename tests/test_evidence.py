"""What the derivatives of a user's function are held against: right ones are never contradicted,
wrong ones are, and what differences cannot decide is said."""

import functools
import math
import re
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradbench.core.deadline import Deadline
from gradbench.worker import hints
from gradbench.worker.evidence import CONFIRMED, DEFINED, OPEN, Refused, gather
from gradbench.worker.judging import entry_by_entry
from gradbench.worker.reference import formulas
from gradbench.worker.settling import Manner


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine torch may take long to load what a first call needs."""
    monkeypatch.setattr("gradbench.worker.evidence.PATIENCE", 600.0)


def subject(function, *inputs, wrt=None, forward_only=""):
    """A function with its inputs, as the inspection sees it."""
    wrt = len([x for x in inputs if x.is_floating_point()]) if wrt is None else wrt
    values = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return SimpleNamespace(
        forward=function,
        target=function,
        names=["x", "z", "w"][: len(values)],
        values=values,
        differentiated=wrt,
        dtype=torch.float32,
        unit=2.0**-52,
        manner=Manner(forward_only=forward_only),
    )


def evidence(function, *inputs, operator="", wrt=None, seconds=math.inf, **options):
    one = subject(
        function,
        *inputs,
        wrt=wrt,
        forward_only="reverse mode fails" * (function == ForwardOnly.apply),
    )
    y = one.forward(*one.values).detach()
    return gather(one, one.values, y, operator, Deadline(seconds), **options)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


torch.manual_seed(0)
RELU = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2)).double()
NORMED = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).double()
SAMPLES = randn(60, 3, seed=9)


def by_first_bias(bias):
    return torch.func.functional_call(NORMED, {"0.bias": bias}, (SAMPLES,)).square().mean()


RIGHT = {
    "sin": (torch.sin, (5,)),
    "tanh, saturated": (lambda x: torch.tanh(8 * x), (6,)),
    "sigmoid": (lambda x: torch.sigmoid(20 * x), (6,)),
    "softmax": (lambda x: torch.softmax(3 * x, 0), (5,)),
    "softmax sum": (lambda x: torch.softmax(x, 0).sum(), (4,)),
    "log softmax": (lambda x: F.log_softmax(10 * x, 0), (4,)),
    "logsumexp": (lambda x: torch.logsumexp(30 * x, 0), (5,)),
    "matmul": (lambda x: x @ x.T @ x, (3, 3)),
    "determinant": (torch.det, (4, 4)),
    "inverse": (lambda x: torch.linalg.inv(x + 5 * torch.eye(3)), (3, 3)),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(3)), (3, 3)),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(x + x.T), (3, 3)),
    "singular values": (torch.linalg.svdvals, (4, 3)),
    "norm": (lambda x: x.norm(), (5,)),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 2, 1])), (3, 4)),
    "layer norm": (lambda x: F.layer_norm(x, (4,)), (3, 4)),
    "bias before batch norm": (by_first_bias, (4,)),
    "convolution": (lambda x: F.conv1d(x.reshape(1, 1, -1), torch.ones(1, 1, 3).double()), (7,)),
    "relu network": (lambda x: RELU(x).square().mean(), (8, 6)),
    "relu": (torch.relu, (9,)),
    "abs": (lambda x: x.abs().sum(), (9,)),
    "max": (lambda x: x.max(), (9,)),
    "min over centres": (
        lambda x: (SAMPLES[:, None] - x).square().sum(2).min(1).values.sum(),
        (4, 3),
    ),
    "sort": (lambda x: x.sort().values * torch.arange(6), (6,)),
    "median": (lambda x: x.median(), (7,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), (9,)),
    "where": (lambda x: torch.where(x > 0, x**2, -3 * x), (9,)),
    "hinge": (lambda x: (1 - x).clamp(min=0).mean(), (12,)),
    "max pool": (lambda x: F.max_pool1d(x.reshape(1, 1, -1), 3), (9,)),
    "huber": (lambda x: F.huber_loss(x, torch.zeros(9).double()), (9,)),
    "product": (lambda x: x.prod(), (5,)),
    "cumulative product": (lambda x: x.cumprod(0), (5,)),
    "powers": (lambda x: x.abs() ** torch.linspace(0.5, 3, 5), (5,)),
    "logarithm": (lambda x: (x**2).log(), (5,)),
    "large beside small": (lambda x: 1e7 * x[0] + (x[1:] ** 2).sum(), (3,)),
    "rows of many sizes": (
        lambda x: torch.stack([1e8 * x.prod(), x.sum(), 1e-8 * x[0] ** 2]),
        (3,),
    ),
    "oscillating": (lambda x: torch.sin(300 * x), (4,)),
    "narrow": (lambda x: torch.exp(-((x / 1e-3) ** 2)).sum(), (4,)),
    "ill conditioned": (lambda x: (1e8 + x) - 1e8, (4,)),
    "single precision inside": (lambda x: (x.float() ** 2).sum().double(), (4,)),
    "complex inside": (lambda x: torch.fft.rfft(x).abs(), (6,)),
    "integers": (lambda x: x[torch.tensor([0, 2, 2])], (4,)),
    "loop": (lambda x: _iterated(x), (3,)),
    "constant part": (lambda x: torch.cat([x, torch.ones(2)]), (3,)),
    "rounding": (lambda x: torch.round(3 * x) + 0 * x, (5,)),
}


def _iterated(x):
    y = x
    for _ in range(20):
        y = y + 0.1 * torch.sin(y) * x
    return y


FLAT = {
    "confident logits": lambda x: F.cross_entropy(
        30 * torch.eye(3, dtype=x.dtype) + x, torch.arange(3)
    ),
    "a large constant": lambda x: (1e8 + 1e-9 * x).square().sum() - 9e16,
    "far in the tail": lambda x: torch.logsumexp(torch.stack([x * 0 + 40, x]), 0).sum() - 360,
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("seed", range(3))
def test_a_value_that_rounding_keeps_from_changing_contradicts_nothing(name, seed):
    evidence(FLAT[name], randn(3, 3, seed=seed))


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_derivative_is_never_contradicted(name):
    function, shape = RIGHT[name]
    for seed in range(4):
        found = evidence(function, randn(*shape, seed=seed))
        assert found.verdict == CONFIRMED or name in ("ill conditioned", "single precision inside")
        assert any("forward mode agrees" in said for said in found.sentences)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_inputs_of_any_magnitude(size):
    for function in (
        lambda x: (x**2).sum(),
        lambda x: torch.sin(x),
        lambda x: torch.cos(x),
        lambda x: torch.log(x.abs()),
        lambda x: torch.exp(-x / size),
    ):
        x = size * randn(5)
        assert evidence(function, x).verdict == CONFIRMED
        x[2] = 0
        assert evidence(lambda x: torch.sin(x) * x, x).verdict == CONFIRMED
    mixed = torch.tensor([1e8, 1e-8, 0.0, 1.0])
    assert evidence(lambda x: torch.cos(x) * x, mixed).verdict == CONFIRMED


class Wrong(torch.autograd.Function):
    """The identity, with a backward that changes what comes back."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.change(g), None


def _one(g, factor):
    changed = g.contiguous().clone()
    changed.reshape(-1)[-1] *= factor
    return changed


ERRORS = {
    "factor in one entry": lambda g: _one(g, 2.0),
    "off by 1e-3 in one entry": lambda g: _one(g, 1.001),
    "off by 1e-3": lambda g: g * 1.001,
    "off by 2e-5": lambda g: g * 1.00002,
    "off by 2e-5 in one entry": lambda g: _one(g, 1.00002),
    "sign": lambda g: -g,
    "sign of one entry": lambda g: _one(g, -1.0),
    "zero in one entry": lambda g: _one(g, 0.0),
    "zero": torch.zeros_like,
    "order": lambda g: g.flip(0),
    "swapped": lambda g: torch.cat([g[1:2], g[:1], g[2:]]),
    "missing term": lambda g: g - g.mean(),
    "shifted": lambda g: g.roll(1, 0),
    "transposition": lambda g: g.T if g.dim() == 2 and len(g) == g.shape[1] else g.flip(0),
}
AROUND = {
    "quadratic": (lambda x, wrong: (torch.linspace(1, 2, 6) * wrong(x) ** 2).sum(), (6,)),
    "elementwise": (lambda x, wrong: torch.sin(wrong(x)) * x, (6,)),
    "large beside small": (
        lambda x, wrong: (wrong(x) ** 2 * torch.tensor([1e7, 1, 2, 3, 4, 5.0])).sum(),
        (6,),
    ),
    "small rows": (lambda x, wrong: torch.logspace(3, -6, 6) * wrong(x) ** 3, (6,)),
    "matrix": (lambda x, wrong: torch.tanh(wrong(x) @ randn(3, 3, seed=7)), (3, 3)),
    "kinks": (lambda x, wrong: (torch.relu(wrong(x)) * torch.arange(1, 10)).sum() + x.sum(), (9,)),
    "relu network": (lambda x, wrong: RELU(wrong(x)).square().mean(), (5, 6)),
    "saturated": (lambda x, wrong: (torch.tanh(4 * wrong(x)) * torch.arange(1, 6)).sum(), (5,)),
    "exponential": (lambda x, wrong: torch.exp(3 * wrong(x)).cumsum(0), (5,)),
    "loss": (lambda x, wrong: F.cross_entropy(wrong(x), torch.tensor([0, 2, 1])), (3, 3)),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("error", ERRORS)
def test_a_wrong_backward_is_contradicted(around, error):
    function, shape = AROUND[around]
    x = randn(*shape, seed=3)
    if around == "kinks":
        # An error in an entry that the function does not use is no error.
        x[-1] = x[-1].abs()

    def wrong(z):
        return Wrong.apply(z, ERRORS[error])

    right = torch.func.jacrev(lambda x: function(x, lambda z: z))(x)
    rows = right.reshape(-1, *shape)
    if all(torch.allclose(ERRORS[error](row), row, rtol=1e-5) for row in rows):
        pytest.skip("it changes nothing here")
    with pytest.raises(Refused, match="finite differences") as refused:
        evidence(lambda x: function(x, wrong), x)
    assert "by x[" in str(refused.value)
    assert "Wrong" in str(refused.value) or "detach" in str(refused.value)


def test_a_backward_that_drops_a_part_is_named_beside_what_may_be_detached():
    def dropping(g):
        return torch.cat([g[:4], 0 * g[4:]])

    with pytest.raises(Refused, match=r"gives 0 .*formula is wrong \(see Wrong\), or something is"):
        evidence(lambda x: Wrong.apply(x, dropping).sin().sum(), randn(6))


def test_a_contradiction_shows_as_many_digits_as_tell_the_two_apart():
    with pytest.raises(Refused) as refused:
        evidence(lambda x: Wrong.apply(x, lambda g: g * (1 + 3e-6)).exp().sum(), randn(4))
    got, wanted = re.search(r"gives (\S+) for .* differences (\S+) ±", str(refused.value)).groups()
    assert got != wanted


def test_a_wrong_entry_among_many_is_found_along_directions():
    def function(x):
        # Small beside large, in one of many entries.
        wrong = Wrong.apply(x, lambda g: torch.cat([g[:-1], 2 * g[-1:]]))
        return 1e3 * (wrong[:-1] ** 2).sum() + torch.sin(wrong[-1])

    with pytest.raises(Refused, match=r"the output by x\[5999\]"):
        evidence(function, randn(6000))
    right = evidence(lambda x: 1e3 * (x[:-1] ** 2).sum() + torch.sin(x[-1]), randn(6000))
    assert "random directions" in right.sentences[0]


def test_a_wrong_entry_of_many_outputs_is_found_along_directions():
    weights = torch.logspace(-6, 6, 1200, dtype=torch.float64)

    def function(x):
        return weights * Wrong.apply(x, lambda g: _one(g, 1.01)) ** 2

    with pytest.raises(Refused, match=r"output \[1199\] by x\[1199\]"):
        evidence(function, randn(1200))


def test_a_derivative_that_drifts_from_the_first_point_is_contradicted():
    state = []

    def drifting(x):
        state.append(float(x.detach().square().mean()))
        return Wrong.apply(x, lambda g: g * (1 + state[0]) / (1 + state[-1]))

    def positions(x):
        turned = drifting(x.cumsum(0))
        return torch.stack([turned.cos().sum(), turned.sin().sum()])

    with pytest.raises(Refused, match="finite differences"):
        evidence(positions, 3 * randn(6))


def test_a_derivative_that_is_right_at_one_point_alone_is_contradicted():
    first = []

    class Stale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            first.append(x.detach().clone())
            return x**2

        @staticmethod
        def backward(ctx, g):
            return 2 * first[0] * g

    with pytest.raises(Refused, match="Stale"):
        evidence(Stale.apply, randn(4))


@pytest.mark.parametrize(
    "function",
    [lambda x: F.logsigmoid(x).sum(), lambda x: (1 - torch.sigmoid(x)).log1p().sum()],
    ids=["logsigmoid", "one minus a sigmoid"],
)
def test_second_derivatives_that_rounding_loses_are_no_fault_of_a_backward(function):
    x = torch.tensor([-30.0, 0.5, 36.5, 100.0])
    found = evidence(function, x, operator="hessian")
    assert not any("autograd gives 0" in said and "disagree" in said for said in found.sentences)


def clipped(x):
    y = x.sin().cumsum(0) * 3
    if y.requires_grad:
        y.register_hook(lambda g: g.clamp(-1, 1))
    return y


class HalvesNegative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return torch.where(g < 0, g / 2, g) * 2 * ctx.saved_tensors[0]


class DropsSmall(HalvesNegative):
    @staticmethod
    def backward(ctx, g):
        return torch.where(g.abs() < 1e-3, 0 * g, g) * 2 * ctx.saved_tensors[0]


@pytest.mark.parametrize("function", [clipped, HalvesNegative.apply, DropsSmall.apply])
def test_a_pullback_that_is_not_linear_is_said_and_refused_where_it_is_the_answer(function):
    found = evidence(function, randn(5), operator="jacobian")
    assert any("not linear in its seed (by " in said for said in found.sentences)
    for operator in ("vjp", "gauss_newton_product"):
        with pytest.raises(Refused, match=r"not linear in its seed .*--definition=autograd"):
            evidence(function, randn(5), operator=operator)
        evidence(function, randn(5), operator=operator, definition="autograd")


def test_a_pullback_that_is_linear_up_to_rounding_is():
    for function in (
        lambda x: torch.linalg.inv(x.reshape(3, 3)),
        lambda x: torch.softmax(100 * x, 0),
        lambda x: (x * 1e-150).exp() * 1e150,
        lambda x: torch.cat([x * 1e12, x * 1e-12]),
        lambda x: x.cumprod(0).abs().log(),
    ):
        found = evidence(function, randn(9), operator="vjp")
        assert not any("linear" in said for said in found.sentences)


def test_second_derivatives_that_are_not_finite_are_refused():
    for function, x in (
        (lambda x: torch.linalg.eigvalsh(x).sum(), torch.eye(3)),
        (lambda x: x.norm(), torch.zeros(3)),
        (lambda x: torch.linalg.svdvals(x).square().sum(), torch.eye(2)),
    ):
        evidence(function, x)
        for operator in ("hessian", "hvp", "laplacian"):
            with pytest.raises(Refused, match="its second derivative by x is NaN or infinite in"):
                evidence(function, x, operator=operator)


@pytest.mark.parametrize("seed", range(6))
def test_kinks_jumps_and_noise_are_never_contradicted(seed):
    def smooth_only_in_places(x):
        return torch.where(x.sum() > 0.01, x.relu().sum(), x.abs().max()) + x.clamp(0, 1e-3).sum()

    for function in (
        smooth_only_in_places,
        lambda x: torch.floor(5 * x) * x,
        lambda x: x.sort().values.cumsum(0) * torch.sign(x),
        lambda x: (x + 1e-6 * torch.sin(1e9 * x.detach())).sum(),
        lambda x: ((x * 1e3).float().double() / 1e3).square(),
    ):
        evidence(function, randn(7, seed=seed))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x.abs().sum(), "at a kink"),
        (torch.relu, "at a kink"),
        (lambda x: x.max(), "at a kink"),
        (
            lambda x: torch.relu(x) - torch.relu(-x),
            r"not near it \(.*\); autograd gives 0 for output \[0\] by x\[0\], differences 1$",
        ),
        (
            lambda x: torch.det(torch.outer(x[:2] + 1, x[:2] + 2) + torch.diag(x[1:])),
            r"; autograd gives 0 for the output by x\[1\], differences ",
        ),
        (lambda x: (x.clamp(min=0) ** 1.5).sum() + x.sum(), ""),
        (lambda x: torch.where(x >= 0, x + 1, x), "beside a jump"),
    ],
)
def test_what_differences_cannot_decide_is_said_and_rests_on_the_other_mode(function, said):
    found = evidence(function, torch.zeros(3))
    if said:
        assert found.verdict == OPEN
        assert re.search(said, found.sentences[0])
        assert found.sentences[-1].endswith("the agreement of forward and reverse mode")


def test_a_wrong_backward_beside_kinks_is_contradicted():
    x = torch.tensor([0.0, 0.0, 1.0, 2.0])
    with pytest.raises(Refused, match=r"by x\[3\]"):
        evidence(lambda x: torch.relu(Wrong.apply(x, lambda g: _one(g, 2.0))), x)


@pytest.mark.parametrize(
    "x",
    [
        randn(3, 4).T,
        randn(6, 4)[::2, 1::2],
        randn(3, 1).expand(3, 4),
        randn(()),
        randn(2, 3, 4).permute(2, 0, 1),
        torch.zeros(0, 3),
    ],
    ids=["transposed", "strided", "expanded", "0-dim", "permuted", "empty"],
)
def test_inputs_of_every_layout(x):
    z = randn(3)
    found = evidence(lambda x, z: (x * x).sum() + z.prod(), x, z)
    assert found.verdict == CONFIRMED
    with pytest.raises(Refused, match="by z"):
        evidence(lambda x, z: (x * x).sum() + Wrong.apply(z, lambda g: -g).prod(), x, z)


def test_integers_and_constants_are_not_moved():
    index, scale = torch.tensor([0, 2]), randn(2)
    found = evidence(lambda x, i, s: x[i] * s.detach(), randn(4), index, scale, wrt=1)
    assert found.verdict == CONFIRMED


def test_a_derivative_of_zero_is_a_finding():
    found = evidence(lambda x, z: (x**2).sum() + 0 * z.sum(), randn(3), randn(2))
    assert "the derivative by z is zero everywhere near here" in found.sentences
    found = evidence(lambda x: torch.softmax(x, 0).sum(), randn(4))
    assert "the derivative by x is zero everywhere near here, but for rounding" in found.sentences
    assert "the derivative by x is zero everywhere near here, but for rounding" in (
        evidence(by_first_bias, randn(4)).sentences
    )
    for function, x in (
        (lambda x: (x**2).sum(), torch.zeros(3)),
        (lambda x: 1e8 + 1e-6 * x.sin().sum(), randn(3)),
        (lambda x: 1e12 * torch.ones(2) + 1e-3 * x.exp(), randn(2)),
    ):
        assert not any("zero" in said for said in evidence(function, x).sentences)
    with pytest.raises(Refused, match="the derivative is zero, there is nothing to measure"):
        evidence(lambda x: (x > 0).double(), randn(4))


def test_what_is_detached_is_named_with_its_line():
    def scaled(x):
        with torch.no_grad():
            scale = x.norm()
        return x / scale

    def with_slopes(x):
        z = x if x.requires_grad else x.clone().requires_grad_()
        return x + torch.autograd.grad((z**3).sum(), z)[0]

    for function, how in (
        (scaled, "no_grad"),
        (lambda x: x * x.detach(), "detach"),
        (lambda x: x * x.sum().item(), r"\.item\(\)"),
        (lambda x: x * x.data, r"\.data"),
        (lambda x: x + torch.from_numpy(x.detach().numpy() ** 2), "detach"),
        (lambda x: x + torch.special.bessel_j0(x), "special_bessel_j0"),
        (with_slopes, "grad"),
    ):
        with pytest.raises(Refused, match=rf"{how} at test_evidence.py:\d+ .*hides a part"):
            evidence(function, randn(3))


def test_an_operation_without_forward_mode_is_named():
    found = evidence(
        lambda x: F.grid_sample(SAMPLES[:9].view(1, 1, 3, 9), x.tanh()).sum(), randn(1, 2, 3, 2)
    )
    assert "forward mode is not implemented for grid_sampler_2d" in found.sentences


@pytest.mark.parametrize(
    "normed", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm]
)
def test_spectral_norm_that_iterates_is_named_with_its_cures(normed):
    torch.manual_seed(0)
    net = normed(nn.Linear(6, 8).double())
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}

    def loss(weight):
        # Each call starts from the same vectors, as with a module that advice is asked on.
        name = next(name for name, p in net.named_parameters() if p.shape == weight.shape)
        copies = {key: buffer.clone() for key, buffer in before.items()}
        x = SAMPLES.repeat(1, 2)
        return torch.func.functional_call(net, {name: weight, **copies}, x).square().sum()

    with pytest.raises(Refused, match=r"spectral norm in training mode.*\.eval\(\).*--definition"):
        evidence(loss, randn(8, 6))


def test_autograd_can_be_the_definition():
    def straight_through(x):
        return ((x + (torch.round(x) - x).detach()) ** 2).sum()

    with pytest.raises(Refused, match=r"straight-through.*--definition=autograd"):
        evidence(straight_through, randn(4))
    found = evidence(straight_through, randn(4), definition="autograd")
    assert found.verdict == DEFINED
    assert found.sentences[-1] == (
        "by definition: it rests on the agreement of forward and reverse mode"
    )


def test_second_derivatives_are_held_against_differences_of_the_gradient():
    def function(x, z):
        return (torch.sin(x) * z.sum()).sum() + z.prod() * x[0]

    found = evidence(function, randn(3), randn(2), operator="hessian")
    assert any("reverse mode twice agrees" in said for said in found.sentences)

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 3 * x * x.detach()

    def wrong(x, z):
        return (Half.apply(x) * z).sum()

    assert evidence(wrong, randn(3), randn(3)).verdict == CONFIRMED
    with pytest.raises(Refused, match=r"the gradient by x\[0\] by x\[0\]"):
        evidence(wrong, randn(3), randn(3), operator="hessian")


def test_a_wrong_forward_mode_is_said():
    class WrongForward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x**2

        @staticmethod
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

        @staticmethod
        def jvp(ctx, t):
            return ctx.saved_tensors[0] * t

    found = evidence(WrongForward.apply, randn(3))
    assert any("forward mode DISAGREES" in said for said in found.sentences)


class ForwardOnly(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, t):
        return 2 * ctx.saved_tensors[0] * t


def test_a_function_with_forward_mode_alone():
    x = randn(3)
    found = evidence(ForwardOnly.apply, x)
    assert found.sentences[0].startswith("forward mode agrees with float64 finite")
    references = formulas(subject(ForwardOnly.apply, x, forward_only="reverse mode fails"))
    torch.testing.assert_close(references["jacobian"](x)[0], torch.diag(2 * x))
    torch.testing.assert_close(references["vjp"](x, x)[0], 2 * x * x)


def test_time_is_kept_and_what_is_left_out_is_said():
    calls = []

    def slow(x):
        calls.append(0)
        time.sleep(0.05)
        return torch.sin(x)

    found = evidence(slow, randn(40), seconds=4.0)
    assert re.search(r"along \d+ random direction.*\d+ more were left out", found.sentences[0])
    assert len(calls) < 150


def test_what_no_difference_was_held_against_is_not_said_to_agree(monkeypatch):
    late = functools.partial(entry_by_entry, deadline=Deadline(-1.0))
    monkeypatch.setattr(
        "gradbench.worker.evidence.entry_by_entry", lambda map, blocks, deadline: late(map, blocks)
    )
    found = evidence(lambda x: (x.sin() * x).sum(), randn(5), operator="hessian")
    assert found.verdict == OPEN
    assert found.sentences[0].startswith("no time was left to hold reverse mode against float64")
    assert found.sentences[2].startswith("no time was left to hold reverse mode twice against")


@pytest.mark.parametrize("shapes", [((),), ((), (3,)), ((2, 3), ())])
def test_second_derivatives_by_single_numbers_are_confirmed(shapes):
    inputs = [randn(*shape or (1,), seed=n).reshape(shape) for n, shape in enumerate(shapes)]
    found = evidence(lambda *x: sum(z.exp().sum() for z in x) ** 2, *inputs, operator="hessian")
    assert found.verdict == CONFIRMED
    assert sum("agrees" in said for said in found.sentences) == 3


def test_forward_mode_is_the_evidence_where_there_is_no_time_for_differences():
    def slow(x):
        time.sleep(0.1)
        return torch.sin(x)

    told = []
    found = evidence(slow, randn(4), seconds=2.4, told=lambda e: told.append(list(e.sentences)))
    assert found.sentences[0].startswith("forward mode agrees with reverse mode")
    assert "rests on the agreement of forward and reverse mode" in " ".join(found.sentences)
    assert "not looked at for want of time: finite differences" in found.sentences[-1]
    assert told[0] == found.sentences[:1]


HINTS = {
    "derivatives are subnormal in float32": (lambda x: 1e-39 * x, (3,)),
    "values underflow to zero in float32": (lambda x: 1e-60 * x + 0 * x, (3,)),
    "no batching rule for aten::unfold_backward": (lambda x: x.unfold(0, 2, 1) * 1.0, (4,)),
}


@pytest.mark.parametrize("said", HINTS)
def test_hints(said):
    function, shape = HINTS[said]
    assert any(said in hint for hint in evidence(function, randn(*shape)).hints)
    assert not evidence(torch.sin, randn(3)).hints


def test_zeros_are_not_subnormal_in_any_dtype():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert not hints._subnormal(dtype, "values", [torch.tensor([0.0, -0.0, 1.0])])
        small = torch.tensor([0.0, torch.finfo(dtype).tiny / 2], dtype=torch.float64)
        assert "1 of 2 values are subnormal" in hints._subnormal(dtype, "values", [small])[0]


@pytest.mark.parametrize(
    ("function", "x", "said"),
    [
        (lambda x: x.square().sum(1).sqrt(), torch.eye(3)[:2] * 0.0, "SqrtBackward0, whose slope"),
        (lambda x: (x.abs() ** 0.5).sum(), torch.tensor([1.0, 0.0]), "PowBackward0, whose slope"),
        (lambda x: (torch.where(x > 0, x, -x) + x.sqrt()).sum(), torch.zeros(2), "whose slope"),
        (lambda x: x.norm() + (x[0] / x[0]) * 0, torch.tensor([1e-320, 1.0]), "DivBackward0"),
    ],
)
def test_the_function_that_makes_a_derivative_infinite_is_named(function, x, said):
    with pytest.raises(Refused, match=said) as refused:
        evidence(function, x)
    assert "Make the argument safe" not in str(refused.value)


def test_a_derivative_that_is_not_finite_is_refused_with_the_cure():
    with pytest.raises(Refused, match=r"NaN or infinite in 1 of 3.*SqrtBackward0.*torch\.where\("):
        evidence(lambda x: torch.where(x > 0, x.sqrt(), 0 * x), torch.tensor([1.0, 0.0, 4.0]))
    with pytest.raises(Refused, match="by z is NaN or infinite"):
        evidence(lambda x, z: x.sum() + z.sqrt().sum(), randn(2), torch.zeros(2))


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: torch.outer(torch.arange(1.0, 41).double(), x.sin()).reshape(-1), (4,)),
        (lambda x: torch.softmax(x, 0), (6,)),
        (lambda x: torch.stack([x.sum() if float(x.sum()) > 0 else -x.sum()] * 30), (2,)),
        (lambda x: torch.ones(3).double() * x[0], (2,)),
    ],
    ids=["few columns", "square", "branch", "unused"],
)
def test_references_are_exact_by_rows_and_by_columns(function, shape):
    x, t = randn(*shape), randn(*shape, seed=1)
    wanted = torch.autograd.functional.jacobian(function, x)
    references = formulas(subject(function, x))
    torch.testing.assert_close(references["jacobian"](x)[0], wanted)
    torch.testing.assert_close(references["jvp"]((t,), x), wanted @ t)


def test_a_wrong_forward_mode_is_not_the_reference():
    class Doubled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.expand(40, *x.shape).clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return g.sum(0)

        @staticmethod
        def jvp(ctx, t):
            return 2 * t.expand(40, *t.shape).clone()

    x = randn(3)
    references = formulas(subject(Doubled.apply, x))
    wanted = torch.eye(3).double().expand(40, 3, 3)
    torch.testing.assert_close(references["jacobian"](x)[0], wanted)
    torch.testing.assert_close(references["jvp"]((x,), x), x.expand(40, 3))


def test_hessians_in_batches_are_exact():
    def function(x):
        return (x.prod() * torch.sin(x)).sum()

    x = randn(5)
    found = formulas(subject(function, x))["hessian"](x)[0]
    torch.testing.assert_close(found, torch.autograd.functional.hessian(function, x))
