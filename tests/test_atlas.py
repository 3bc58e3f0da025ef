"""The profile *atlas*: which functions and sizes it has, and what is ruled out without a call."""

import dataclasses

import pytest

from gradbench.core.cases import Comparison, Selection, SelectionError, expand
from gradbench.core.verdicts import Status
from gradbench.problems import registry
from gradbench.runner.run import refused_below
from gradbench.runner.settings import PROFILES
from gradbench.store.runs import Entrant
from gradbench.worker.offers import offer
from gradbench.worker.session import Session

registry.load_builtin()
OFFERS = [
    offer(function, operator)
    for function in registry.FUNCTIONS.values()
    for operator in function.derivatives
]
ATLAS = Selection(sweep=PROFILES["atlas"].sweep)


def shapes(entries):
    return {(e.comparison.function, e.comparison.size) for e in entries}


def test_the_atlas_covers_outputs_by_inputs_from_1_to_4096():
    entries = expand(OFFERS, ATLAS)
    assert {e.comparison.function.partition("_")[2] for e in entries} == {"map", "sum"}
    there = shapes(entries)
    assert {("dense_map", "m=1,n=4096"), ("dense_map", "m=4096,n=1")} <= there
    assert {("batched_sum", "N=32,m=4096,n=4096"), ("network_map", "h=32,m=64,n=16")} <= there
    operators = {e.comparison.operator for e in entries}
    assert operators == {"jacobian", "gradient", "hessian", "batch_jacobian", "batch_hessian"}


def test_functions_of_the_atlas_are_in_no_other_sweep_unless_they_are_named():
    for selection in (Selection(), Selection(sweep="full"), Selection(functions=("*",))):
        assert not any(
            name.endswith("_map")
            for name, _ in shapes(expand(OFFERS, selection))
            if name.startswith(("dense", "network"))
        )
    assert shapes(expand(OFFERS, Selection(functions=("dense_map",)))) == {
        ("dense_map", "documents")
    }
    one = Selection(functions=("dense_map",), sizes=("m=5,n=7",))
    assert shapes(expand(OFFERS, one)) == {("dense_map", "m=5,n=7")}


def test_the_atlas_can_be_narrowed():
    narrow = dataclasses.replace(ATLAS, functions=("dense_*",), sizes=("m=64,*",))
    assert shapes(expand(OFFERS, narrow)) == {("dense_map", f"m=64,n={4**k}") for k in range(7)} | {
        ("dense_sum", f"m=64,n={8**k}") for k in range(5)
    }
    with pytest.raises(SelectionError, match="empty"):
        expand(OFFERS, dataclasses.replace(ATLAS, functions=("exp",)))


# ── what is ruled out ─────────────────────────────────────────────────────────────────────────


def test_a_mode_is_refused_without_a_call_by_its_count_of_passes():
    session = Session(memory_limit=1 << 30)
    session.open("jacobian/dense_map/m=1024,n=4/float32/cpu/1", 0, [1])
    second = 1_000_000_000
    assert session.prepare("forward", 0, 1000, [0], 100 * second)["status"] == "ok"
    session.pass_time = 2_000_000
    answer = session.prepare("loop_grad", 1, 1000, [0], second)
    assert answer["status"] == "refused"
    assert answer["reason"] == (
        "1024 passes of at least 2 ms each: over 2.05 s a call, beyond the limit of 1 s"
    )
    # Its four passes take no time, and a batch of passes may take less than their sum.
    assert session.prepare("forward_loop", 2, 1000, [0], 100 * second)["status"] == "ok"
    assert session.prepare("jacrev", 3, 1000, [0], 100 * second)["status"] == "ok"
    assert session.prepare("loop_grad", 4, 1000, [0])["status"] == "ok", "without a limit"
    session.close()


def refused(reason="a call takes 2 s"):
    return {"loop_grad": Entrant("loop_grad", Status.REFUSED, reason)}


def sized(size, function="dense_map"):
    return Comparison("jacobian", function, size, "float32")


@pytest.mark.parametrize(
    ("refused_at", "here", "is_refused"),
    [
        ("m=4,n=8", "m=4,n=16", True),
        ("m=4,n=8", "m=16,n=16", True),
        ("m=4,n=8", "m=16,n=4", False),
        ("m=4,n=8", "m=2,n=2", False),
        ("m=4,n=8", "m=4,n=8", False),
        ("m=4,n=8", "n=16", False),
        ("documents", "m=4,n=8", False),
    ],
)
def test_what_was_refused_is_refused_where_both_sizes_are_larger(refused_at, here, is_refused):
    found = refused_below({sized(refused_at): refused()}, sized(here))
    assert bool(found) == is_refused
    assert not refused_below({sized(refused_at): refused()}, sized(here, "network_map"))


def test_the_reason_names_the_first_size_at_which_a_mode_was_refused():
    first = refused_below({sized("m=1,n=1"): refused()}, sized("m=2,n=2"))
    second = refused_below({sized("m=2,n=2"): first}, sized("m=4,n=4"))
    assert second["loop_grad"].reason == "refused already at m=1,n=1: a call takes 2 s"
    wrong = {"loop_grad": Entrant("loop_grad", Status.WRONG, "off")}
    assert not refused_below({sized("m=1,n=1"): wrong}, sized("m=2,n=2"))
