"""Statistics on samples whose truth is known: what is claimed of them is simulated here."""

from __future__ import annotations

import math
import subprocess
import sys
import timeit
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from gradbench import statistics as st

Array = npt.NDArray[np.float64]


def noise(rng: np.random.Generator, kind: str, shape: object, sd: float) -> Array:
    """Noise with median 0; `sd` is its scale, and its standard deviation where it is normal."""
    draw = {
        "normal": lambda: rng.standard_normal(shape),  # type: ignore[call-overload]
        "t3": lambda: rng.standard_t(3, shape),  # type: ignore[call-overload]
        "lognormal": lambda: np.expm1(rng.standard_normal(shape)),  # type: ignore[call-overload]
    }
    return np.asarray(sd * draw[kind](), dtype=np.float64)


def session(
    rng: np.random.Generator,
    logs: Sequence[float] | Array,
    rounds: int = 48,
    kind: str = "normal",
    sd: float = 0.01,
    spread: float = 0.003,
    process: str = "normal",
    burst: float = 0.05,
    drift: float = 0.3,
) -> Array:
    """Visit minima of one process, seconds, rounds × contestants.

    A drift that the contestants of a round share, noise of each visit, bursts that make a visit ten
    times longer, and a factor of the process for each contestant (`spread` is of a ratio).
    """
    count = len(logs)
    shared = np.cumsum(rng.normal(0, drift / math.sqrt(rounds), rounds))[:, np.newaxis]
    own = np.asarray(logs) + noise(rng, process, count, spread / math.sqrt(2))
    bursts = math.log(10) * (rng.random((rounds, count)) < burst)
    times = np.exp(shared + own + noise(rng, kind, (rounds, count), sd) + bursts)
    return np.asarray(24e-6 * times)


def compared(
    rng: np.random.Generator, true: float, sessions: int = 5, rounds: int = 48, **world: Any
) -> st.Estimate:
    """The estimate of one comparison of two whose true ratio is known."""
    logs = [0.0, math.log(true)]
    samples = [session(rng, logs, rounds, **world) for _ in range(sessions)]
    return st.relative_to(samples)[1]


def known(
    medians: Sequence[float], error: float = 0.001, rounds: int = 48
) -> list[st.SessionEstimate]:
    """Session estimates with these medians (log ratios)."""
    return [
        st.SessionEstimate(m, m - 2 * error, m + 2 * error, 0.95, error, rounds) for m in medians
    ]


def log_ratios(a: npt.ArrayLike, b: npt.ArrayLike) -> st.SessionEstimate:
    """One session's median of ln(a/b), paired inside rounds."""
    return st.median_interval(np.log(a) - np.log(b))


def fastest(samples: Sequence[npt.ArrayLike], **parameters: Any) -> st.Ranking:
    """The ranking of one comparison."""
    return st.fastest_of_each([st.Tables.of(samples)], **parameters)[0]


def control_differs(ratios: npt.ArrayLike) -> bool:
    """Whether one session is void."""
    return st.controls_differ(np.asarray(ratios, dtype=float)[np.newaxis])[0]


# ── inside a session ──────────────────────────────────────────────────────────────────────────


def test_the_interval_of_ten_is_the_second_to_the_ninth() -> None:
    # P(B <= 1) = 11 / 1024 for n = 10, so [x2, x9] covers 1 - 22 / 1024.
    interval = st.median_interval(np.arange(10, 0, -1.0))
    assert (interval.low, interval.median, interval.high) == (2, 5.5, 9)
    assert interval.coverage == pytest.approx(1 - 22 / 1024)
    assert interval.half_width == 3.5
    assert interval.rounds == 10


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_ranks_are_the_widest_that_the_binomial_allows(confidence: float) -> None:
    for n in [*range(1, 60), 100, 999, 20_000]:
        rank, coverage = st.samples.order_rank(n, confidence)
        tails = scipy.stats.binom.cdf(np.arange(-1, min(n, rank + 2)), n, 0.5)
        assert coverage == pytest.approx(1 - 2 * tails[rank], abs=1e-9)
        assert coverage >= confidence - 1e-9
        if rank < (n + 1) // 2:
            assert 1 - 2 * tails[rank + 1] < confidence + 1e-9


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_too_few_samples_say_nothing(n: int) -> None:
    interval = st.median_interval(np.arange(float(n)))
    assert (interval.low, interval.high, interval.coverage) == (-math.inf, math.inf, 1.0)
    assert interval.half_width == math.inf
    assert interval.rounds == n
    assert math.isnan(interval.median) == (n == 0)
    assert math.isnan(interval.error) == (n < 2)


def test_missing_samples_do_not_count() -> None:
    full = st.median_interval(np.arange(10.0))
    assert st.median_interval([*range(10), math.nan, math.nan]) == full


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        st.median_interval([1.0], confidence)


@pytest.mark.parametrize("kind", ["normal", "t3", "lognormal"])
def test_the_interval_of_a_session_covers_whatever_the_shape(kind: str) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for sample in noise(rng, kind, (1000, 16), 1.0):
        interval = st.median_interval(sample)
        covered += interval.low <= 0 <= interval.high
    assert covered / 1000 >= 0.95


@pytest.mark.parametrize(("n", "excess"), [(4, 1.35), (16, 1.25), (100, 1.12)])
def test_the_error_of_a_median_is_its_standard_deviation(n: int, excess: float) -> None:
    samples = np.random.default_rng(2).standard_normal((2000, n))
    mean = np.mean([st.median_interval(sample).error for sample in samples])
    assert 0.98 <= mean / np.median(samples, axis=1).std() <= excess


def test_a_coarse_clock_leaves_an_error_of_its_step() -> None:
    interval = st.median_interval([0.0] * 40 + [0.002, -0.002, 0.004])
    assert interval.low == interval.high == 0
    assert interval.error == pytest.approx(0.002 / math.sqrt(12))


def test_a_session_is_measured_in_seconds() -> None:
    a = [3e-6, 3e-6, math.nan, 0.0, -1.0, math.inf, 3e-6]
    assert math.exp(st.session_time(a).median) == pytest.approx(3e-6)
    assert st.session_time(a).rounds == 3


def test_what_is_no_array_of_the_right_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"times must have 1 dimension\(s\), not 2"):
        st.session_time([[1.0]])
    with pytest.raises(ValueError, match="must be an array of numbers"):
        st.session_time(["fast"])


# ── between sessions ──────────────────────────────────────────────────────────────────────────


def test_the_interval_between_sessions_is_students() -> None:
    medians = [0.010, 0.014, 0.012, 0.016, 0.013]
    estimate = st.between_sessions(known(medians))
    expected = scipy.stats.ttest_1samp(medians, 0).confidence_interval(0.95)
    assert math.log(estimate.low) == pytest.approx(expected.low)
    assert math.log(estimate.high) == pytest.approx(expected.high)
    assert math.log(estimate.ratio) == pytest.approx(0.013)
    assert (estimate.sessions, estimate.rounds, estimate.degrees) == (5, 240, 4)
    assert not estimate.disagree


def test_p_values_are_of_the_floor_and_agree_with_the_interval() -> None:
    medians = np.array([0.010, 0.014, 0.012, 0.016, 0.013])
    edge, mean, error = math.log(1.01), medians.mean(), medians.std(ddof=1) / math.sqrt(5)
    estimate = st.between_sessions(known(list(medians)))
    upper = scipy.stats.t.sf((mean - edge) / error, 4)
    assert estimate.p_beyond == pytest.approx(upper + scipy.stats.t.sf((mean + edge) / error, 4))
    # The confidence of twice that tail puts the end of the interval on the floor.
    on_edge = st.between_sessions(known(list(medians)), confidence=1 - 2 * upper)
    assert on_edge.low == pytest.approx(1.01)
    rng = np.random.default_rng(3)
    for _ in range(300):
        estimate = st.between_sessions(known(rng.normal(0.015, 0.006, rng.integers(2, 8)).tolist()))
        if estimate.low > 1.01 or estimate.high < 1 / 1.01:
            assert estimate.p_beyond <= 0.05


def test_equal_medians_are_no_proof_of_no_spread() -> None:
    """A coarse clock makes them: the rounds' own error stands for the spread of processes."""
    for medians in ([0.05, 0.05], [0.1, 0.1, 0.1]):
        estimate = st.between_sessions(known(medians, error=0.002))
        degrees, error = len(medians) - 1, 0.002 / math.sqrt(len(medians))
        assert estimate.standard_error == pytest.approx(error)
        half = scipy.stats.t.ppf(0.975, degrees) * error
        assert math.log(estimate.high / estimate.low) == pytest.approx(2 * half)
        beyond = (np.array([-1, 1]) * math.log(1.01) + medians[0]) / error
        assert estimate.p_beyond == pytest.approx(scipy.stats.t.sf(beyond, degrees).sum())
    assert st.verdict(st.between_sessions(known([0.02, 0.02], error=0.002))) == "undecided"


def test_medians_that_lie_together_by_chance_are_held_apart_by_the_rounds() -> None:
    estimate = st.between_sessions(known([0.0200, 0.0201, 0.0199], error=0.004))
    half = scipy.stats.norm.ppf(0.975) * 0.004 / math.sqrt(3)
    assert math.log(estimate.high / estimate.low) == pytest.approx(2 * half)
    assert estimate.standard_error < estimate.within_error
    near = st.between_sessions(known([0.0150, 0.0151, 0.0149], error=0.004))
    beyond = (np.array([-1, 1]) * math.log(1.01) + 0.015) / (0.004 / math.sqrt(3))
    assert near.p_beyond == pytest.approx(scipy.stats.norm.sf(beyond).sum())


@pytest.mark.parametrize("step", [0.002, 0.005])
def test_a_coarse_clock_still_covers(step: float) -> None:
    rng = np.random.default_rng(15)
    for sessions, sd in ((2, 0.001), (2, 0.005), (5, 0.001)):
        covered = 0
        for _ in range(400):
            true, tick = rng.uniform(1.0, 1.04), rng.uniform(0.99, 1.01) * step * 24e-6
            logs = [0.0, math.log(true)]
            samples = [session(rng, logs, 16, sd=sd, burst=0, drift=0) for _ in range(sessions)]
            estimate = st.relative_to([np.round(times / tick) * tick for times in samples])[1]
            covered += estimate.low <= true <= estimate.high
        assert covered / 400 >= 0.9


def test_equal_medians_of_single_rounds_prove_nothing() -> None:
    single = [st.median_interval([0.5])] * 2
    estimate = st.between_sessions(single)
    assert (estimate.low, estimate.high, estimate.p_beyond) == (0, math.inf, 1)
    assert st.verdict(estimate) == "undecided"


def test_one_disturbed_process_of_ten_hides_no_slowdown() -> None:
    """A pair of processes that runs 35 % off for its whole turn, as about one in a hundred does."""
    found = st.between_sessions(known([0.05, 0.048, 0.052, 0.047, 0.053] * 2), floor=0.02)
    disturbed = [0.05, 0.048, 0.052, -0.43, 0.053, 0.05, 0.048, 0.052, 0.047, 0.053]
    still = st.between_sessions(known(disturbed), floor=0.02)
    assert st.verdict(found) == st.verdict(still) == "slower"
    assert still.ratio == pytest.approx(found.ratio, rel=1e-3)
    assert still.disagree, "it is shown, not averaged away"


def test_ten_trimmed_sessions_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(4000):
        found = st.between_sessions(known(list(rng.normal(0.03, 0.01, 10)), error=1e-4))
        hits += found.low <= math.exp(0.03) <= found.high
    assert 0.935 < hits / 4000 < 0.965


def test_a_session_with_a_burst_does_not_widen_the_others() -> None:
    calm = st.between_sessions(known([0.049, 0.050, 0.051, 0.050, 0.049]))
    burst = known([0.049, 0.050, 0.051, 0.050]) + known([0.049], error=0.8)
    assert st.between_sessions(burst).low == calm.low


def test_sessions_that_agree_to_the_last_digit_are_believed() -> None:
    estimate = st.relative_to([np.tile([1.0, 2.0], (8, 1))] * 3)[1]
    assert (estimate.ratio, estimate.low, estimate.high) == pytest.approx((2, 2, 2))
    assert estimate.p_beyond == 0
    assert st.verdict(estimate) == "slower"


def test_no_session_says_nothing() -> None:
    for sessions in ([], [st.median_interval([])]):
        estimate = st.between_sessions(sessions)
        assert math.isnan(estimate.ratio)
        assert (estimate.low, estimate.high) == (0, math.inf)
        assert (estimate.sessions, estimate.rounds, estimate.groups) == (0, 0, ())
        assert st.verdict(estimate) == "undecided"
    assert st.compare_runs([], [[1.0]]).sessions == 0


def test_one_session_shows_its_own_interval_and_decides_nothing() -> None:
    own = st.median_interval(np.linspace(0.68, 0.70, 16))
    estimate = st.between_sessions([own])
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(own.low), math.exp(own.high)))
    assert estimate.sessions == 1
    assert math.isnan(estimate.p_beyond)
    assert st.verdict(estimate) == "undecided"
    with pytest.raises(ValueError, match="at that confidence"):
        st.between_sessions([own], confidence=0.999)


def test_a_floor_out_of_range_is_refused() -> None:
    for floor in (-0.01, math.nan, math.inf):
        with pytest.raises(ValueError, match="floor must be a finite number"):
            st.between_sessions([], floor=floor)


def test_huge_intervals_do_not_overflow() -> None:
    estimate = st.between_sessions(known([-8.0, 8.0]), confidence=0.9999)
    assert (estimate.low, estimate.high) == (0, math.inf)


# ── what it is worth: simulation ──────────────────────────────────────────────────────────────

WORLDS: dict[str, dict[str, Any]] = {
    "normal": {},
    "heavy tails": {"kind": "t3", "process": "t3"},
    "skewed": {"kind": "lognormal"},
    "calm": {"burst": 0.0, "drift": 0.0},
    "wide": {"spread": 0.005},
}


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_code_is_not_called_faster_or_slower(world: str) -> None:
    rng = np.random.default_rng(10)
    for sessions, rounds in ((2, 16), (3, 8), (5, 16), (5, 48)):
        said = Counter(
            st.verdict(compared(rng, 1.0, sessions, rounds, **WORLDS[world])) for _ in range(250)
        )
        # 1000 of each world; two sessions of a wide world are the most that could fail.
        assert said["faster"] + said["slower"] <= 1
    assert said["same"] / 250 >= {"heavy tails": 0.55, "wide": 0.6}.get(world, 0.9)


@pytest.mark.parametrize("world", WORLDS)
def test_the_interval_between_sessions_covers(world: str) -> None:
    """The nominal 95 % are 92 % at least, for a true ratio that no floor or test depends on."""
    rng = np.random.default_rng(11)
    for sessions in (2, 5, 10):
        covered = 0
        for _ in range(400):
            estimate = compared(rng, 1.3, sessions, rounds=24, **WORLDS[world])
            covered += estimate.low <= 1.3 <= estimate.high
        assert covered / 400 >= 0.92


def test_at_the_floor_itself_false_alarms_keep_to_their_level() -> None:
    """The least favourable truth: a ratio of 1.01, which is not *beyond* 1 %."""
    rng = np.random.default_rng(12)
    said = Counter(st.verdict(compared(rng, 1.01, 5, 48)) for _ in range(1000))
    assert said["slower"] / 1000 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)
    assert said["same"] / 1000 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)
    assert said["faster"] == 0


@pytest.mark.parametrize(
    ("sessions", "rounds", "true", "power"),
    [
        (5, 48, 1.02, 0.95),
        (5, 16, 1.02, 0.70),
        (10, 16, 1.02, 0.98),
        (5, 16, 1.05, 0.99),
        (3, 16, 1.05, 0.97),
        (5, 48, 1 / 1.02, 0.95),
    ],
)
def test_slowdowns_are_found(sessions: int, rounds: int, true: float, power: float) -> None:
    rng = np.random.default_rng(13)
    said = Counter(st.verdict(compared(rng, true, sessions, rounds)) for _ in range(300))
    assert said["slower" if true > 1 else "faster"] / 300 >= power
    assert said["faster" if true > 1 else "slower"] == said["same"] == 0


def test_the_floor_of_the_rounds_acts_seldom_and_costs_little() -> None:
    """It is there for medians that lie together by chance, and must not replace Student's."""
    rng = np.random.default_rng(14)
    acted = {}
    for spread in (0.0, 0.005):
        estimates = [compared(rng, 1.0, 5, 48, spread=spread, burst=0.0) for _ in range(300)]
        acted[spread] = np.mean(
            [2.776 * e.standard_error < 1.96 * e.within_error for e in estimates]
        )
    # Without any spread, Student's interval is the narrower in about a quarter of the cases.
    assert 0.1 <= acted[0.0] <= 0.4
    assert acted[0.005] <= 0.05


# ── sessions that disagree ────────────────────────────────────────────────────────────────────


def test_two_speeds_are_found_and_not_averaged_in_silence() -> None:
    low, high = math.log(1.40), math.log(1.64)
    estimate = st.between_sessions(known([high, low, low + 0.003, high - 0.004, low - 0.002]))
    assert estimate.disagree
    assert [group.sessions for group in estimate.groups] == [(1, 2, 4), (0, 3)]
    assert estimate.groups[0].ratio == pytest.approx(1.40, rel=0.001)
    assert estimate.groups[1].ratio == pytest.approx(1.64, rel=0.003)
    for group in estimate.groups:
        assert group.low < group.ratio < group.high
    assert st.verdict(estimate) == "slower"


def test_three_speeds_are_found_even_when_evenly_spaced() -> None:
    medians = [0.0, 0.2, 0.4, 0.001, 0.201, 0.401]
    assert [g.sessions for g in st.clusters(known(medians))] == [(0, 3), (1, 4), (2, 5)]


def test_sessions_that_agree_are_one_group() -> None:
    (group,) = st.clusters(known([0.013, 0.010, 0.012]))
    assert group.sessions == (0, 1, 2)
    assert st.clusters([]) == ()
    assert len(st.clusters(known([0.5]))) == 1
    assert [g.sessions for g in st.clusters([st.median_interval([]), *known([0.5])])] == [(1,)]


def test_what_is_no_reason_to_split() -> None:
    # Inside the band of "same": 2 ln 1.01 is 0.0199.
    assert len(st.clusters(known([0.0, 0.0195], error=1e-5))) == 1
    assert len(st.clusters(known([0.0, 0.0205], error=1e-5))) == 2
    # Within what the rounds can explain.
    assert len(st.clusters(known([0.0, 0.1], error=0.02))) == 1
    # An even scatter far beyond the floor.
    assert len(st.clusters(known([0.0, 0.1, 0.2, 0.3, 0.4]))) == 1
    # A single round does not know how well it knows.
    assert len(st.clusters([st.median_interval([0.0]), st.median_interval([9.0])])) == 1


def test_disagreeing_sessions_decide_only_together() -> None:
    either = st.between_sessions(known([0.15] * 8 + [0.0, 0.0]))
    assert either.disagree
    assert either.low > 1.01
    assert st.verdict(either) == "undecided"
    wide = st.between_sessions(known([0.0, 0.021, 0.0, 0.021], error=1e-4))
    assert wide.disagree
    assert wide.high < 1.1
    assert st.verdict(replace(wide, floor=0.1)) == "undecided"
    assert not st.between_sessions(known([0.0, 0.021, 0.0, 0.021], error=1e-4), 0.1).disagree


def test_one_disturbed_session_of_five_does_not_hide_what_all_five_show() -> None:
    slow = [0.0427, 0.0399, 0.0419, 0.4459, 0.0523]
    estimate = st.between_sessions(known(slow), 0.02)
    assert estimate.disagree
    # The t-interval is of no use, and the sides alone decide: 1 / 32.
    assert estimate.low < 1 < estimate.high
    assert estimate.p_beyond == pytest.approx(1 / 32)
    assert st.verdict(estimate) == "slower"
    assert st.verdict(st.between_sessions(known([-x for x in slow]), 0.02)) == "faster"
    # Four are too few for that, and one session inside the floor forbids it.
    assert st.verdict(st.between_sessions(known(slow[1:]), 0.02)) == "undecided"
    assert st.verdict(st.between_sessions(known([0.01, *slow[1:]]), 0.02)) == "undecided"
    # The same code with a disturbed session stays undecided.
    same = [0.0119, -0.0083, 0.5281, 0.0005, -0.0078]
    assert st.verdict(st.between_sessions(known(same), 0.02)) == "undecided"


def test_how_often_groups_are_found_and_imagined() -> None:
    rng = np.random.default_rng(20)
    found = both = 0
    for _ in range(300):
        slow = rng.random(5) < 0.5
        samples = [session(rng, [0, math.log(1.64 if s else 1.4)], 16) for s in slow]
        if 0 < slow.sum() < 5:
            both += 1
            groups = {group.sessions for group in st.relative_to(samples)[1].groups}
            found += groups == {tuple(np.nonzero(slow)[0]), tuple(np.nonzero(~slow)[0])}
    assert found / both >= 0.93

    def imagined(sessions: int, spread: float) -> float:
        draws = rng.normal(0, spread, (1000, sessions)).tolist()
        return float(np.mean([len(st.clusters(known(medians))) > 1 for medians in draws]))

    assert max(imagined(s, 0.005) for s in (2, 3, 5, 10)) <= 0.01
    assert max(imagined(s, 0.15) for s in (5, 8, 10, 20)) <= 0.08
    assert imagined(3, 0.15) <= 0.35


def test_two_speeds_around_one_are_rarely_called_by_five_sessions() -> None:
    """Only where all five processes took the same speed, 1 of 16: no method can see the other."""
    rng = np.random.default_rng(21)
    called = 0
    for _ in range(400):
        fast = rng.random(5) < 0.5
        samples = [session(rng, [0, 0.08 if f else -0.08], 16) for f in fast]
        said = st.verdict(st.relative_to(samples)[1])
        called += said in ("faster", "slower")
        assert said in ("undecided", "faster", "slower")
        if 0 < fast.sum() < 5:
            assert said == "undecided"
    assert called / 400 <= 1 / 16 + 3 * math.sqrt(1 / 16 * 15 / 16 / 400)


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────


def stated(low: float, high: float, sessions: int = 5) -> st.Estimate:
    return st.Estimate(math.sqrt(low * high), low, high, 0.95, 0.01, sessions, 80, 0.01)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.011, 1.02, "slower"),
        (1.009, 1.02, "undecided"),
        (0.96, 0.98, "faster"),
        (0.96, 0.995, "undecided"),
        (0.995, 1.005, "same"),
        (0.98, 1.02, "undecided"),
        (1.001, 1.009, "same"),
        (0.0, math.inf, "undecided"),
        (1 / 1.01, 1.01, "same"),
        (0.9900, 1.005, "undecided"),
    ],
)
def test_a_verdict_is_where_the_whole_interval_lies(low: float, high: float, said: str) -> None:
    assert st.verdict(stated(low, high)) == said
    if low > 0:
        opposite = {"faster": "slower", "slower": "faster"}.get(said, said)
        assert st.verdict(stated(1 / high, 1 / low)) == opposite


def test_a_verdict_at_another_floor() -> None:
    assert st.verdict(replace(stated(1.03, 1.04), floor=0.05)) == "same"
    assert st.verdict(replace(stated(1.03, 1.04), floor=0.035)) == "undecided"
    assert st.verdict(replace(stated(1.0, 1.04, sessions=1), floor=0.05)) == "undecided"


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04: 4 x .005, 3 x .01, 2 x .03, 1 x .04 raised to what precedes it.
    adjusted = st.adjust([0.01, 0.04, 0.03, 0.005], "holm")
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted .005 .01 .03 .04 by 4/1, 4/2, 4/3, 4/4: .02 .02 .04 .04.
    adjusted = st.adjust([0.01, 0.04, 0.03, 0.005], "benjamini-hochberg")
    assert adjusted == pytest.approx([0.02, 0.04, 0.04, 0.02])
    # A large p-value pulls a smaller one down to itself.
    assert st.adjust([0.04, 0.05], "benjamini-hochberg") == pytest.approx([0.05, 0.05])


def test_adjustment_against_scipy_and_its_bounds() -> None:
    rng = np.random.default_rng(30)
    for n in (1, 2, 7, 40):
        p = np.round(rng.random(n) ** 2, 2)
        adjusted = st.adjust(p, "benjamini-hochberg")
        assert adjusted == pytest.approx(scipy.stats.false_discovery_control(p))
        assert np.all(st.adjust(p, "holm") >= adjusted)
        assert np.all(adjusted >= p)


@pytest.mark.parametrize("method", get_args(st.Method))
def test_what_was_not_tested_is_not_counted(method: st.Method) -> None:
    adjusted = st.adjust([math.nan, 0.02, math.nan, 0.5], method)
    assert np.isnan(adjusted[[0, 2]]).all()
    assert adjusted[[1, 3]] == pytest.approx(st.adjust([0.02, 0.5], method))
    assert st.adjust([], method).shape == (0,)
    assert np.isnan(st.adjust([math.nan], method)).all()


def test_bad_p_values_are_refused() -> None:
    with pytest.raises(ValueError, match="p_values must lie between 0 and 1"):
        st.adjust([0.5, 1.5], "holm")
    with pytest.raises(ValueError, match="none of holm, benjamini-hochberg"):
        st.adjust([0.5], "bonferroni")  # type: ignore[arg-type]


def test_a_table_withdraws_what_could_be_luck() -> None:
    clear = st.between_sessions(known([0.048, 0.050, 0.052, 0.050, 0.051]))
    close = st.between_sessions(known([0.014, 0.017, 0.019, 0.015, 0.018]))
    same = st.between_sessions(known([0.001, -0.001, 0.0, 0.002, -0.002]))
    single = st.between_sessions([st.median_interval(np.full(8, 0.7))])
    assert st.verdict(close) == "slower"
    assert 0.0005 < close.p_beyond < 0.005
    few = st.judge([clear, close, same, single])
    assert few.verdicts == ("slower", "slower", "same", "undecided")
    assert few.calls == 2
    assert math.isnan(few.adjusted[3])
    many = st.judge([clear, close] + [same] * 200)
    assert many.verdicts == ("slower", "undecided") + ("same",) * 200
    assert many.adjusted[1] > 0.05
    assert many.calls == 1
    # Among fifty clear calls one false one more would do little harm, but Holm allows none.
    table = [clear] * 50 + [close] + [same] * 60
    assert st.judge(table).verdicts[50] == "slower"
    assert st.judge(table, method="holm").verdicts[50] == "undecided"


def test_the_expected_false_alarms_of_a_table() -> None:
    clear = st.between_sessions(known([0.048, 0.050, 0.052, 0.050, 0.051]))
    same = st.between_sessions(known([0.001, -0.001, 0.0, 0.002, -0.002]))
    # Ten calls, and the one more that a null would join.
    assert st.judge([clear] * 10 + [same] * 5).expected_false_alarms == pytest.approx(0.05 * 11)
    assert st.judge([clear] * 10).expected_false_alarms == pytest.approx(0.05 * 10)
    assert st.judge([same] * 10).expected_false_alarms == pytest.approx(0.05)
    holm = st.judge([clear] * 10, method="holm")
    assert holm.expected_false_alarms == pytest.approx(0.05 / 0.95)
    nothing = st.judge([])
    assert (nothing.verdicts, nothing.calls, nothing.expected_false_alarms) == ((), 0, 0)
    single = st.between_sessions([st.median_interval(np.full(8, 0.7))])
    assert st.judge([single]).expected_false_alarms == 0


@pytest.mark.parametrize("method", get_args(st.Method))
def test_a_row_that_is_not_called_has_the_odds_that_it_would_be_called_with(
    method: st.Method,
) -> None:
    rng = np.random.default_rng(5)
    centres = np.concatenate([np.zeros(12), np.full(6, 0.012), np.full(8, 0.05)])
    logs = centres[:, None] + rng.normal(0, 0.002, (26, 5))
    table = [st.between_sessions(known(row)) for row in logs.tolist()]
    judged = st.judge(table, method=method)
    own = np.array([st.verdict(e) in ("faster", "slower") for e in table])
    for number, estimate in enumerate(table):
        as_if = [e.p_beyond if own[i] or i == number else 1.0 for i, e in enumerate(table)]
        expected = st.adjust(as_if, method)[number]
        assert judged.adjusted[number] == pytest.approx(expected), (number, estimate)
    assert 0 < own.sum() < len(own)


def test_false_calls_are_estimated_from_the_calls_that_were_made() -> None:
    """Of a table of clear differences next to none is false, though the bound allows many; where
    half of the rows are right at the floor, the estimate is near what happens, and no less."""
    clear = st.between_sessions(known([1.00, 1.001, 0.999, 1.0005, 0.9995]))
    judged = st.judge([clear] * 900)
    assert judged.expected_false < 0.1 < 40 < judged.expected_false_alarms
    rng = np.random.default_rng(7)
    made, said, bound = [], [], []
    for _ in range(120):
        centres = np.array([math.log(1.01)] * 30 + [0.03] * 30)
        logs = centres[:, None] + rng.normal(0, 0.004, (60, 5))
        judged = st.judge([st.between_sessions(known(row)) for row in logs.tolist()])
        made.append(sum(v in ("faster", "slower") for v in judged.verdicts[:30]))
        said.append(judged.expected_false)
        bound.append(judged.expected_false_alarms)
    assert np.mean(made) <= np.mean(said) + 3 * np.std(made) / math.sqrt(120)
    assert np.mean(said) <= np.mean(bound)
    nothing = st.judge([])
    assert nothing.expected_false == 0


def test_an_estimate_for_another_floor_is_not_judged() -> None:
    estimate = st.between_sessions(known([0.1, 0.1]), floor=0.02)
    with pytest.raises(ValueError, match=r"estimate 0 was made for floor 0.02 and confidence 0.95"):
        st.judge([estimate], floor=0.01)


@pytest.mark.parametrize("method", get_args(st.Method))
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_false_alarms_of_tables_keep_to_what_is_promised(method: st.Method, shared: float) -> None:
    """30 rows, 20 right at the floor (the worst that is not beyond) and 10 truly slower.

    `shared` is the error that all rows have in common, as those with one baseline do.
    """
    rng = np.random.default_rng(31)
    logs = np.array([math.log(1.01)] * 20 + [0.1] * 10)
    false, bounds, shares, found = [], [], [], []
    for _ in range(250):
        errors = rng.normal(0, 0.004, (30, 5)) + shared * rng.normal(0, 0.004, 5)
        table = [st.between_sessions(known(row)) for row in (logs[:, None] + errors).tolist()]
        judged = st.judge(table, method=method)
        called = np.array([said in ("faster", "slower") for said in judged.verdicts])
        assert called.sum() == judged.calls
        false.append(called[:20].sum())
        found.append(called[20:].mean())
        bounds.append(judged.expected_false_alarms)
        shares.append(called[:20].sum() / max(1, judged.calls))
    assert np.mean(shares) <= 0.05
    assert np.mean(found) >= 0.99
    if method == "holm":
        assert np.mean(np.array(false) > 0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 250)
    if not shared:
        assert np.mean(false) <= np.mean(bounds) + 3 * np.std(false) / math.sqrt(250)


# ── two runs ──────────────────────────────────────────────────────────────────────────────────


def runs(rng: np.random.Generator, logs: Sequence[float], sd: float = 0.001) -> list[Array]:
    """One array of visit minima per session, around exp(log) seconds."""
    return [np.exp(log + rng.normal(0, sd, 40)) for log in logs]


def test_two_runs_are_compared_by_welch() -> None:
    rng = np.random.default_rng(40)
    a, b = runs(rng, rng.normal(0.2, 0.01, 6).tolist()), runs(rng, rng.normal(0, 0.03, 4).tolist())
    estimate = st.compare_runs(a, b)
    logs = [[float(np.median(np.log(t))) for t in run] for run in (a, b)]
    welch = scipy.stats.ttest_ind(*logs, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert estimate.degrees == pytest.approx(welch.df)
    assert math.log(estimate.low) == pytest.approx(interval.low)
    assert math.log(estimate.high) == pytest.approx(interval.high)
    assert (estimate.sessions, estimate.rounds) == (4, 400)
    assert estimate.floor == st.RELEASE_FLOOR
    assert st.verdict(estimate) == "slower"
    assert st.verdict(st.compare_runs(b, a)) == "faster"


def test_two_runs_cover() -> None:
    rng = np.random.default_rng(41)
    covered = 0
    for _ in range(300):
        a = runs(rng, rng.normal(0.1, 0.02, 5).tolist())
        b = runs(rng, rng.normal(0, 0.06, 4).tolist())
        estimate = st.compare_runs(a, b)
        covered += estimate.low <= math.exp(0.1) <= estimate.high
    assert covered / 300 >= 0.92


def test_two_runs_without_spread_or_with_one_session() -> None:
    rng = np.random.default_rng(42)
    times = np.exp(rng.normal(0, 0.01, 40))
    equal = st.compare_runs([times, times], [times, times, times])
    assert equal.standard_error == equal.within_error > 0
    assert equal.low < 1 < equal.high
    one = st.compare_runs([times * 3], [times, times * 1.001])
    assert one.sessions == 1
    assert one.ratio == pytest.approx(3, rel=0.01)
    assert one.low < one.ratio < one.high
    assert math.isnan(one.p_beyond)
    assert st.verdict(one) == "undecided"


def test_a_run_whose_sessions_disagree_is_compared_group_by_group() -> None:
    rng = np.random.default_rng(43)
    steady = runs(rng, [0.0, 0.002, -0.003, 0.001, 0.0])
    torn = runs(rng, [0.10, 0.45, 0.101, 0.452, 0.102])
    estimate = st.compare_runs(torn, steady)
    assert [group.sessions for group in estimate.groups] == [(0, 2, 4), (1, 3)]
    assert {group.against for group in estimate.groups} == {(0, 1, 2, 3, 4)}
    assert [group.ratio for group in estimate.groups] == pytest.approx(
        [math.exp(0.101), math.exp(0.451)], rel=0.005
    )
    # The interval reaches into the floor, though each group alone lies above.
    assert estimate.low < 1.02 < estimate.groups[0].low
    assert st.verdict(estimate) == "undecided"
    slow = runs(rng, [1.0, 1.002, 0.997, 1.001, 1.0])
    assert st.verdict(st.compare_runs(torn, slow)) == "faster"


def test_workers_that_took_turns_are_paired_round_by_round() -> None:
    rng = np.random.default_rng(44)
    pairs = []
    for _ in range(10):
        times = session(rng, [math.log(1.05), 0.0], 100, spread=0.009, drift=3.0)
        pairs.append((times[:, 0], times[:, 1]))
    estimate = st.between_sessions([log_ratios(a, b) for a, b in pairs], st.RELEASE_FLOOR)
    assert st.verdict(estimate) == "slower"
    assert estimate.ratio == pytest.approx(1.05, rel=0.01)
    # The drift from round to round and between sessions stays in absolute times.
    apart = st.compare_runs([a for a, _ in pairs], [b for _, b in pairs])
    assert apart.standard_error > 5 * estimate.standard_error
    assert st.verdict(apart) == "undecided"


# ── the fastest ───────────────────────────────────────────────────────────────────────────────


def test_the_fastest_and_those_that_cannot_be_told_from_it() -> None:
    rng = np.random.default_rng(50)
    logs = [0.5, 0.001, 0.0, 1.0, 0.10]
    ranking = fastest([session(rng, logs) for _ in range(5)])
    assert ranking.fastest in (1, 2)
    assert ranking.tied == (3 - ranking.fastest,)
    assert ranking.missing == ()
    assert [ranking.verdicts[i] for i in (0, 3, 4)] == ["slower"] * 3
    assert ranking.estimates[ranking.fastest].ratio == 1
    assert ranking.estimates[3].ratio == pytest.approx(math.e, rel=0.01)
    assert ranking.confidence == 0.95
    assert ranking.estimates[0].confidence == pytest.approx(1 - 0.05 / 4)


def test_ratios_to_the_fastest_are_paired_inside_rounds() -> None:
    """The reference is so noisy that a product of two ratios to it would decide nothing."""
    rng = np.random.default_rng(51)
    samples = []
    for _ in range(5):
        times = session(rng, [0.0, 1.0, 1.05], burst=0.0)
        times[:, 0] *= 10 * np.exp(rng.normal(0, 1.0, len(times)))
        samples.append(times)
    ranking = fastest(samples)
    assert ranking.fastest == 1
    assert ranking.verdicts[2] == "slower"
    direct = st.relative_to(samples, 1, confidence=1 - 0.05 / 2)[2]
    assert ranking.estimates[2] == direct


def test_a_candidate_that_is_beaten_gives_way() -> None:
    """Where a common reference misleads, because two met it in different rounds."""
    rng = np.random.default_rng(52)
    samples = []
    for _ in range(5):
        times = session(rng, [0.0, 0.3, 0.2], 60, burst=0.0)
        # The second meets the reference only where the reference is slow.
        times[:30, 0] *= 2
        times[30:, 1] = math.nan
        samples.append(times)
    assert st.relative_to(samples, 0)[1].ratio < st.relative_to(samples, 0)[2].ratio
    ranking = fastest(samples)
    assert ranking.fastest == 2
    assert ranking.verdicts[1] == "slower"


def test_of_identical_contestants_none_is_slower_though_one_was_picked() -> None:
    """The winner's curse: the mean rival looks slower than the pick, and is not called so."""
    rng = np.random.default_rng(53)
    bias, called = [], 0
    for _ in range(60):
        ranking = fastest([session(rng, np.zeros(12), 16, spread=0.006) for _ in range(5)])
        assert ranking.fastest is not None
        bias += [math.log(e.ratio) for i, e in enumerate(ranking.estimates) if i != ranking.fastest]
        called += ranking.verdicts.count("slower")
    assert 0.001 < np.mean(bias) < 0.006
    assert called == 0


def test_the_truly_fastest_is_named_or_tied() -> None:
    """With a floor of 0, so that only the choice of the winner is tested, and many close rivals."""
    rng = np.random.default_rng(54)
    logs = np.array([0.0, 0.0005, 0.001, 0.0015, 0.002, 0.03])
    kept = found = 0
    for _ in range(150):
        ranking = fastest([session(rng, logs, 16) for _ in range(5)], floor=0.0)
        kept += ranking.fastest == 0 or 0 in ranking.tied
        found += ranking.verdicts[5] == "slower"
    assert kept / 150 >= 0.95
    assert found / 150 >= 0.9


def test_contestants_without_times() -> None:
    rng = np.random.default_rng(55)
    samples = [session(rng, [0.0, -1.0, 0.2, -2.0], 16) for _ in range(4)]
    for times in samples:
        times[:, 1] = math.nan
    for times in samples[1:]:
        times[:, 3] = math.nan
    ranking = fastest(samples)
    # The last was measured in one session only: apparently faster, but not to be named.
    assert (ranking.fastest, ranking.tied, ranking.missing) == (0, (3,), (1,))
    assert ranking.verdicts == ("same", "undecided", "slower", "undecided")
    nothing = fastest([np.full((4, 2), math.nan)])
    assert (nothing.fastest, nothing.missing) == (None, (0, 1))
    alone = fastest([np.ones((8, 1))] * 2)
    assert (alone.fastest, alone.tied) == (0, ())
    none = fastest([np.ones((0, 2))])
    assert none.fastest is None


def test_one_session_names_a_fastest_and_ties_everyone() -> None:
    rng = np.random.default_rng(56)
    samples = [session(rng, [0.0, 1.0])]
    ranking = fastest(samples)
    assert (ranking.fastest, ranking.tied) == (0, (1,))


def test_sessions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no session"):
        fastest([])
    with pytest.raises(ValueError, match=r"the same contestants.*\[2, 3\]"):
        st.relative_to([np.ones((4, 2)), np.ones((4, 3))])
    with pytest.raises(ValueError, match="reference 2 is none of the 2 contestants"):
        st.relative_to([np.ones((4, 2))], reference=2)
    with pytest.raises(ValueError, match=r"rounds × contestants.*must have 2 dimension"):
        fastest([np.ones(4)])


# ── while measuring ───────────────────────────────────────────────────────────────────────────


def times_of(rounds: int, sd: float, contestants: int = 3) -> Array:
    return session(np.random.default_rng(60), np.zeros(contestants), rounds, sd=sd, burst=0.0)


def test_half_widths_are_those_of_the_intervals() -> None:
    times = times_of(40, 0.01, 4)
    times[3:7, 2] = math.nan
    times[:, 3] = math.nan
    widths = st.half_widths(times, baseline=1)
    for column in (0, 2):
        own = log_ratios(times[:, column], times[:, 1])
        assert widths[column] == own.half_width
    assert widths[1] == 0
    assert math.isnan(widths[3])
    assert np.isinf(st.half_widths(times[:5, :2])).all()
    with pytest.raises(ValueError, match="baseline 4 is none of the 4"):
        st.half_widths(times, baseline=4)


def test_it_stops_on_precision_from_sixteen_rounds_every_four() -> None:
    calm, rule = times_of(40, 0.001), st.Stopping()
    stops = [n for n in range(40) if st.enough(calm[:n], 0.0, rule) == "precise"]
    assert stops == [16, 20, 24, 28, 32, 36]


def test_it_goes_on_while_one_is_imprecise_until_the_rounds_are_spent() -> None:
    times, rule = times_of(120, 0.001), st.Stopping(max_rounds=100)
    times[:, 2] *= np.exp(np.random.default_rng(61).normal(0, 0.5, 120))
    assert {st.enough(times[:n], 0.0, rule) for n in range(100)} == {None}
    assert st.enough(times[:100], 0.0, rule) == "rounds"
    assert st.enough(times[:103], 0.0, rule) == "rounds"
    assert st.enough(times[:16, :2], 0.0, rule) == "precise"


def test_a_spent_budget_stops_at_any_round() -> None:
    rule = st.Stopping(budget=1.0)
    assert st.enough(times_of(3, 0.5), 0.99, rule) is None
    assert st.enough(times_of(3, 0.5), 1.0, rule) == "budget"
    assert st.enough(np.ones((0, 2)), 2.0, rule) == "budget"


def test_what_was_never_measured_is_not_waited_for() -> None:
    times = times_of(16, 0.001)
    times[:, 1] = math.nan
    assert st.enough(times, 0.0, st.Stopping()) == "precise"
    times[:, 0] = math.nan
    assert st.enough(times, 0.0, st.Stopping()) is None


def test_it_never_stops_on_significance() -> None:
    """A factor that all rounds of a contestant share changes no decision."""
    times, rule = times_of(60, 0.008), st.Stopping()
    other = times * [1.0, 1.5, 0.3]
    for n in range(16, 60, 4):
        assert st.enough(times[:n], 0.0, rule) == st.enough(other[:n], 0.0, rule)


def test_a_stopping_rule_that_makes_no_sense_is_refused() -> None:
    for bad, says in (
        ({"min_rounds": 0}, "min_rounds 0 must lie between"),
        (
            {"min_rounds": 20, "max_rounds": 10},
            "min_rounds 20 must lie between 1 and max_rounds 10",
        ),
        ({"every": 0}, "every must be 1"),
        ({"half_width": 0.0}, "half_width must be positive"),
        ({"budget": 0.0}, "budget must be a positive"),
        ({"confidence": 1.0}, "confidence must lie"),
    ):
        with pytest.raises(ValueError, match=says):
            st.Stopping(**bad)


def test_the_stopping_rule_costs_next_to_nothing() -> None:
    times, rule = times_of(100, 0.01, 12), st.Stopping(max_rounds=1000)
    st.enough(times, 0.0, rule)
    calls = 20
    best = min(timeit.repeat(lambda: st.enough(times, 0.0, rule), number=calls, repeat=20)) / calls
    assert best < 200e-6


def test_the_measuring_loop_needs_no_scipy_and_nothing_needs_torch() -> None:
    code = (
        "import sys, numpy as np, gradbench.statistics as st\n"
        "st.enough(np.ones((16, 3)), 0.0, st.Stopping()); st.controls_differ(np.zeros((1, 16)))\n"
        "assert 'scipy' not in sys.modules\n"
        "st.fastest_of_each([st.Tables.of([np.ones((16, 3))] * 3)])\n"
        "assert 'scipy.stats' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ── the control ───────────────────────────────────────────────────────────────────────────────


def control(rng: np.random.Generator, off: float, **world: Any) -> bool:
    times = session(rng, [0.0, off], spread=0.0025, **world)
    return control_differs(np.log(times[:, 1] / times[:, 0]))


def test_a_good_session_is_hardly_ever_void() -> None:
    rng = np.random.default_rng(70)
    void = sum(
        control(rng, 0.0, rounds=rounds, kind=kind, burst=burst)
        for rounds in (12, 16, 100)
        for kind in ("normal", "t3")
        for burst in (0.0, 0.05, 0.2)
        for _ in range(300)
    )
    assert void / (18 * 300) <= 0.001


def test_a_control_at_the_floor_is_voided_as_seldom_as_stated() -> None:
    rng = np.random.default_rng(71)
    ratios = math.log(1.01) + rng.normal(0, 0.01, (5000, 16))
    assert sum(map(control_differs, ratios)) / 5000 <= 0.002


def test_a_control_that_differs_voids_the_session() -> None:
    rng = np.random.default_rng(72)
    assert all(
        control(rng, sign * 0.1, rounds=16, burst=0.0) for sign in (1, -1) for _ in range(50)
    )
    assert np.mean([control(rng, 0.03, rounds=48) for _ in range(200)]) >= 0.9


def test_what_the_control_cannot_say() -> None:
    assert not control_differs([])
    assert not control_differs([0.5] * 10)
    assert control_differs([0.5] * 11)
    assert not control_differs([0.5] * 10 + [math.nan, math.inf])
    assert not control_differs(np.full(16, 0.009))


# ── properties ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e9])
def test_units_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(80)
    samples = [session(rng, [0.0, 0.02, 0.1], 16) for _ in range(4)]
    for own, scaled in zip(st.relative_to(samples), st.relative_to([t * scale for t in samples])):
        for field in ("ratio", "low", "high", "p_beyond", "standard_error"):
            assert getattr(scaled, field) == pytest.approx(getattr(own, field), rel=1e-6, abs=1e-12)
        assert st.verdict(scaled) == st.verdict(own)
    assert st.half_widths(samples[0] * scale) == pytest.approx(st.half_widths(samples[0]))
    a, b = [t[:, 0] for t in samples], [t[:, 1] for t in samples]
    assert st.compare_runs([t * scale for t in a], [t * scale for t in b]).ratio == pytest.approx(
        st.compare_runs(a, b).ratio
    )


@pytest.mark.parametrize("seed", range(8))
def test_swapping_sides_inverts_the_ratio_and_the_verdict(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = float(rng.choice([1.0, 1.02, 1.3]))
    sessions, rounds = int(rng.integers(1, 6)), int(rng.integers(2, 30))
    a, b = [], []
    for _ in range(sessions):
        times = session(rng, [0.0, math.log(true)], rounds)
        a.append(times[:, 1])
        b.append(times[:, 0])
    opposite = {"faster": "slower", "slower": "faster"}
    for compare in (
        lambda x, y: st.between_sessions(list(map(log_ratios, x, y)), st.RELEASE_FLOOR),
        st.compare_runs,
    ):
        one, other = compare(a, b), compare(b, a)
        assert other.ratio == pytest.approx(1 / one.ratio)
        assert other.high == pytest.approx(1 / one.low if one.low else math.inf)
        assert other.p_beyond == pytest.approx(one.p_beyond, nan_ok=True)
        assert len(other.groups) == len(one.groups)
        said = st.verdict(one)
        assert st.verdict(other) == opposite.get(said, said)


def test_the_order_of_rounds_and_sessions_does_not_matter() -> None:
    rng = np.random.default_rng(81)
    samples = [session(rng, [0.0, 0.02], 16) for _ in range(5)]
    shuffled = [rng.permutation(times) for times in reversed(samples)]
    one, other = st.relative_to(samples)[1], st.relative_to(shuffled)[1]
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


# ── many comparisons at once ──────────────────────────────────────────────────────────────────


def test_many_comparisons_at_once_say_the_same_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(5)
    tables = []
    for sessions in [1, 2, 3, 5, 5, 10, 22] * 6:
        contestants, rounds = rng.integers(1, 7), rng.integers(1, 20, sessions)
        own = []
        for count in rounds:
            speeds = rng.lognormal(0, 0.02, contestants) * np.where(
                rng.random(contestants) < 0.2, 1.5, 1.0
            )
            times = 1e-5 * speeds * rng.lognormal(0, 0.01, (count, contestants))
            times[rng.random(times.shape) < 0.1] = math.nan
            if rng.random() < 0.2:
                times[:, rng.integers(contestants)] = math.nan
            own.append(np.round(times, 7) if rng.random() < 0.3 else times)
        tables.append(st.Tables.of(own))
    asked = [(table, int(rng.integers(table.contestants))) for table in tables]
    # Estimates hold NaN, which equals nothing; their text does not mind.
    one_by_one = [repr(st.relative_to(*question)) for question in asked]
    for batch in (1, 500, st.BATCH):
        monkeypatch.setattr(st.tables, "BATCH", batch)
        assert list(map(repr, st.relative_to_each(asked))) == one_by_one
        rankings = list(map(repr, st.fastest_of_each(tables)))
        assert rankings == [repr(fastest(table)) for table in tables]
    for (table, reference), estimates in zip(asked, st.relative_to_each(asked)):
        for column, estimate in enumerate(estimates):
            sessions = [st.median_interval(log[column] - log[reference]) for log in table.logs]
            assert repr(st.between_sessions(sessions)) == repr(estimate)


def test_no_comparison_at_all_is_no_estimate():
    assert st.relative_to_each([]) == st.fastest_of_each([]) == []


def test_sessions_are_void_together_as_they_are_alone():
    rng = np.random.default_rng(6)
    ratios = rng.normal(0.015, 0.01, (200, 16)) + rng.normal(0, 0.01, (200, 1))
    ratios[rng.random(ratios.shape) < 0.1] = math.nan
    void = st.controls_differ(ratios)
    assert void == [control_differs(row) for row in ratios]
    assert set(void) == {False, True}
    assert st.controls_differ(np.empty((3, 0))) == [False] * 3
