"""Names of cases, and what a selection selects."""

import pickle

import pytest

from gradbench.core.cases import (
    Case,
    Comparison,
    Offer,
    Selection,
    SelectionError,
    expand,
    parse_size,
    size_label,
)


def offer(function="exp", operator="jacobian", **changes):
    fields = {
        "document": "G",
        "formula": "",
        "derivative": "",
        "dtype": "float32",
        "example_size": "n=4",
        "sizes": ("n=64",),
        "large_sizes": ("n=1024",),
        "modes": ("forward", "manual", "jacrev"),
        "opt_in": ("compiled", "graphed"),
        "cuda": ("graphed",),
        "size_names": ("n",),
        "first": "manual",
    }
    return Offer(operator=operator, function=function, **{**fields, **changes})


OFFERS = [offer(), offer("sum", "gradient", document="GS"), offer("exp", "vjp")]


def names(entries):
    return [str(entry.comparison) for entry in entries]


def test_a_name_and_its_case_are_one_to_one():
    case = Case(Comparison("jacobian", "affine", "m=3,n=5", "float64", "cuda:0", 2), "jacrev")
    assert Case.parse(str(case)) == case


def test_a_comparison_is_its_name_and_knows_its_parts_in_another_process_too():
    comparison = Comparison("jacobian", "affine", "m=3,n=5", "float64", "cuda:0+cold", 2)
    assert comparison == "jacobian/affine/m=3,n=5/float64/cuda:0+cold/2"
    case = pickle.loads(pickle.dumps(comparison.case("jacrev")))
    assert (case.comparison.threads, case.comparison.place.cold, case.mode) == (2, True, "jacrev")
    assert case.comparison.on("cpu") == "jacobian/affine/m=3,n=5/float64/cpu/2"


def test_a_size_has_one_label():
    assert size_label({"n": 5, "m": 3}) == "m=3,n=5"
    assert parse_size("n=5,m=3") == {"m": 3, "n": 5}


@pytest.mark.parametrize("size", ["n=-3", "n=0", "n=", "n", "=3", "n=2.5", "n=3,", "", "2n=4"])
def test_a_bad_size_is_named(size):
    with pytest.raises(ValueError, match="positive integer"):
        parse_size(size)


def test_without_options_everything_at_the_documents_inputs():
    entries = expand(OFFERS, Selection())
    assert len(entries) == 3
    assert all(entry.comparison.size == "documents" for entry in entries)
    assert all("compiled" not in entry.modes for entry in entries)


def test_sweeps_add_sizes():
    assert len(expand(OFFERS, Selection(sweep="standard"))) == 6
    assert len(expand(OFFERS, Selection(sweep="full"))) == 9


def test_globs_of_every_kind_narrow_together():
    entries = expand(OFFERS, Selection(functions=("e*",), operators=("*jacobian",)))
    assert names(entries) == ["jacobian/exp/documents/float32/cpu/1"]
    assert len(expand(OFFERS, Selection(documents=("S",)))) == 1


def test_any_size_of_the_right_kind_can_be_asked_for():
    entries = expand(OFFERS, Selection(sizes=("n=7",)))
    assert {entry.comparison.size for entry in entries} == {"n=7"}


def test_stored_cases_are_found_by_their_device():
    cold = Comparison("vjp", "exp", "documents", "float32", "cuda:0+cold").case("grad")
    assert cold.matches(devices=("cuda:0+cold",))
    assert cold.matches(devices=("cpu", "cuda*"))
    assert not cold.matches(devices=("cuda:0",))


def test_dtypes_threads_and_devices_multiply():
    chosen = Selection(dtypes=("float32", "float64"), threads=(1, 2), devices=("cpu", "cuda"))
    assert len(expand(OFFERS, chosen)) == 3 * 8


def test_compiled_modes_only_when_asked_for():
    assert "compiled" in expand(OFFERS, Selection(compiled=True))[0].modes
    assert "compiled" in expand(OFFERS, Selection(modes=("compiled", "manual")))[0].modes
    assert "compiled" not in expand(OFFERS, Selection(modes=("*",)))[0].modes


def test_what_is_of_cuda_devices_alone_takes_part_there_or_where_it_is_named():
    on_both = expand(OFFERS[:1], Selection(compiled=True, devices=("cpu", "cuda:0")))
    assert ["graphed" in entry.modes for entry in on_both] == [False, True]
    assert all("compiled" in entry.modes for entry in on_both)
    assert "graphed" in expand(OFFERS, Selection(modes=("graphed", "manual")))[0].modes
    tf32 = expand(OFFERS[:1], Selection(dtypes=("float32", "tf32"), devices=("cpu", "cuda:0+cold")))
    assert [(e.comparison.dtype, e.comparison.device) for e in tf32] == [
        ("float32", "cpu"),
        ("float32", "cuda:0+cold"),
        ("tf32", "cuda:0+cold"),
    ]


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(modes=("graph*",), compiled=True), "selection is empty"),
        (Selection(dtypes=("tf32",)), "needs a CUDA device: add the device cuda"),
        (Selection(functions=("exq",)), "did you mean exp"),
        (Selection(operators=("hessian",)), "no operator matches 'hessian'"),
        (Selection(modes=("magic",)), "no mode matches 'magic'"),
        (Selection(documents=("Q",)), "no document matches 'Q'"),
        (Selection(functions=("sum",), operators=("vjp",)), "selection is empty"),
        (Selection(sizes=("k=3",)), "selection is empty"),
    ],
)
def test_what_selects_nothing_says_so(selection, says):
    with pytest.raises(SelectionError, match=says):
        expand(OFFERS, selection)


def test_input_seeds_depend_on_problem_and_set_but_not_on_dtype():
    a = Comparison("vjp", "exp", "n=4", "float32")
    b = Comparison("vjp", "exp", "n=4", "float64")
    assert a.seed(0, 1) == b.seed(0, 1)
    assert len({a.seed(0, 0), a.seed(0, 1), a.seed(1, 0)}) == 3
