"""What to try first: one rule, worked out here a second time and held against planted runs."""

import math
import statistics
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest

import gradbench
from gradbench.analysis import recommend
from gradbench.core.cases import SelectionError
from gradbench.report import data
from gradbench.store.lines import StoreError, stem
from gradbench.store.runs import paths

RESULTS = Path(__file__).parent.parent / "results"
RUNS = [stem(path) for path in paths(RESULTS)]


def planted(multiples, *, half=0.01, sessions=5, usual="usual", by_hand=(), **columns):
    """A frame of judged rows: `multiples` maps a function to its modes' multiples; the mode at
    exactly 1 is the fastest."""
    rows = []
    for function, modes in multiples.items():
        for mode, multiple in modes.items():
            fastest = multiple == 1
            width = 0 if fastest else half
            rows.append(
                {
                    "operator": "hessian",
                    "function": function,
                    "size": "documents",
                    "dtype": "float32",
                    "device": "cpu",
                    "threads": 1,
                    "mode": mode,
                    "by_hand": mode in by_hand,
                    "baseline": mode == usual,
                    "verdict": "fastest" if fastest else "slower",
                    "to_fastest": multiple,
                    "to_fastest_low": multiple * math.exp(-width),
                    "to_fastest_high": multiple * math.exp(width),
                    "sessions": sessions,
                }
                | columns
            )
    return pd.DataFrame(rows)


def recommended(frame):
    return recommend.of_frame(frame, 0.01, 0.95)


@pytest.mark.parametrize("run", RUNS)
def test_the_recommendation_is_what_the_verdicts_say(run):
    """The rule once more, from `gradbench.verdicts` alone and with none of its code."""
    verdicts = gradbench.verdicts(RESULTS, run)
    automatic = verdicts[
        (verdicts["mode"] != "forward") & ~verdicts["by_hand"] & verdicts["to_fastest"].notna()
    ]
    found = gradbench.recommend(RESULTS, run)
    groups = automatic.groupby(["operator", "dtype", "device", "threads"], sort=False)
    assert len(found) == len(groups)
    for ours, (key, rows) in zip(found, groups):
        multiples = defaultdict(list)
        for _, compared in rows.groupby(["function", "size"]):
            least = compared["to_fastest"].min()
            for row in compared.itertuples():
                multiples[row.mode].append(row.to_fastest / least)
        most = max(map(len, multiples.values()))
        averages = {
            mode: statistics.geometric_mean(values)
            for mode, values in multiples.items()
            if len(values) == most
        }
        best = min(averages, key=averages.get)
        (usual,) = set(rows.loc[rows["baseline"], "mode"])
        where = ours.where
        assert (where.operator, where.dtype, where.device, where.threads) == key
        assert (ours.first.mode, ours.usual.mode) == (best, usual)
        assert math.isclose(ours.first.average, averages[best])
        assert math.isclose(ours.first.worst, max(multiples[best]))
        assert all(standing.average >= 1 and standing.low >= 1 for standing in ours.standings)
        # It may not have run in every case.
        assert math.isclose(ours.usual.average, statistics.geometric_mean(multiples[usual]))
        if usual in averages:
            assert math.isclose(ours.slower(usual).value, averages[usual] / averages[best])


def test_the_mode_that_wins_most_often_is_not_named_where_it_loses_badly():
    functions = {f"f{i}": {"often": 1.0, "even": 1.05} for i in range(7)}
    functions |= {f"g{i}": {"often": 1.75, "even": 1.0} for i in range(5)}
    (found,) = recommended(planted(functions, usual="often"))
    assert found.first.mode == "even"
    assert found.first.worst == 1.05
    assert found.usual.average == pytest.approx(1.75 ** (5 / 12))
    assert found.usual.worst == 1.75
    assert not found.ties


def test_no_average_is_below_1_where_the_one_named_fastest_is_too_close_to_call():
    frame = planted(
        {"f": {"named": 1.0, "near": 0.98, "far": 2.0, "manual": 0.49}}, by_hand=("manual",)
    )
    (found,) = recommended(frame)
    averages = {s.mode: s.average for s in found.standings + found.by_hand}
    assert averages == pytest.approx(
        {"near": 1.0, "named": 1 / 0.98, "far": 2 / 0.98, "manual": 0.5}
    )
    assert [s.mode for s in found.standings] == ["near", "named", "far"]
    assert min(standing.low for standing in found.standings) >= 1
    # Without the mode named the fastest, multiples are still of it.
    (part,) = recommended(frame[frame["mode"] == "far"])
    assert part.first.average == 2.0


def test_machines_are_never_averaged():
    """Each of two machines has another answer, and none of its numbers in the other's."""
    here = planted({"f": {"a": 1.0, "b": 2.0}, "g": {"a": 1.0, "b": 3.0}}, cpu="Here")
    there = planted({"f": {"a": 5.0, "b": 1.0}, "g": {"a": 7.0, "b": 1.0}}, cpu="There")
    both = recommended(pd.concat([here, there], ignore_index=True))
    assert [(r.where.machine, r.first.mode) for r in both] == [("Here", "a"), ("There", "b")]
    for found, alone in zip(both, (here, there)):
        (only,) = recommended(alone)
        assert found == only
    gpu = planted({"f": {"a": 4.0, "b": 1.0}}, cpu="Here", device="cuda:0", device_name="A GPU")
    assert [r.where.machine for r in recommended(pd.concat([here, gpu]))] == ["Here", "A GPU"]


def test_a_comparison_measured_twice_counts_by_its_newest_run():
    old = planted({"f": {"a": 1.0, "b": 2.0, "c": 1.5}}, run="20260101-000000-aaaaaa")
    new = planted({"f": {"a": 4.0, "b": 1.0}}, run="20260102-000000-aaaaaa")
    for order in ([old, new], [new, old]):
        (found,) = recommended(pd.concat(order))
        assert [s.mode for s in found.standings] == ["b", "a"]


def test_builds_dtypes_threads_and_conditions_have_answers_of_their_own():
    one = planted({"f": {"a": 1.0, "b": 2.0}})
    for column, value in [
        ("torch", "2.9"),
        ("dtype", "float64"),
        ("threads", 2),
        ("device", "cpu+cold"),
        ("operator", "hvp"),
    ]:
        other = planted({"f": {"a": 3.0, "b": 1.0}}, **{column: value})
        assert [r.first.mode for r in recommended(pd.concat([one, other]))] == ["a", "b"]


def test_modes_by_hand_stand_apart():
    """They may beat the fastest, and are never named; a function with no other does not count."""
    frame = planted(
        {
            "f": {"a": 1.0, "b": 2.0, "manual": 0.1},
            "g": {"a": 1.0, "b": 2.0},
            "only": {"manual": 1.0},
        },
        by_hand=("manual",),
    )
    (found,) = recommended(frame)
    assert [s.mode for s in found.standings] == ["a", "b"]
    (manual,) = found.by_hand
    assert (manual.average, manual.covered, len(found.comparisons)) == (pytest.approx(0.1), 1, 2)
    only_by_hand = frame[frame["by_hand"]]
    assert len(recommended(only_by_hand)) == 0


def test_averages_that_the_intervals_cannot_tell_apart_are_ties():
    functions = {f"f{i}": {"a": 1.0, "b": 1.02, "c": 1.5} for i in range(4)}
    assert [t.mode for t in recommended(planted(functions, half=0.1))[0].ties] == ["b"]
    assert not recommended(planted(functions, half=0.001))[0].ties
    # More functions tell a smaller difference: the mean is known better than any of them.
    many = {f"f{i}": {"a": 1.0, "b": 1.05, "c": 1.5} for i in range(100)}
    assert not recommended(planted(many, half=0.1))[0].ties
    assert [t.mode for t in recommended(planted({"f0": many["f0"]}, half=0.1))[0].ties] == ["b"]
    # Below the threshold no difference matters.
    small = {f"f{i}": {"a": 1.0, "b": 1.005} for i in range(4)}
    assert [t.mode for t in recommended(planted(small, half=1e-6))[0].ties] == ["b"]


def test_one_process_tells_no_averages_apart():
    (found,) = recommended(planted({"f": {"a": 1.0, "b": 9.0}}, sessions=1))
    assert (found.first.mode, [t.mode for t in found.ties]) == ("a", ["b"])


def test_a_mode_that_does_not_run_everywhere_is_not_first_but_mentioned():
    functions = {f"f{i}": {"everywhere": 1.5, "often": 1.0} for i in range(4)}
    functions["g"] = {"everywhere": 1.0, "slow": 2.0}
    functions["h"] = {"everywhere": 1.0, "rarely": 1.01}
    (found,) = recommended(planted(functions, half=1e-4))
    assert found.first.mode == "everywhere"
    assert found.first.covered == len(found.comparisons) == 6
    assert [s.mode for s in found.better_where_supported] == ["often"]
    often = found.standing("often")
    assert (often.covered, often.average) == (4, 1.0)
    assert found.slower("often").value == pytest.approx(1 / 1.5)


def test_a_selection_narrows_what_is_averaged():
    found = gradbench.recommend(RESULTS, RUNS[0], operators="jac*", functions=["exp", "affine*"])
    assert {r.where.operator for r in found} == {"jacobian"}
    functions = {c.function for r in found for c in r.comparisons}
    assert "exp" in functions
    assert all(name.startswith(("exp", "affine")) for name in functions)
    with pytest.raises(SelectionError, match="no stored case has an operator 'hesian'"):
        gradbench.recommend(RESULTS, RUNS[0], operators="hesian")
    with pytest.raises(StoreError, match="no run named"):
        gradbench.recommend(RESULTS, "nothing")


def test_the_frame_has_a_row_per_mode_and_says_which_is_first():
    found = gradbench.recommend(RESULTS, RUNS[0])
    frame = found.frame
    assert frame["first"].sum() == len(found)
    assert list(frame.loc[frame["first"], "mode"]) == [r.first.mode for r in found]
    assert set(frame.loc[frame["by_hand"], "first"]) == {False}
    assert (frame["average_low"] <= frame["average"]).all()
    assert (frame["average"] <= frame["average_high"]).all()
    assert (frame["average"] <= frame["worst"] * (1 + 1e-12)).all()


def test_the_report_and_the_api_agree():
    frame = data.table(RESULTS, RUNS[0])
    reported = recommend.of_frame(frame, 0.01, 0.95)
    assert list(reported) == list(gradbench.recommend(RESULTS, RUNS[0]))
