"""The structure of jacobians: what is found, by which evidence, and what uses it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gradbench.core.deadline import Deadline
from gradbench.modes import structured
from gradbench.modes.placing import placing, strides_of
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.colouring import colour, fewest
from gradbench.problems.detection import detect, products
from gradbench.problems.function import Function, normal
from gradbench.problems.mode import Unsupported
from gradbench.worker import cost
from gradbench.worker.gate import Gate
from gradbench.worker.known import Known
from gradbench.worker.structures import hessian_structure, structure

WEIGHTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def batch(x):
    return torch.sin(x @ WEIGHTS.to(x.dtype))


def stencil(x):
    return x[2:] - 2 * x[1:-1] ** 2 + x[:-2]


def laplacian(x):
    inner = x[1:-1, 1:-1]
    return x[2:, 1:-1] + x[:-2, 1:-1] + x[1:-1, 2:] + x[1:-1, :-2] - 4 * inner**2


def found(f, *shape, **options):
    return found_jointly(f, shape, **options)


def found_jointly(f, *shapes, points=3, forward=True, **limits):
    generator = torch.Generator().manual_seed(1)
    drawn = [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(points)
    ]
    jvp, vjp = products(f, drawn)
    output = f(*drawn[0]).shape
    jvp = jvp if forward else None
    return detect(jvp, vjp, shapes, output, generator, points=points, **limits)


@pytest.mark.parametrize(
    ("f", "shape", "kind", "passes"),
    [
        (torch.exp, (1000,), "diagonal", (1, 1)),
        (torch.exp, (30, 10), "diagonal", (1, 1)),
        (batch, (64, 4), "batched", (4, 3)),
        (stencil, (300,), "banded", (3, 3)),
        (lambda x: torch.softmax(x, 1), (50, 6), "batched", (6, 6)),
        (lambda x: x.flip(0) ** 2, (90,), "sparse", (1, 1)),
        (lambda x: torch.softmax(x, 0), (50,), "dense", (50, 50)),
        (lambda x: x - x.mean(0), (30, 3), "sparse", (30, 30)),
        (lambda x: (x**2).sum(), (30,), "dense", (30, 1)),
    ],
)
def test_the_structure_is_found_with_the_passes_that_it_takes(f, shape, kind, passes):
    structure = found(f, *shape)
    assert (structure.kind, structure.passes) == (kind, passes), structure.evidence


@pytest.mark.parametrize("forward", [True, False])
def test_every_entry_is_located_and_no_other(forward):
    for f, shape in ((stencil, (40,)), (laplacian, (9, 11)), (batch, (8, 4))):
        structure = found(f, *shape, forward=forward)
        x = torch.randn(shape, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(f, x)
        there = jacobian.reshape(structure.outputs, structure.coordinates) != 0
        assert structure.entries == int(there.sum())
        assert there[structure.rows, structure.columns].all()


def test_the_same_shape_is_not_taken_for_a_diagonal_and_rows_are_not_taken_for_samples():
    assert found(lambda x: x.roll(1) ** 2 + x, 20).kind != "diagonal"
    mixed = found(lambda x: x + x.flip(0) ** 2, 16, 300)
    assert mixed.kind == "sparse"


def test_an_entry_that_only_some_points_have_is_an_entry():
    # The first point takes one branch, a later one the other.
    def f(x):
        return x * x.sum() if x.sum() > 0 else x**2

    generator = torch.Generator().manual_seed(0)
    negative = -torch.rand(40, generator=generator, dtype=torch.float64)
    jvp, vjp = products(f, [(negative,), (-negative,)])
    assert detect(jvp, vjp, [(40,)], (40,), generator, points=1).kind == "diagonal"
    assert detect(jvp, vjp, [(40,)], (40,), generator, points=2).kind == "dense"


@pytest.mark.parametrize(
    ("f", "shapes", "kind", "passes"),
    [
        (torch.mul, ((50,), (50,)), "diagonal", (2, 1)),
        (lambda a, x: a @ WEIGHTS + x, ((9, 4), (9, 3)), "batched", (5, 3)),
        (lambda w, x: w.sum() * stencil(x), ((2,), (40,)), "sparse", (5, 38)),
    ],
)
@pytest.mark.parametrize("forward", [True, False])
def test_several_inputs_share_their_passes(f, shapes, kind, passes, forward):
    structure = found_jointly(f, *shapes, forward=forward)
    assert (structure.kind, structure.passes) == (kind, passes), structure.evidence
    x = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for i, block in enumerate(torch.autograd.functional.jacobian(f, tuple(x))):
        rows, columns = structure.block(i)
        there = torch.zeros(structure.outputs, x[i].numel(), dtype=torch.bool)
        there[rows, columns] = True
        assert torch.equal(there, block.reshape(there.shape) != 0)


def test_nan_is_no_zero():
    assert found(lambda x: torch.sqrt(-x.abs()) * x.sum(), 40).kind == "dense"


def test_a_large_batch_is_found_though_its_entries_are_too_many_to_locate():
    structure = found(lambda x: torch.cumsum(x, 1), 16, 60, most_passes=40)
    assert structure.kind == "batched"
    assert structure.passes == (60, 60)
    assert structure.entries == 16 * 60 * 60


def test_detection_stays_within_its_passes():
    spent = 0
    jvp, vjp = products(lambda x: torch.cumsum(x, 0), [(torch.ones(400, dtype=torch.float64),)])

    def counted(product):
        def count(point, seed):
            nonlocal spent
            spent += 1
            return product(point, seed)

        return count

    generator = torch.Generator().manual_seed(0)
    structure = detect(
        counted(jvp), counted(vjp), [(400,)], (400,), generator, points=1, most_passes=50
    )
    assert structure.kind == "dense"
    assert "50 passes" in structure.evidence
    assert spent <= 50 + 3 + 2 * 9


def test_a_function_without_forward_mode_is_probed_in_reverse():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, v):
            return 2 * v * ctx.saved_tensors[0]

    points = [(torch.randn(50, dtype=torch.float64),)]
    jvp, vjp = products(Square.apply, points)
    assert jvp is None
    generator = torch.Generator().manual_seed(0)
    assert detect(jvp, vjp, [(50,)], (50,), generator, points=1).kind == "diagonal"


def test_a_full_jacobian_takes_few_passes_to_be_found_dense():
    spent = 0

    def f(x):
        nonlocal spent
        spent += 1
        return torch.softmax(x, 0)

    structure = found(f, 150)
    assert structure.kind == "dense"
    assert "more than half full" in structure.evidence
    assert spent < 20


def test_columns_of_one_colour_share_no_row():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(60, 80, generator=generator) < 0.05
    supports = [pattern[:, j].nonzero().flatten().tolist() for j in range(80)]
    colours = torch.tensor(colour(supports))
    for k in range(int(colours.max()) + 1):
        assert int(pattern[:, colours == k].sum(1).max()) <= 1
    assert colours.max() + 1 >= fewest(supports)


@pytest.mark.parametrize(
    ("supports", "colours"),
    [
        ([[i] for i in range(9)], 1),
        ([[i, i + 1, i + 2] for i in range(9)], 3),
        ([[0, i] for i in range(1, 10)], 9),
        # An arrow: one full column beside a diagonal.
        ([list(range(9)), *[[i] for i in range(1, 9)]], 2),
        ([[], []], 1),
    ],
)
def test_known_patterns_have_their_fewest_colours(supports, colours):
    assert max(colour(supports)) + 1 == colours == fewest(supports)


@pytest.mark.parametrize("order", ["in_order", "some_left_out", "shuffled"])
def test_many_entries_get_to_their_places(order):
    # Of 20 samples: 5 × 12 entries each, in blocks of their own.
    rows, columns = (part.reshape(-1) for part in torch.meshgrid(
        torch.arange(100), torch.arange(12), indexing="ij"))  # fmt: skip
    places = rows * 240 + (rows // 5) * 12 + columns
    sources = columns * 100 + rows
    if order == "some_left_out":
        sources = sources * 2
    if order == "shuffled":
        places = places[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    values = torch.arange(2400.0) + 1
    wanted = torch.zeros(100 * 240)
    wanted[places] = values[sources]
    grid = strides_of(torch.stack([sources, places])[:, torch.argsort(sources)])
    assert (grid is None) == (order == "shuffled")
    place = placing(SimpleNamespace(device="cpu"), [(100, 240)], places, sources)
    (block,) = place(values)
    assert torch.equal(block, wanted.reshape(100, 240))


FUNCTIONS = {
    "batch": (batch, (64, 4)),
    "stencil": (stencil, (30,)),
    "laplacian": (laplacian, (7, 6)),
}


def test_structured_modes_of_several_inputs_place_every_entry(monkeypatch):
    monkeypatch.setattr(registry, "MODES", {})
    inputs = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)

    def f(a, x):
        return torch.sin(a @ WEIGHTS) * x

    function = Function(
        name="two", document="", formula="", derivative="", forward=f, example=lambda: inputs,
        example_size={}, draw=lambda size, generator: inputs, inputs=("a", "x"),
        derivatives={"jacobian": lambda *x: torch.autograd.functional.jacobian(f, x)},
    )  # fmt: skip
    problem, _ = pose(function, "jacobian", {}, "float64", "cpu", 3)
    structure = found_jointly(f, *problem.inputs)
    for name in structured.register("two", structure):
        mode = registry.MODES["jacobian", name]
        leaves = tuple(x.clone().requires_grad_(mode.leaves) for x in inputs)
        blocks = mode.build(problem)(leaves)
        for block, wanted in zip(blocks, function.derivatives["jacobian"](*inputs)):
            assert torch.allclose(block, wanted), name


@pytest.fixture(params=sorted(FUNCTIONS))
def problem(request, monkeypatch):
    f, shape = FUNCTIONS[request.param]
    monkeypatch.setattr(registry, "MODES", {})
    function = Function(
        name=request.param,
        document="",
        formula="",
        derivative="",
        forward=f,
        example=lambda: (torch.ones(shape, dtype=torch.float64),),
        example_size={"n": 1},
        draw=lambda size, generator: (normal(generator, *shape),),
        derivatives={"jacobian": lambda x: torch.autograd.functional.jacobian(f, x)},
    )
    problem, arguments = pose(function, "jacobian", {"n": 1}, "float32", "cpu", 3)
    return problem, Gate(problem, arguments, [draw(problem, {"n": 1}, 4)])


def test_structured_modes_pass_the_gate_in_the_layout_of_the_others(problem):
    problem, gate = problem
    structure = found(problem.forward, *problem.inputs[0])
    names = structured.register(problem.function.name, structure)
    assert len(names) == 5
    for name in names:
        mode = registry.MODES["jacobian", name]
        contestant = gate.enter(name, mode.build(problem), mode.leaves)
        finding = contestant.check([0], again=True)
        assert finding.passed, finding.reason


def test_a_wrong_pattern_does_not_pass_the_gate(problem):
    problem, gate = problem
    right = found(problem.forward, *problem.inputs[0])
    wrong = replace(right, rows=right.rows[1:], columns=right.columns[1:], is_global=True)
    name = structured.register(problem.function.name, wrong)[0]
    contestant = gate.enter(name, registry.MODES["jacobian", name].build(problem), False)
    assert not contestant.check([0], again=True).passed


def test_a_structure_serves_its_own_function_and_size_alone(problem):
    problem, _ = problem
    structure = found(torch.exp, 5)
    of_it = structured.register(problem.function.name, structure)[0]
    with pytest.raises(Unsupported, match="another size"):
        registry.MODES["jacobian", of_it].build(problem)
    of_another = structured.register("another", structure)[0]
    with pytest.raises(Unsupported, match="another"):
        registry.MODES["jacobian", of_another].build(problem)


def test_a_dense_jacobian_gets_no_structured_modes():
    assert structured.register("dense", found(lambda x: torch.softmax(x, 0), 20)) == ()


def test_the_cost_is_told_in_passes_and_bytes():
    told = " ".join(cost.explain(3, 1000, 4, 1 << 30))
    assert "3 outputs by 1000 inputs" in told
    assert "Reverse mode needs fewer passes" in told
    assert "11.7 KiB" in told
    assert "chunk_size" not in told
    told = " ".join(cost.explain(20_000, 20_000, 4, 2 << 30))
    assert "chunk_size=" in told


def test_the_cost_of_a_structure_says_what_it_saves():
    told = " ".join(cost.explain(298, 300, 8, 1 << 30, found(stencil, 300)))
    assert "It is banded: 3 passes in reverse or 3 in forward mode" in told
    assert "avoid the dense result" in told


def test_what_does_not_fit_is_refused_with_its_size():
    assert cost.refuse(1000, 1000, 4, 1 << 30) == ""
    reason = cost.refuse(10**6, 10**6, 4, 1 << 32)
    assert "3.64 TiB" in reason
    assert "vjp" in reason
    assert cost.refuse(3000, 3000, 4, 1 << 32) == ""


# -- a user's function: what is traced, held against what products show ---------------------------


def subject(f, *inputs, constants=()):
    def draw(size, generator):
        near = [1 + 0.01 * torch.randn(x.shape, generator=generator).double() for x in inputs]
        return (*(x * a for x, a in zip(inputs, near)), *constants)

    return SimpleNamespace(
        forward=f, values=(*inputs, *constants), differentiated=len(inputs), draw=draw,
        names=["x", "y", "z"],
    )  # fmt: skip


def upwind(u):
    return u + 0.1 * u * torch.where(u > 0, u - u.roll(1), u.roll(-1) - u)


def covers(found, f, x):
    """Whether the jacobian at the input has no entry beside those that were found."""
    jacobian = torch.autograd.functional.jacobian(f, x).reshape(found.outputs, -1)
    jacobian[found.rows, found.columns] = 0
    return not jacobian.any()


def test_entries_that_other_branches_of_where_have_are_entries():
    generator = torch.Generator().manual_seed(0)
    found = structure(subject(upwind, torch.rand(200, generator=generator).double() + 0.5))
    assert found.is_global
    assert found.entries == 600
    assert "400 of its 600 entries were not zero" in found.evidence
    assert covers(found, upwind, torch.randn(200, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.exp(-x * x) * x,
        lambda x: torch.relu(x - 2.0),
        lambda x: (x - x.detach()) ** 3 + torch.sigmoid(30 * x),
    ],
)
def test_an_elementwise_map_is_diagonal_whatever_its_slopes(f):
    x = torch.randn(70, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = structure(subject(f, x))
    assert (found.kind, found.is_global, found.entries) == ("diagonal", True, 4900)


def test_without_a_trace_an_elementwise_map_is_diagonal_too():
    found = found_jointly(lambda x: torch.exp(-x * x) * x, (70, 70))
    assert (found.kind, found.is_global) == ("diagonal", False)


def test_no_time_is_no_structure():
    found = structure(subject(upwind, torch.rand(50, dtype=torch.float64)), Deadline(0.0))
    assert found.kind == "dense"
    assert "no time" in found.evidence


def test_where_there_was_no_time_nothing_is_said_of_every_input():
    x = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    late = Known(structure(subject(lambda x: torch.softmax(x, 0), x), Deadline(0.0)))
    assert late.sentences == ["counts as dense: there was no time to look for structure"]
    traced = Known(structure(subject(lambda x: torch.softmax(x, 0), x)))
    assert traced.sentences[0].startswith("dense, for every input: traced through the operations")


def test_a_branch_on_the_numbers_makes_the_pattern_local_and_the_input_is_named():
    x = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found = structure(subject(lambda x: x * x.roll(1) if x[0] > 0 else x * x.sum(), x))
    assert not found.is_global
    assert found.entries == 60
    assert "the values of x decided" in found.evidence


def test_a_pattern_that_is_dense_but_for_this_input_is_local():
    x = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found = structure(subject(lambda x: torch.where(x > 0, x**2, x.sum()), x))
    assert (found.kind, found.is_global) == ("diagonal", False)
    assert "it is dense" in found.evidence


def test_a_global_pattern_gives_way_to_a_local_one_of_far_fewer_passes():
    def f(x):
        return x + sum(torch.relu(-x.roll(k)) for k in range(1, 12))

    x = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found = structure(subject(f, x))
    assert (found.kind, found.is_global) == ("diagonal", False)
    assert "take 1 passes instead of 12" in found.evidence


def test_a_backward_with_entries_that_its_forward_lacks_is_told():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, v):
            return v * 2 + v.roll(1)

    x = torch.randn(30, dtype=torch.float64)
    found = structure(subject(Wrong.apply, x))
    assert not found.is_global
    assert "is a backward wrong?" in found.evidence
    assert covers(found, Wrong.apply, x)


def test_entries_are_kept_where_neither_rows_nor_columns_alone_save_passes():
    def arrow(x):
        return torch.cat([(x**2).sum()[None], x[1:] ** 2 + x[0] * x[1:]])

    x = torch.randn(30, dtype=torch.float64)
    found = structure(subject(arrow, x))
    assert (found.kind, found.is_global) == ("dense", True)
    assert found.rows.numel() == 30 + 2 * 29
    assert covers(found, arrow, x)


def test_a_function_that_cannot_be_traced_is_looked_at_without():
    def f(x):
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("not under a mode")
        return x**2

    found = structure(subject(f, torch.randn(20, dtype=torch.float64)))
    assert (found.kind, found.is_global) == ("diagonal", False)
    assert "it raises RuntimeError while it is traced" in found.evidence


def test_several_inputs_have_one_traced_pattern():
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    found = structure(subject(lambda a, x: torch.sin(a @ WEIGHTS) * x, x, y))
    assert (found.kind, found.is_global, found.passes) == ("batched", True, (5, 3))


@pytest.mark.parametrize(
    ("f", "shape", "kind", "passes"),
    [
        (lambda x: (x[1:] - x[:-1]).pow(4).sum(), (40,), "banded", 3),
        (lambda x: torch.tanh(x).sum(), (40,), "diagonal", 1),
        (lambda x: torch.logsumexp(x @ WEIGHTS, 1).sum(), (20, 4), "batched", 4),
        (lambda x: x.sum() ** 2, (40,), "dense", 40),
        (lambda x: x.sum(), (40,), "sparse", 1),
    ],
)
def test_the_hessian_of_a_scalar_function_has_a_structure(f, shape, kind, passes):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hessian_structure(subject(f, x))
    assert (found.kind, found.is_global, found.passes[0]) == (kind, True, passes), found.evidence
    hessian = torch.autograd.functional.hessian(f, x).reshape(x.numel(), -1)
    if kind != "dense":
        hessian[found.rows, found.columns] = 0
        assert not hessian.any()


def test_the_hessian_of_several_inputs_is_one_symmetric_pattern():
    x, y = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    found = hessian_structure(subject(lambda x, y: (x**2 * y).sum(), x, y))
    pairs = set(zip(found.rows.tolist(), found.columns.tolist()))
    assert pairs == {(i, i) for i in range(20)} | {
        pair for i in range(20) for pair in ((i, i + 20), (i + 20, i))
    }
