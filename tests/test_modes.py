"""Every mode of every operator against the analytic derivative, on functions of every kind."""

import itertools
import math
import re

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from gradbench.core.operators import LEARNING_RATE, OPERATORS
from gradbench.modes.capability import not_recordable, own_rule, unsupported_reason
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.function import Function, as_tuple, normal, uniform
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem, draw_seed
from gradbench.worker.gate import Gate

registry.load_builtin()

DTYPES = {"float64": (torch.float64, 1e-10), "float32": (torch.float32, 1e-4)}

REQUIRED = {
    "derivative": """backward grad functional_jacobian functional_jacobian_vectorized functional_vjp
        func_grad func_vjp jacrev jacfwd functional_forward forward_loop loop_jvp compiled_grad""",
    "gradient": """manual_materialised backward grad functional_jacobian functional_vjp
        functional_jacobian_vectorized func_grad func_vjp jacrev jacfwd functional_forward
        forward_loop loop_jvp compiled_grad compiled_backward""",
    "jacobian": """loop_grad loop_backward functional_jacobian functional_jacobian_vectorized
        functional_forward grads_batched jacrev jacrev_chunked jacfwd loop_jvp forward_loop
        compiled_jacrev compiled_jacfwd""",
    "batch_jacobian": """loop_grad loop_backward grads_batched vmap_jacrev vmap_jacfwd
        functional_of_sum jacrev_of_sum naive_full naive_loop compiled_vmap_jacrev""",
    "diagonal": """ones_backward ones_grad ones_jvp ones_dual vmap_grad dense_diagonal
        compiled_ones_vjp""",
    "vjp": """manual_materialised numpy_explicit backward grad functional_vjp func_vjp
        compiled_vjp compiled_backward""",
    "vjp_sum": """accumulated_backward summed_backward summed_grad accumulated_grad grads_batched
        summed_func_vjp vmap_func_vjp compiled_summed_vjp""",
    "jvp": "func_jvp functional_jvp dual double_backward linearize compiled_jvp",
    "hessian": """grad_twice grad_twice_batched functional_hessian functional_hessian_vectorized
        functional_hessian_forward func_hessian jacrev_jacrev jacfwd_jacfwd jacrev_jacfwd
        compiled_hessian""",
    "batch_hessian": """grad_twice grad_twice_batched vmap_hessian vmap_jacrev_jacrev
        vmap_jacfwd_jacfwd vmap_jacrev_jacfwd jacrev_of_sum naive_full
        compiled_vmap_jacrev_jacrev""",
    "hvp": """grad_twice forward_over_reverse reverse_over_forward reverse_over_reverse
        dual_over_grad functional_hvp functional_vhp compiled_hvp""",
    "hessian_diagonal": """grad_twice grad_twice_batched func_hessian functional_hessian
        loop_jvp_grad vmap_jvp_grad vmap_grad_jvp loop_nested_jvp vmap_nested_jvp
        loop_dual_over_grad loop_functional_hvp loop_functional_vhp compiled_vmap_jvp_grad""",
    "laplacian": """grad_twice grad_twice_batched func_hessian functional_hessian
        loop_jvp_grad vmap_jvp_grad vmap_grad_jvp loop_nested_jvp vmap_nested_jvp
        loop_dual_over_grad loop_functional_hvp loop_functional_vhp compiled_vmap_nested_jvp""",
    "directional_second_derivative": """grad_twice line_grad_twice nested_jvp
        forward_over_reverse reverse_over_forward functional_hvp functional_vhp dense_hessian
        compiled_nested_jvp""",
    "laplacian_estimate": """grad_twice grad_twice_batched loop_nested_jvp vmap_nested_jvp
        vmap_jvp_grad compiled_vmap_nested_jvp""",
    "vhp": """functional_vhp grad_twice forward_over_reverse reverse_over_forward
        reverse_over_reverse dual_over_grad functional_hvp compiled_hvp""",
    "jacobian_sparse": """dense_to_sparse jacrev_to_sparse jacfwd_to_sparse sparse_rows
        sparse_rows_batched sparse_rows_loop sparse_columns sparse_columns_loop
        sparse_linearize sparse_mixed sparse_mixed_loop""",
    "gauss_newton_product": """jvp_vjp dual_grad dual_then_grad linearize_vjp double_backward
        vjp_of_vjp functional_products dense_functional dense_jacrev dense_jacfwd dense_gram
        compiled_jvp_vjp""",
    "per_sample_gradient": """loop_grad loop_backward loop_func_grad loop_functional_call vmap_grad
        vmap_functional_call vmap_grad_by_memory vmap_jacrev expanded_grad loop_rows grads_batched
        jacrev jacfwd functional_jacobian compiled_vmap_grad""",
    "training_step": "backward_step grad_step functional_call_step compiled_step",
}


def one(name, forward, draw, derivatives, **fields):
    """A function without sizes: the tests draw its inputs themselves."""
    return Function(
        name=name,
        document="",
        formula="",
        derivative="",
        forward=forward,
        example=lambda: draw({}, torch.Generator().manual_seed(0)),
        example_size={},
        draw=draw,
        derivatives=derivatives,
        **fields,
    )


# R → R: x ↦ x³

cube = one(
    "cube",
    lambda x: x**3,
    lambda size, g: (normal(g),),
    {
        "derivative": lambda x: 3 * x**2,
        "vjp": lambda v, x: 3 * x**2 * v,
        "jvp": lambda t, x: 3 * x**2 * t[0],
        "hessian": lambda x: 6 * x,
        "hvp": lambda t, x: 6 * x * t[0],
    },
)

# Several inputs, one of them a number that enters linearly, and a constant:
# (x, W, b; c) ↦ b + Σᵢ cᵢ (Wx)ᵢ²


def weighted_gradient(x, W, b, c):
    p = 2 * c * (W @ x)
    return W.T @ p, torch.outer(p, x), torch.ones_like(b)


def weighted_hessian(x, W, b, c):
    p, k = 2 * c * (W @ x), 2 * c
    xx = W.T @ torch.diag(k) @ W
    xW = torch.einsum("ia,b->aib", k[:, None] * W, x) + torch.einsum(
        "i,ab->aib", p, torch.eye(len(x), dtype=x.dtype)
    )
    WW = torch.einsum("ij,a,b->iajb", torch.diag(k), x, x)
    xb, Wb = torch.zeros_like(x), torch.zeros_like(W)
    return xx, xW, xb, xW.permute(1, 2, 0), WW, Wb, xb, Wb, torch.zeros_like(b)


def weighted_hvp(t, *inputs):
    blocks, n = weighted_hessian(*inputs), len(t)
    return tuple(
        sum(
            (block * s).flatten(block.dim() - s.dim()).sum(-1) if s.dim() else block * s
            for block, s in zip(blocks[i * n : (i + 1) * n], t)
        )
        for i in range(n)
    )


weighted = one(
    "weighted",
    lambda x, W, b, c: b + (c * (W @ x) ** 2).sum(),
    lambda size, g: (normal(g, 3), normal(g, 2, 3), normal(g), normal(g, 2)),
    {
        "gradient": weighted_gradient,
        "vjp": lambda v, *inputs: tuple(v * g for g in weighted_gradient(*inputs)),
        "jvp": lambda t, *inputs: sum((g * s).sum() for g, s in zip(weighted_gradient(*inputs), t)),
        "hessian": weighted_hessian,
        "hvp": weighted_hvp,
    },
    inputs=("x", "W", "b", "c"),
    constants=("c",),
)

# A linear map, whose second derivatives are zero and whose gradient has no graph.

total = one(
    "total",
    lambda x: sum(x),
    lambda size, g: (normal(g, 3),),
    {
        "gradient": torch.ones_like,
        "hessian": lambda x: x.new_zeros(3, 3),
        "hvp": lambda t, x: torch.zeros_like(x),
    },
)

# An input that the value does not depend on.

ignoring = one(
    "ignoring",
    lambda x, u: (x**2).sum(),
    lambda size, g: (normal(g, 3), normal(g, 2)),
    {
        "gradient": lambda x, u: (2 * x, torch.zeros_like(u)),
        "jvp": lambda t, x, u: (2 * x * t[0]).sum(),
        "hessian": lambda x, u: (
            2 * torch.eye(3, dtype=x.dtype),
            x.new_zeros(3, 2),
            x.new_zeros(2, 3),
            x.new_zeros(2, 2),
        ),
        "hvp": lambda t, x, u: (2 * t[0], torch.zeros_like(u)),
    },
    inputs=("x", "u"),
)

# A vector of several inputs and a constant: (x, W, u; c) ↦ c ∘ Wx, which u has no part in.


def scaled_vjp(v, x, W, u, c):
    return W.T @ (c * v), torch.outer(c * v, x), torch.zeros_like(u)


scaled = one(
    "scaled",
    lambda x, W, u, c: c * (W @ x),
    lambda size, g: (normal(g, 3), normal(g, 2, 3), normal(g), normal(g, 2)),
    {
        "jacobian": lambda x, W, u, c: (
            c[:, None] * W,
            torch.einsum("ij,b->ijb", torch.diag(c), x),
            torch.zeros_like(c),
        ),
        "vjp": scaled_vjp,
        "vjp_sum": lambda seeds, *inputs: scaled_vjp(seeds.sum(0), *inputs),
        "jvp": lambda t, x, W, u, c: c * (W @ t[0] + t[1] @ x),
    },
    inputs=("x", "W", "u", "c"),
    constants=("c",),
)

# Elementwise on a matrix, with a constant of its shape and one that all entries share.

elementwise = one(
    "elementwise",
    lambda x, c, s: s * c * x**3,
    lambda size, g: (normal(g, 2, 3), normal(g, 2, 3), normal(g)),
    {"diagonal": lambda x, c, s: 3 * s * c * x**2},
    inputs=("x", "c", "s"),
    constants=("c", "s"),
)

elementwise_number = one(
    "elementwise_number",
    lambda x: x**3,
    lambda size, g: (normal(g),),
    {"diagonal": cube.derivatives["derivative"]},
)

# A batch, with a constant per sample and one that all share:
# (x; c, s) ↦ (s c x₁x₂, sin x₁, x₂²) per sample


def batched_jacobian(x, c, s):
    a, b = x.unbind(1)
    zero = torch.zeros_like(a)
    rows = ((s * c * b, s * c * a), (torch.cos(a), zero), (zero, 2 * b))
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


batched = one(
    "batched",
    lambda x, c, s: torch.stack((s * c * x[:, 0] * x[:, 1], torch.sin(x[:, 0]), x[:, 1] ** 2), 1),
    lambda size, g: (normal(g, 5, 2), normal(g, 5), normal(g)),
    {"batch_jacobian": batched_jacobian},
    inputs=("x", "c", "s"),
    constants=("c", "s"),
)

# A batch of two inputs with one value per sample: (x, y) ↦ x y₁² + y₂, of which y₂ is linear.


def paired_jacobian(x, y):
    return y[:, 0] ** 2, torch.stack((2 * x * y[:, 0], torch.ones_like(x)), 1)


def paired_hessian(x, y):
    zero = torch.zeros_like(x)
    xy = torch.stack((2 * y[:, 0], zero), 1)
    yy = torch.stack((torch.stack((2 * x, zero), 1), torch.stack((zero, zero), 1)), 1)
    return zero, xy, xy, yy


paired = one(
    "paired",
    lambda x, y: x * y[:, 0] ** 2 + y[:, 1],
    lambda size, g: (normal(g, 4), normal(g, 4, 2)),
    {"batch_jacobian": paired_jacobian, "batch_hessian": paired_hessian},
    inputs=("x", "y"),
)

linear_samples = one(
    "linear_samples",
    lambda x: 2 * x[:, 0] - x[:, 1],
    lambda size, g: (normal(g, 4, 2),),
    {"batch_hessian": lambda x: x.new_zeros(4, 2, 2)},
)

# Matrices as samples and as their values: x ↦ x², elementwise.


def squares_jacobian(x):
    eye = torch.eye(6, dtype=x.dtype).reshape(2, 3, 2, 3)
    return eye * (2 * x)[:, None, None]


matrices = one(
    "matrices",
    lambda x: x**2,
    lambda size, g: (normal(g, 4, 2, 3),),
    {"batch_jacobian": squares_jacobian},
)

# With a variant that forms the jacobian.


def softmax_vjp(v, x):
    a = torch.softmax(x, 0)
    return a * (v - (a * v).sum())


def softmax_jacobian(x):
    a = torch.softmax(x, 0)
    return torch.diag(a) - torch.outer(a, a)


softmax = one(
    "softmax",
    lambda x: torch.softmax(x, 0),
    lambda size, g: (normal(g, 4),),
    {"jacobian": softmax_jacobian, "vjp": softmax_vjp},
    variants={"vjp": {"manual_materialised": lambda v, x: softmax_jacobian(x) @ v}},
)

# A training step: the mean of (XW + b − Y)².


def regression_step(W, b, X, Y):
    slope = 2 * (X @ W + b - Y) / Y.numel()
    return W - LEARNING_RATE * X.T @ slope, b - LEARNING_RATE * slope.sum(0)


regression = one(
    "regression",
    lambda W, b, X, Y: ((X @ W + b - Y) ** 2).mean(),
    lambda size, g: (normal(g, 2, 3), normal(g, 3), normal(g, 5, 2), normal(g, 5, 3)),
    {"training_step": regression_step},
    inputs=("W", "b", "X", "Y"),
    constants=("X", "Y"),
)

# Data-dependent control flow, and writing in place, alone and in a batch.


def branch(x):
    return 2 * x if x.sum() > 0 else 3 * x


branching = one(
    "branching",
    branch,
    lambda size, g: (normal(g, 3),),
    {
        "jacobian": lambda x: torch.eye(3, dtype=x.dtype) * (2 if x.sum() > 0 else 3),
        "jvp": lambda t, x: t[0] * (2 if x.sum() > 0 else 3),
    },
)


def squares_in_place(x):
    y = torch.empty(x.shape, dtype=x.dtype)
    for i in range(x.shape[-1]):
        y[..., i] = x[..., i] ** 2
    return y


in_place = one(
    "in_place",
    squares_in_place,
    lambda size, g: (normal(g, 3),),
    {
        "jacobian": lambda x: torch.diag(2 * x),
        "vjp": lambda v, x: 2 * x * v,
        "vjp_sum": lambda seeds, x: 2 * x * seeds.sum(0),
        "jvp": lambda t, x: 2 * x * t[0],
    },
)

branching_batch = one(
    "branching_batch",
    lambda x: x**2 if x.sum() < math.inf else x,
    lambda size, g: (normal(g, 4, 2),),
    {"batch_jacobian": lambda x: torch.diag_embed(2 * x)},
)

in_place_batch = one(
    "in_place_batch",
    squares_in_place,
    lambda size, g: (uniform(g, 4, 2),),
    {"batch_jacobian": lambda x: torch.diag_embed(2 * x)},
)

FUNCTIONS = (
    cube, weighted, total, ignoring, scaled, elementwise, elementwise_number, batched, paired,
    linear_samples, matrices, softmax, regression, branching, in_place, branching_batch,
    in_place_batch,
)  # fmt: skip

# What torch cannot do, by the function and the mode; all else must work.
CANNOT = {
    ("branching", "linearize"): "tracing cannot",
    ("branching_batch", "vmap_jacrev"): "vmap cannot",
    ("branching_batch", "vmap_jacfwd"): "vmap cannot",
    ("in_place_batch", "vmap_jacrev"): "in place",
    ("in_place_batch", "vmap_jacfwd"): "in place",
}


def problem_of(function, operator, dtype):
    inputs = [x.to(dtype) for x in function.example()]
    shapes = tuple(tuple(x.shape) for x in inputs)
    output = tuple(function.forward(*inputs).shape)
    return Problem(function, operator, shapes, output, dtype, torch.device("cpu"))


def cast(value, dtype):
    if isinstance(value, tuple):
        return tuple(cast(part, dtype) for part in value)
    return value.to(dtype)


def drawn(problem, index):
    """Inputs in float64, and the seed in a tuple that is empty where the operator takes none."""
    generator = torch.Generator().manual_seed(index)
    inputs = problem.function.draw({}, generator)
    seed = draw_seed(problem, generator)
    return inputs, () if seed is None else (seed,)


def check(mode, problem, tolerance):
    """Builds the mode and calls it twice on the same inputs and once on others."""
    dtype = problem.dtype
    call = mode.build(problem)
    formula = problem.function.derivatives[problem.operator]
    for index in (1, 1, 2):
        inputs, seed = cast(drawn(problem, index), dtype)
        given = tuple(x.clone() for x in inputs)
        for x in given[: problem.differentiated]:
            x.requires_grad_(mode.leaves)
        result = as_tuple(call(given, *seed))

        expected = as_tuple(formula(*cast(seed, torch.float64), *cast(inputs, torch.float64)))
        assert tuple(tuple(block.shape) for block in expected) == problem.result
        assert tuple(tuple(block.shape) for block in result) == problem.result
        for block, right in zip(result, expected):
            assert block.dtype == dtype
            assert block.layout == right.layout
            assert not block.requires_grad
            values, wanted = (x.to_dense() for x in (block.double(), right))
            torch.testing.assert_close(values, wanted, rtol=tolerance, atol=tolerance)
        for i, (x, before) in enumerate(zip(given, inputs)):
            assert torch.equal(x.detach(), before)
            assert x.grad is None
            assert x.requires_grad == (mode.leaves and i < problem.differentiated)


def cases():
    for function in FUNCTIONS:
        for operator in function.derivatives:
            for mode in registry.modes_of(operator):
                if mode.name != "forward" and not mode.opt_in and not mode.workloads:
                    for dtype in DTYPES:
                        yield pytest.param(
                            function, mode, operator, dtype,
                            id=f"{operator}-{function.name}-{mode.name}-{dtype}",
                        )  # fmt: skip


@pytest.mark.parametrize(("function", "mode", "operator", "dtype"), list(cases()))
def test_a_mode_gives_the_derivative_and_leaves_its_inputs_alone(function, mode, operator, dtype):
    dtype, tolerance = DTYPES[dtype]
    problem = problem_of(function, operator, dtype)
    if mode.missing():
        pytest.skip(f"this torch lacks {mode.missing()}")
    if mode.name == "manual_materialised" and operator not in function.variants:
        with pytest.raises(Unsupported, match="no formula"):
            mode.build(problem)
        return
    if (operator, mode.name) == ("batch_jacobian", "ones_grad") and problem.output[1:] != ():
        with pytest.raises(Unsupported, match="not one number"):
            mode.build(problem)
        return
    reason = CANNOT.get((function.name, mode.name))
    if reason:
        with pytest.raises(RuntimeError) as caught:
            check(mode, problem, tolerance)
        assert reason in unsupported_reason(caught.value)
    else:
        check(mode, problem, tolerance)


class Tape:
    """Stands for a CUDA graph on the processor: makes the call again, into the memory of before."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def record(self, call):
        self.recorded += 1
        result = tuple(block.contiguous().clone() for block in call())

        def replay():
            self.replayed += 1
            for place, block in zip(result, call()):
                place.copy_(block)

        return result, replay


def graphed():
    for (operator, _), mode in registry.MODES.items():
        if mode.cuda:
            for function in FUNCTIONS:
                if operator in function.derivatives:
                    yield pytest.param(
                        function, mode, operator, id=f"{operator}-{function.name}-{mode.name}"
                    )


@pytest.mark.parametrize(("function", "mode", "operator"), list(graphed()))
def test_a_replayed_mode_takes_new_inputs_and_keeps_its_results_apart(
    function, mode, operator, monkeypatch
):
    tape = Tape()
    monkeypatch.setattr("gradbench.modes.graphed.recorder", lambda problem: tape)
    # Calls that took long, on a busy machine, would be checked with fewer repeats.
    monkeypatch.setattr("gradbench.worker.contestant.CLOCK", itertools.count().__next__)
    problem, timed = pose(function, operator, None, "float64", "cpu", 0)
    fresh = [draw(problem, function.example_size, seed) for seed in (1, 2)]
    try:
        call = mode.build(problem)
        contestant = Gate(problem, timed, fresh).enter(mode.name, call, mode.leaves)
        assert contestant.check([0, 1]).reason == ""
    except Exception as error:
        if not (isinstance(error, Unsupported) or unsupported_reason(error)):
            raise
        return
    assert (tape.recorded, tape.replayed) == (1, 4)
    first = as_tuple(call(*contestant.arguments))
    kept = [block.clone() for block in first]
    call(*contestant.gate.deliver(fresh[0], mode.leaves))
    assert all(torch.equal(block, before) for block, before in zip(first, kept))


def test_a_graph_needs_a_cuda_device_and_says_what_it_cannot_hold():
    problem = problem_of(softmax, "vjp", torch.float32)
    with pytest.raises(Unsupported, match="recorded on CUDA devices"):
        registry.MODES["vjp", "graphed_grad"].build(problem)
    try:
        try:
            raise RuntimeError(
                "CUDA error: operation not permitted when stream is capturing\nfor debugging"
            )
        except RuntimeError:
            raise RuntimeError("CUDA error: previous error during capture")  # noqa: B904
    except RuntimeError as error:
        said = not_recordable(error)
    assert said.endswith("waits for the device: operation not permitted when stream is capturing")
    assert not_recordable(RuntimeError("CUDA error: an illegal memory access")) is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_its_modes_in_order(operator):
    modes = registry.modes_of(operator)
    names = [mode.name for mode in modes]
    assert names[:2] == ["forward", "manual"]
    assert set(REQUIRED[operator].split()) <= set(names)
    assert OPERATORS[operator].first in names
    opt_in = [mode.opt_in for mode in modes]
    assert opt_in == sorted(opt_in)
    assert all(mode.opt_in == mode.name.startswith(("compiled_", "graphed_")) for mode in modes)
    for mode in modes:
        assert mode.summary, mode.name
        assert "def " in mode.source()


def test_what_the_documents_use_comes_before_what_is_added():
    names = [mode.name for mode in registry.modes_of("jacobian")]
    shown = ["forward", "manual", "functional_jacobian", "loop_grad", "loop_backward", "jacrev"]
    assert sorted(shown, key=names.index) == shown


def test_forward_evaluates_the_function():
    for function in FUNCTIONS:
        for operator in function.derivatives:
            problem = problem_of(function, operator, torch.float64)
            inputs, seed = drawn(problem, 1)
            value = registry.MODES[operator, "forward"].build(problem)(inputs, *seed)
            assert torch.equal(value, function.forward(*inputs))


def test_every_variant_of_the_catalogue_has_a_mode():
    for function in registry.FUNCTIONS.values():
        for operator, variants in function.variants.items():
            for name in variants:
                assert (operator, name) in registry.MODES


def test_numpy_explicit_says_what_it_cannot_do():
    mode = registry.MODES["vjp", "numpy_explicit"]
    with pytest.raises(Unsupported, match="NumPy"):
        mode.build(problem_of(softmax, "vjp", torch.bfloat16))
    no_jacobian = one("none", torch.sin, lambda size, g: (normal(g, 3),), {"vjp": None})
    with pytest.raises(Unsupported, match="no formula of its jacobian"):
        mode.build(problem_of(no_jacobian, "vjp", torch.float64))


def test_memory_is_estimated_before_anything_is_allocated():
    def peak(operator, name, function):
        mode = registry.MODES[operator, name]
        return mode.numbers_at_peak(problem_of(function, operator, torch.float64))

    # 5 samples of 3 values by 2 inputs: 30 numbers, and 150 with the zeros between samples.
    assert peak("batch_jacobian", "loop_grad", batched) == 3 * 30
    assert peak("batch_jacobian", "naive_full", batched) == 3 * 150
    assert peak("diagonal", "ones_grad", elementwise) == 3 * 6
    assert peak("diagonal", "dense_diagonal", elementwise) == 3 * 6 * 6
    # 2 outputs by 3 + 6 + 1 coordinates, and one-hot seeds or tangents.
    assert peak("jacobian", "jacrev", scaled) == 3 * 20 + 2**2
    assert peak("jacobian", "jacfwd", scaled) == 3 * 20 + 10**2
    assert peak("jacobian", "jacrev_chunked", scaled) == 2 * 20 + 2 * (2 + 10)
    # The same where the whole jacobian is a step to something smaller.
    for operator, by_rows, by_columns in (
        ("gauss_newton_product", "dense_jacrev", "dense_jacfwd"),
        ("jacobian_sparse", "jacrev_to_sparse", "jacfwd_to_sparse"),
    ):
        assert peak(operator, by_rows, scaled) == 3 * 20 + 2**2
        assert peak(operator, by_columns, scaled) == 3 * 20 + 10**2


# Compiling takes seconds, so a few modes stand for all: they share what compiles them.
@pytest.mark.parametrize(
    ("operator", "name", "function"),
    [
        ("gradient", "compiled_grad", weighted),
        ("vjp", "compiled_backward", cube),
        ("jvp", "compiled_jvp", scaled),
    ],
)
def test_a_compiled_mode_is_compiled_and_gives_the_derivative(operator, name, function):
    from torch._dynamo.utils import counters

    counters.clear()
    try:
        check(registry.MODES[operator, name], problem_of(function, operator, torch.float32), 1e-4)
    except RuntimeError as error:
        if unsupported_reason(error) is None:
            raise
        pytest.skip(unsupported_reason(error))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_branch_on_a_value_cannot_be_compiled():
    problem = problem_of(branching, "jvp", torch.float32)
    with pytest.raises(RuntimeError) as caught:
        check(registry.MODES["jvp", "compiled_jvp"], problem, 1e-4)
    assert unsupported_reason(caught.value).startswith("torch.compile")


class Square(torch.autograd.Function):
    """A user's own function, without the parts that transforms and forward mode need."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def twice(f):
    x = torch.ones(3, requires_grad=True)
    (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    g.sum().backward()


def of_dual_numbers(f):
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(torch.ones(3), torch.ones(3)))


def of_many(f):
    return torch.func.vmap(f)(torch.ones(5, 3))


def of_jacrev(f):
    return torch.func.jacrev(f)(torch.ones(3))


def at_once(f):
    way = torch.autograd.functional.jacobian
    return way(f, torch.ones(3), strategy="forward-mode", vectorize=True)


outside = torch.zeros(3)
sparse = torch.eye(3).to_sparse()


def kernel(v):
    return torch.func.vjp(torch.sin, torch.ones(4))[1](v)[0]


@pytest.mark.parametrize(
    ("way", "f", "reason"),
    [
        (of_many, branch, "a tensor's value in Python"),
        (of_many, lambda x: x * x.sum().item(), "a tensor's value in Python"),
        (of_many, squares_in_place, "in place"),
        (of_many, lambda x: x[x > 0], "depends on values"),
        (of_many, lambda x: torch.masked_select(x, x > 0), "depends on values"),
        (of_many, lambda x: x * torch.rand(3), "random"),
        (of_jacrev, lambda x: outside.copy_(x) * 2, "in place"),
        (of_jacrev, lambda x: torch.from_numpy(x.detach().numpy()), "data out of a tensor"),
        (of_jacrev, Square.apply, "setup_context"),
        (of_jacrev, lambda x: checkpoint(torch.sin, x, use_reentrant=False), "by hooks"),
        (of_many, lambda x: torch.func.grad(kernel)(x[0]), "takes its input whole"),
        (at_once, lambda x: (x / x.norm()) @ (torch.ones(3, 3) * x) @ x, "scalar product"),
        (of_many, lambda x: torch.func.grad(lambda v: v * outside)(x[0]), "takes its input whole"),
        (of_jacrev, lambda x: torch.nested.as_nested_tensor([x, x]) * 2, "have no strides"),
        (of_jacrev, lambda x: torch.sparse.mm(sparse, x[:, None]).sum(), "by a sparse tensor"),
        (of_dual_numbers, Square.apply, "forward mode is not implemented"),
        (of_dual_numbers, lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1], "inside in forward"),
        (of_dual_numbers, lambda x: torch.cdist(x[:, None], x[:, None], p=3), "_cdist_forward"),
        (twice, lambda x: Square.apply(x) ** 2, "once only"),
        (twice, lambda x: torch.cdist(x[:, None], 2 * x[:, None], p=3), "derivative"),
    ],
)
def test_what_torch_cannot_do_is_told_in_one_line(way, f, reason):
    with pytest.raises(RuntimeError) as caught:
        way(f)
    told = unsupported_reason(caught.value)
    assert reason in told
    assert "\n" not in told


def _left_to_be_done(_):
    raise NotImplementedError("left to be done")


class LeftOut(torch.autograd.Function):
    """The sine, whose rules say that they are none, one of them by a helper."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return _left_to_be_done(g)

    @staticmethod
    def jvp(ctx, t):
        raise NotImplementedError

    @staticmethod
    def vmap(info, dims, x):
        raise NotImplementedError("no batches")


class Broken(LeftOut):
    """The same, whose rules have mistakes."""

    @staticmethod
    def backward(ctx, g):
        return g @ torch.ones(4, 4)

    @staticmethod
    def jvp(ctx, t):
        raise ValueError("no")

    @staticmethod
    def vmap(info, dims, x):
        return x.no_such_name


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (twice, r"backward raises NotImplementedError: left to be done"),
        (of_dual_numbers, r"jvp raises NotImplementedError$"),
        (of_many, r"vmap raises NotImplementedError: no batches"),
    ],
)
def test_a_rule_that_says_it_is_none_is_unsupported_and_a_mistake_in_it_a_failure(way, reason):
    with pytest.raises(NotImplementedError) as caught:
        way(LeftOut.apply)
    assert re.search(reason, unsupported_reason(caught.value))
    with pytest.raises((RuntimeError, ValueError, AttributeError)) as caught:
        way(Broken.apply)
    assert unsupported_reason(caught.value) is None
    assert own_rule(caught.value).rpartition(".")[2] in ("backward", "jvp", "vmap")


def test_a_function_that_is_not_implemented_is_a_failure():
    with pytest.raises(NotImplementedError) as caught:
        twice(_left_to_be_done)
    assert unsupported_reason(caught.value) is None


@pytest.mark.parametrize("way", [twice, of_dual_numbers, of_many, of_jacrev])
def test_a_bug_is_not_taken_for_a_lack_of_support(way):
    def wrong_shape(x):
        return x + torch.zeros(4)

    def wrong_type(x):
        return torch.zeros(3, 3, dtype=torch.int64) @ x

    def no_such_name(x):
        return x.no_such_name

    for f in (wrong_shape, wrong_type, no_such_name):
        with pytest.raises((RuntimeError, AttributeError)) as caught:
            way(f)
        assert unsupported_reason(caught.value) is None


def test_errors_that_are_not_torchs_are_failures():
    for error in (ValueError("vmap: data-dependent control flow"), KeyError("x"), MemoryError()):
        assert unsupported_reason(error) is None
