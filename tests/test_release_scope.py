"""A history of releases cannot be blinded: no track hides what another one knows, and a gate says
what it did not compare. In all orders of tracks, with made-up times."""

import itertools
import json

import pytest
from made_tracks import Made, comparison

from gradbench.analysis.timelines import frame
from gradbench.analysis.tracks import History
from gradbench.cli import cli
from gradbench.core.verdicts import CALLED
from gradbench.integrations import asv_history
from gradbench.releases.stored import history
from gradbench.store import tracks as log

FULL = Made({"2.13.0": 1.0, "2.15.0": 1.0}, ("exp", "sin", "cos"), slow={("2.15.0", "sin"): 1.2})
"""sin is slower in 2.15.0, in both of its modes."""

PINNED = {name: {"cpu_capability": "AVX2"} for name in ("2.13.0", "2.15.0")}
CPU = {name: {"torch": f"{name}+cpu"} for name in ("2.13.0", "2.15.0")}
CUDA = {name: {"torch": f"{name}+cu130", "torch_cuda": "13.0"} for name in ("2.13.0", "2.15.0")}

OTHERS = {
    "one function": Made({"2.13.0": 1.0, "2.15.0": 1.0}, ("exp",)),
    "one session of the same": Made(FULL.paces, FULL.functions, 1),
    "one release of two": Made({"2.13.0": 1.0}, FULL.functions),
    "a release between": Made({"2.13.0": 1.0, "2.14.0": 1.0}, ("exp",)),
    "a later release": Made({"2.13.0": 1.0, "2.16.0": 1.0}, ("exp",)),
    "another baseline": Made({"2.15.0": 1.0, "2.16.0": 1.0}, ("cos",)),
    "wrong": Made(FULL.paces, FULL.functions, status={("2.15.0", "sin"): "wrong"}),
    "no memory": Made(FULL.paces, FULL.functions, status={("2.13.0", "sin"): "out of memory"}),
    "unlike builds": Made(FULL.paces, ("exp",), facts=CPU),
    "limited instructions": Made(FULL.paces, FULL.functions, facts=PINNED),
    "another machine": Made(FULL.paces, ("exp",), machine="another"),
    "renewed NumPy": Made(
        {"2.13.0": 1.0, "2.15.0": 1.0}, ("exp",), facts={"2.13.0": {"numpy": "3"}}
    ),
    "the release twice": Made(
        {"2.15.0": 1.0, "twin": 1.0}, ("exp",), facts={"twin": {"torch": "2.15.0"}}
    ),
}


def stored(results, *tracks):
    for place, made in enumerate(tracks):
        made.write(results, place)
    return log.read_all(results)[0]


def slower(judged):
    return {
        (c.case.comparison.function, str(c.before), str(c.after))
        for c in judged.changes
        if c.verdict == "slower"
    }


def run(results, *words):
    return cli.main(["releases", *words, "--results", str(results)], standalone_mode=False)


@pytest.mark.parametrize("first", [True, False], ids=["older", "newer"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_small_or_unlike_track_hides_nothing(tmp_path, other, first, capsys):
    """Whether it is older or newer than the full one."""
    stored(tmp_path, *((OTHERS[other], FULL) if first else (FULL, OTHERS[other])))
    past = history(tmp_path, (), lambda problem: None)
    assert ("sin", "2.13.0", "2.15.0") in slower(past.changes(past.steps()))
    rows = frame(past).query("function == 'sin'")
    rows = rows[rows["before"].str.startswith("2.13.0")]
    assert "slower" in set(rows["verdict"]), "the frame, and so the report, shows it"
    assert run(tmp_path, "compare", "2.13.0", "2.15.0", "--fail-on", "slower", "--allow-fewer") == 1
    assert "sin" in capsys.readouterr().out


def test_the_order_of_three_tracks_does_not_matter(tmp_path):
    small = Made({"2.13.0": 1.0, "2.15.0": 1.0, "2.16.0": 1.0}, ("cos",))
    between = Made({"2.13.0": 1.0, "2.14.0": 1.3}, ("exp",))
    found = []
    for number, order in enumerate(itertools.permutations([FULL, small, between])):
        tracks = stored(tmp_path / str(number), *order)
        for given in (tracks, tracks[::-1]):
            past = History.of(given)
            judged = past.changes(past.steps())
            found.append(
                {
                    (c.pair[0], str(c.before), str(c.after), c.verdict in CALLED)
                    for c in judged.changes
                }
            )
    assert all(one == found[0] for one in found)
    told = {(case.comparison.function, *rest) for case, *rest in found[0]}
    assert ("sin", "2.13.0", "2.15.0", True) in told
    assert ("exp", "2.13.0", "2.14.0", True) in told
    assert ("exp", "2.14.0", "2.15.0", True) in told, "through the baseline"
    assert ("cos", "2.15.0", "2.16.0", False) in told


@pytest.mark.parametrize(("sessions", "said"), [(1, 1.2), (4, 1.2), (5, 1.0), (10, 1.0)])
def test_a_newer_measurement_counts_once_it_has_sessions_enough(tmp_path, sessions, said):
    again = Made(FULL.paces, FULL.functions, sessions)
    past = History.of(stored(tmp_path, FULL, again))
    ratios = past.ratios(past.between("2.13.0", "2.15.0"))
    (ratio, _) = [r for pair, r in ratios.items() if pair[0].comparison == comparison("sin")]
    assert ratio.estimate.ratio == pytest.approx(said, rel=0.02)


def test_a_build_of_one_s_own_is_judged_as_it_is_now(tmp_path):
    old, new = ({"mine": {"torch": "2.16.0a0", "torch_git": git}} for git in ("a", "b"))
    stored(
        tmp_path,
        Made({"2.15.0": 1.0, "mine": 1.2}, facts=old),
        Made({"2.15.0": 1.0, "mine": 1.0}, ("exp",), facts=new),
    )
    words = ["compare", "2.15.0", "mine", "--fail-on", "slower"]
    assert run(tmp_path, *words, "--allow-fewer") == 0, "the earlier build of that name is gone"
    assert run(tmp_path, *words) == 1, "and has been measured on more than this one"


# ── what a gate did not compare ───────────────────────────────────────────────────────────────

LATER = {
    "not measured": (Made({"2.13.0": 1.0, "2.16.0": 1.0}, ("exp",)), "4 not measured in 2.16.0"),
    "wrong": (
        Made({"2.13.0": 1.0, "2.16.0": 1.0}, FULL.functions, status={("2.16.0", "sin"): "wrong"}),
        "2 wrong in 2.16.0",
    ),
    "no memory": (
        Made(
            {"2.13.0": 1.0, "2.16.0": 1.0},
            FULL.functions,
            status={("2.16.0", "sin"): "out of memory", ("2.16.0", "cos"): "unsupported"},
        ),
        "2 out of memory in 2.16.0, 2 unsupported in 2.16.0",
    ),
    "another machine": (
        Made({"2.13.0": 1.0, "2.16.0": 1.0}, ("exp",), machine="another"),
        "4 not measured in 2.16.0",
    ),
}


@pytest.mark.parametrize("first", [True, False], ids=["older", "newer"])
@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize(
    "command", [("compare", "2.13.0", "2.16.0"), ("show",)], ids=lambda c: c[0]
)
def test_a_gate_that_compares_less_does_not_pass(tmp_path, capsys, later, first, command):
    full = Made({"2.13.0": 1.0, "2.15.0": 1.0}, FULL.functions)
    made, said = LATER[later]
    stored(tmp_path, *((made, full) if first else (full, made)))
    assert run(tmp_path, *command) == 0
    assert run(tmp_path, *command, "--fail-on", "slower") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "--allow-fewer" in told
    assert run(tmp_path, *command, "--fail-on", "slower", "--allow-fewer") == 0


def test_what_is_left_out_on_purpose_is_not_missed(tmp_path, capsys):
    full = Made({"2.13.0": 1.0, "2.15.0": 1.0}, FULL.functions)
    stored(tmp_path, full, LATER["not measured"][0])
    words = ["compare", "2.13.0", "2.16.0", "--fail-on", "any"]
    assert run(tmp_path, *words, "-f", "exp") == 0
    assert "No case that the tracks have is left out" in capsys.readouterr().out
    assert run(tmp_path, *words, "--track", "latest") == 1, "the other track knows more cases"


def test_what_the_older_release_cannot_do_is_not_missed(tmp_path):
    old = {("2.0.1", "sin"): "unsupported"}
    stored(tmp_path, Made({"2.2.2": 1.0, "2.0.1": 1.0}, status=old))
    assert run(tmp_path, "compare", "2.0.1", "2.2.2", "--fail-on", "any") == 0


# ── from first to last ────────────────────────────────────────────────────────────────────────

NAMES = [f"2.{minor}.0" for minor in range(8)]
DRIFT = Made(
    dict.fromkeys(NAMES, 1.0),
    ("exp", "sin"),
    slow={(name, "sin"): 1.012**place for place, name in enumerate(NAMES)},
    facts={name: {"numpy": "1.26" if name == "2.0.0" else "2.0"} for name in NAMES},
)


def test_a_drift_without_a_step_is_seen(tmp_path, capsys, monkeypatch):
    stored(tmp_path, DRIFT)
    run(tmp_path, "show", "--format", "json")
    rows = [row for row in json.loads(capsys.readouterr().out) if "/sin/" in row["case"]]
    assert {row["verdict"] for row in rows}.isdisjoint(CALLED)
    assert {row["first_to_last_verdict"] for row in rows} == {"slower"}
    assert {(row["first"], row["last"]) for row in rows} == {("2.0.0", "2.7.0")}
    for width in ("80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        run(tmp_path, "show")
        told = capsys.readouterr().out
        assert "without such a step" in told
        assert "2.0.0 → 2.7.0" in told
        assert max(map(len, told.splitlines())) <= int(width)
        run(tmp_path, "show", "-f", "sin", "-m", "jacrev")
        assert "first to last" in " ".join(capsys.readouterr().out.split())
    rows = frame(History.of(log.read_all(tmp_path)[0])).query("function == 'sin'")
    last = rows[rows["release"] == "2.7.0"]
    assert set(last["from_first_verdict"]) == {"slower"}
    assert set(last["first"]) == {"2.0.0"}


def test_a_strip_counts_what_each_release_changed(tmp_path, capsys):
    stored(tmp_path, Made({"2.0.0": 1.0, "2.1.0": 1.3, "2.2.0": 1.0}, FULL.functions))
    run(tmp_path, "show")
    told = " ".join(capsys.readouterr().out.split())
    strip = "2.1.0 6↑ 0↓ · 2.2.0 0↑ 6↓ · first to last 0↑ 0↓"
    assert strip in told
    for words in ((), ("--by", "mode"), ("-f", "exp", "-m", "jacrev")):
        run(tmp_path, "show", *words, "--format", "md")
        told = " ".join(capsys.readouterr().out.split())
        counts = strip if words[:1] != ("-f",) else "2.1.0 1↑ 0↓ · 2.2.0 0↑ 1↓"
        assert f"Slower ↑ and faster ↓ by release: {counts}" in told, words


@pytest.mark.parametrize("width", ["80", "120", "200"])
def test_what_else_differs_stands_on_every_row(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    stored(tmp_path, DRIFT)
    run(tmp_path, "show", "--all")
    told = capsys.readouterr().out
    touched = [row for row in told.splitlines() if "2.0.0 → 2." in row]
    assert len(touched) > 4
    assert all("¹" in row for row in touched)
    assert "¹ also differs: NumPy 1.26 → 2.0" in told
    assert max(map(len, told.splitlines())) <= int(width)
    untouched = [row for row in told.splitlines() if "2.1.0 → 2.2.0" in row]
    assert not any("¹" in row for row in untouched)


def test_asv_keeps_what_a_later_track_could_not_time(tmp_path):
    tracks = stored(tmp_path, FULL, OTHERS["wrong"], OTHERS["no memory"])
    for track in tracks:
        asv_history.write(tmp_path, track)
    for path in (tmp_path / "asv").glob("*/v*.json"):
        results = json.loads(path.read_text())["results"]
        values = [v for row in results.values() if row and row[0] for v in row[0] if v is not None]
        assert len(values) >= 6, path
