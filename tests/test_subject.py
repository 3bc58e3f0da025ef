"""A user's function runs as it would by itself, and its parameters can be anywhere."""

import functools
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from gradbench.advise import live
from gradbench.advise.advice import Refusal
from gradbench.core.deadline import Deadline
from gradbench.modes import second_order
from gradbench.problems import registry
from gradbench.problems.arguments import Arguments, draw, pose
from gradbench.problems.function import as_tuple
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.worker import loading, paste
from gradbench.worker.allowance import computed_by
from gradbench.worker.evidence import CONFIRMED, gather
from gradbench.worker.gate import Gate
from gradbench.worker.known import Known
from gradbench.worker.loading import Unusable, resolve
from gradbench.worker.precision import FORCED, MEASURED, PLAIN
from gradbench.worker.reference import formulas, pullback
from gradbench.worker.settling import settle
from gradbench.worker.subject import Subject, declare

SUITE = Path(__file__).parent / "suites" / "realistic.py"
registry.load_builtin()


def subject(name, *inputs, maker="", wrt=(), dtype="float32"):
    made = Subject(
        {
            "target": f"{SUITE}:{name}", "inputs": inputs, "wrt": wrt, "dtype": dtype, "seed": 0,
            "passed": "", "maker": f"{SUITE}:{maker}" if maker else "", "also": (),
        }
    )  # fmt: skip
    settle(made)
    return made


X = ("x", "tensor([0.5, -1.0, 2.0])")


def narrow(made):
    return tuple(x.to(made.dtype) if x.is_floating_point() else x for x in made.values)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("filled_by_index", PLAIN),
        ("filled_by_copy", PLAIN),
        ("filled_by_put", PLAIN),
        ("with_grad_inside", PLAIN),
        ("with_autograd_inside", PLAIN),
        ("sharing_memory", PLAIN),
        ("drawn_inside", PLAIN),
        ("seeded_inside", PLAIN),
        ("underflowing", PLAIN),
        ("with_casts", FORCED),
        ("of_numpy", FORCED),
        ("only_single", MEASURED),
        ("changed_by_dtype", MEASURED),
    ],
)
def test_evidence_in_double_precision_does_what_the_function_does(name, precision):
    made = subject(name, X)
    assert made.manner.precision == precision
    measured = made.measured(*narrow(made))
    with made.wide, torch.no_grad():
        exact = made.forward(*made.values)
    assert exact.dtype == torch.float64
    assert not exact.requires_grad
    assert torch.allclose(measured.double(), exact, rtol=1e-5)
    again = made.measured(*narrow(made))
    assert again.dtype == torch.float32
    assert torch.equal(measured, again)
    assert any("references are in float32" in said for said in made.notes) == (
        precision == MEASURED
    )


@pytest.mark.parametrize(
    ("name", "precision"),
    [("cancelling", PLAIN), ("absorbing", PLAIN), ("changed_by_a_little", MEASURED)],
)
def test_what_rounding_inside_explains_is_no_other_function(name, precision):
    made = subject(name, X)
    assert made.manner.precision == precision
    assert bool(made.notes) == (precision == MEASURED)


def test_coarse_arithmetic_calls_no_small_derivative_zero():
    made = subject("small_slopes", X)
    assert made.manner.precision == MEASURED
    with made.wide:
        found = gather(made, made.values, made.forward(*made.values), "jacobian", Deadline(20.0))
    assert not any("zero everywhere" in said for said in found.sentences)


@pytest.mark.parametrize(("name", "evaluable"), [("only_single", False), ("with_constants", True)])
def test_modes_are_tried_in_float64_only_where_the_function_is(name, evaluable, monkeypatch):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    made = subject(name, X)
    function = declare(made, f"{SUITE}:{name}", (), Known(), False)
    assert (function.precise is not None) == evaluable
    shapes = tuple(tuple(x.shape) for x in made.values)
    place = torch.float32, torch.device("cpu")
    way = computed_by("loop_grad", Problem(function, "jacobian", shapes, (3,), *place))
    arguments = Arguments(tuple(x.double() for x in made.values), None)
    if evaluable:
        assert way(arguments)[0].dtype == torch.float64
    else:
        with pytest.raises(Unsupported, match="not computed in float64"):
            way(arguments)


def test_a_function_that_is_measured_in_double_precision_is_its_own_reference():
    made = subject("with_constants", X, dtype="float64")
    with made.wide:
        exact = made.forward(*made.values)
    assert torch.equal(exact, made.measured(*made.values))
    assert made.unit == torch.finfo(torch.float64).eps
    assert not made.notes


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("under_autocast", "float32"), ("of_half", "float32"), ("of_single", "float64")),
        ("of_double", "float32"),
        ("filled_by_index", "float64"),
    ],
)
def test_modes_are_right_where_a_value_or_buffer_is_narrower_than_the_inputs(
    name, dtype, monkeypatch
):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    made = subject(name, X, dtype=dtype)
    function = declare(made, f"{SUITE}:{name}", ["jacobian"], Known(), False)
    problem, timed = pose(function, "jacobian", None, dtype, "cpu", 1)
    gate = Gate(problem, timed, [draw(problem, function.example_size, 2)])
    for mode in ("forward", "loop_grad", "jacrev", "jacfwd", "forward_loop"):
        declared = registry.MODES["jacobian", mode]
        call = declared.build(problem)
        finding = gate.enter(mode, call, declared.leaves).check([0])
        assert finding.passed, (mode, finding.reason)
        doubled = gate.enter(
            mode, lambda *given, call=call: _doubled(call(*given)), declared.leaves
        )
        assert "times the error allowed" in doubled.check([0]).reason
    even_narrower = gate.enter("loop_grad", lambda inputs: torch.ones(3, 3).to(torch.int8), True)
    assert "is torch.int8 instead of" in even_narrower.check([0]).reason


@pytest.mark.parametrize(
    ("name", "how", "modes"),
    [
        (
            "force",
            {"inputs": (X,)},
            {"loop_grad", "loop_backward", "forward_loop", "grads_batched"},
        ),
        ("with_missing", {"maker": "missing_inputs", "wrt": ("x",)}, {"loop_grad", "jacrev"}),
    ],
)
def test_modes_pass_for_what_differentiates_by_its_own_input_or_holds_nan(
    name, how, modes, monkeypatch
):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    made = subject(name, *how.pop("inputs", ()), **how)
    assert made.manner.tracked == (name == "force")
    with made.wide:
        found = gather(made, made.values, made.forward(*made.values), "", Deadline(20.0))
    assert found.verdict == CONFIRMED
    function = declare(made, f"{SUITE}:{name}", ["jacobian"], Known(), False)
    problem, timed = pose(function, "jacobian", None, "float32", "cpu", 1)
    gate = Gate(problem, timed, [draw(problem, function.example_size, 2)])
    for mode in modes:
        declared = registry.MODES["jacobian", mode]
        finding = gate.enter(mode, declared.build(problem), declared.leaves).check([0])
        assert finding.passed, (mode, finding.reason)


def test_what_a_function_raises_stays_where_inputs_that_require_grad_do_not_help():
    with pytest.raises(RuntimeError, match="does not require grad"):
        subject("without_graph", X)


def _doubled(result):
    return tuple(2 * block.detach() for block in as_tuple(result))


@pytest.mark.parametrize("name", ["of_half", "of_single", "of_double", "with_constants"])
def test_products_of_gauss_and_newton_are_right_whatever_the_dtype_of_the_value(name, monkeypatch):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    dtype = "float64" if name == "of_single" else "float32"
    made = subject(name, X, dtype=dtype)
    operator = "gauss_newton_product"
    function = declare(made, f"{SUITE}:{name}", [operator], Known(), False)
    problem, timed = pose(function, operator, None, dtype, "cpu", 1)
    gate = Gate(problem, timed, [draw(problem, function.example_size, 2)])
    right = []
    for mode in registry.modes_of(operator):
        if mode.opt_in or mode.name == "forward":
            continue
        try:
            finding = gate.enter(mode.name, mode.build(problem), mode.leaves).check([0])
        except Unsupported:
            # Forward mode gives float64 of a float16 number times a tensor.
            assert name == "of_half"
            continue
        assert finding.passed, (mode.name, finding.reason)
        right.append(mode.name)
    assert len(right) > 5


@pytest.mark.parametrize("name", ["filled_by_index", "with_casts", "only_single"])
def test_the_tangents_of_a_value_stay_without_grad_mode(name):
    made = subject(name, X)
    (x,) = made.values
    for context in (torch.no_grad, torch.enable_grad):
        with made.wide, context(), forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(), torch.ones_like(x))
            value, tangent = forward_ad.unpack_dual(made.forward(dual))
        assert tangent is not None
        assert value.requires_grad == tangent.requires_grad == (context is torch.enable_grad)


def test_a_graph_through_torch_func_inside_is_kept():
    made = subject("with_vjp_inside", ("v", "tensor([1.0, -0.5, 2.0, 0.1])"))
    with made.wide:
        (pulled,) = pullback(made, torch.ones(4, dtype=torch.float64), *made.values)
    assert torch.allclose(pulled, resolve(f"{SUITE}:base").double().cos(), rtol=1e-12)


def test_weights_are_single_again_after_the_evidence():
    made = subject("by_network", ("x", "randn(5, 3)"))
    with made.wide, made.wide:
        assert {p.dtype for p in resolve(f"{SUITE}:network").parameters()} == {torch.float64}
    assert {p.dtype for p in resolve(f"{SUITE}:network").parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["noisy", "noisy_by_python", "dropped"])
def test_a_random_function_draws_the_same_numbers_in_every_call(name):
    made = subject(name, X)
    assert made.manner.random
    assert "random numbers" in made.notes[0]
    first = made.measured(*narrow(made))
    assert torch.equal(first, made.measured(*narrow(made)))
    with made.wide:
        assert torch.allclose(made.forward(*made.values), first.double(), rtol=1e-5)


def test_the_statistics_of_a_module_stay_as_they_were():
    network = resolve(f"{SUITE}:network")
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    made = subject("loss", ("x", "randn(5, 3)"))
    assert "updates buffers" in made.notes[0]
    gradient = torch.func.grad(made.measured, tuple(range(made.differentiated)))
    gradient(*narrow(made))
    with made.wide:
        torch.func.jvp(made.forward, made.values, made.values)
    assert network.training
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_a_function_starts_from_the_same_buffers_of_a_module_outside_of_it_in_every_call():
    made = subject("by_iterated", ("x", "randn(5, 3)"))
    assert "updates buffers (iterated.parametrizations" in made.notes[0]
    assert made.names[: made.differentiated] == ["x"]
    first = made.measured(*narrow(made))
    assert torch.equal(first, made.measured(*narrow(made)))
    # Where the value does not depend on them, they are not copied.
    assert not subject("by_network", ("x", "randn(5, 3)")).manner.buffers


PARAMETERS = ["net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"]
PARAMETERS += ["net.3.weight", "net.3.bias"]


@pytest.mark.parametrize(
    ("name", "maker", "wrt", "names", "said"),
    [
        ("loss_by_dict", "dict_inputs", (), ["weights.a", "weights.b.c"], "for x: --wrt x"),
        ("loss_by_dict", "dict_inputs", ("weights.b",), ["weights.b.c"], ""),
        ("loss_by_dict", "dict_inputs", ("x", "weights"), ["x", "weights.a", "weights.b.c"], ""),
        ("loss_by_list", "list_inputs", ("layers.1",), ["layers.1.0", "layers.1.1"], ""),
        ("loss_of_net", "net_inputs", (), PARAMETERS, "parameters of net; for x: --wrt x"),
        ("loss_of_net", "net_inputs", ("net",), PARAMETERS, ""),
        ("loss_of_net", "net_inputs", ("net.0",), PARAMETERS[:2], ""),
        ("loss_of_net", "net_inputs", ("x",), ["x"], ""),
        ("energy", "pendulum_inputs", (), ["pendulum.length", "pendulum.mass"], "for angle"),
        ("of_pair", "pair_inputs", (), ["pair.a", "pair.b"], ""),
        ("of_complex", "complex_inputs", (), ["z"], ""),
    ],
)
def test_what_is_differentiated_is_what_is_named_or_the_parameters(name, maker, wrt, names, said):
    made = subject(name, maker=maker, wrt=wrt)
    assert made.names[: made.differentiated] == names
    assert said in " ".join(made.notes)


def test_a_module_is_differentiated_by_what_requires_grad():
    made = subject("loss", ("x", "randn(5, 3)"))
    assert made.names[: made.differentiated] == PARAMETERS
    assert subject("loss", ("x", "randn(5, 3)"), wrt=("frozen",)).names[0] == "frozen"
    method = subject("loss.scaled", ("x", "randn(5, 3)"), ("scale", "tensor(2.0)"))
    assert method.names[: method.differentiated] == PARAMETERS
    assert method.names[method.differentiated :] == ["x", "scale"]


@pytest.mark.parametrize(
    ("name", "inputs", "wrt", "says"),
    [
        ("noisy", [("y", "ones(3)")], (), "no argument 'y', but x"),
        ("noisy", [X], ("y",), "there is no input of that name, but x"),
        ("by_keyword", [("x", "ones(3)"), ("scale", "2.0")], ("scale",), r"torch.tensor\(2.0\)"),
        ("by_keyword", [("x", "ones(3)"), ("scael", "2.0")], (), "did you mean scale"),
        ("by_keyword", [("x", "ones(3)")], (), "no input for its argument 'scale'"),
        ("noisy", [("x", "arange(3)")], ("x",), "no floating-point numbers"),
        ("noisy", [("x", "3")], (), "no floating-point tensor"),
        ("with_grad_inside", [X], ("base",), "make it an argument"),
        ("nosy", [X], (), "did you mean noisy"),
    ],
)
def test_a_wrong_name_is_refused_with_what_was_meant(name, inputs, wrt, says):
    with pytest.raises(Unusable, match=says):
        subject(name, *inputs, wrt=wrt)


CASES = [
    ("loss_by_dict", {"maker": "dict_inputs"}),
    ("loss_by_dict", {"maker": "dict_inputs", "wrt": ("weights.b", "x")}),
    ("loss_by_list", {"maker": "list_inputs"}),
    ("loss_of_net", {"maker": "net_inputs"}),
    ("loss_of_net", {"maker": "net_inputs", "wrt": ("x", "net.3")}),
    ("loss_of_net", {"maker": "net_inputs", "wrt": ("x",)}),
    ("energy", {"maker": "pendulum_inputs"}),
    ("of_pair", {"maker": "pair_inputs"}),
    ("of_complex", {"maker": "complex_inputs"}),
    ("by_keyword", {"inputs": (("x", "randn(3)"), ("scale", "tensor(2.0)"))}),
    ("several", {"inputs": (("x0", "randn(3)"), ("x1", "randn(2)"))}),
    ("with_count", {"inputs": (X,)}),
    ("loss", {"inputs": (("x", "randn(5, 3)"),)}),
    ("loss", {"inputs": (("x", "randn(5, 3)"),), "wrt": ("x",)}),
    ("loss.scaled", {"inputs": (("x", "randn(5, 3)"), ("scale", "2.0"))}),
    ("dropped", {"inputs": (X,)}),
    ("by_iterated", {"inputs": (("x", "randn(5, 3)"),)}),
    ("adapted", {"maker": "dict_inputs"}),
    ("by_network", {"inputs": (("x", "randn(5, 3)"),), "wrt": ("network",)}),
    ("by_network", {"inputs": (("x", "randn(5, 3)"),), "wrt": ("network.0.bias", "x")}),
]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_the_code_to_paste_gives_what_the_mode_gives(name, how, monkeypatch):
    monkeypatch.syspath_prepend(str(SUITE.parent))
    made = subject(name, *how.get("inputs", ()), **{k: v for k, v in how.items() if k != "inputs"})

    class AsFunction:
        forward = staticmethod(made.measured)
        differentiated = made.differentiated
        name = "yours"
        derivatives = {"gradient": torch.sin}  # noqa: RUF012

    values = narrow(made)
    problem = Problem(
        AsFunction(), "gradient", tuple(tuple(x.shape) for x in values), (), torch.float32,
        torch.device("cpu"),
    )  # fmt: skip
    tried = 0
    for mode in registry.modes_of("gradient"):
        if mode.name not in ("backward", "functional_jacobian", "func_grad", "jacrev"):
            continue
        try:
            wanted = as_tuple(
                mode.build(problem)(
                    tuple(
                        x.clone().requires_grad_(mode.leaves and i < made.differentiated)
                        for i, x in enumerate(values)
                    )
                )
            )
        except Unsupported:
            continue
        code = paste.code(made, f"{SUITE}:{name}", mode, problem)
        room = {}
        exec(compile(code, "<pasted>", "exec"), room)
        got = as_tuple(room["gradient"](*values))
        assert all(torch.allclose(a, b) for a, b in zip(got, wanted, strict=True)), code
        tried += 1
    assert tried >= 2


def test_the_code_says_how_to_call_it():
    made = subject("loss_of_net", maker="net_inputs")
    mode = registry.MODES["gradient", "backward"]
    of = {"forward": staticmethod(made.measured), "differentiated": 6, "name": "yours"}
    problem = Problem(
        type("Declared", (), of)(),
        "gradient", tuple(tuple(x.shape) for x in made.values), (), torch.float32,
        torch.device("cpu"),
    )  # fmt: skip
    code = paste.code(made, f"{SUITE}:loss_of_net", mode, problem)
    assert "# Call it as gradient(*net.parameters(), x)" in code
    assert "net = net_inputs()['net']" in code


def by_gradient(weights, x):
    leaves = [weights["a"].requires_grad_(), weights["b"]["c"].requires_grad_()]
    loss = (torch.tanh(x @ leaves[0]) @ leaves[1]).square().mean()
    return list(torch.autograd.grad(loss, leaves))


def by_backward(net, x, weight=1.0):
    net.zero_grad()
    (weight * net(x).square().mean()).backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize(
    ("name", "maker", "own"),
    [("loss_by_dict", "dict_inputs", by_gradient), ("loss_of_net", "net_inputs", by_backward)],
)
def test_a_derivative_of_the_users_own_gets_the_functions_arguments(name, maker, own):
    made = subject(name, maker=maker)
    resolve(f"{SUITE}:network").zero_grad()
    result = made.called(own)(narrow(made))
    n = made.differentiated
    wanted = torch.func.grad(made.measured, tuple(range(n)))(*narrow(made))
    assert all(torch.allclose(a, b) for a, b in zip(result, wanted, strict=True))
    assert all(p.grad is None for p in resolve(f"{SUITE}:network").parameters())


def test_compare_takes_inputs_by_position_and_by_name():
    def f(x, /, y, *, scale=1.0):
        return x * y * scale

    assert live._by_name(f, (1, 2), {"scale": 3}) == {"x": 1, "y": 2, "scale": 3}
    assert live._by_name(torch.sin, (1,), {}) == {"x0": 1}
    for inputs, named, says in (
        ((1, 2, 3), {}, "takes 2 inputs by position, and 3 are given"),
        ((1, 2), {"y": 3}, "'y' is given by position and by name"),
        ((1, 2), {"scael": 3}, "did you mean scale"),
        ((1,), {}, "no input for its argument 'y'"),
    ):
        with pytest.raises(Refusal, match=says):
            live._by_name(f, inputs, named)


def test_what_is_sent_has_no_graph_and_is_as_it_was():
    weight = torch.nn.Parameter(torch.ones(2))
    made, layers = weight * 2, torch.nn.Linear(2, 1).eval()
    sent = pickle.loads(live._pickled((lambda x: x * made, {"layers": layers, "w": weight}, {})))
    assert not sent[0](torch.ones(2)).requires_grad
    assert sent[1]["w"].requires_grad
    assert not sent[1]["layers"].training
    assert isinstance(sent[1]["layers"].weight, torch.nn.Parameter)


def test_a_function_without_reverse_mode_is_differentiated_by_forward_mode():
    made = subject("only_forward", X)
    assert made.manner.forward_only
    assert "reverse mode fails (" in made.notes[0]
    with made.wide:
        (x,) = made.values
        (block,) = formulas(made)["jacobian"](x)
        (pulled,) = pullback(made, torch.ones(3, dtype=torch.float64), x)
        found = gather(made, made.values, made.forward(x), "jacobian", Deadline(20.0))
    exact = torch.ones(3, 3).tril() * x.exp()
    assert torch.allclose(block, exact)
    assert torch.allclose(pulled, exact.sum(0))
    assert found.sentences[0] == (
        "forward mode agrees with float64 finite differences in every entry"
    )


def test_forward_mode_of_what_is_written_in_place_needs_no_grad_mode_outside():
    made = subject("written_over", X)
    assert made.manner.forward_only
    (x,) = made.values
    wanted = torch.func.jacfwd(made.target)(x.double())
    with torch.no_grad(), made.wide:
        (block,) = formulas(made)["jacobian"](x)
    assert torch.allclose(block, wanted)


def test_hessians_of_several_values_have_the_shape_of_the_value_first():
    made = subject("two_values", X, ("scale", "tensor([2.0, 5.0])"))
    blocks = formulas(made)["hessian"](*made.values)
    assert [tuple(b.shape) for b in blocks] == [(2, 3, 3), (2, 3, 2), (2, 2, 3), (2, 2, 2)]
    both = torch.func.hessian(made.forward, (0, 1))(*made.values)
    for block, wanted in zip(blocks, (b for row in both for b in row), strict=True):
        assert torch.allclose(block, wanted)

    class Declared:
        forward = staticmethod(made.forward)
        differentiated = 2
        name = "yours"

    problem = Problem(Declared(), "hessian", ((3,), (2,)), (2,), torch.float64, torch.device("cpu"))
    assert problem.result == tuple(tuple(b.shape) for b in blocks)
    usual = second_order.functional_jacobian_twice(problem)(made.values)
    assert all(torch.allclose(a, b) for a, b in zip(usual, blocks, strict=True))
    with pytest.raises(Unsupported, match="not one number"):
        registry.MODES["hessian", "functional_hessian"].build(problem)
    with made.wide:
        found = gather(made, made.values, made.forward(*made.values), "hessian", Deadline(20.0))
    assert any("reverse mode twice agrees" in said for said in found.sentences)


def test_a_file_is_executed_once_whoever_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(loading, "_files", {})
    (tmp_path / "executed_once.py").write_text(
        "import counted_here\ncounted_here.N += 1\nf = g = print\n"
    )
    (tmp_path / "counted_here.py").write_text("N = 0\n")
    (tmp_path / "beside_it.py").write_text("from executed_once import f as h\n")
    first = resolve(f"{tmp_path}/executed_once.py:f")
    monkeypatch.chdir(tmp_path)
    assert resolve("executed_once.py:g") is first
    assert resolve("executed_once:g") is first
    assert resolve("beside_it.py:h") is first
    assert sys.modules["counted_here"].N == 1
    for name in ("executed_once", "counted_here", "beside_it"):
        del sys.modules[name]


def test_the_default_dtype_that_a_file_sets_holds_while_its_function_is_called(tmp_path):
    file = tmp_path / "sets_the_default.py"
    file.write_text(
        "import torch\ntorch.set_default_dtype(torch.bfloat16)\n"
        "SEEN = []\ndef f(x):\n"
        "    SEEN.append(torch.zeros(1).dtype)\n    return x * torch.ones(1)\n"
    )
    try:
        made = Subject(
            {
                "target": f"{file}:f", "inputs": (X,), "wrt": (), "dtype": "bfloat16", "seed": 0,
                "passed": "", "maker": "", "also": (),
            }
        )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    made.measured(*narrow(made))
    with made.wide:
        made.forward(*made.values)
    assert resolve(f"{file}:SEEN") == [torch.bfloat16, torch.float64]
    assert torch.get_default_dtype() == torch.float32
    del sys.modules["sets_the_default"]


PACKAGE = {
    "pkg_a/__init__.py": "",
    "pkg_a/inner/__init__.py": "from .. import tools\n",
    "pkg_a/inner/mod.py": "from ..tools import double\ndef f(x): return double(x)\n",
    "pkg_a/tools.py": "def double(x): return 2 * x\n",
    "loose_b/mod.py": "from .other import g\n",
    "loose_b/other.py": "def g(x): return 3 * x\n",
    "with.dots.py": "def h(x): return x\nif __name__ == '__main__':\n    raise SystemExit(3)\n",
    "random.py": "def r(x): return x\n",
}


def test_files_of_packages_with_dots_and_with_the_names_of_modules_are_loaded(tmp_path):
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = textwrap.dedent(
        """
        import os, random, sys
        from gradbench.worker.loading import importable, resolve
        os.chdir(sys.argv[1])
        assert resolve("pkg_a/inner/mod.py:f")(1) == 2
        assert resolve("pkg_a.inner.mod:f") is resolve("pkg_a/inner/mod.py:f")
        assert importable("pkg_a/inner/mod.py") == "pkg_a.inner.mod"
        assert resolve("loose_b/mod.py:g")(1) == 3
        assert importable("loose_b/mod.py") == "loose_b.mod"
        assert resolve("with.dots.py:h")(1) == 1
        assert resolve("random.py:r")(1) == 1
        import random as again
        assert again is random
        """
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_object_without_a_name_goes_by_its_variable_in_the_session(monkeypatch):
    twice = functools.partial(torch.mul, 2.0)
    assert live._target(twice) == ":the_function"
    assert live._target(torch.nn.Linear(2, 2)) == ":the_function"
    monkeypatch.setattr(sys.modules["__main__"], "doubled", twice, raising=False)
    assert live._target(twice) == ":doubled"
