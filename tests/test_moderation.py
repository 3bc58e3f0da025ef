"""The spread between sessions, pooled over the cases of a track, and the power that a gate states:
on made-up sessions whose truth is known."""

import math

import numpy as np
import pytest
from made_tracks import Made

from gradbench import statistics as st
from gradbench.cli import cli
from gradbench.core.cases import Comparison
from gradbench.statistics.between import between_each
from gradbench.statistics.moderation import FEWEST
from gradbench.statistics.samples import Sessions
from gradbench.store import studies as store
from gradbench.studies import releases as study

CONFIDENCE = 0.99


def cases(rng, number=100, sessions=5, processes=0.008, rounds=0.004, shift=0.0):
    """Estimates of cases whose processes and rounds vary alike."""
    shape = sessions, number
    errors = rounds * rng.uniform(0.7, 1.3, shape)
    medians = rng.normal(shift, np.hypot(processes, errors))
    each = Sessions(
        medians,
        medians - 3 * errors,
        medians + 3 * errors,
        np.full(shape, 0.997),
        errors,
        np.full(shape, 12),
    )
    return list(between_each(each, st.RELEASE_FLOOR, CONFIDENCE))


def called(estimates):
    judged = st.judge(estimates, st.RELEASE_FLOOR, CONFIDENCE, "holm")
    return sum(verdict == "slower" for verdict in judged.verdicts)


def test_few_sessions_find_what_they_could_not_alone():
    rng = np.random.default_rng(0)
    slower = cases(rng, shift=math.log(1.05))
    spread = st.Spread.of(cases(rng))
    assert called(slower) < 20
    assert called([spread.moderated(e) for e in slower]) > 90


def test_identical_code_is_hardly_ever_called():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(10):
        same = cases(rng, 60)
        spread = st.Spread.of(same)
        alarms += any(e.low > 1.02 or e.high < 1 / 1.02 for e in map(spread.moderated, same))
    assert alarms <= 1


def test_moderated_p_values_are_honest():
    """At the edge of the threshold, the least favourable truth."""
    rng = np.random.default_rng(2)
    edge = cases(rng, 400, shift=math.log(1.02))
    spread = st.Spread.of(edge)
    p = np.array([spread.moderated(e).p_beyond for e in edge if e.ratio > 1])
    assert np.mean(p < 0.05) < 0.08
    assert np.mean(p < 0.01) < 0.025


def test_a_case_that_varies_more_than_the_others_keeps_its_own_spread():
    rng = np.random.default_rng(3)
    (wild,) = cases(rng, 1, processes=0.1)
    spread = st.Spread.of(cases(rng))
    assert spread.moderated(wild) == wild
    (usual,) = cases(rng, 1)
    assert spread.moderated(usual).degrees > usual.degrees


def test_few_cases_and_single_sessions_are_left_as_they_are():
    rng = np.random.default_rng(4)
    assert st.Spread.of(cases(rng, FEWEST - 1)) is None
    assert st.Spread.of([]) is None
    (single,) = cases(rng, 1, sessions=1)
    assert st.Spread.of(cases(rng)).moderated(single) == single


@pytest.mark.parametrize("processes", [0.008, 0.014, 0.03])
def test_the_stated_power_is_the_share_that_is_found(processes):
    rng = np.random.default_rng(5)
    plain = cases(rng, 150, sessions=10, processes=processes)
    spread = st.Spread.of(plain)
    stated = st.power([spread.moderated(e) for e in plain], 0.05, 0.01 / 150, CONFIDENCE).mean()
    slower = [
        spread.moderated(e)
        for e in cases(rng, 150, sessions=10, processes=processes, shift=math.log(1.05))
    ]
    found = np.mean([e.p_beyond <= 0.01 / 150 and e.low > 1.02 for e in slower])
    assert stated == pytest.approx(found, abs=0.12)


def test_a_comparison_states_its_power(tmp_path, capsys):
    functions = [f"f{number}" for number in range(12)]
    Made({"2.13.0": 1.0, "2.15.0": 1.0}, functions).write(tmp_path, 0)
    words = ["releases", "compare", "2.13.0", "2.15.0", "--fail-on", "slower"]
    assert cli.main([*words, "--results", str(tmp_path)], standalone_mode=False) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "holm" in said
    power = int(said.partition("would have been called in ")[2].partition(" ")[0])
    assert power >= 90
    assert "of 100 cases like these" in said


def test_a_study_of_the_gate_finds_what_is_planted(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "REPLAYED", 3)
    rng = np.random.default_rng(6)
    names = [f"f{number}" for number in range(24)]
    modes = [Comparison("vjp", name, "documents", "float32").case("backward") for name in names]
    settings = {
        "profile": "gate",
        "sessions": 10,
        "slowdown": 5.0,
        "seed": 0,
        "installed": ["a", "b"],
        "files": [],
        "cases": [str(case) for case in modes],
    }
    log, made = store.begin(tmp_path, "releases", settings, {}, {"torch": "2.13.0"}, ["gradbench"])
    with log:
        for step in study.plan(settings, modes):
            centre = rng.normal(math.log1p(step.share), 0.008)
            ratios = [round(x * 1e6) for x in rng.normal(centre, 0.01, 12)]
            trial = step.trial(injected=step.share, log_ratios=ratios, seconds=1e-4)
            log.append(trial)
            made.trials.append(trial)
    rows = {(row["sessions"], row["rule"]): row for row in study.rows(made)}
    before, gate = rows[5, "holm, 95%"], rows[10, "holm, 99%, pooled spread"]
    assert gate["false_alarms"] == gate["gates_alarmed"] == 0
    assert gate["power"] > 0.9 > before["power"]
    assert gate["power_said"] == pytest.approx(gate["power"], abs=0.1)


def test_what_installations_differ_by_lowers_the_stated_power():
    rng = np.random.default_rng(3)
    offsets = rng.normal(0, 0.008, 200)
    plain = cases(rng, 200, sessions=10, processes=0.01, shift=offsets)
    slower = cases(rng, 200, sessions=10, processes=0.01, shift=offsets + math.log(1.05))
    assert st.apart(plain) == pytest.approx(0.008, abs=0.002)
    assert st.apart(plain[: FEWEST - 1]) == 0.0
    spread, level = st.Spread.of(plain), 0.01 / len(plain)
    stated = st.power([spread.moderated(e) for e in plain], 0.05, level, CONFIDENCE).mean()
    judged = [spread.moderated(e) for e in slower]
    found = np.mean([e.p_beyond <= level and e.low > 1.02 for e in judged])
    assert stated == pytest.approx(found, abs=0.05)
