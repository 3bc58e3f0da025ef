"""Operators that are less than a hessian: its diagonal, its trace, tᵀHt along a direction."""

import dataclasses
import itertools
import sys

import mpmath
import pytest
import torch

from gradbench import state
from gradbench.core.cases import YOURS, Selection, expand
from gradbench.core.deadline import Deadline
from gradbench.core.operators import OPERATORS
from gradbench.modes.capability import unsupported_reason
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.function import as_tuple, with_second_order
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import draw_seed
from gradbench.worker.evidence import Refused
from gradbench.worker.gate import Gate
from gradbench.worker.known import Known
from gradbench.worker.offers import offer
from gradbench.worker.paste import code
from gradbench.worker.probe import probe
from gradbench.worker.settling import settle
from gradbench.worker.structures import hessian_structure
from gradbench.worker.subject import Subject, declare

registry.load_builtin()
OURS = (
    "hessian_diagonal", "laplacian", "directional_second_derivative", "laplacian_estimate",
)  # fmt: skip
SUITE = """
import torch

W = torch.linspace(-1, 1, 24).sin().reshape(6, 4)


def field(x):
    hidden = torch.tanh(x @ W.T.to(x.dtype))
    return (hidden**3).sum(-1)


def points(x):
    return torch.exp(x[:, 0] * x[:, 1]) + x[:, 1] ** 4


def column(x):
    return field(x)[:, None]


def energy(x):
    return field(x).sum()


def pair(x, y, a):
    return torch.exp(a * torch.sin(x) * y) * torch.log1p(x**2 * y**2)


def together(x, y, a):
    return pair(x, y, a).sum()


def mixing(x):
    return field(x) * field(x).sum()


def vectors(x):
    return torch.tanh(x @ W.T.to(x.dtype))


def separable(x):
    return (torch.sin(x) * x).sum()


def chain(x):
    return (x[1:] * x[:-1] ** 3).sum()


def constant(x):
    return x.sum(-1)


def linear(x):
    return 2 * x.sum()


def product(x):
    return x.prod()


def partly_linear(x, y, a):
    return 2 * x.sum() + a * (y**3).sum()
"""
INPUTS = {
    "field": {"x": "randn(5, 4)"},
    "points": {"x": "rand(3, 2)"},
    "column": {"x": "randn(3, 4)"},
    "energy": {"x": "randn(2, 4)"},
    "pair": {"x": "rand(3)", "y": "rand(3)", "a": "tensor(0.5)"},
    "together": {"x": "rand(3)", "y": "rand(3)", "a": "tensor(0.5)"},
    "mixing": {"x": "randn(5, 4)"},
    "vectors": {"x": "randn(5, 4)"},
    "separable": {"x": "randn(40)"},
    "chain": {"x": "randn(40)"},
    "constant": {"x": "randn(5, 4)"},
    "linear": {"x": "randn(5)"},
    "product": {"x": "randn(7)"},
    "partly_linear": {"x": "randn(5)", "y": "randn(3)", "a": "tensor(0.5)"},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "second_order_fields.py"
    path.write_text(SUITE)
    sys.path.insert(0, str(path.parent))
    yield path
    sys.path.remove(str(path.parent))


@pytest.fixture(autouse=True)
def _registry():
    modes = dict(registry.MODES)
    yield
    registry.MODES.clear()
    registry.MODES.update(modes)
    registry.FUNCTIONS.pop(YOURS, None)


def spec(file, name, dtype="float64", **more):
    wrt = [n for n in INPUTS[name] if n != "a"]
    return {
        "target": f"{file}:{name}", "inputs": list(INPUTS[name].items()), "wrt": wrt,
        "dtype": dtype, "seed": 0, "passed": "", "maker": "", "also": [],
    } | more  # fmt: skip


def subject_of(file, name, dtype="float64"):
    with state.preserve(state.Changes(), loading=True):
        subject = Subject(spec(file, name, dtype))
    settle(subject)
    return subject


def gate_of(subject, name, operator, known=None):
    dtype = str(subject.dtype).removeprefix("torch.")
    function = declare(subject, name, [operator], known or Known(), False)
    problem, timed = pose(function, operator, None, dtype, "cpu", 1)
    return Gate(problem, timed, [draw(problem, function.example_size, 2)])


def modes_of(operator):
    return [m for m in registry.modes_of(operator) if not m.opt_in and m.name != "forward"]


def checked(gate, mode):
    return gate.enter(mode.name, mode.build(gate.problem), mode.leaves).check([0])


def second(name, at, which):
    """The second derivative of `pair` at a point by one of its inputs, with 40 digits."""
    with mpmath.workdps(40):
        mp = mpmath.mp

        def f(x, y):
            return mp.exp(mp.mpf(0.5) * mp.sin(x) * y) * mp.log1p(x**2 * y**2)

        return float(mp.diff(f, tuple(mp.mpf(float(z)) for z in at), which))


@pytest.mark.parametrize("name", ["pair", "together"])
def test_the_references_are_what_mpmath_says(file, name):
    subject = subject_of(file, name)
    x, y, a = subject.values
    u, v = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    xx, xy, yy = (
        torch.tensor([second(name, at, which) for at in zip(x, y)], dtype=torch.float64)
        for which in ((2, 0), (1, 1), (0, 2))
    )
    wanted = {
        "hessian_diagonal": (xx, yy),
        "laplacian": (xx + yy,),
        "directional_second_derivative": (u * u * xx + 2 * u * v * xy + v * v * yy,),
    }
    for operator, right in wanted.items():
        formula = declare(subject, name, [operator], Known(), False).derivatives[operator]
        registry.FUNCTIONS.pop(YOURS)
        seed = ((u, v),) if OPERATORS[operator].seed else ()
        for found, exact in zip(as_tuple(formula(*seed, x, y, a)), right, strict=True):
            whole = name == "together" and operator != "hessian_diagonal"
            exact = exact.sum() if whole else exact
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("points", "float32"), ("column", "float32"), ("energy", "float64"), ("pair", "float64"),
        ("together", "float32"), ("constant", "float32"), ("product", "float32"),
    ],
)  # fmt: skip
def test_no_mode_of_a_users_function_is_wrong(file, name, dtype):
    subject = subject_of(file, name, dtype)
    for operator in OURS:
        gate = gate_of(subject, name, operator)
        for mode in modes_of(operator):
            if not mode.by_hand:
                finding = checked(gate, mode)
                assert finding.passed, f"{operator} {mode.name}: {finding.reason}"
        registry.FUNCTIONS.pop(YOURS)


def zero_last(r):
    return torch.cat([r[:-1], r[-1:] * 0])


PLANTED = {
    "hessian_diagonal": (lambda r: r * 1.001, lambda r: r.flip(0), zero_last),
    "laplacian": (lambda r: r * 1.0001, zero_last, lambda r: r.mean().expand(r.shape).clone()),
    "directional_second_derivative": (lambda r: r * 0.5, torch.neg, lambda r: r.roll(1)),
}


def test_planted_errors_are_refused(file):
    subject = subject_of(file, "points")
    for operator, faults in PLANTED.items():
        gate = gate_of(subject, "points", operator)
        right = registry.MODES[operator, "grad_twice"]
        assert checked(gate, right).passed
        for number, fault in enumerate(faults):

            def wrong(problem, built=right.build, fault=fault):
                call = built(problem)
                return lambda *given: tuple(fault(block) for block in as_tuple(call(*given)))

            registry.mode(operator, name=f"planted_{number}", leaves=True)(wrong)
            planted = registry.MODES[operator, f"planted_{number}"]
            assert not checked(gate, planted).passed, (operator, number)
        registry.FUNCTIONS.pop(YOURS)


def test_a_mode_that_leaves_out_a_coordinate_is_refused(file):
    gate = gate_of(subject_of(file, "points", "float32"), "points", "laplacian")
    right = registry.MODES["hessian_diagonal", "grad_twice"]

    @registry.mode("laplacian", name="all_but_one", leaves=True)
    def all_but_one(problem):
        diagonal = right.build(dataclasses.replace(problem, operator="hessian_diagonal"))
        return lambda inputs: diagonal(inputs)[0][:, 1:].sum(1)

    assert not checked(gate, registry.MODES["laplacian", "all_but_one"]).passed


def test_zeros_of_the_hessian_take_few_products(file):
    for name, passes in (("separable", 1), ("chain", 3)):
        subject = subject_of(file, name)
        known = Known(hessian_structure(subject, Deadline(60)), of_gradient=True)
        assert known.structure.is_global
        for operator in ("hessian_diagonal", "laplacian"):
            gate = gate_of(subject, name, operator, known)
            compressed = [m for m in modes_of(operator) if m.name.startswith("compressed")]
            assert len(compressed) == 2
            for mode in compressed:
                assert mode.passes(gate.problem).number <= passes
                finding = checked(gate, mode)
                assert finding.passed, f"{name} {mode.name}: {finding.reason}"
            registry.FUNCTIONS.pop(YOURS)
            for mode in compressed:
                del registry.MODES[operator, mode.name]


@pytest.mark.parametrize("name", ["linear", "partly_linear"])
def test_every_mode_takes_a_gradient_that_does_not_vary(file, name):
    subject = subject_of(file, name)
    known = Known(hessian_structure(subject, Deadline(60)), of_gradient=True)
    if name == "linear":
        assert known.sentences == ["zero, for every input: traced through the operations"]
    before = dict(registry.MODES)
    for operator in ("hessian", "hvp", "hessian_diagonal", "laplacian"):
        gate = gate_of(subject, name, operator, known)
        for mode in modes_of(operator):
            if not (mode.by_hand or mode.name.endswith("_by_memory")):
                finding = checked(gate, mode)
                assert finding.passed, f"{operator} {mode.name}: {finding.reason}"
        registry.FUNCTIONS.pop(YOURS)
        registry.MODES.clear()
        registry.MODES.update(before)


def looked(file, name, operator, tmp_path):
    return probe(
        spec(
            file, name, "float32", operator=operator, definition="differences", device="cpu",
            memory_limit=1 << 30, pattern=str(tmp_path / "pattern.pt"),
        )
    )  # fmt: skip


def test_a_look_offers_them_of_one_value_and_of_one_for_each_sample(file, tmp_path):
    for name in ("energy", "pair"):
        found = looked(file, name, "laplacian", tmp_path)
        assert {*OURS} <= {*found["operators"]}
        assert "grad_twice" in found["code"]
        assert any("of the gradient" in said for said in found["evidence"])


def test_other_values_are_refused_in_one_line(file, tmp_path):
    with pytest.raises(Refused, match=r"of one number for each sample .* shape \(5, 6\)"):
        looked(file, "vectors", "laplacian", tmp_path)
    found = looked(file, "mixing", "laplacian", tmp_path)
    assert not {*OURS} & {*found["operators"]}
    assert "not those of independent samples" in found["refusals"]["laplacian"]


def test_samples_that_depend_on_each_other_still_have_a_reference(file):
    subject = subject_of(file, "mixing")
    function = declare(subject, "mixing", list(OURS), Known(), False)
    (x,) = subject.values
    t = torch.ones_like(x)
    hessians = torch.func.hessian(subject.forward)(x)
    own = torch.stack([hessians[i, i, :, i] for i in range(len(x))])
    diagonal = own.diagonal(0, 1, 2)
    made = {name: function.derivatives[name] for name in OURS}
    torch.testing.assert_close(made["hessian_diagonal"](x)[0], diagonal)
    torch.testing.assert_close(made["laplacian"](x), diagonal.sum(1))
    torch.testing.assert_close(made[OURS[2]]((t,), x), own.sum((1, 2)))


def test_the_estimate_is_the_laplacian_on_average_and_exact_without_other_entries(file):
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    subject = subject_of(file, "field")
    made = declare(subject, "field", list(OURS), Known(), False).derivatives
    (x,) = subject.values
    signs = (every[:, None].expand(-1, *x.shape),)
    torch.testing.assert_close(made["laplacian_estimate"](signs, x), made["laplacian"](x))
    registry.FUNCTIONS.pop(YOURS)
    subject = subject_of(file, "separable")
    made = declare(subject, "separable", list(OURS), Known(), False).derivatives
    (x,) = subject.values
    signs = (x.sign()[None],)
    torch.testing.assert_close(made["laplacian_estimate"](signs, x), made["laplacian"](x))


def test_the_catalogue_has_them_where_they_are_named():
    offers = [offer(f, o) for f in registry.FUNCTIONS.values() for o in f.formulas]
    assert not any(e.comparison.operator in OURS for e in expand(offers, Selection()))
    globbed = expand(offers, Selection(operators=("*hessian*",)))
    assert {e.comparison.operator for e in globbed} == {"hessian", "batch_hessian"}
    named = expand(offers, Selection(operators=("laplacian",)))
    assert {"mse", "batched_scalar_field"} <= {e.comparison.function for e in named}
    f = registry.FUNCTIONS["mse"]
    assert {*OURS} <= {*with_second_order(f.derivatives)}


@pytest.mark.parametrize("operator", [*OURS, "vhp"])
def test_what_follows_from_the_catalogues_hessians_is_right(operator):
    few = {"manual", OPERATORS[operator].first, "vmap_jvp_grad", "nested_jvp", "dual_over_grad"}
    for function in registry.FUNCTIONS.values():
        if operator not in function.formulas or function.atlas:
            continue
        problem, timed = pose(function, operator, None, function.dtype, "cpu", 1)
        gate = Gate(problem, timed, [draw(problem, function.example_size, 2)])
        for mode in modes_of(operator):
            if mode.missing() or mode.name not in few:
                continue
            try:
                finding = checked(gate, mode)
            except (RuntimeError, Unsupported) as error:
                if not isinstance(error, Unsupported) and unsupported_reason(error) is None:
                    raise
                continue
            assert finding.passed, f"{function.name} {mode.name}: {finding.reason}"


def test_pasted_code_is_what_is_measured_and_works_at_other_sizes(file):
    for name in ("field", "together"):
        subject = subject_of(file, name)
        for operator in OURS:
            gate = gate_of(subject, name, operator)
            t = draw_seed(gate.problem, torch.Generator().manual_seed(4))
            formula = registry.FUNCTIONS[YOURS].derivatives[operator]
            seed = () if t is None else (t,)
            right = as_tuple(formula(*seed, *subject.values))
            for mode in modes_of(operator):
                if mode.by_hand:
                    continue
                room = {}
                text = code(subject, f"{file}:{name}", mode, gate.problem)
                assert "problem" not in text
                assert " if True" not in text
                exec(text, room)
                given = ((t[0] if len(t) == 1 else t),) if seed else ()
                found = as_tuple(room[operator](*given, *subject.values))
                for mine, wanted in zip(found, right, strict=True):
                    torch.testing.assert_close(mine, wanted)
            registry.FUNCTIONS.pop(YOURS)
