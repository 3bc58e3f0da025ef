"""Sparse jacobians, Gauss-Newton products, gradients per sample, and the modes for workloads."""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_modes import DTYPES, check, one, problem_of

from gradbench.advise.telling import statuses
from gradbench.core.cases import Selection, expand
from gradbench.core.deadline import Deadline
from gradbench.core.operators import OPERATORS
from gradbench.core.verdicts import NOT_NEEDED
from gradbench.problems import registry, sparsity
from gradbench.problems.arguments import draw, pose
from gradbench.problems.function import as_tuple, normal
from gradbench.problems.mode import Unsupported
from gradbench.worker import allowance
from gradbench.worker.gate import Gate
from gradbench.worker.instruments import peak_memory
from gradbench.worker.known import Known, known
from gradbench.worker.probe import probe
from gradbench.worker.structures import structure
from gradbench.worker.subject import Subject, declare

# Two inputs, one of them a matrix, and a value with two dimensions:
# (x, u; c) ↦ [[c xᵢ xᵢ₊₁], [uᵢ₀² + sin xᵢ]], of which each entry depends on two numbers


def chained(x, u, c):
    return torch.stack((c * x * x.roll(-1), u[:, 0] ** 2 + torch.sin(x)))


def chained_jacobian(x, u, c):
    n = len(x)
    i, j = torch.arange(n), (torch.arange(n) + 1) % n
    zero, one = torch.zeros_like(i), torch.ones_like(i)
    places = torch.stack((torch.cat((zero, zero, one)), torch.cat((i, i, i)), torch.cat((i, j, i))))
    values = torch.cat((c * x[j], c * x, torch.cos(x)))
    by_u = torch.sparse_coo_tensor(
        torch.stack((one, i, i, zero)), 2 * u[:, 0], (2, n, n, 2), check_invariants=False
    )
    by_x = torch.sparse_coo_tensor(places, values, (2, n, n), check_invariants=False)
    return by_x, by_u


def chained_product(t, x, u, c):
    by_x, by_u = (block.to_dense() for block in chained_jacobian(x, u, c))
    along = torch.einsum("abi,i->ab", by_x, t[0]) + torch.einsum("abij,ij->ab", by_u, t[1])
    return torch.einsum("abi,ab->i", by_x, along), torch.einsum("abij,ab->ij", by_u, along)


CHAIN = {
    "jacobian_sparse": chained_jacobian,
    "gauss_newton_product": chained_product,
    "jacobian": lambda *inputs: tuple(b.to_dense() for b in chained_jacobian(*inputs)),
}
chain = one(
    "chain",
    chained,
    lambda size, g: (normal(g, 7), normal(g, 7, 2), normal(g)),
    CHAIN,
    inputs=("x", "u", "c"),
    constants=("c",),
)

# A full row, a full column and a diagonal, of which no two columns share a pass, and no two rows.


def arrow(x, u):
    return torch.cat(((x.square().sum() + u)[None], x[0] * x[1:] + torch.sin(u)))


def arrow_jacobian(x, u):
    n = len(x)
    i, zero = torch.arange(1, n), torch.zeros(n - 1, dtype=torch.int64)
    rows, columns = torch.cat((torch.zeros(n, dtype=torch.int64), i, i)), torch.arange(n)
    places = torch.stack((rows, torch.cat((columns, zero, i))))
    values = torch.cat((2 * x, x[1:], x[0].expand(n - 1)))
    by_x = torch.sparse_coo_tensor(places, values, (n, n), check_invariants=False)
    return by_x, torch.cat((torch.ones_like(u)[None], torch.cos(u).expand(n - 1))).to_sparse()


arrowed = one(
    "arrowed",
    arrow,
    lambda size, g: (normal(g, 9), normal(g)),
    {"jacobian_sparse": arrow_jacobian},
    inputs=("x", "u"),
)

# A function whose zeros depend on its input, and one that looks at its numbers.

choosing = one(
    "choosing",
    lambda x: x * x.roll(1) if x[0] > 0 else x * x.roll(2),
    lambda size, g: (normal(g, 8).abs(),),
    {"jacobian_sparse": lambda x: (torch.diag(x.roll(1)) + torch.diag(x).roll(-1, 1)).to_sparse()},
)

# Losses of a batch by parameters that its samples share, and their mean.


def residuals(W, b, X, Y):
    return torch.tanh(X @ W + b) - Y


def loss_gradients(W, b, X, Y):
    slope = 2 * residuals(W, b, X, Y) * (1 - torch.tanh(X @ W + b) ** 2)
    return torch.einsum("ni,nj->nij", X, slope), slope


DRAWN = lambda size, g: (normal(g, 3, 2), normal(g, 2), normal(g, 5, 3), normal(g, 5, 2))  # noqa: E731
NAMES = {"inputs": ("W", "b", "X", "Y"), "constants": ("X", "Y")}
losses = one(
    "losses",
    lambda *inputs: (residuals(*inputs) ** 2).sum(1),
    DRAWN,
    {"per_sample_gradient": loss_gradients},
    **NAMES,
)
mean_loss = one(
    "mean_loss",
    lambda *inputs: (residuals(*inputs) ** 2).sum(1).mean(),
    DRAWN,
    {"per_sample_gradient": loss_gradients},
    **NAMES,
)


def cases():
    for function in (chain, arrowed, losses, mean_loss):
        for operator in function.derivatives:
            for mode in registry.modes_of(operator):
                new = operator != "jacobian" or mode.workloads
                if function is chain and mode.name.startswith("sparse_mixed"):
                    # Passes in one direction are as few.
                    continue
                if new and mode.name not in ("forward", "manual") and not mode.opt_in:
                    # The gate, below, has all others in both.
                    for dtype in DTYPES if mode.workloads else ["float64"]:
                        words = (operator, function.name, mode.name, dtype)
                        yield pytest.param(function, mode, operator, dtype, id="-".join(words))


@pytest.mark.parametrize(("function", "mode", "operator", "dtype"), list(cases()))
def test_a_mode_gives_the_derivative(function, mode, operator, dtype, monkeypatch):
    monkeypatch.setattr("gradbench.modes.chunked.CHUNK_BYTES", 1)
    dtype, tolerance = DTYPES[dtype]
    check(mode, problem_of(function, operator, dtype), tolerance)


FUNCTIONS = (chain, arrowed, choosing, losses, mean_loss)


def gate_of(function, operator, dtype="float32"):
    problem, timed = pose(function, operator, None, dtype, "cpu", 0)
    return Gate(problem, timed, [draw(problem, function.example_size, 1)])


def finding(function, operator, call, leaves=False, dtype="float32"):
    """The gate's finding on a call that is no mode of the registry."""
    name = "planted"

    @registry.mode(operator, name=name, leaves=leaves)
    def build(problem):
        return call

    try:
        return gate_of(function, operator, dtype).enter(name, call, leaves).check([0], True)
    finally:
        del registry.MODES[operator, name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "operator"),
    [(chain, "jacobian_sparse"), (chain, "gauss_newton_product"), (losses, "per_sample_gradient"),
     (mean_loss, "per_sample_gradient"), (choosing, "jacobian_sparse"),
     (arrowed, "jacobian_sparse")],
)  # fmt: skip
def test_every_mode_passes_the_gate(function, operator, dtype):
    gate, tried = gate_of(function, operator, dtype), 0
    for mode in registry.modes_of(operator):
        if mode.opt_in or mode.workloads:
            continue
        try:
            call = mode.build(gate.problem)
        except Unsupported:
            continue
        if (function.name, mode.name) == ("choosing", "sparse_linearize"):
            # Tracing does not see through a branch.
            continue
        assert gate.enter(mode.name, call, mode.leaves).check([0], True).reason == "", mode.name
        tried += 1
    assert tried >= 8


@pytest.fixture(scope="module", autouse=True)
def _imported_is_no_garbage():
    """Readings of memory collect garbage, which takes long among all that torch has loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def few_draws(monkeypatch):
    """Refusals take every level of Monte Carlo arithmetic: two draws of each will do."""
    monkeypatch.setattr(allowance, "LEVELS", (allowance.Level(2), allowance.Level(2, last=True)))


def edited(change):
    """The sparse jacobian by x, with its places and values changed, and by u as it is."""

    def call(inputs):
        by_x, by_u = (b.coalesce() for b in chained_jacobian(*inputs))
        places, values = change(by_x.indices().clone(), by_x.values().clone())
        return torch.sparse_coo_tensor(places, values, by_x.shape, check_invariants=False), by_u

    return call


def dropped(places, values):
    return places[:, 1:], values[1:]


def added(places, values):
    return torch.cat((places, torch.tensor([[1], [0], [3]])), 1), torch.cat((values, values[:1]))


def off(places, values):
    values[4] *= 1.001
    return places, values


def moved(places, values):
    places[2] = places[2].flip(0)
    return places, values


@pytest.mark.parametrize(
    ("change", "reason"),
    [(dropped, "by x"), (added, "where the derivative is zero"), (off, "by x"), (moved, "by x")],
)
@pytest.mark.usefixtures("few_draws")
def test_a_wrong_sparse_jacobian_is_refused(change, reason):
    assert reason in finding(chain, "jacobian_sparse", edited(change)).reason


def test_how_a_sparse_jacobian_is_stored_is_free_but_not_its_layout():
    def halves(places, values):
        return torch.cat((places, places), 1), torch.cat((values, values)) / 2

    assert finding(chain, "jacobian_sparse", edited(halves)).passed
    dense = CHAIN["jacobian"]
    said = finding(chain, "jacobian_sparse", lambda inputs: dense(*inputs)).reason
    assert "layout torch.strided instead of torch.sparse_coo" in said
    whole = finding(chain, "jacobian", lambda inputs: chained_jacobian(*inputs)).reason
    assert "layout torch.sparse_coo instead of torch.strided" in whole


@pytest.mark.parametrize(
    ("function", "operator", "wrong"),
    [
        (chain, "gauss_newton_product", lambda blocks: (2 * blocks[0], blocks[1])),
        (chain, "gauss_newton_product", lambda blocks: (blocks[0], blocks[1].flip(0))),
        (losses, "per_sample_gradient", lambda blocks: (blocks[0] / 5, blocks[1] / 5)),
        (losses, "per_sample_gradient", lambda blocks: (blocks[0].flip(0), blocks[1])),
        (mean_loss, "per_sample_gradient", lambda blocks: (blocks[0] / 5, blocks[1] / 5)),
        (mean_loss, "per_sample_gradient",
         lambda blocks: (blocks[0].mean(0).expand_as(blocks[0]), blocks[1])),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("few_draws")
def test_a_wrong_product_or_gradient_is_refused(function, operator, wrong):
    formula = function.derivatives[operator]

    def call(inputs, *seed):
        return wrong(formula(*seed, *inputs))

    assert "times the error allowed" in finding(function, operator, call).reason


def test_a_pattern_of_one_branch_is_not_believed_in_the_other():
    problem = problem_of(choosing, "jacobian_sparse", torch.float64)
    for name in ("sparse_rows", "sparse_rows_loop", "sparse_columns", "sparse_columns_loop"):
        mode = registry.MODES["jacobian_sparse", name]
        call = mode.build(problem)
        x = choosing.example()[0]
        right = choosing.derivatives["jacobian_sparse"](x)
        (block,) = call((x.clone().requires_grad_(mode.leaves),))
        torch.testing.assert_close(block.to_dense(), right.to_dense())
        with pytest.raises(RuntimeError, match="near another input"):
            call(((-x).requires_grad_(mode.leaves),))


def test_what_a_pattern_declares_is_taken(monkeypatch):
    monkeypatch.setattr(sparsity, "trace", None)
    declared = one(
        "declared", lambda x: x**2, lambda size, g: (normal(g, 6),),
        {"jacobian_sparse": lambda x: torch.diag(2 * x).to_sparse()},
        pattern=lambda shapes: (torch.arange(6), torch.arange(6)),
    )  # fmt: skip
    found = sparsity.sparsity(problem_of(declared, "jacobian_sparse", torch.float64))
    assert (found.kind, found.passes) == ("diagonal", (1, 1))


def test_full_rows_and_columns_take_passes_of_both_directions():
    problem = problem_of(arrowed, "jacobian_sparse", torch.float64)
    modes = registry.modes_of("jacobian_sparse")
    counts = {mode.name: mode.passes(problem).number for mode in modes if mode.passes}
    assert (counts["sparse_rows"], counts["sparse_columns"]) == (9, 10)
    assert counts["sparse_mixed"] == counts["sparse_mixed_loop"] == 4
    with pytest.raises(Unsupported, match="as few"):
        registry.MODES["jacobian_sparse", "sparse_mixed"].build(
            problem_of(chain, "jacobian_sparse", torch.float64)
        )


def test_a_dense_jacobian_has_no_sparse_ways_but_those_through_a_dense_one():
    full = one(
        "full", lambda x: x.sum() * x, lambda size, g: (normal(g, 4),),
        {"jacobian_sparse": lambda x: torch.func.jacrev(lambda x: x.sum() * x)(x).to_sparse()},
    )  # fmt: skip
    problem = problem_of(full, "jacobian_sparse", torch.float64)
    # 16 numbers, with two indices each.
    assert problem.result_numel == 16 * 3
    through = "dense_to_sparse", "jacrev_to_sparse", "jacfwd_to_sparse"
    for mode in registry.modes_of("jacobian_sparse"):
        if mode.name in through:
            check(mode, problem, 1e-10)
        elif mode.name.startswith("sparse_"):
            with pytest.raises(Unsupported, match="no entry of its jacobian is always zero"):
                mode.build(problem)


def test_the_memory_of_a_sparse_jacobian_is_that_of_its_entries():
    def neighbours(x):
        return 4 * x - sum(x.roll(k) for k in (-2, -1, 1, 2)) + x**3

    peaks = {}
    for n in (500, 2_000):
        ring = one(f"ring{n}", neighbours, lambda size, g, n=n: (normal(g, n),), {})
        problem = problem_of(ring, "jacobian_sparse", torch.float32)
        entries = 5 * n
        assert problem.result_numel == entries * (1 + 2 * 8 // 4)
        for name in ("sparse_rows_loop", "sparse_columns"):
            mode = registry.MODES["jacobian_sparse", name]
            assert mode.numbers_at_peak(problem) < 40 * entries
            x = ring.example()[0].float().requires_grad_(mode.leaves)
            peaks[n, name] = peak_memory.on_cpu(mode.build(problem), ((x,),)) / entries
    for name in ("sparse_rows_loop", "sparse_columns"):
        assert peaks[2_000, name] == pytest.approx(peaks[500, name], rel=0.1)
        assert peaks[2_000, name] < 40


# Checkpoints

DEPTH, WIDTH = 9, 8


def deep(x, *weights):
    for weight in weights:
        x = torch.tanh(x @ weight)
    return x.square().sum()


def deep_steps(x, *weights):
    steps = [lambda h, weight=weight: torch.tanh(h @ weight) for weight in weights]
    return x, [*steps, lambda h: h.square().sum()]


WEIGHTS = tuple(f"w{i}" for i in range(DEPTH))
stack = one(
    "stack",
    deep,
    lambda size, g: (
        normal(g, 256, WIDTH),
        *(normal(g, WIDTH, WIDTH) / WIDTH**0.5 for _ in WEIGHTS),
    ),
    {"gradient": lambda *inputs: torch.func.grad(deep, tuple(range(DEPTH + 1)))(*inputs)},
    inputs=("x", *WEIGHTS),
    steps=deep_steps,
)


def peak_of(problem, name, inputs):
    mode = registry.MODES["gradient", name]
    given = tuple(x.clone().requires_grad_(mode.leaves) for x in inputs)
    return peak_memory.on_cpu(mode.build(problem), (given,))


def test_checkpoints_give_the_gradient_for_less_memory():
    problem = problem_of(stack, "gradient", torch.float64)
    check(registry.MODES["gradient", "checkpointed_steps"], problem, 1e-10)
    inputs = stack.example()
    saved, whole = (peak_of(problem, name, inputs) for name in ("checkpointed_steps", "grad"))
    # Three segments of three or four layers keep fewer than ten activations.
    assert saved < 0.75 * whole
    with pytest.raises(Unsupported, match="steps"):
        registry.MODES["gradient", "checkpointed_steps"].build(
            problem_of(losses, "per_sample_gradient", torch.float64)
        )


class Stacked(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        layers = [
            torch.nn.Sequential(
                torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh()
            )
            for _ in range(6)
        ]
        self.layers = kind(*layers) if kind is torch.nn.Sequential else kind(layers)
        self.whole = kind is torch.nn.Sequential

    def forward(self, x):
        if self.whole:
            return self.layers(x)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [torch.nn.Sequential, torch.nn.ModuleList])
def test_layers_of_modules_are_checkpointed_with_the_parameters_of_the_call(kind):
    model = Stacked(kind).double()
    names = [name for name, _ in model.named_parameters()]

    def loss(x, *parameters):
        swapped = dict(zip(names, parameters))
        return torch.func.functional_call(model, swapped, (x,)).square().sum()

    def drawn(size, g):
        return (normal(g, 256, 8), *(0.3 * normal(g, *p.shape) for p in model.parameters()))

    n = len(names) + 1
    function = one(
        "modules", loss, drawn,
        {"gradient": lambda *inputs: torch.func.grad(loss, tuple(range(n)))(*inputs)},
        inputs=("x", *(name.replace(".", "_") for name in names)),
    )  # fmt: skip
    problem = problem_of(function, "gradient", torch.float64)
    call = torch.nn.Module.__call__
    check(registry.MODES["gradient", "checkpointed_grad"], problem, 1e-10)
    assert torch.nn.Module.__call__ is call
    inputs = function.example()
    saved, whole = (peak_of(problem, name, inputs) for name in ("checkpointed_grad", "grad"))
    assert saved < 0.8 * whole


def test_a_function_without_layers_has_no_checkpoints():
    problem = problem_of(stack, "gradient", torch.float64)
    with pytest.raises(Unsupported, match="calls no layers"):
        registry.MODES["gradient", "checkpointed_grad"].build(problem)(stack.example())


# Chunks


def test_a_chunk_takes_what_fits(monkeypatch):
    from gradbench.modes import chunked

    x = torch.zeros(100)
    saved = chunked.bytes_of_a_pass(lambda x: torch.sin(torch.exp(x)), (x,))
    # exp saves its result and sin its argument, beside the value and the input.
    assert saved == 4 * 400
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 10 * saved)
    assert chunked.fitting(lambda x: torch.sin(torch.exp(x)), (x,)) == 10


def test_chunks_are_for_what_does_not_fit_at_once():
    problem = problem_of(chain, "jacobian", torch.float64)
    for name in ("jacrev_by_memory", "jacfwd_by_memory"):
        with pytest.raises(Unsupported, match="fit at once"):
            registry.MODES["jacobian", name].build(problem)(chain.example())


def test_modes_for_workloads_are_measured_for_small_functions_on_request_alone():
    from gradbench.worker.offers import offer

    notebook = registry.FUNCTIONS["affine"]
    there = offer(notebook, "jacobian")
    assert "linearize_vmap" in there.opt_in
    selections = {
        "asked": Selection(modes=("linearize_vmap",)),
        "compiled": Selection(compiled=True),
        "all": Selection(),
    }
    has = {
        name: any("linearize_vmap" in entry.modes for entry in expand([there], selection))
        for name, selection in selections.items()
    }
    assert has == {"asked": True, "compiled": False, "all": False}
    assert "linearize_vmap" not in there.modes
    assert "linearize_vmap" in offer(chain, "jacobian").modes


# Functions of the user's

SUBJECTS = Path(__file__).parent / "suites" / "subjects.py"


def looked_at(name, inputs, tmp_path, wrt=(), operator="", limit=4 << 30):
    return probe(
        {
            "target": f"{SUBJECTS}:{name}", "inputs": inputs, "wrt": wrt, "dtype": "float64",
            "memory_limit": limit, "seed": 0, "passed": "", "maker": "", "also": [],
            "device": "cpu", "pattern": str(tmp_path / "pattern.pt"), "operator": operator,
            "definition": "differences", "identify": False,
        }
    )  # fmt: skip


def pasted(code):
    """What there is where code was pasted beside the subjects."""
    room = {}
    sys.path.insert(0, str(SUBJECTS.parent))
    try:
        exec(code, room)
    finally:
        sys.path.remove(str(SUBJECTS.parent))
    return room


def test_a_jacobian_too_large_to_be_dense_is_measured_as_a_sparse_one(tmp_path):
    found = looked_at("neighbours", [("x", "randn(400)")], tmp_path, limit=1 << 20)
    assert found["operators"][:2] == ["jacobian_sparse", "jacobian"]
    assert "(jacobian_sparse)" in found["refusals"]["jacobian"]
    assert found["passes"]["sparse_rows"] == (5, True)
    assert found["passes"]["dense_to_sparse"] == (400, False)
    room = pasted(found["code"]["sparse_columns"])
    x = torch.randn(400, dtype=torch.float64)
    block = room["jacobian_sparse"](x)
    assert block._nnz() == 2000
    right = torch.func.jacrev(room["neighbours"])(x)
    torch.testing.assert_close(block.to_dense(), right)


def test_an_arrow_is_sparse_too(tmp_path):
    found = looked_at("arrow", [("x", "randn(40)")], tmp_path, operator="jacobian_sparse")
    assert found["passes"]["sparse_mixed"] == (3, True)
    room = pasted(found["code"]["sparse_mixed"])
    x = torch.randn(40, dtype=torch.float64)
    right = torch.func.jacrev(room["arrow"])(x)
    torch.testing.assert_close(room["jacobian_sparse"](x).to_dense(), right)


@pytest.mark.parametrize(
    ("name", "operator"), [("mean_loss", "per_sample_gradient"), ("sample_losses", "")]
)
def test_gradients_per_sample_are_for_functions_of_independent_samples(name, operator, tmp_path):
    inputs = [("w", "randn(3, 2)"), ("x", "randn(4, 3)"), ("labels", "tensor([0, 1, 1, 0])")]
    found = looked_at(name, inputs, tmp_path, ("w",), operator)
    assert "per_sample_gradient" in found["operators"]
    assert any("per sample" in said for said in found["structure"])


def test_a_function_of_the_whole_batch_has_no_gradients_per_sample(tmp_path):
    inputs = [("w", "randn(3)"), ("x", "randn(4, 3)")]
    found = looked_at("spread", inputs, tmp_path, ("w",), "per_sample_gradient")
    assert "per_sample_gradient" not in found["operators"]


def registered(name, inputs, operator, wrt=()):
    """The gate on a function of the user's, as the measuring process makes it."""
    subject = Subject(
        {"target": f"{SUBJECTS}:{name}", "inputs": inputs, "wrt": wrt, "dtype": "float32",
         "seed": 0, "passed": "", "maker": "", "also": ()}
    )  # fmt: skip
    with subject.wide:
        found = Known()
        if operator == "jacobian_sparse":
            found = known(subject, structure(subject), Deadline(60))
    function = declare(subject, name, [operator], found, True)
    problem, timed = pose(function, operator, None, "float32", "cpu", 0)
    return Gate(problem, timed, [draw(problem, {}, 1)])


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    ("name", "inputs", "operator", "wrt"),
    [
        ("neighbours", [("x", "randn(50)")], "jacobian_sparse", ()),
        ("arrow", [("x", "randn(50)")], "jacobian_sparse", ()),
        ("neighbours", [("x", "randn(50)")], "gauss_newton_product", ()),
        ("mean_loss", [("w", "randn(3, 2)"), ("x", "randn(4, 3)"),
                       ("labels", "tensor([0, 1, 1, 0])")], "per_sample_gradient", ("w",)),
        ("sample_losses", [("w", "randn(3, 2)"), ("x", "randn(4, 3)"),
                           ("labels", "tensor([0, 1, 1, 0])")], "per_sample_gradient", ("w",)),
    ],
)  # fmt: skip
def test_modes_of_a_users_function_pass_the_gate_and_wrong_ones_do_not(
    name, inputs, operator, wrt, monkeypatch
):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    monkeypatch.setattr(registry, "MODES", dict(registry.MODES))
    gate = registered(name, inputs, operator, wrt)
    first = OPERATORS[operator].first
    modes = [registry.MODES[operator, first], registry.modes_of(operator)[5]]
    if name == "arrow":
        modes += [m for m in registry.modes_of(operator) if m.name.startswith("sparse_mixed")]
    for mode in modes:
        call = mode.build(gate.problem)
        assert gate.enter(mode.name, call, mode.leaves).check([0], True).reason == ""
    usual = registry.MODES[operator, first]
    right = usual.build(gate.problem)

    @registry.mode(operator, name="planted", leaves=usual.leaves)
    def planted(problem):
        return lambda *arguments: tuple(1.01 * block for block in as_tuple(right(*arguments)))

    contestant = gate.enter("planted", planted(gate.problem), usual.leaves)
    assert "times the error allowed" in contestant.check([0], True).reason


def test_an_operator_has_a_name_for_sentences():
    assert OPERATORS["jacobian_sparse"].words == "sparse jacobian"
    assert OPERATORS["per_sample_gradient"].words == "per sample gradient"


def test_advice_does_not_list_modes_that_have_nothing_to_do():
    reasons = {"jacrev_by_memory": NOT_NEEDED + "all outputs fit", "jacfwd": "no rule"}
    rows = [
        SimpleNamespace(seconds=None, reason=why, interference="", status="unsupported", mode=name)
        for name, why in reasons.items()
    ]
    assert statuses(rows) == ["jacfwd: unsupported: no rule"]
