"""The code to paste computes what the mode that it stands for computes; and advice as an object."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import schemas
import test_ways
import torch

import gradbench
from gradbench.advise.advice import Refusal
from gradbench.advise.shown import as_document
from gradbench.core.cases import FORWARD
from gradbench.core.deadline import Deadline
from gradbench.core.operators import ADVISED, OPERATORS
from gradbench.core.text import json_text
from gradbench.modes import structured
from gradbench.problems import registry
from gradbench.problems.arguments import pose
from gradbench.problems.function import as_tuple
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem, draw_seed
from gradbench.problems.structure import structure_of
from gradbench.problems.tracing import trace
from gradbench.problems.written import Written
from gradbench.worker import paste, patterns
from gradbench.worker.known import Known, known
from gradbench.worker.structures import hessian_structure, per_sample, structure
from gradbench.worker.subject import Subject

SUBJECTS = Path(__file__).parent / "suites" / "subjects.py"
registry.load_builtin()

CASES = {
    # name: inputs in the function's order, what to differentiate by, operators
    "elementwise": ((("x", "randn(5)"),), (), ("jacobian", "diagonal", "vjp", "jvp")),
    "stencil": (
        (("u", "randn(9)"), ("k", "tensor(0.5)")),
        ("u",),
        ("jacobian", "vjp", "jacobian_sparse", "gauss_newton_product"),
    ),
    "affine": (
        (("w", "randn(3, 4)"), ("x", "randn(4)")),
        (),
        ("jacobian", "vjp", "jvp", "gauss_newton_product"),
    ),
    "pendulum": ((("c", "randn(3)"), ("x", "randn(4, 3)")), ("x",), ("batch_jacobian",)),
    "loss": (
        (("x", "randn(4)"), ("scale", "2.0")),
        (),
        ("gradient", "vjp", "jvp", "hessian", "hvp"),
    ),
    "product": (
        (("a", "randn(3)"), ("b", "randn(3)")),
        (),
        ("gradient", "hessian", "hvp"),
    ),
    "energies": ((("x", "randn(4, 3)"),), (), ("batch_jacobian",)),
    "sample_losses": (
        (("w", "randn(3, 2)"), ("x", "randn(4, 3)"), ("labels", "tensor([0, 1, 1, 0])")),
        ("w",),
        ("jacobian", "per_sample_gradient"),
    ),
    "layered": ((("x", "randn(3)"),), (), ("gradient",)),
    "mean_loss": (
        (("w", "randn(3, 2)"), ("x", "randn(4, 3)"), ("labels", "tensor([0, 1, 1, 0])")),
        ("w",),
        ("per_sample_gradient",),
    ),
    "scaled": ((("x", "randn(4)"), ("index", "tensor([0, 2])")), (), ("jacobian", "jvp")),
    "module": ((("input", "randn(2, 3)"),), (), ("jacobian",)),
    "distances": ((("places", "randn(4, 2)"), ("size", "rand(3)")), (), ("jacobian",)),
    "arrow": ((("x", "randn(30)"),), (), ("jacobian",)),
}


def posed(name, tmp_path):
    inputs, wrt, operators = CASES[name]
    target = f"{SUBJECTS}:{name}"
    spec = {
        "target": target, "inputs": inputs, "wrt": wrt, "dtype": "float64", "seed": 0, "passed": "",
        "maker": "", "also": (),
    }  # fmt: skip
    subject = Subject(spec)
    whole = "jacobian" in operators
    found = known(subject, structure(subject), Deadline(60)) if whole else Known()
    file = str(tmp_path / "pattern.pt")
    found.save(file)
    written, _ = patterns.codes(found, file)
    return subject, found, written, operators


def run(code, operator):
    room = {}
    exec(compile(code, "<pasted>", "exec"), room)
    return room[operator]


def problem_of(subject, operator):
    class AsFunction:
        forward = staticmethod(subject.forward)
        differentiated = subject.differentiated
        name = "yours"
        steps = None
        derivatives = {"gradient": torch.sin}  # noqa: RUF012

    return Problem(
        AsFunction(), operator, tuple(tuple(x.shape) for x in subject.values),
        tuple(subject.forward(*subject.values).shape), torch.float64, torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_pasted_code_gives_what_its_mode_gives(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SUBJECTS.parent))
    monkeypatch.setattr(registry, "MODES", dict(registry.MODES))
    subject, found, written, operators = posed(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    tried = 0
    for operator in operators:
        problem = problem_of(subject, operator)
        found.register(operator, problem.function.name)
        if operator == "jacobian" and per_sample(subject):
            structured.register_samples()
        seed = draw_seed(problem, torch.Generator().manual_seed(1))
        extra = () if seed is None else (seed,)
        for mode in registry.modes_of(operator):
            if mode.opt_in or mode.by_hand or mode.name == FORWARD:
                continue
            inputs = tuple(
                x.clone().requires_grad_(mode.leaves and i < subject.differentiated)
                for i, x in enumerate(subject.values)
            )
            try:
                wanted = as_tuple(mode.build(problem)(inputs, *extra))
            except Unsupported:
                continue
            # A mode of which there is no code would be offered without one.
            code = paste.code(subject, f"{SUBJECTS}:{name}", mode, problem, written, found.local)
            first = extra
            if OPERATORS[operator].seed == "t" and subject.differentiated == 1:
                first = (extra[0][0],)
            result = run(code, operator)(*first, *subject.values)
            assert isinstance(result, torch.Tensor) == (len(wanted) == 1), (operator, mode.name)
            got = as_tuple(result)
            assert len(got) == len(wanted), (operator, mode.name)
            for a, b in zip(got, wanted):
                assert a.layout == b.layout
                assert torch.allclose(a.to_dense(), b.to_dense(), rtol=1e-12, atol=1e-12), (
                    operator,
                    mode.name,
                )
            tried += 1
    assert tried >= 4


@pytest.mark.parametrize(
    ("operator", "name"), [("jacobian", "switching"), ("hessian", "switching_energy")]
)
def test_code_that_relies_on_a_pattern_of_one_branch_raises_in_the_other(
    operator, name, monkeypatch
):
    monkeypatch.syspath_prepend(str(SUBJECTS.parent))
    monkeypatch.setattr(registry, "MODES", dict(registry.MODES))
    target = f"{SUBJECTS}:{name}"
    spec = {
        "target": target, "inputs": [("x", "linspace(1, 3, 30)")], "wrt": (), "dtype": "float32",
        "seed": 0, "passed": "", "maker": "", "also": (),
    }  # fmt: skip
    subject = Subject(spec)
    look = structure if operator == "jacobian" else hessian_structure
    found = Known(look(subject), of_gradient=operator == "hessian")
    assert found.local == ["structure"]
    problem = problem_of(subject, operator)
    before = set(registry.MODES)
    found.register(operator, problem.function.name)
    written, _ = patterns.codes(found, "")
    x = subject.values[0]
    whole = getattr(torch.autograd.functional, operator)
    made = sorted(set(registry.MODES) - before)
    assert len(made) >= 4
    for key in made:
        mode = registry.MODES[key]
        code = paste.code(subject, target, mode, problem, written, found.local)

        def timed(x, mode=mode):
            return mode.build(problem)((x.detach().requires_grad_(mode.leaves),))[0]

        for call in (run(code, operator), timed):
            assert torch.allclose(call(x), whole(subject.forward, x))
            with pytest.raises(RuntimeError, match="near another input"):
                call(-x)


@pytest.mark.parametrize("operator", ADVISED)
def test_there_is_code_for_every_mode_that_advice_may_name(operator):
    there = (*registry.FUNCTIONS.values(), *test_ways.FUNCTIONS)
    function = next(f for f in there if operator in f.formulas)
    problem, _ = pose(function, operator, None, "float64", "cpu", 0)
    for mode in registry.modes_of(operator):
        if mode.name != FORWARD and not (mode.opt_in or mode.by_hand):
            written = Written(mode.build, problem)
            assert "problem" not in written.functions[mode.build.__name__]


OWN = """
import math

import torch

import gradbench

SCALE = 2.0


def halved(grads: tuple) -> tuple:
    return tuple(g / SCALE for g in grads)


@gradbench.mode("gradient")
def own_gradient(problem):
    "the gradient, doubled and halved"
    f, n = problem.forward, problem.differentiated
    twice = 2 * math.prod(problem.output)

    def call(inputs) -> tuple[torch.Tensor, ...]:
        wrt = tuple(x.detach().requires_grad_() for x in inputs[:n])
        return halved(torch.autograd.grad(twice * f(*wrt, *inputs[n:]), wrt))

    return call


@gradbench.mode("gradient")
def own_formula(problem):
    "the function's formula"
    formula = problem.function.derivatives["gradient"]
    return lambda inputs: formula(*inputs)
"""


def test_a_mode_of_the_users_own_has_code_to_paste(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SUBJECTS.parent))
    monkeypatch.setattr(registry, "MODES", {})
    file = tmp_path / "own_modes.py"
    file.write_text(OWN)
    registry.load_file(str(file))
    subject, *_ = posed("loss", tmp_path)
    problem = problem_of(subject, "gradient")
    target = f"{SUBJECTS}:loss"
    code = paste.code(subject, target, registry.MODES["gradient", "own_gradient"], problem)
    assert "problem" not in code
    assert "twice = 2\n" in code
    (x,) = subject.values
    assert torch.allclose(run(code, "gradient")(x), torch.func.grad(subject.forward)(x))
    as_it_stands = paste.code(subject, target, registry.MODES["gradient", "own_formula"], problem)
    assert "it uses the problem itself" in as_it_stands.splitlines()[0]
    assert "def own_formula(problem):" in as_it_stands


def test_names_of_parameters_become_python_names():
    names = paste.identifiers(["0.weight", "lambda", "f", "x"], {"f"})
    assert names == ["p0_weight", "plambda", "f_", "x"]


@pytest.mark.usefixtures("few_rounds")
def test_compare_advises_on_a_closure_and_shows_itself(tmp_path):
    weights = torch.arange(1.0, 7.0)
    advice = gradbench.compare(
        lambda x: torch.sin(weights * x), torch.randn(6), operator="jacobian",
        budget=900, results=tmp_path,
    )  # fmt: skip
    assert set(advice.frame["operator"]) == {"jacobian"}
    assert advice.winner() in set(advice.frame["mode"])
    assert "def jacobian(x):" in advice.code()
    assert "the_function = lambda x: torch.sin(weights * x)\n" in advice.code()
    assert "compressed_rows" in set(advice.frame["mode"])
    schemas.require("advise", json.loads(json_text(as_document(advice))))
    page = advice._repr_html_()
    assert "<table>" in page
    assert "data:image/png;base64," in page
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 1
    with pytest.raises(ValueError, match="'hessian' was not measured, but jacobian"):
        advice.rows("hessian")


def test_compare_says_in_one_line_what_cannot_be_sent(tmp_path):
    held = sys._getframe()  # a frame is nothing that another process can have

    def holding(x):
        return x if held else -x

    with pytest.raises(Refusal, match="cannot be sent to the measuring process"):
        gradbench.compare(holding, torch.randn(3), results=tmp_path)


def test_a_function_that_kills_its_process_does_not_take_the_caller_down(tmp_path):
    def dying(x):
        import os

        os._exit(3)

    with pytest.raises(Refusal, match="exit code 3"):
        gradbench.compare(dying, torch.randn(3), results=tmp_path)


DOUBLE = {"dtype": torch.float64}
SEEN = torch.randint(20, (2, 300), generator=torch.Generator().manual_seed(0))

WRITTEN = {
    "elementwise": (torch.exp, (30, 3)),
    "two elementwise": (torch.mul, (30,), (30,)),
    "reversed": (lambda x: x.flip(0) ** 2, (90,)),
    "banded": (lambda x: x[2:] - 2 * x[1:-1] ** 2 + x[:-2], (200,)),
    "with ends": (lambda x: torch.cat([x[:1], x[2:] * x[:-2] + x[1:-1], x[-1:]]), (200,)),
    "periodic": (lambda x: x * x.roll(1) + x.roll(-2), (200,)),
    "grid": (lambda x: x[2:, 1:-1] + x[:-2, 1:-1] + x[1:-1, 2:] * x[1:-1, :-2], (12, 9)),
    "batch": (lambda x: torch.softmax(x, 1), (50, 6)),
    "two in a batch": (lambda a, b: a.sum(1, keepdim=True) * b, (50, 4), (50, 3)),
    "small": (lambda x: x[torch.tensor([3, 0, 5, 2])] * x[0], (6,)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_regular_pattern_is_written_into_the_code(name):
    f, *shapes = WRITTEN[name]
    found = jacobian_of(f, shapes)
    code, loaded = patterns.code(found, "/somewhere/pattern.pt")
    assert not loaded
    assert "load" not in code
    assert max(map(len, code.splitlines())) <= 100
    space = run(f"import torch\nfrom types import SimpleNamespace\n{code}", "structure")
    pairs = [set(zip(s.rows.tolist(), s.columns.tolist())) for s in (space, found)]
    assert pairs[0] == pairs[1]
    assert torch.equal(space.row_colours, found.row_colours)
    assert torch.equal(space.column_colours, found.column_colours)
    assert (space.inputs, space.output) == (found.inputs, found.output)
    assert space.is_global == found.is_global


def test_an_irregular_pattern_is_loaded_from_beside_the_code(tmp_path, monkeypatch):
    found = jacobian_of(lambda x, y: x[SEEN[0]] * y[SEEN[1]], [(20,), (20,)])
    file = tmp_path / "pattern_of_it.pt"
    torch.save({"structure": dataclasses.asdict(found)}, file)
    code, loaded = patterns.code(found, str(file))
    assert loaded
    assert str(tmp_path) not in code
    assert "keep pattern_of_it.pt beside this code" in code
    monkeypatch.chdir(tmp_path)
    space = run(f"import torch\nfrom types import SimpleNamespace\n{code}", "structure")
    assert torch.equal(space.rows, found.rows)


def jacobian_of(f, shapes):
    inputs = [torch.ones(shape, **DOUBLE) for shape in shapes]
    traced = trace(f, inputs, [], Deadline(60))
    output = tuple(f(*inputs).shape)
    return structure_of(tuple(shapes), output, traced.rows, traced.columns, "", is_global=True)
