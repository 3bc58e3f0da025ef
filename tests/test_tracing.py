"""Patterns traced through operations: no entry is missing at any point, and few are too many."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradbench.core.deadline import Deadline
from gradbench.core.families import APPLICATIONS
from gradbench.problems import registry
from gradbench.problems.tracing import trace
from gradbench.problems.tracing.sets import CoordinateSets, TooMany

DOUBLE = torch.float64
drawing = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(shape, generator=drawing, dtype=DOUBLE)


IN, OUT, SQUARE = draw(4, 8), draw(8, 3), draw(5, 5)
CAMERA = torch.randint(12, (30,), generator=drawing)
POINT = torch.randint(20, (30,), generator=drawing)
FILTERS, NARROW, UP = draw(3, 2, 3, 3), draw(3, 2, 3), draw(2, 3, 3)
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=DOUBLE)[None, None]
BAND = torch.diag(draw(20)) + torch.diag(draw(19), 1)
SPARSE = BAND.to_sparse_coo()
torch.manual_seed(0)
RECURRENT = nn.GRU(4, 5, batch_first=True).double()
PICTURES = nn.Sequential(
    nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
).double()


def burgers(u):
    mid = u[1:-1]
    slope = mid * (u[2:] - u[:-2]) / 0.1
    return torch.cat([u[:1], slope + (u[2:] - 2 * mid + u[:-2]) * 4, u[-1:]])


def lorenz(u):
    return (u.roll(-1) - u.roll(2)) * u.roll(1) - u + 8


def stepped(u):
    for _ in range(3):
        u = u + 0.01 * lorenz(u)
    return u


def arrow(x):
    return torch.cat([(x**2).sum()[None], x[1:] ** 2 + x[0] * x[1:]])


def reprojection(cameras, points):
    c, p = cameras[CAMERA], points[POINT]
    turned = p + torch.cross(c[:, :3], p, dim=1) + c[:, 3:6]
    return (c[:, 6:] * turned[:, :2] / (turned[:, 2:] + 4)).reshape(-1)


def filled_in_place(x):
    out = torch.zeros(12, dtype=x.dtype)
    out[0] = x[0] ** 2
    out[1:5] = x[1:5] * x[2:6]
    out[5:].copy_(x[5:12].sin())
    out[3].add_(x[9])
    out[::2].mul_(x[10])
    return out


def recurrent(x):
    state, states = x.new_zeros(len(x), 5), []
    for step in range(x.shape[1]):
        state = torch.tanh(x[:, step] @ SQUARE + state @ SQUARE)
        states.append(state)
    return torch.stack(states, 1)


def forces(x):
    energy = (x[1:] - x[:-1]).pow(4).sum()
    return torch.autograd.grad(energy, x, create_graph=True)[0]


def scaled_without_grad(x):
    with torch.no_grad():
        scale = x.norm()
    return x / scale


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, v):
        return 2 * v * ctx.saved_tensors[0]


def added_at(x):
    return torch.zeros(12, dtype=x.dtype).index_add(0, CAMERA, x**2)


def scattered(x):
    index = CAMERA[:28].reshape(4, 7)
    return torch.zeros(4, 12, dtype=x.dtype).scatter_add(1, index, x.reshape(4, 7) ** 2)


def put(x):
    return torch.zeros(12, dtype=x.dtype).index_put((CAMERA,), x**3, accumulate=True)


def as_complex(x):
    return torch.view_as_real(torch.complex(x[:, 0], x[:, 1]) ** 2)


def per_row(x):
    return torch.func.vmap(torch.func.grad(lambda row: (row**3).prod()))(x)


def pushed(x):
    return torch.func.jvp(lambda z: z**3, (x,), (torch.ones_like(x),))[1]


EXACT = {
    "burgers": (burgers, (30,)),
    "lorenz": (lorenz, (20,)),
    "stepped": (stepped, (40,)),
    "laplacian": (lambda x: F.conv2d(x**2, LAPLACE, padding=1), (1, 1, 5, 6)),
    "arrow": (arrow, (20,)),
    "reprojection": (reprojection, (12, 7), (20, 3)),
    "filled_in_place": (filled_in_place, (12,)),
    "added_at": (added_at, (30,)),
    "scattered": (scattered, (28,)),
    "put": (put, (30,)),
    "network": (lambda x: torch.tanh(x @ IN) @ OUT, (6, 4)),
    "recurrent": (recurrent, (2, 3, 5)),
    "einsum": (lambda x: torch.einsum("bi,bj->bij", x, x), (4, 3)),
    "quadratic": (lambda x: torch.einsum("bi,ij,bj->b", x, SQUARE, x), (4, 5)),
    "softmax": (lambda x: torch.softmax(x, 1), (5, 4)),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), (5, 4)),
    "variance": (lambda x: x.var(0), (5, 4)),
    "prod": (lambda x: x.prod(1), (5, 4)),
    "cumsum": (lambda x: x.cumsum(0), (9,)),
    "cumprod": (lambda x: x.cumprod(1), (3, 5)),
    "forces": (forces, (12,)),
    "per_row": (per_row, (4, 3)),
    "pushed": (pushed, (7,)),
    "vmapped": (torch.func.vmap(lambda r: torch.outer(r, r).sum(0)), (4, 3)),
    "detached": (lambda x: x / x.norm().detach(), (8,)),
    "without_grad": (scaled_without_grad, (8,)),
    "straight_through": (lambda x: x + (x.round() - x).detach(), (8,)),
    "custom": (lambda x: Square.apply(x) + x.roll(1), (8,)),
    "solve": (lambda x: torch.linalg.solve(x, torch.ones(4, 3, dtype=x.dtype)), (4, 3, 3)),
    "inverse": (torch.linalg.inv, (3, 3, 3)),
    "determinant": (torch.linalg.det, (4, 3, 3)),
    "complex": (as_complex, (5, 2)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), (5, 3)),
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), (5, 4)),
    "group_norm": (lambda x: F.group_norm(x, 2), (3, 4, 2)),
    "average_pool": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), (1, 2, 5, 5)),
    "conv1d": (lambda x: F.conv1d(x, NARROW, padding=1), (2, 2, 8)),
    "transposed": (
        lambda x: F.conv_transpose1d(x, UP, stride=2, padding=1, output_padding=1),
        (2, 2, 5),
    ),
    "dilated": (lambda x: F.conv2d(x, FILTERS[:, :1], dilation=2), (1, 1, 6, 6)),
    "depthwise": (lambda x: F.conv2d(x, FILTERS[:2, :1], groups=2, padding=1), (1, 2, 4, 4)),
    "by_filters": (lambda w: F.conv2d(torch.ones(1, 2, 4, 4, dtype=w.dtype), w), (3, 2, 3, 3)),
    "windows": (lambda x: x.unfold(0, 3, 2).prod(1), (15,)),
    "lower": (lambda x: torch.tril(x) @ torch.ones(5, dtype=x.dtype), (5, 5)),
    "embedding": (lambda w: F.embedding(CAMERA[:20].reshape(4, 5), w) ** 2, (12, 3)),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2, 0]), reduction="none"),
        (4, 3),
    ),
    "banded": (lambda x: torch.sin(BAND @ x), (20,)),
    "sparse_matrix": (lambda x: torch.sin((SPARSE @ x[:, None])[:, 0]), (20,)),
    "constant_mask": (lambda x: torch.where(torch.arange(10) < 5, x, x.flip(0)), (10,)),
    "masked": (lambda x: x.flip(0) * (torch.arange(10) < 5) + x, (10,)),
    "kronecker": (torch.kron, (2, 3), (3, 2)),
    "interpolated": (lambda x: F.interpolate(x, scale_factor=2), (1, 1, 3, 3)),
    "wrapped": (lambda x: F.pad(x, (2, 2), mode="circular") ** 2, (1, 1, 9)),
    "pictures": (PICTURES, (2, 1, 8, 8)),
}

LOOSE = {
    # Entries that are zero at a point, and must be there: other points have them.
    "upwind": (lambda u: u * torch.where(u > 0, u - u.roll(1), u.roll(-1) - u), (20,)),
    "relu": (torch.relu, (12,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), (12,)),
    "flat": (lambda x: (x - x.detach()) ** 3, (12,)),
    "bell": (lambda x: torch.exp(-(x**2)) * x, (6, 6)),
    "max_pool": (lambda x: F.max_pool2d(x, 2), (1, 1, 4, 4)),
    "sort": (lambda x: x.sort().values, (8,)),
    "topk": (lambda x: x.topk(2, 1).values, (4, 5)),
    "nearest": (lambda x: x.square().min(1).values, (4, 5)),
    "reached_by_index": (lambda x: x.gather(0, x.argmin()[None]), (8,)),
    # Rules that are coarser than they could be.
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT), (3, 3, 3)),
    "fft": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2), (3, 8)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 1, 3, 4)),
    "gru": (lambda x: RECURRENT(x)[0], (2, 3, 4)),
    "pairs": (lambda x: torch.cdist(x, x + 1), (4, 3)),
}


def traced(f, inputs, constants=(), seconds=60):
    return trace(f, inputs, constants, Deadline(seconds))


def nonzero(f, wrt, constants=()):
    """The entries that the jacobian has at one point."""
    blocks = torch.autograd.functional.jacobian(lambda *x: f(*x, *constants), tuple(wrt))
    return torch.cat([block.reshape(-1, x.numel()) for block, x in zip(blocks, wrt)], 1) != 0


def placed(pattern, like):
    entries = torch.zeros_like(like)
    entries[pattern.rows, pattern.columns] = True
    return entries


def both(f, shapes):
    """The entries that the trace has, and those that the jacobian has at some of four points."""
    pattern = traced(f, [draw(*shape) for shape in shapes])
    assert not pattern.failed
    there = nonzero(f, [draw(*shape) for shape in shapes])
    for _ in range(15):
        there |= nonzero(f, [draw(*shape) for shape in shapes])
    return pattern, placed(pattern, there), there


@pytest.mark.parametrize("name", EXACT)
def test_the_trace_has_every_entry_and_no_other(name):
    f, *shapes = EXACT[name]
    pattern, entries, there = both(f, shapes)
    assert pattern.branches == ()
    assert torch.equal(entries, there)


@pytest.mark.parametrize("name", LOOSE)
def test_the_trace_has_every_entry_of_functions_with_more_at_other_points(name):
    f, *shapes = LOOSE[name]
    pattern, entries, there = both(f, shapes)
    assert pattern.branches == ()
    assert not (there & ~entries).any()


@pytest.mark.parametrize("name", ["relu", "clamp", "flat", "bell"])
def test_an_elementwise_map_is_diagonal_where_its_slopes_vanish(name):
    f, shape = LOOSE[name]
    pattern = traced(f, [draw(*shape)])
    every = torch.arange(math.prod(shape))
    assert torch.equal(pattern.rows, every)
    assert torch.equal(pattern.columns, every)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x**2 if x.sum() > 0 else x * x[0],
        lambda x: x * float(x[0]),
        lambda x: x * x.tolist()[0],
        lambda x: x * float(x.detach().numpy()[0]),
        lambda x: x[x > 0].sum() * x,
        lambda x: x[: 1 + int((x > 0).sum())] ** 2,
        lambda x: x[(x > 0).nonzero()[:, 0]] ** 2,
    ],
)
def test_a_function_that_looks_at_its_numbers_has_the_pattern_of_one_branch(f):
    pattern = traced(f, [torch.rand(6, dtype=DOUBLE) + 0.5])
    assert not pattern.failed
    assert pattern.branches == (0,)


registry.load_builtin()


TRACED = [
    (name, second)
    for name, f in registry.FUNCTIONS.items()
    for second in (False, True)
    if not (name.startswith("batched") or (second and f.family == APPLICATIONS))
]


@pytest.mark.parametrize(("name", "second"), TRACED)
def test_every_function_of_the_catalogue_is_traced_exactly(name, second):
    function = registry.FUNCTIONS[name]
    n = function.differentiated
    f = gradient_of(function.forward, n) if second else function.forward
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    drawn = [function.draw(function.example_size, generator) for generator in generators]
    pattern = traced(f, drawn[0][:n], drawn[0][n:])
    there = nonzero(f, drawn[0][:n], drawn[0][n:])
    for inputs in drawn[1:]:
        there |= nonzero(f, inputs[:n], inputs[n:])
    assert torch.equal(placed(pattern, there), there)
    # Two of them double a number until it is large enough.
    assert bool(pattern.branches) == name.startswith("norm_doubling")


def gradient_of(f, n):
    def gradient(*inputs):
        y = f(*inputs).sum()
        grads = torch.autograd.grad(y, inputs[:n], create_graph=True, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(grads, inputs)]
        )

    return gradient


def test_indices_that_are_inputs_are_named():
    index = torch.tensor([2, 0, 1])
    pattern = traced(lambda x, i: x[i] ** 2, [draw(3)], [index])
    assert pattern.branches == (1,)
    assert pattern.columns.tolist() == [2, 0, 1]
    # Values of constants that only enter as factors decide nothing, nor do their zeros.
    pattern = traced(lambda x, a: a @ x, [draw(3)], [torch.eye(3, dtype=DOUBLE)])
    assert pattern.branches == ()
    assert pattern.rows.numel() == 9


def test_an_operation_without_a_rule_depends_on_all_that_goes_in():
    @torch.library.custom_op("gradbench_tests::rolled", mutates_args=())
    def rolled(x: torch.Tensor) -> torch.Tensor:
        return x.roll(1)

    rolled.register_autograd(lambda ctx, v: v.roll(-1))
    pattern = traced(lambda x: torch.cat([rolled(x[:3]), x[3:]]), [draw(5)])
    rows = [sorted(pattern.columns[pattern.rows == i].tolist()) for i in range(5)]
    assert rows == [[0, 1, 2]] * 3 + [[3], [4]]


def test_a_pattern_that_grows_too_dense_or_takes_too_long_fails_with_the_reason():
    assert "too many" in traced(lambda x: x.cumsum(0).flip(0).cumsum(0), [draw(4000)]).failed
    assert "time" in traced(burgers, [draw(30)], seconds=0).failed


def test_a_large_batch_needs_no_list_of_its_entries():
    weights = draw(300, 300)
    pattern = traced(lambda x: torch.tanh(x @ weights), [draw(50, 300)])
    assert (pattern.failed, pattern.batched) == ("", True)
    mixed = traced(lambda x: torch.tanh((x + x.flip(0)) @ weights), [draw(50, 300)])
    assert mixed.failed


def test_sets_have_one_number_however_they_came_about():
    sets = CoordinateSets(5)
    one, two, three = (torch.tensor([i]) for i in (1, 2, 3))
    left = sets.pairs(sets.pairs(one, two), three)
    right = sets.pairs(one, sets.pairs(three, two))
    assert torch.equal(left, right)
    assert sorted(sets.members(left)[1].tolist()) == [0, 1, 2]
    assert torch.equal(sets.pairs(left, one), left)
    along = sets.along(torch.tensor([[1, 2, 0], [3, 0, 0]]), [1])
    assert along.shape == (2, 1)
    assert along[1].item() == 3
    with pytest.raises(TooMany):
        CoordinateSets(100, most=50).along(torch.arange(1, 101), [0])
