"""Explanations: profiles of Callgrind, names of functions, what differs, and the two commands."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import schemas
from click.testing import CliRunner
from in_process import gradbench
from made_runs import OURS, jacobian, stored

from gradbench.analysis import callgraphs, explained
from gradbench.analysis.callgraphs import Function, Graph
from gradbench.analysis.symbols import GROUPS, group, readable, short
from gradbench.cli import explain_command
from gradbench.core.cases import Case, Offer, Selection, SelectionError
from gradbench.core.naming import narrowed, one_entry, selected
from gradbench.report import why
from gradbench.runner import profiling
from gradbench.store import explanations
from gradbench.store.explanations import FunctionCost, SideProfiled
from gradbench.store.lines import StoreError

CASE = "vjp/exp/documents/float32/cpu/1/grad"

# main calls work twice and itself once; work calls a lock of the C library, which has no group.
PROFILE = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
positions: line
events: Ir Dr
ob=(1) /usr/lib/libpython3.11.so.1.0
fl=(1) ???
fn=(1) main
0 100 5
cob=(2) /torch/lib/libtorch_cpu.so
cfi=(2) kernel.cpp
cfn=(2) at::native::work(at::Tensor const&, long)
calls=2 0
0 900
cfn=(1)
calls=1 0
* 50

ob=(2)
fl=(2)
fn=(2)
+3 700 1
cob=(3) /lib/libc.so.6
cfn=(3) pthread_mutex_lock
calls=2 0
-1 200

ob=(3)
fn=(3)
0 200
0
totals: 1000
"""

MAIN = Function("libpython3.11.so.1.0", "main")
WORK = Function("libtorch_cpu.so", "at::native::work")
LOCK = Function("libc.so.6", "pthread_mutex_lock")


# ── profiles ──────────────────────────────────────────────────────────────────────────────────


def test_a_profile_has_what_functions_execute_themselves_and_in_calls():
    graph = callgraphs.parse(PROFILE.splitlines())
    assert graph.own == {MAIN: 100, WORK: 700, LOCK: 200}
    assert graph.calls == {(MAIN, WORK): 900, (MAIN, MAIN): 50, (WORK, LOCK): 200}
    assert graph.total == 1000


def test_inclusive_costs_count_a_function_that_calls_itself_once():
    found = callgraphs.inclusive_costs(callgraphs.parse(PROFILE.splitlines()))
    assert found == {MAIN: 1000, WORK: 900, LOCK: 200}


def test_functions_that_call_each_other_in_a_circle_have_no_inclusive_cost():
    a, b, c = (Function("lib", name) for name in "abc")
    graph = Graph({a: 1, b: 2, c: 3}, {(a, b): 9, (b, a): 5, (b, c): 3})
    assert callgraphs.inclusive_costs(graph) == {a: None, b: None, c: 3}


def test_a_long_chain_of_calls_is_no_matter():
    chain = [Function("lib", str(i)) for i in range(5000)]
    graph = Graph(dict.fromkeys(chain, 1), dict.fromkeys(itertools.pairwise(chain), 1.0))
    assert callgraphs.inclusive_costs(graph)[chain[-1]] == 1


def test_what_has_no_group_belongs_to_its_callers():
    graph = callgraphs.parse(PROFILE.splitlines())
    assert callgraphs.attributed(graph)[LOCK] == {"operators": 1.0}
    assert callgraphs.attributed(Graph({LOCK: 7}))[LOCK] == {"other": 1.0}


def test_a_profile_is_of_one_call_without_the_marks_and_without_outliers():
    empty = Graph({MAIN: 40.0})
    once = {MAIN: 140.0, WORK: 1000.0}
    repeats = [Graph(once), Graph({**once, WORK: 9000.0}), Graph(once)]
    profile = callgraphs.combined(empty, repeats, calls=10)
    assert profile.costs[MAIN].own == 10
    assert profile.costs[WORK].own == 100
    assert profile.groups == {"Python": 10, "operators": 100}
    assert profile.totals == [110, 910, 110]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no events"),
        ("events: Cycles\n", "counts no instructions"),
        ("events: Ir\nfn=(1) f\n0 many\n", "no number"),
    ],
)
def test_what_is_no_profile_says_so(text, says):
    with pytest.raises(callgraphs.Unreadable, match=says):
        callgraphs.parse(text.splitlines())


def test_stored_functions_are_those_with_a_share():
    costs = {Function("lib", str(i)): callgraphs.Cost(float(i), None) for i in (0, 10**6)}
    profile = callgraphs.Profile(
        [1.0], costs, {"kernels": 10.0**6}, dict.fromkeys(costs, "kernels")
    )
    assert [f.name for f in profiling.kept(profile)] == ["1000000"]


# ── names ─────────────────────────────────────────────────────────────────────────────────────

LOOP = (
    "void c10::function_ref<void (char**, long const*, long, long)>::callback_fn<at::native::AVX2::"
    "VectorizedLoop2d<at::native::AVX2::sinh_kernel(at::TensorIteratorBase&)::{lambda()#1}::"
    "operator()() const::{lambda(float)#1}, at::native::AVX2::sinh_kernel(at::TensorIteratorBase&)"
    "::{lambda(at::vec::AVX2::Vectorized<float>)#2}> >(long, char**, long const*, long, long)"
)
WRAPPER = (
    "c10::impl::wrap_kernel_functor_unboxed_<c10::impl::detail::WrapFunctionIntoFunctor_<c10::"
    "CompileTimeFunctionPointer<at::Tensor (at::Tensor const&), &(at::(anonymous namespace)::"
    "(anonymous namespace)::wrapper_CPU_exp(at::Tensor const&))>, at::Tensor>, at::Tensor "
    "(at::Tensor const&)>::call(c10::OperatorKernel*, c10::DispatchKeySet, at::Tensor const&)"
)
INNER = (
    "at::native::AVX2::exp_kernel(at::TensorIteratorBase&)::{lambda()#1}::operator()() const::"
    "{lambda(char**, long const*, long)#1}::operator()(char**, long const*, long) const "
    "[clone .isra.0]"
)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_PyEval_EvalFrameDefault", "_PyEval_EvalFrameDefault"),
        ("_PyEval_EvalFrameDefault'2", "_PyEval_EvalFrameDefault"),
        ("operator new(unsigned long)", "operator new"),
        ("std::vector<at::Tensor, std::allocator<at::Tensor> >::~vector()", "std::vector::~vector"),
        ("c10::TensorImpl::sizes(long) const", "c10::TensorImpl::sizes"),
        ("torch::(anonymous namespace)::f(int (*)(char))", "torch::f"),
        ("bool at::operator<(at::A const&, at::B<(at::C)1>)", "at::operator_sign"),
        (LOOP, "c10::function_ref::callback_fn<at::native::AVX2::sinh_kernel>"),
        (WRAPPER, "c10::impl::wrap_kernel_functor_unboxed_::call<at::wrapper_CPU_exp>"),
        (INNER, "at::native::AVX2::exp_kernel"),
        ("void f<a, b<c", "f"),
        ("(((", "((("),
    ],
)
def test_names_are_readable(symbol, name):
    assert readable(symbol) == name


def test_tables_name_what_a_wrapper_wraps():
    assert short(readable(LOOP)) == "AVX2::sinh_kernel loop"
    assert short(readable(WRAPPER)) == "wrapper_CPU_exp wrapper"
    assert short("__sinhf_finite@GLIBC_2.15") == "__sinhf_finite"


TORCH, PYTHON = "libtorch_cpu.so", "libpython3.11.so.1.0"


@pytest.mark.parametrize(
    ("library", "symbol", "of"),
    [
        (PYTHON, "_PyObject_Malloc", "Python"),
        ("python3.12", "PyDict_GetItem", "Python"),
        ("_ctypes.cpython-311-x86_64-linux-gnu.so", "call", "Python"),
        ("libtorch_python.so", "torch::autograd::THPVariable_exp(_object*)", "bindings"),
        (TORCH, "torch::autograd::Engine::execute()", "autograd"),
        (TORCH, "torch::autograd::VariableType::(anonymous namespace)::exp()", "autograd"),
        (TORCH, WRAPPER, "dispatcher"),
        (TORCH, "at::_ops::exp::call(at::Tensor const&)", "dispatcher"),
        ("libc10.so", "c10::TensorImpl::TensorImpl()", "dispatcher"),
        (TORCH, "at::TensorIteratorBase::build()", "operators"),
        (TORCH, "at::native::view(at::Tensor const&)", "operators"),
        (TORCH, LOOP, "kernels"),
        (TORCH, "mkl_vml_kernel_sExp_L9HAynn", "kernels"),
        (TORCH, "Sleef_sinhf8_u10avx2", "kernels"),
        ("libm.so.6", "expm1f", "kernels"),
        ("libc.so.6", "_int_malloc", "memory"),
        ("libc.so.6", "__memcpy_avx_unaligned_erms", "memory"),
        ("libstdc++.so.6.0.30", "operator delete(void*)", "memory"),
        ("libc10.so", "c10::alloc_cpu(unsigned long)", "memory"),
        ("ld-linux-x86-64.so.2", "__tls_get_addr", "other"),
        (TORCH, "std::_Hashtable<int>::clear()", "other"),
    ],
)
def test_functions_have_a_group(library, symbol, of):
    assert group(library, readable(symbol)) == of
    assert of in GROUPS


# ── what differs ──────────────────────────────────────────────────────────────────────────────


def side(name, groups, functions=(), operations=None, case=CASE, capability="AVX2", **more):
    return SideProfiled(
        side=name,
        case=Case.parse(case),
        environment={"torch": name, "cpu_capability": "AVX2"} | more,
        capability=capability,
        call=1e-5,
        calls=10,
        repeats=[float(sum(groups.values()))],
        groups=groups,
        functions=list(functions),
        operations=operations or {},
        python_calls={},
    )


def explain(tmp_path, of, *sides):
    made = explanations.write(tmp_path, of, sides, {"cpu": "test"}, ["explain"], [], 1.0)
    return explained.of(explanations.read(made.path))


def cost(name, of, own, inclusive=None, library=TORCH):
    return FunctionCost(library, name, of, own, inclusive)


KERNEL = "c10::function_ref::callback_fn<at::native::AVX2::sinh_kernel>"
OLD = side(
    "2.13.0",
    {"Python": 1000.0, "kernels": 9000.0},
    [
        cost(KERNEL, "kernels", 1000.0, 9000.0),
        cost("Sleef_sinhf8_u10avx2", "kernels", 8000.0, 8000.0),
        cost("eval", "Python", 1000.0, library=PYTHON),
    ],
    {"aten.sinh.default": 1},
)
NEW = side(
    "2.14.0",
    {"Python": 1000.0, "kernels": 49000.0},
    [
        cost(KERNEL, "kernels", 2000.0, 49000.0),
        cost("expm1f", "kernels", 47000.0, 47000.0, "libm.so.6"),
        cost("eval", "Python", 1000.0, library=PYTHON),
    ],
    {"aten.sinh.default": 1, "aten.empty.memory_format": 2},
)


def test_the_kernel_that_changed_between_releases_is_named(tmp_path):
    found = explain(tmp_path, "releases", OLD, NEW)
    assert found.sentence == (
        "2.14.0 executes 5× the instructions of 2.13.0 (10 k → 50 k a call), 100% of the change in "
        "kernels: at::native::AVX2::sinh_kernel (9 k → 49 k) with what it calls, above all expm1f "
        "(new, 47 k), while Sleef_sinhf8_u10avx2 (8 k) is gone."
    )
    assert [f.name for f in found.functions][:2] == ["expm1f", "Sleef_sinhf8_u10avx2"]
    assert [(c.name, c.before, c.after) for c in found.operations] == [
        ("aten.empty.memory_format", 0, 2)
    ]


def test_a_release_against_itself_differs_in_nothing(tmp_path):
    again = side("2.13.0 again", {"Python": 1001.0, "kernels": 9000.0})
    found = explain(tmp_path, "releases", OLD, again)
    assert not found.differs
    assert "execute the same number of instructions" in found.sentence


def test_repeats_that_differ_hide_smaller_changes(tmp_path):
    restless = side("2.14.0", {"Python": 1050.0})
    restless.repeats.append(1150.0)
    assert not explain(tmp_path, "releases", side("2.13.0", {"Python": 1000.0}), restless).differs


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            {"Python": 100.0, "kernels": 50.0},
            {"Python": 300.0, "kernels": 55.0},
            "Overhead: jacrev executes 2.37× the instructions of grad (150 → 355 a call); 98% of "
            "the difference is overhead (Python 98%), 2% kernels.",
        ),
        ({"Python": 100.0, "kernels": 50.0}, {"Python": 101.0, "kernels": 500.0}, "Work: jacrev"),
        (
            {"Python": 100.0, "kernels": 500.0},
            {"Python": 300.0, "kernels": 50.0},
            "+200 of overhead, −450 in kernels",
        ),
        (
            {"Python": 100.0, "kernels": 100.0},
            {"Python": 200.0, "kernels": 200.0},
            "Overhead and work: jacrev",
        ),
    ],
)
def test_of_two_modes_it_says_whether_overhead_or_work_differs(tmp_path, before, after, says):
    found = explain(tmp_path, "modes", side("grad", before), side("jacrev", after))
    assert says in found.sentence


def test_of_one_mode_it_says_what_it_consists_of(tmp_path):
    alone = side("grad", {"Python": 600.0, "dispatcher": 300.0, "kernels": 100.0})
    assert explain(tmp_path, "modes", alone).sentence == (
        "Overhead: of the 1 k instructions of a call of grad, 90% are overhead (Python 60%, "
        "dispatcher 30%) and 10% kernels."
    )


def test_other_cpu_instructions_and_libraries_are_noted(tmp_path):
    timed = side("2.14.0", {"Python": 1.0}, cpu_capability="AVX512", numpy="2.4")
    notes = explain(
        tmp_path, "releases", side("2.13.0", {"Python": 1.0}, numpy="1.26"), timed
    ).notes
    assert "2.14.0: counted with AVX2" in notes[0]
    assert any("numpy 1.26" in note and "2.4" in note for note in notes)


def test_an_explanation_without_one_of_its_sides_says_nothing(tmp_path):
    made = explanations.write(tmp_path, "releases", [OLD, NEW], {}, [], [], 1.0)
    lines = made.path.read_bytes().splitlines(keepends=True)
    made.path.write_bytes(b"".join(lines[:2]))
    assert explained.of(explanations.read(made.path)) is None


# ── names of cases ────────────────────────────────────────────────────────────────────────────

OFFER = Offer(
    operator="vjp",
    function="exp",
    document="G",
    formula="",
    derivative="",
    dtype="float32",
    example_size="n=4",
    sizes=("n=64",),
    large_sizes=(),
    modes=("forward", "grad", "backward"),
    opt_in=("compiled",),
    size_names=("n",),
    first="grad",
)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("vjp/exp/grad", CASE),
        (CASE, CASE),
        ("vjp exp documents float32 grad", CASE),
        ("vjp/exp/n=64/grad", "vjp/exp/n=64/float32/cpu/1/grad"),
        ("vjp/exp/float64/grad", "vjp/exp/documents/float64/cpu/1/grad"),
        ("vjp/exp/n=7/float64/2/grad", "vjp/exp/n=7/float64/cpu/2/grad"),
        ("vjp/exp/compiled", "vjp/exp/documents/float32/cpu/1/compiled"),
    ],
)
def test_a_case_has_one_way_of_naming(name, case):
    assert one_entry([OFFER], name, selected(name)).cases == [case]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("exp", "is no case: OPERATOR/FUNCTION/MODE"),
        ("vjp/exp", "is no case"),
        ("vjp/exp/n=3/n=4/grad", "is no case: .*; it has two sizes, n=3 and n=4"),
        ("vjp//grad", "is no case"),
        ("vjp/exq/grad", "did you mean exp"),
        ("vjp/exp/grda", "did you mean grad"),
        ("vjp/exp/jacrev", "vjp of exp has no mode 'jacrev'; it has forward, grad, backward"),
        ("vjp/exp/*", "more than one case"),
        ("vjp/exp/m=3/grad", "no selected function has a size"),
        ("vjp/exp/n=x/grad", "not of the form"),
        ("vjp/exp/float32/float64/grad", "two dtypes"),
    ],
)
def test_a_name_that_is_no_case_says_so(name, says):
    with pytest.raises(SelectionError, match=says.replace("(", r"\(")) as raised:
        one_entry([OFFER], name, selected(name))
    assert "\n" not in str(raised.value)


def test_further_modes_are_of_the_same_comparison():
    assert set(
        one_entry([OFFER], "vjp/exp/grad", selected("vjp/exp/grad"), ["backward"]).modes
    ) == {"grad", "backward"}
    with pytest.raises(SelectionError, match="no mode 'jvp'"):
        one_entry([OFFER], "vjp/exp/grad", selected("vjp/exp/grad"), ["jvp"])
    assert selected("vjp/exp/cuda/grad").devices == ("cuda:0",)


@pytest.mark.parametrize(
    ("name", "function", "rest"),
    [
        ("gradient/model.py:loss/grad", "model.py:loss", {}),
        ("gradient/a/b/model.py:loss/grad", "a/b/model.py:loss", {}),
        ("gradient//a/model.py:loss/float64/grad", "/a/model.py:loss", {"dtypes": "float64"}),
        ("gradient/net:loss@0a1b2c3d/given/float64/grad", "net:loss@0a1b2c3d", {"sizes": "given"}),
        ("gradient/a/model.py:loss/float64/grad", "a/model.py:loss", {"dtypes": "float64"}),
        ("gradient/exp/n=64/cuda:0/grad", "exp", {"devices": "cuda:0", "sizes": "n=64"}),
    ],
)
def test_a_function_of_ones_own_is_named_like_any_other(name, function, rest):
    chosen = selected(name)
    assert chosen.functions == (function,)
    for field, value in rest.items():
        assert getattr(chosen, field) == (value,)


def test_a_selection_is_narrowed_to_a_case():
    threads = Selection(threads=(2,), dtypes=("float64",))
    assert narrowed("vjp/exp/grad", threads) == Selection(
        ("exp",), ("vjp",), ("grad",), dtypes=("float64",), threads=(2,)
    )
    assert narrowed("vjp/exp/float64/grad", threads).dtypes == ("float64",)
    with pytest.raises(SelectionError, match="names a dtype: remove --dtype float64"):
        narrowed("vjp/exp/float32/grad", threads)


# ── commands ──────────────────────────────────────────────────────────────────────────────────


def test_without_valgrind_nothing_is_measured(tmp_path):
    done = gradbench("explain", "vjp/exp/grad", "--results", tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "valgrind is not installed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.fixture
def valgrind(monkeypatch):
    monkeypatch.setattr(profiling, "require_valgrind", lambda: None)


def test_a_release_that_is_not_installed_is_named(tmp_path, valgrind, monkeypatch):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "none"))
    done = gradbench("releases", "explain", "vjp/exp/grad", "2.13.0", "2.14.0")
    assert done.returncode == 2
    assert "2.13.0 is not installed; 'gradbench releases install 2.13.0' does it" in done.stderr
    done = gradbench("releases", "explain", "vjp/exp/grad", "../elsewhere", "2.14.0")
    assert done.returncode == 2
    assert "../elsewhere is not installed; 'gradbench releases list' shows what is" in done.stderr


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What the command shows of two made-up releases, by its options."""
    monkeypatch.setattr(profiling, "profiled", lambda sides, settings, report: [OLD, NEW])

    def show(*words, columns="80"):
        @explain_command.click.command()
        @explain_command.counting_options
        def command(counting):
            return counting.explained("releases", [], counting.files)

        monkeypatch.setenv("COLUMNS", columns)
        done = CliRunner().invoke(
            command, ["--results", str(tmp_path), *words], standalone_mode=False
        )
        assert done.exception is None, done.exception
        return done.stdout

    return show


def test_the_terminal_shows_the_sentence_first_and_short_tables(shown):
    lines = shown().splitlines()
    assert lines[0].startswith("2.14.0 executes 5× the instructions of 2.13.0")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "AVX2::sinh_kernel loop" in text
    assert "aten.empty.memory_format" in text
    assert text.index("kernels") < text.index("expm1f")


def test_json_has_everything(shown):
    made = json.loads(shown("--format", "json"))
    schemas.require("explain", made)
    assert made["sentence"].startswith("2.14.0 executes 5×")
    assert [side["side"] for side in made["sides"]] == ["2.13.0", "2.14.0"]
    assert made["groups"][1] == {"name": "kernels", "before": 9000.0, "after": 49000.0}
    assert made["functions"][0]["function"] == "expm1f"
    assert made["functions"][0]["library"] == "libm.so.6"
    assert made["functions"][2]["inclusive_after"] == 49000.0


def test_top_sets_how_many_functions_are_shown(shown):
    text = shown("--top", "1")
    assert "expm1f" in text.split("functions that changed most")[1]
    assert "Sleef" not in text.split("functions that changed most")[1]


def test_show_finds_an_explanation_by_its_name(tmp_path):
    made = explanations.write(tmp_path, "releases", [OLD, NEW], {"cpu": "test"}, [], [], 1.0)
    done = gradbench("show", made.name[:20], "--results", tmp_path)
    assert done.stdout.startswith("2.14.0 executes 5×")
    missing = gradbench("show", "nothing", "--results", tmp_path)
    assert "no run named 'nothing'" in missing.stderr


def test_the_report_shows_the_newest_explanation_of_each_question(tmp_path):
    explanations.write(tmp_path, "releases", [OLD, NEW], {"cpu": "test"}, [], [], 1.0)
    explanations.write(tmp_path, "releases", [OLD, NEW], {"cpu": "test"}, [], [], 1.0)
    alone = side("grad", {"Python": 600.0, "kernels": 100.0})
    explanations.write(tmp_path, "modes", [alone], {"cpu": "test"}, [], [], 1.0)
    whys, problems = why.read(tmp_path)
    assert (len(whys), problems) == (2, [])
    titles = {one.title for one in whys}
    assert titles == {f"{CASE}: 2.13.0 → 2.14.0", f"{CASE}: grad"}
    (changed,) = (one for one in whys if "→" in one.title)
    assert "sinh_kernel (9 k → 49 k)" in changed.sentence
    assert changed.tables[1][1][:2] == ["expm1f", "libm.so.6"]


def test_a_page_has_a_section_why(tmp_path):
    stored(tmp_path, {jacobian(): {"loop_grad": 100, "jacrev": 50}})
    explanations.write(tmp_path, "releases", [OLD, NEW], OURS, [], [], 1.0)
    words = ["report", "--results", tmp_path, "--no-code", "--format", "html", "--format", "md"]
    done = gradbench(*words)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "report.md"):
        page = (tmp_path / "report" / name).read_text()
        assert "Why" in page
        assert "2.14.0 executes 5×" in page
        assert "expm1f" in page


def test_what_was_stored_is_damaged_or_not_of_this_kind(tmp_path):
    with pytest.raises(StoreError, match="no explanation"):
        explanations.find(tmp_path, "latest")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_mode_is_explained_under_callgrind(tmp_path):
    done = gradbench(
        "explain", "vjp/exp/n=4096/grad", "forward", "--results", tmp_path, "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    grad, forward = made["sides"]
    assert grad["instructions"] > forward["instructions"] > 1000
    assert grad["groups"]["autograd"] > 10 * forward["groups"].get("autograd", 0.0)
    assert grad["operations"]["aten.mul.Tensor"] == 1
    names = {function["function"] for function in made["functions"]}
    assert "torch::autograd::Engine::execute" in names
    assert [path.parent.name for path in Path(tmp_path).rglob("*.jsonl")] == ["explain"]
