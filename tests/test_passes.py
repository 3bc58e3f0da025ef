"""Ways to a whole derivative that take fewer passes than its rows or columns do."""

import pytest
import torch

from gradbench.core.deadline import Deadline
from gradbench.modes import gathered, mixed, second_structured
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.detection import detect, products
from gradbench.problems.function import Function, as_tuple, normal
from gradbench.problems.mixing import mix
from gradbench.worker.gate import Gate
from gradbench.worker.gathers import gathers

LATER = Deadline()
CAMERA, POINT = torch.tensor([0, 1, 2, 0, 1, 2, 0, 2]), torch.tensor([4, 3, 2, 1, 0, 4, 2, 1])


def seen(cameras, points):
    c, p = cameras[CAMERA], points[POINT]
    return torch.sin((c[:, :2] * p).sum(1, keepdim=True)) + c[:, 2:] * p


def weighted(cameras, points, weights):
    return torch.cat([(weights[:, None] * seen(cameras, points)).reshape(-1), 1 - weights**2])


def stencil(u):
    return u[1:-1] * (u[2:] - u[:-2])


def padded(u):
    return stencil(torch.nn.functional.pad(u, (1, 1)))


def ring(u):
    return (u.roll(1) - u.roll(-1)) * u.roll(2)


def unbound(x):
    a, b = x.unbind(1)
    return a[CAMERA] * torch.exp(b[POINT % 3])


def transposed(x):
    return torch.tanh(x.T[:, CAMERA] * x.T[:, POINT % 3])


def posed(f, shapes, operator="jacobian", **derivatives):
    function = Function(
        name="own", document="", formula="", derivative="", forward=f,
        example=lambda: tuple(torch.ones(s, dtype=torch.float64) for s in shapes),
        example_size={"n": 1}, inputs=tuple("abcd"[: len(shapes)]),
        draw=lambda size, generator: tuple(normal(generator, *s) for s in shapes),
        derivatives=derivatives,
    )  # fmt: skip
    problem, arguments = pose(function, operator, {"n": 1}, "float32", "cpu", 3)
    return problem, Gate(problem, arguments, [draw(problem, {"n": 1}, 4)])


def dense(f):
    return lambda *inputs: torch.autograd.functional.jacobian(f, inputs)


def points(shapes):
    generator = torch.Generator().manual_seed(1)
    return [tuple(normal(generator, *shape) for shape in shapes) for _ in range(3)]


def found(f, *shapes, passes=1000, deadline=LATER):
    return gathers(f, points(shapes), len(shapes), passes, deadline)


def entries(f, *shapes):
    blocks = as_tuple(dense(f)(*points(shapes)[0]))
    outputs = f(*points(shapes)[0])
    jacobian = torch.cat([block.reshape(outputs.numel(), -1) for block in blocks], 1)
    return shapes, tuple(outputs.shape), *(jacobian != 0).nonzero(as_tuple=True)


@pytest.fixture(autouse=True)
def own_modes(monkeypatch):
    monkeypatch.setattr(registry, "MODES", {})


GATHERING = {
    "bundle": (seen, ((3, 4), (5, 2)), 2),
    "stacked": (weighted, ((3, 4), (5, 2), (8,)), 3),
    "stencil": (stencil, ((30,),), 1),
    "padded": (padded, ((30,),), 1),
    "ring": (ring, ((30,),), 1),
    "unbound": (unbound, ((3, 2),), 1),
    "transposed": (transposed, ((3, 2),), 1),
}


@pytest.mark.parametrize("name", GATHERING)
def test_what_is_gathered_from_the_inputs_is_pulled_back_to_in_few_passes(name):
    f, shapes, passes = GATHERING[name]
    what = found(f, *shapes)
    assert what.passes == passes, what.evidence
    problem, gate = posed(f, shapes, jacobian=dense(f))
    for mode_name in gathered.register("own", what):
        mode = registry.MODES["jacobian", mode_name]
        contestant = gate.enter(mode_name, mode.build(problem), mode.leaves)
        finding = contestant.check([0], again=True)
        assert finding.passed, (mode_name, finding.reason)


@pytest.mark.parametrize(
    ("f", "shape"),
    [
        (lambda u: torch.sin(u) * u, (30,)),  # nothing is gathered
        (lambda u: u[1:] - u[0] * u[1:] + u[:-1] * u.sum(), (30,)),  # it is used otherwise too
        (lambda u: u[:10] * u[10:20], (30,)),  # nothing is gathered twice
        (lambda u: (2 * u)[CAMERA] * (3 * u)[POINT], (30,)),  # not from an input itself
        (lambda u: u[u.argsort()][1:] * u[u.argsort()][:-1], (30,)),  # which numbers depends on u
    ],
)
def test_nothing_is_gathered_that_would_save_passes(f, shape):
    assert found(f, shape) is None


def test_no_more_passes_are_taken_than_another_way_needs_and_no_more_time_than_there_is():
    assert found(seen, (3, 4), (5, 2), passes=2) is None
    assert found(seen, (3, 4), (5, 2), deadline=Deadline(0)) is None


def test_another_graph_than_the_one_that_was_looked_at_is_an_error():
    def branching(u):
        return stencil(u) if u[0] > 0 else stencil(torch.exp(u))

    positive = [(abs(x[0]),) for x in points([(30,)])]
    what = gathers(branching, positive, 1, 1000, LATER)
    problem, _ = posed(branching, ((30,),), jacobian=dense(branching))
    (name, _) = gathered.register("own", what)
    call = registry.MODES["jacobian", name].build(problem)
    with pytest.raises(RuntimeError, match="another way"):
        call((-torch.ones(30, requires_grad=True).abs().detach().requires_grad_(),))


def arrow(x):
    return torch.cat([(x * x).sum()[None], x[1:] ** 3 + x[0] * x[1:]])


def full_rows(x):
    return torch.cat([x**2, torch.stack([(x**3).sum(), x.exp().sum()])])


def full_column(a, x):
    return torch.sin(a) * x


@pytest.mark.parametrize(
    ("f", "shapes", "passes"),
    [
        (arrow, ((40,),), (2, 1)),
        (full_rows, ((40,),), (1, 2)),
        (full_column, ((1,), (40,)), None),
    ],
)
def test_full_rows_and_columns_are_left_to_the_direction_in_which_they_are_cheap(f, shapes, passes):
    pattern = entries(f, *shapes)
    split = mix(*pattern, 30 if passes else 2)
    assert (split and split.passes) == passes
    if split is None:
        return
    problem, gate = posed(f, shapes, jacobian=dense(f))
    for name in mixed.register("own", split):
        mode = registry.MODES["jacobian", name]
        contestant = gate.enter(name, mode.build(problem), mode.leaves)
        finding = contestant.check([0], again=True)
        assert finding.passed, (name, finding.reason)


def nearest(centres):
    samples = torch.linspace(-2, 2, 60, dtype=centres.dtype).reshape(20, 3)
    return (samples[:, None] - centres).square().sum(2).min(1).values.sum()


def energy(points, charges):
    return (points.exp().prod(1) * charges**3).sum()


@pytest.mark.parametrize(
    ("f", "shapes", "passes"),
    [(nearest, ((4, 3),), 1), (energy, ((20, 3), (20,)), 4)],
)
def test_a_hessian_of_few_entries_takes_few_products(f, shapes, passes):
    def gradient(*inputs):
        grads = torch.func.grad(f, tuple(range(len(inputs))))(*inputs)
        return torch.cat([g.reshape(-1) for g in grads])

    size = sum(torch.Size(shape).numel() for shape in shapes)
    jvp, vjp = products(gradient, points(shapes))
    structure = detect(jvp, vjp, shapes, (size,), torch.Generator().manual_seed(0))
    assert structure.passes[0] == passes

    def hessian(*inputs):
        rows = torch.autograd.functional.hessian(f, inputs)
        return tuple(block for row in rows for block in row)

    problem, gate = posed(f, shapes, "hessian", hessian=hessian)
    names = second_structured.register("own", structure)
    assert len(names) == 4
    for name in names:
        mode = registry.MODES["hessian", name]
        contestant = gate.enter(name, mode.build(problem), mode.leaves)
        finding = contestant.check([0], again=True)
        assert finding.passed, (name, finding.reason)
