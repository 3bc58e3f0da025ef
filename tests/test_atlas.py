"""The profile *atlas*: which functions and sizes it has, and what is ruled out without a call."""

import dataclasses

import pytest
import torch

from gradbench.core.cases import Comparison, Entry, Selection, SelectionError, expand
from gradbench.core.verdicts import Status
from gradbench.problems import registry
from gradbench.problems.function import uniform
from gradbench.runner import progress
from gradbench.runner.settings import PROFILES
from gradbench.runner.sparing import Sparing, ordered
from gradbench.store.runs import Entrant, SessionMeasured
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


def sized(size, function="dense_map"):
    return Comparison("jacobian", function, size, "float32")


def timed(size, milliseconds, session=0, **refused):
    """A session in which modes took so many milliseconds a call, and others were refused."""
    entrants = [
        Entrant(mode, Status.OK, number=1, samples=[[round(ms * 1e6)]] * 4)
        for mode, ms in milliseconds.items()
    ]
    entrants += [
        Entrant(mode, Status.REFUSED, "too slow", takes=seconds)
        for mode, seconds in refused.items()
    ]
    order = [list(range(len(milliseconds)))] * 4
    return SessionMeasured(
        sized(size), session, 1, "", entrants, order, "rounds", 0.1, elapsed=10.0, load=0.0
    )


def spared(*records, enough=0.0):
    made = Sparing(dataclasses.replace(PROFILES["atlas"].settings, enough=enough), ["manual"])
    made.learn(*records)
    return made


@pytest.mark.parametrize(
    ("size", "bounded"),
    [
        ("m=4,n=16", True),
        ("m=16,n=16", True),
        ("m=16,n=4", False),
        ("m=2,n=2", False),
        ("m=4,n=8", False),
        ("n=16", False),
    ],
)
def test_a_mode_takes_no_less_where_no_number_is_smaller(size, bounded):
    seen = spared(timed("m=4,n=8", {"jacrev": 1}, loop_grad=2.0))
    assert seen.bounds(sized(size)).keys() == ({"jacrev", "loop_grad"} if bounded else set())
    assert not seen.bounds(sized(size, "network_map"))


def test_what_cannot_be_near_the_fastest_is_refused_without_a_call():
    seen = spared(timed("m=1,n=1", {"jacrev": 1}, loop_grad=0.5))
    bounds = seen.bounds(sized("m=2,n=2"))
    # The fastest mode here is far below the limit, then as slow as the refused one was.
    refused = seen.hopeless("loop_grad", bounds["loop_grad"], seen.patience({"jacrev": 0.001}))
    assert refused.reason == "a call takes at least 500 ms (as at m=1,n=1)"
    assert refused.status == Status.REFUSED
    allowed = seen.patience({"jacrev": 0.4})
    assert seen.hopeless("loop_grad", bounds["loop_grad"], allowed) is None
    # What was refused here bounds larger sizes, and names where it was called.
    seen.learn(timed("m=2,n=2", {"jacrev": 1}, loop_grad=0.5))
    assert seen.bounds(sized("m=4,n=4"))["loop_grad"].size == "m=1,n=1"


def test_modes_are_tried_in_the_order_of_their_times_at_smaller_sizes():
    seen = spared(timed("m=1,n=1", {"jacrev": 5, "jacfwd": 2}))
    modes = ["jacrev", "forward", "manual", "jacfwd"]
    assert ordered(modes, seen.bounds(sized("m=4,n=4"))) == [
        "forward",
        "manual",
        "jacfwd",
        "jacrev",
    ]


def test_the_patience_is_relative_to_the_fastest_mode_but_has_an_end():
    seen, own = spared(), PROFILES["atlas"].settings.patience
    assert seen.patience({"forward": 1e-6, "manual": 1e-6, "jacrev": 1e-3}) == own
    assert seen.patience({"jacrev": 1e-3}, generous=True) == 10 * own
    assert seen.patience({"jacrev": 2 * own}) == 6 * own
    assert seen.patience({}) == seen.patience({"jacrev": 1e9}) == 100 * own


SLOWER = {"forward": 0.1, "manual": 0.2, "near": 1.5, "fast": 1.0, "slower": 5.0, "slow": 500.0}


@pytest.mark.parametrize(
    ("number", "resting"),
    [
        (1, set()),
        (2, {"slow"}),
        (3, {"slow", "slower", "forward", "manual"}),
        (4, {"slow", "slower", "forward", "manual"}),
    ],
)
def test_later_sessions_are_for_modes_close_to_the_fastest(number, resting):
    seen = spared(timed("m=4,n=4", SLOWER), timed("m=4,n=4", SLOWER, 1))
    assert seen.resting(sized("m=4,n=4"), number) == resting


def test_a_mode_that_was_close_once_stays():
    seen = spared(timed("m=4,n=4", SLOWER), timed("m=4,n=4", SLOWER | {"slow": 1.9}, 1))
    assert "slow" not in seen.resting(sized("m=4,n=4"), 3)


def test_a_session_without_modes_to_tell_apart_is_left_out():
    entry = Entry(sized("m=4,n=4"), list(SLOWER))
    alone = {"forward": 0.1, "manual": 0.2, "fast": 1.0, "slow": 500.0}
    for times, left_out in ((SLOWER, [False] * 5), (alone, [False, False, True, True, True])):
        seen = spared(timed("m=4,n=4", times), timed("m=4,n=4", times, 1))
        assert [seen.spares(entry, number) for number in range(5)] == left_out


def test_no_fourth_session_begins_when_the_time_is_over():
    entry = Entry(sized("m=4,n=4"), list(SLOWER))
    records = timed("m=4,n=4", SLOWER), timed("m=4,n=4", SLOWER, 1)
    assert [spared(*records, enough=15).spares(entry, n) for n in (2, 3)] == [False, True]
    assert [spared(*records, enough=25).spares(entry, n) for n in (2, 3)] == [False, False]


# ── what large results are checked by ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("function", [f for f in registry.FUNCTIONS.values() if f.atlas])
@pytest.mark.parametrize("size", [{"m": 3, "n": 7}, {"m": 7, "n": 3}, {"m": 4, "n": 4}])
def test_products_of_the_maps_are_those_of_their_dense_derivatives(function, size):
    fixed = {name: 3 for name in function.example_size if name not in ("m", "n")}
    generator = torch.Generator().manual_seed(1)
    inputs = function.draw({**fixed, **size}, generator)
    assert set(function.products) == {"jacobian", "hessian"} & set(function.derivatives)
    for operator, (right, left) in function.products.items():
        dense = function.derivatives[operator](*inputs)
        rows, columns = dense.shape
        t, v = (uniform(generator, length) for length in (columns, rows))
        torch.testing.assert_close(right((t,), *inputs)[0], dense @ t)
        torch.testing.assert_close(left((v,), *inputs)[0], v @ dense)


def test_the_time_left_reckons_with_the_sessions_that_every_comparison_gets():
    late = progress.Progress(20, 50, "", elapsed=3000.0, limit=2700.0, least=30)
    assert progress.left(late) == ", about 25 min left"
    assert progress.left(dataclasses.replace(late, done=40)) == ", about 0 s left"
    assert progress.left(dataclasses.replace(late, elapsed=1000.0)) == ", about 25 min left"
