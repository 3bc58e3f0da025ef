"""Every formula of the catalogue against finite differences, and the form of every entry."""

from __future__ import annotations

import functools
import math

import mpmath
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradbench.core.cases import size_label
from gradbench.core.families import APPLICATIONS, NOTEBOOKS
from gradbench.core.operators import LEARNING_RATE, OPERATORS
from gradbench.problems import registry
from gradbench.problems.function import as_tuple
from gradbench.problems.operators import ACCUMULATED_SEEDS, Problem, draw_seed

registry.load_builtin()
FUNCTIONS = dict(registry.FUNCTIONS)

CATALOGUE = {
    # name: the documents' letters, the operators
    "sum": ("G", "gradient vjp jvp"),
    "mean": ("G", "gradient vjp jvp"),
    "exp": ("G", "diagonal jacobian vjp jvp"),
    "log": ("G", "diagonal jacobian vjp jvp"),
    "affine": ("G", "jacobian vjp jvp"),
    "affine_sum": ("G", "gradient vjp jvp"),
    "mse": ("G", "gradient vjp jvp hessian hvp"),
    "affine_mse": ("G", "gradient vjp jvp"),
    "softmax": ("G", "jacobian vjp jvp"),
    "affine_softmax_mse": ("G", "gradient vjp jvp"),
    "square": ("SV", "derivative vjp vjp_sum jvp"),
    "residual": ("S", "derivative vjp jvp"),
    "squared_residual": ("S", "derivative vjp jvp hessian hvp"),
    "scalar_affine": ("S", "gradient vjp jvp"),
    "sum_of_squares": ("S", "gradient vjp jvp hessian hvp"),
    "linear_layer_sum": ("S", "gradient vjp jvp"),
    "recurrence": ("S", "gradient vjp jvp hessian hvp"),
    "batch_norm": ("S", "gradient vjp jvp"),
    "weighted_quadratic": ("A", "gradient vjp vjp_sum jvp hessian hvp"),
    "shifted_square": ("A", "diagonal jacobian vjp vjp_sum jvp"),
    "twice_dot": ("V", "gradient vjp jvp hessian hvp"),
    "three_x_squared": ("V", "diagonal jacobian vjp jvp"),
    "norm_doubling": ("V", "derivative vjp jvp"),
    "norm_doubling_vector": ("V", "jacobian vjp jvp"),
    "fan_out_square": ("V", "jacobian vjp vjp_sum jvp"),
    "builtin_sum": ("V", "gradient vjp vjp_sum jvp"),
    "fan_out_sum": ("V", "jacobian vjp vjp_sum jvp"),
    "polynomial_map": ("V", "jacobian vjp jvp"),
    "polynomial_map_in_place": ("V", "jacobian vjp jvp"),
    "sine": ("V", "diagonal jacobian vjp jvp"),
    "log_sin_reciprocal": ("V", "diagonal jacobian vjp jvp"),
    "batched_scalar_field": ("B", "batch_jacobian batch_hessian vjp jvp"),
    "batched_scalar_field_xy": ("B", "batch_jacobian batch_hessian vjp jvp"),
    "batched_vector_field": ("B", "batch_jacobian vjp jvp"),
    "batched_vector_field_xy": ("B", "batch_jacobian vjp jvp"),
    "mlp_mse": ("B", "gradient vjp jvp training_step"),
    "dense_map": ("M", "jacobian"),
    "dense_sum": ("M", "gradient hessian"),
    "elementwise_map": ("M", "jacobian"),
    "elementwise_sum": ("M", "gradient hessian"),
    "batched_map": ("M", "batch_jacobian"),
    "batched_sum": ("M", "batch_jacobian batch_hessian"),
    "network_map": ("M", "jacobian"),
    "network_sum": ("M", "gradient hessian"),
}

OTHER = {"m": 4, "n": 3, "N": 6, "d": 4, "h": 5, "k": 3, "T": 5}
OTHER |= {"M": 2, "l": 2, "c": 2, "s": 8, "w": 3}
"""A second size to check at, no two dimensions of one function alike."""

# The branches are chosen by reading a number, which meta tensors have none of.
DATA_DEPENDENT = {"norm_doubling", "norm_doubling_vector"}

SPARSE = [
    name
    for name, f in FUNCTIONS.items()
    if "jacobian_sparse" in f.derivatives or {"jacobian", "diagonal"} <= f.derivatives.keys()
]
"""Those whose sparse jacobian is not made from the dense one."""
PAIRS = [
    (name, op) for name, f in FUNCTIONS.items() for op in f.derivatives if op != "jacobian_sparse"
]
DERIVED = [
    (name, op)
    for name, f in FUNCTIONS.items()
    for op in f.formulas
    if op != "jacobian_sparse" and op not in f.derivatives
]
"""What follows from a hessian or a jacobian, and is measured where it is named."""
CHECKS = [
    pytest.param(name, op, which, id=f"{name}-{op}-{which}")
    for name, op in sorted(PAIRS + DERIVED, key=lambda pair: list(FUNCTIONS).index(pair[0]))
    for which in (("example", "other") if FUNCTIONS[name].example_size else ("example",))
]

STEP = 1e-3


def at(name, which):
    """Random float64 inputs of a function at its example's size or at another."""
    f = FUNCTIONS[name]
    size = f.example_size if which == "example" else {key: OTHER[key] for key in f.example_size}
    return f.draw(size, torch.Generator().manual_seed(7))


def problem(name, operator, inputs):
    output = FUNCTIONS[name].forward(*inputs)
    shapes = tuple(tuple(t.shape) for t in inputs)
    return Problem(
        FUNCTIONS[name], operator, shapes, tuple(output.shape), output.dtype, output.device
    )


def differences(f, inputs, differentiated):
    """∂(block of f)/∂(input) for all pairs, by fourth-order central differences."""
    blocks = as_tuple(f(*inputs))
    found = [[] for _ in blocks]
    for i in range(differentiated):
        columns = [[] for _ in blocks]
        for j in range(inputs[i].numel()):
            values = []
            for shift in (1, -1, 2, -2):
                moved = [t.clone() for t in inputs]
                moved[i].view(-1)[j] += shift * STEP
                values.append(as_tuple(f(*moved)))
            # Grouped so that what does not move has a slope of exactly zero.
            slopes = [
                (8 * (near - back) - (far - further)) / (12 * STEP)
                for near, back, far, further in zip(*values)
            ]
            for column, slope in zip(columns, slopes):
                column.append(slope)
        for a, column in enumerate(columns):
            found[a].append(torch.stack(column, -1).reshape(blocks[a].shape + inputs[i].shape))
    return found


@functools.lru_cache(maxsize=4)
def jacobians(name, which):
    """The blocks of the whole jacobian, one per input: (output, input)."""
    f = FUNCTIONS[name]
    return differences(f.forward, at(name, which), f.differentiated)[0]


@functools.lru_cache(maxsize=4)
def second_jacobians(name, which, operator):
    """The same of a first derivative: [block][input]."""
    f = FUNCTIONS[name]
    return differences(f.derivatives[operator], at(name, which), f.differentiated)


def samples_only(block, samples):
    """From (N, …, N, …) the blocks of each sample by itself; the others have to be zero.

    `samples` is the dimension of the second N.
    """
    own = block.diagonal(dim1=0, dim2=samples).movedim(-1, 0)
    assert own.count_nonzero() == block.count_nonzero(), "a sample depends on another one"
    return own


def pulled_back(v, J, like):
    return (v.reshape(-1) @ J.reshape(v.numel(), -1)).reshape(like.shape)


def expected(name, operator, which, seed):
    """What an operator's result is, from finite differences alone."""
    f, inputs = FUNCTIONS[name], at(name, which)
    wrt = inputs[: f.differentiated]
    if operator in ("hessian", "hvp", "vhp"):
        first = "derivative" if "derivative" in f.derivatives else "gradient"
        blocks = second_jacobians(name, which, first)
        if operator == "hessian":
            return [block for row in blocks for block in row]
        return [
            sum((H.reshape(a.numel(), -1) @ t.reshape(-1)) for H, t in zip(row, seed)).reshape(
                a.shape
            )
            for row, a in zip(blocks, wrt)
        ]
    if operator in OF_HESSIANS:
        return of_hessians(hessians(name, which), operator, wrt, f.forward(*inputs), seed)
    if operator == "gauss_newton_product":
        J = [block.reshape(-1, x.numel()) for block, x in zip(jacobians(name, which), wrt)]
        pushed = sum(block @ t.reshape(-1) for block, t in zip(J, seed))
        return [(pushed @ block).reshape(x.shape) for block, x in zip(J, wrt)]
    if operator == "batch_hessian":
        blocks = second_jacobians(name, which, "batch_jacobian")
        return [samples_only(H, a.dim()) for row, a in zip(blocks, wrt) for H in row]
    J = jacobians(name, which)
    output = tuple(f.forward(*inputs).shape)
    if operator in ("derivative", "gradient", "jacobian", "per_sample_gradient"):
        return J
    if operator == "batch_jacobian":
        return [samples_only(block, len(output)) for block in J]
    if operator == "diagonal":
        return [samples_only(J[0], 1)]
    if operator == "vjp":
        return [pulled_back(seed, block, x) for block, x in zip(J, wrt)]
    if operator == "vjp_sum":
        assert len(seed) == ACCUMULATED_SEEDS
        return [sum(pulled_back(v, block, x) for v in seed) for block, x in zip(J, wrt)]
    if operator == "jvp":
        pushed = (block.reshape(-1, t.numel()) @ t.reshape(-1) for block, t in zip(J, seed))
        return [sum(pushed).reshape(output)]
    assert operator == "training_step"
    return [p - LEARNING_RATE * block for p, block in zip(wrt, J)]


OF_HESSIANS = (
    *("hessian_diagonal", "laplacian", "laplacian_estimate", "directional_second_derivative"),
)


def of_hessians(H, operator, wrt, value, seed):
    """What an operator's result is, by the hessian of each sample."""

    def along(tangents):
        t = torch.cat([t.reshape(len(H), -1) for t in tangents], 1)
        return torch.einsum("ni,nij,nj->n", t, H, t).reshape(value.shape)

    if operator == "directional_second_derivative":
        return [along(seed)]
    if operator == "laplacian_estimate":
        return [torch.stack([along(signs) for signs in zip(*seed)]).mean(0)]
    diagonal = H.diagonal(dim1=1, dim2=2)
    if operator == "laplacian":
        return [diagonal.sum(1).reshape(value.shape)]
    widths = [x.numel() // len(H) for x in wrt]
    return [d.reshape(x.shape) for d, x in zip(diagonal.split(widths, 1), wrt)]


def hessians(name, which):
    """The hessian of each sample, or of the one value, by all inputs: (samples, n, n)."""
    f, wrt = FUNCTIONS[name], at(name, which)[: FUNCTIONS[name].differentiated]
    batched = "batch_hessian" in f.derivatives
    blocks = expected(name, "batch_hessian" if batched else "hessian", which, None)
    samples = len(wrt[0]) if batched else 1
    widths = [x.numel() // samples for x in wrt]
    rows = [blocks[i * len(wrt) : (i + 1) * len(wrt)] for i in range(len(wrt))]
    return torch.cat(
        [
            torch.cat([b.reshape(samples, own, w) for b, w in zip(row, widths)], 2)
            for row, own in zip(rows, widths)
        ],
        1,
    )


def seeded(posed, salt=0):
    return draw_seed(posed, torch.Generator().manual_seed(salt))


def cast(seed, dtype, device="cpu"):
    if isinstance(seed, tuple):
        return tuple(t.to(device, dtype) for t in seed)
    return None if seed is None else seed.to(device, dtype)


def apply(formula, seed, inputs):
    return as_tuple(formula(*inputs) if seed is None else formula(seed, *inputs))


@pytest.mark.parametrize(("name", "operator", "which"), CHECKS)
def test_formula_agrees_with_finite_differences(name, operator, which):
    inputs = at(name, which)
    posed = problem(name, operator, inputs)
    seed = seeded(posed)
    exact = expected(name, operator, which, seed)
    found = apply(FUNCTIONS[name].formulas[operator], seed, inputs)
    scale = max(1.0, float(FUNCTIONS[name].forward(*inputs).abs().max()))
    assert len(found) == len(exact)
    for block, right in zip(found, exact):
        assert block.shape == right.shape
        torch.testing.assert_close(block, right, rtol=1e-8, atol=1e-9 * scale)


MINE = [name for name, f in FUNCTIONS.items() if f.family == APPLICATIONS]


@pytest.mark.parametrize("name", MINE)
def test_products_agree_with_finite_differences_at_a_size_that_is_measured(name):
    f = FUNCTIONS[name]
    inputs = f.draw(f.sizes[-1], torch.Generator().manual_seed(7))
    t = seeded(problem(name, "jvp", inputs))
    v = seeded(problem(name, "vjp", inputs))

    def moved(step):
        steps = [*t, *[0.0] * (len(inputs) - len(t))]
        return f.forward(*(x + step * d for x, d in zip(inputs, steps)))

    step = STEP / 10
    near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
    pushed = (8 * near - far) / (12 * step)
    scale = float(pushed.abs().max()) + float(f.forward(*inputs).abs().max())
    (found,) = apply(f.formulas["jvp"], t, inputs)
    torch.testing.assert_close(found, pushed, rtol=1e-8, atol=1e-9 * scale)
    pulled = apply(f.formulas["vjp"], v, inputs)
    one, other = (v * pushed).sum(), sum((a * b).sum() for a, b in zip(pulled, t))
    assert abs(one - other) <= 1e-8 * (v * pushed).abs().sum() + 1e-9 * scale * v.numel() ** 0.5


class Largest(TorchDispatchMode):
    """Keeps the largest number of entries that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            for made in as_tuple(result):
                if isinstance(made, torch.Tensor):
                    self.entries = max(self.entries, self.numbers(made))
        return result

    def numbers(self, made):
        return made.numel()


OF_BATCH = {
    "hessian_diagonal",
    "laplacian",
    "directional_second_derivative",
    "laplacian_estimate",
}
"""What may be made from the hessians of a batch."""


@pytest.mark.parametrize("name", MINE)
def test_no_formula_forms_more_than_the_map_and_the_result_have(name):
    """A sum of products whose factors are multiplied first takes gigabytes at large sizes."""
    f = FUNCTIONS[name]
    # Steps in time are as many operations, on tensors that are no larger.
    size = f.sizes[0 if "T" in f.sizes[0] else -1]
    inputs = tuple(x.to("meta") for x in f.draw(size, torch.Generator().manual_seed(7)))
    with Largest() as ours:
        f.forward(*inputs)
    for operator, formula in f.formulas.items():
        batch = "batch_hessian" in f.derivatives and operator in OF_BATCH
        if batch or operator == "jacobian_sparse":
            continue
        seed = cast(seeded(problem(name, operator, inputs)), torch.float64, "meta")
        with Largest() as found:
            result = apply(formula, seed, inputs)
        enough = max(ours.entries, *(x.numel() for x in (*inputs, *result)))
        assert found.entries <= 7 * enough, operator


@pytest.mark.parametrize("which", ["example", "other", "measured"])
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_jacobian_has_the_entries_of_the_dense_one(name, which):
    f = FUNCTIONS[name]
    inputs = f.draw(f.sizes[0], torch.Generator()) if which == "measured" else at(name, which)
    found = as_tuple(f.formulas["jacobian_sparse"](*inputs))
    right = as_tuple(f.derivatives["jacobian"](*inputs))
    assert len(found) == len(right)
    for block, dense in zip(found, right):
        assert block.is_sparse
        assert torch.equal(block.to_dense(), dense)
        assert dense.count_nonzero() <= block._nnz() == block.coalesce()._nnz()
        if which == "measured":
            assert block._nnz() < dense.numel() / 3


class LargestStored(Largest):
    """The same, of what is stored: of a sparse tensor the entries alone."""

    def numbers(self, made):
        return made._indices().numel() if made.is_sparse else made.numel()


@pytest.mark.parametrize("name", SPARSE)
def test_no_sparse_jacobian_is_made_from_more_than_its_entries(name):
    """At a size whose dense one takes gigabytes, or millions of entries."""
    f = FUNCTIONS[name]
    inputs = f.draw((*f.sizes, *f.large_sizes)[-1], torch.Generator().manual_seed(7))
    with LargestStored() as found:
        blocks = as_tuple(f.formulas["jacobian_sparse"](*inputs))
    entries = sum(block._nnz() for block in blocks)
    assert found.entries <= 7 * entries
    assert 50 * entries < sum(block.numel() for block in blocks)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 10, 17, 18, 19, 26, 27])
def test_the_cells_of_one_push_reach_no_cell_twice_on_any_ring(n):
    f = FUNCTIONS["brusselator_step"]
    inputs = f.draw({"n": n}, torch.Generator().manual_seed(7))
    found = f.derivatives["jacobian_sparse"](*inputs)
    assert torch.equal(found.to_dense(), f.derivatives["jacobian"](*inputs))


@pytest.mark.parametrize(
    ("name", "operator", "variant"),
    [
        (name, operator, variant)
        for name, f in FUNCTIONS.items()
        for operator, ways in f.variants.items()
        for variant in ways
    ],
)
def test_variant_agrees_with_the_formula(name, operator, variant):
    f, inputs = FUNCTIONS[name], at(name, "other")
    seed = seeded(problem(name, operator, inputs))
    found = apply(f.variants[operator][variant], seed, inputs)
    right = apply(f.derivatives[operator], seed, inputs)
    assert len(found) == len(right)
    for block, other in zip(found, right):
        torch.testing.assert_close(block, other, rtol=1e-13, atol=1e-15)


SLOPES = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "shifted_square": lambda x: 3 * (x + 2) ** 2,
    "three_x_squared": lambda x: 3 * x**2,
    "sine": mpmath.sin,
    "log_sin_reciprocal": lambda x: mpmath.log(x * x) * mpmath.sin(x) + 1 / x,
    "square": lambda x: x**2,
    "residual": lambda x, c: c - x**2,
    "squared_residual": lambda x, c: (x**2 - c) ** 2,
}


@pytest.mark.parametrize("name", SLOPES)
def test_slope_agrees_with_high_precision(name):
    """The derivative of the scalar map to the last digits, in fifty-digit arithmetic."""
    f = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(11)
    draws = [f.draw({"n": 40}, generator) for _ in range(1 if f.example_size else 20)]
    slope = f.derivatives["diagonal" if f.example_size else "derivative"]
    with mpmath.workdps(50):
        for inputs in draws:
            values = [t.reshape(-1).tolist() for t in inputs]
            for found, x, *constants in zip(slope(*inputs).reshape(-1).tolist(), *values):
                rest = [mpmath.mpf(c) for c in constants]
                right = mpmath.diff(lambda s, rest=rest: SLOPES[name](s, *rest), mpmath.mpf(x))
                assert abs(found - right) <= 1e-14 * max(1, abs(right)), (x, *constants)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "operator"), PAIRS)
def test_results_have_the_operators_shapes_and_the_inputs_dtype(name, operator, dtype):
    f = FUNCTIONS[name]
    inputs = tuple(t.to(dtype) for t in f.example())
    posed = problem(name, operator, inputs)
    seed = cast(seeded(posed), dtype)
    given = inputs + (() if seed is None else as_tuple(seed))
    before = [t.clone() for t in given]
    ways = [f.derivatives[operator], *f.variants.get(operator, {}).values()]
    for formula in ways:
        blocks = apply(formula, seed, inputs)
        assert tuple(tuple(block.shape) for block in blocks) == posed.result
        assert all(block.dtype == dtype for block in blocks)
        assert all(block.isfinite().all() for block in blocks)
    assert all(torch.equal(now, then) for now, then in zip(given, before)), "inputs changed"


@pytest.mark.parametrize(
    ("name", "operator"), [pair for pair in PAIRS if pair[0] not in DATA_DEPENDENT]
)
def test_formulas_stay_on_the_device_of_their_inputs(name, operator):
    f = FUNCTIONS[name]
    inputs = tuple(t.to("meta", torch.float32) for t in f.example())
    posed = problem(name, operator, inputs)
    assert posed.device.type == "meta"
    seed = cast(seeded(posed), torch.float32, "meta")
    for formula in (f.derivatives[operator], *f.variants.get(operator, {}).values()):
        for block in apply(formula, seed, inputs):
            assert block.device.type == "meta"
            assert block.dtype == torch.float32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_entry_is_well_formed(name):
    f = FUNCTIONS[name]
    assert f.name == name
    assert name.isidentifier()
    if f.family == NOTEBOOKS:
        assert f.document.isalpha()
        assert f.document.isupper()
    assert f.formula.strip()
    assert f.derivative.strip()
    assert f.dtype in ("float32", "float64")
    assert set(f.derivatives) <= set(OPERATORS)
    assert f.atlas or {"vjp", "jvp"} <= set(f.derivatives)
    assert set(f.variants) <= set(f.derivatives)
    assert f.differentiated >= 1
    assert len(set(f.inputs)) == len(f.inputs)
    example = f.example()
    assert len(example) == len(f.inputs)
    drawn = f.draw(f.example_size, torch.Generator().manual_seed(0))
    assert [t.shape for t in drawn] == [t.shape for t in example]
    for tensor in example + drawn:
        assert tensor.dtype == torch.float64
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
    again = f.example()
    assert all(torch.equal(a, b) for a, b in zip(example, again)), "the example is not fixed"
    labels = [size_label(size) for size in (*f.sizes, *f.large_sizes, *f.atlas)]
    assert len(set(labels)) == len(labels)
    assert bool(labels) == bool(f.example_size)


def quick_sizes(f):
    """All sizes, without those of the applications that take a second a call."""
    return f.sizes if f.family == APPLICATIONS else (*f.sizes, *f.large_sizes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_finite_in_float32_at_every_size(name):
    f = FUNCTIONS[name]
    for size in quick_sizes(f):
        inputs = tuple(t.float() for t in f.draw(size, torch.Generator().manual_seed(0)))
        for operator, formula in f.derivatives.items():
            if operator == "jacobian_sparse":
                continue
            posed = problem(name, operator, inputs)
            if posed.result_numel <= 1e5:
                for block in apply(formula, cast(seeded(posed), torch.float32), inputs):
                    assert block.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_draws_are_reproducible_and_usable_at_every_size(name):
    f = FUNCTIONS[name]
    for size in (f.example_size, *quick_sizes(f)):
        one, same, other = (f.draw(size, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(one, same))
        assert not any(torch.equal(a, b) for a, b in zip(one, other[: f.differentiated]))
        for dtype in (torch.float32, torch.float64):
            value = f.forward(*(t.to(dtype) for t in one))
            assert value.dtype == dtype
            assert value.isfinite().all()
        for number in size.values():
            # Every size shows in the shape of some input.
            assert any(number in t.shape for t in one)


def test_catalogue_is_complete():
    assert set(CATALOGUE) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_function_has_its_documents_and_operators(name):
    document, operators = CATALOGUE[name]
    assert FUNCTIONS[name].document == document
    assert set(FUNCTIONS[name].derivatives) == set(operators.split())


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="sum"):
        registry.function(FUNCTIONS["sum"])


@pytest.mark.parametrize(
    "name", [name for name, f in FUNCTIONS.items() if "batch_jacobian" in f.derivatives]
)
def test_batched_field_takes_a_single_sample(name):
    f, inputs = FUNCTIONS[name], at(name, "other")
    values = f.forward(*inputs)
    for i in range(len(values)):
        own = (x[i] if len(x) == len(values) else x for x in inputs)
        torch.testing.assert_close(f.forward(*own), values[i])


def test_square_affine_draws_are_not_symmetric():
    """A symmetric W would let a transposed one pass."""
    for name in ("affine", "affine_sum", "affine_mse", "affine_softmax_mse"):
        _, W, *_ = FUNCTIONS[name].draw({"m": 4, "n": 4}, torch.Generator().manual_seed(0))
        assert not torch.allclose(W, W.T)
        assert any(size["m"] != size["n"] for size in FUNCTIONS[name].sizes)


def test_in_place_and_stacked_polynomials_are_the_same_map():
    (x,) = at("polynomial_map", "example")
    stacked, in_place = (
        FUNCTIONS[name].forward(x) for name in ("polynomial_map", "polynomial_map_in_place")
    )
    assert torch.equal(stacked, in_place)


def test_batch_norm_gradient_is_not_trivially_zero():
    f = FUNCTIONS["batch_norm"]
    dX, *_ = f.derivatives["gradient"](*at("batch_norm", "example"))
    assert dX.abs().max() > 0.1
    # Shifting or scaling the whole batch changes nothing, so neither may the gradient along them.
    X, *_ = at("batch_norm", "example")
    assert dX.sum(0).abs().max() < 1e-12
    assert (dX * (X - X.mean(0))).sum(0).abs().max() < 1e-3


def test_recurrence_of_depth_one_is_linear():
    f = FUNCTIONS["recurrence"]
    inputs = f.draw({"T": 1}, torch.Generator().manual_seed(0))
    w, h, _ = inputs
    assert [float(t) for t in f.derivatives["gradient"](*inputs)] == [float(h), float(w)]
    assert [float(t) for t in f.derivatives["hessian"](*inputs)] == [0, 1, 1, 0]


@pytest.mark.parametrize("value", [0.001, 0.5, 500, 1000, -0.001, -500, -2000])
def test_norm_doubling_factor_follows_the_branches(value):
    f = FUNCTIONS["norm_doubling"]
    a = torch.tensor(value, dtype=torch.float64)
    factor = f.derivatives["derivative"](a)
    assert factor == f.forward(a) / a
    assert math.log2(factor / (1 if value > 0 else 100)).is_integer()
