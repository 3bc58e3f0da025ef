"""Torch releases: environments, tracks, verdicts between builds, bisection. No release is needed:
environments point at this Python, some through a script that changes what a mode does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import schemas
import warm

from gradbench import statistics as st
from gradbench.analysis.timelines import COLUMNS, frame, timeline
from gradbench.analysis.tracks import History
from gradbench.cli import cli
from gradbench.core.cases import Comparison, Entry
from gradbench.core.releases import ReleaseError
from gradbench.releases import bisect, environments, installing, seeking, track
from gradbench.releases.builds import Builds, choose_baseline
from gradbench.releases.environments import Request, install, parse
from gradbench.releases.installing import Installer
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import discover
from gradbench.statistics import Stopping
from gradbench.store import tracks as log
from gradbench.store.lines import StoreError
from gradbench.store.logs import Ended
from gradbench.store.runs import Entrant

SUITE = str(Path(__file__).parent / "suites" / "paced.py")
BASE = WorkerOptions(files=(SUITE,))
EXP = Comparison("jacobian", "exp", "documents", "float32")
SHORT = Settings(
    sessions=2,
    warm=0.001,
    timeout=60,
    stopping=Stopping(min_rounds=6, max_rounds=6, every=2, budget=1),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    place = tmp_path / "environments"
    monkeypatch.setenv("GRADBENCH_RELEASES", str(place))
    return place


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def build(folder: Path, name: str, **variables: str):
    """An environment of this Python with variables of its own."""
    path = warm.python(folder / f"python-{name}", **variables)
    return install(parse(f"{name}={path}"), Installer())


# ── environments ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.13.1", "torch 2.0 and later"),
        ("latest", "no version of torch"),
        ("a/b=2.9.0", "a name has letters"),
        ("mine=/no/such/python", "no Python and no wheel"),
        (".venv", "a name has letters"),
        ("mine=", "no version of torch"),
    ],
)
def test_what_is_no_release_is_refused_in_one_line(text, said):
    with pytest.raises(ReleaseError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_a_release_asks_for_the_numpy_it_was_built_against():
    assert parse("2.2.2").requirements == ["torch==2.2.2", "numpy<2"]
    assert parse("v2.9.0").requirements == ["torch==2.9.0", "numpy"]
    assert parse("mine=2.13.0+cpu").requirements[0] == "torch===2.13.0+cpu"


def test_an_environment_that_others_keep_is_pointed_at_and_stays(home, tmp_path):
    made = build(tmp_path, "mine")
    assert environments.find("mine") == made
    assert made.torch
    assert not made.ours
    assert environments.missing([parse(f"mine={made.what}")]) == []
    with pytest.raises(ReleaseError, match="already; choose"):
        environments.missing([parse("mine=2.9.0")])
    environments.remove("mine")
    assert Path(made.what).exists()
    with pytest.raises(ReleaseError, match="mine is not installed; 'gradbench releases list'"):
        environments.find("mine")


def test_a_failed_installation_is_recorded_and_the_rest_goes_on(
    home, tmp_path, monkeypatch, capsys
):
    """uv is a script here: it makes the environment, and one release cannot be had."""
    uv = script(
        tmp_path,
        "uv",
        f"""
        case "$*" in
          *"venv "*) for last; do :; done; mkdir -p "$last/bin"
                   printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > "$last/bin/python"
                   chmod +x "$last/bin/python" ;;
          *"torch==2.9.9"*) echo "  × No solution found: there is no torch==2.9.9"; exit 1 ;;
        esac""",
    )
    how = Installer((str(uv),))
    made, failed = environments.install_all([parse("2.9.9"), parse("2.9.0")], how, lambda *at: None)
    assert [e.name for e in made] == ["2.9.0"]
    assert made[0].ours
    assert "no torch==2.9.9" in failed[0].reason
    assert [f.name for f in environments.failures()] == ["2.9.9"]
    assert sorted(p.name for p in home.iterdir() if p.is_dir()) == ["2.9.0"]
    assert environments.missing([parse("2.9.0"), parse("2.9.9")]) == [parse("2.9.9")]
    assert environments.remove("2.9.0") > 0
    assert environments.installed() == []


def test_an_environment_without_torch_is_no_environment(home, tmp_path):
    path = script(tmp_path, "python-empty", f'exec {sys.executable} -S "$@"')
    with pytest.raises(ReleaseError, match="does not work"):
        install(parse(f"empty={path}"), Installer())
    assert [f.name for f in environments.failures()] == ["empty"]


def test_the_command_installs_and_lists(home, tmp_path):
    place = script(tmp_path, "python", f'exec {sys.executable} "$@"')
    command = [sys.executable, "-m", "gradbench", "releases", "install", f"mine={place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [found.name for found in environments.installed()] == ["mine"]


def test_no_host_of_a_registry_gets_into_a_reason():
    said = installing.reason("error: cannot get https://example.org/simple/torch now", 1)
    assert "example" not in said
    assert "cannot get … now" in said


# ── tracking ──────────────────────────────────────────────────────────────────────────────────


def entry(*modes: str) -> Entry:
    return Entry(EXP, modes)


def tracked(results, made, *entries, settings=SHORT, **given):
    found = discover(BASE)
    opened, new = track.begin(
        log.folder(results), entries, settings, Builds(made, [], made[0].name, {}), [SUITE], **given
    )
    with opened:
        return track.measure(opened, new, settings, BASE, found)


def test_builds_are_measured_in_turns_and_what_one_lacks_costs_the_others_nothing(home, tmp_path):
    made = [
        build(tmp_path, "one"),
        build(tmp_path, "slow", TEST_PACE="2"),
        build(tmp_path, "poor", TEST_LACKS="1", TEST_DIES="1"),
    ]
    results = tmp_path / "results"
    tracked(results, made, entry("paced", "lacking", "dying", "manual"))
    history = History.of(log.read_all(results)[0])
    assert [b.name for b in history.builds] == ["one", "poor", "slow"]
    one, poor, slow = history.builds
    told = {b: history.point(b, EXP.case("lacking")).status for b in history.builds}
    assert told == {one: "ok", poor: "unsupported", slow: "ok"}
    assert history.point(poor, EXP.case("dying")).status == "crashed"
    # The worker that died is replaced: its other modes are timed all the same.
    assert history.point(poor, EXP.case("manual")).status == "ok"
    pair = EXP.case("paced"), one, slow
    ratio = history.ratios([pair])[pair]
    assert ratio.paired
    # Waits of 200 µs and of 100 µs; on a busy machine both grow.
    assert 1.3 < ratio.estimate.ratio < 3
    rounds = {
        len(side.entrant.samples)
        for part in history.tracks[0].parts
        for case in part.cases
        for side in case.sides
        if side.entrant.status == "ok"
    }
    assert rounds == {6}
    table = timeline(results)
    assert list(table.columns) == list(COLUMNS)
    assert set(table[table["release"] == "poor"]["status"]) == {"ok", "unsupported", "crashed"}
    assert (table[table["release"] == "one"]["to_baseline"] == 1).any()


def test_a_track_goes_on_where_it_was_cut_off(home, tmp_path):
    made = [build(tmp_path, "a"), build(tmp_path, "b")]
    results = tmp_path / "results"
    full = tracked(results, made, entry("manual"))
    lines = full.path.read_bytes().splitlines(keepends=True)
    parts = [i for i, line in enumerate(lines) if b'"kind":"part"' in line]
    # Killed while the second session was written.
    full.path.write_bytes(b"".join(lines[: parts[1]]) + lines[parts[1]][:50])
    old = log.read(full.path)
    assert not old.finished
    assert len(old.parts) == 1
    opened, settings = track.resume(old)
    with opened:
        track.measure(opened, old, settings, BASE, discover(BASE))
    again = log.read(full.path)
    assert again.finished
    assert [part.session for part in again.parts] == [0, 1]
    assert not again.problems
    with pytest.raises(StoreError, match="nothing to resume"):
        track.resume(again)


def test_a_build_that_changed_under_a_track_is_not_mixed_in(home, tmp_path):
    made = [build(tmp_path, "a"), build(tmp_path, "b")]
    found = discover(BASE)
    opened, new = track.begin(tmp_path, [entry("manual")], SHORT, Builds(made, [], "a", {}))
    other = msgspec.structs.replace(
        new.environments["b"], identity={**new.environments["b"].identity, "torch": "0.0"}
    )
    new.environments["b"] = other
    with opened, pytest.raises(StoreError, match=r"begun with torch 0\.0"):
        track.measure(opened, new, SHORT, BASE, found)


def test_ctrl_c_keeps_what_was_measured_and_says_how_to_go_on(home, tmp_path):
    for name in ("a", "b"):
        build(tmp_path, name)
    words = ["releases", "track", "a", "b", "--baseline", "a", "-f", "exp", "-o", "jacobian"]
    command = [sys.executable, "-m", "gradbench", *words, "--sessions", "40"]
    process = subprocess.Popen(
        [*command, "-m", "manual", "--results", str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    place = log.folder(tmp_path)
    while time.monotonic() < deadline:
        files = list(place.glob("*.jsonl")) if place.is_dir() else []
        if files and b'"kind":"part"' in files[0].read_bytes():
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "releases track --resume" in said
    assert "Traceback" not in said
    assert log.read(files[0]).parts


def test_the_newest_release_is_the_baseline_before_any_build_of_ones_own(tmp_path):
    mine = f"mine={sys.executable}"
    asked = [parse("2.9.0"), parse(mine), parse("2.13.0"), parse("2.12.0")]
    assert choose_baseline("", asked, tmp_path) == "2.13.0"
    assert choose_baseline(mine, asked, tmp_path) == "mine"
    assert choose_baseline("", asked[1:2], tmp_path) == "mine"


def test_groups_keep_the_baseline_in_each():
    assert track.groups("c", ["a", "b", "c", "d", "e"], together=3) == [
        ["c", "a", "b"],
        ["c", "d", "e"],
    ]
    assert track.groups("a", ["a"]) == [["a"]]


# ── verdicts, on made-up samples ──────────────────────────────────────────────────────────────


def written(results: Path, paces: dict[str, float], identity=None, name="t1", seed=0, sessions=10):
    """A track with made-up times: 100 µs times each build's pace, 0.8 % between processes."""
    rng = np.random.default_rng(seed)
    names = list(paces)
    header = log.TrackStarted(
        1,
        name,
        "2026-01-01T00:00:00Z",
        {},
        {"cpu": "test"},
        [
            Entry(
                EXP,
                (
                    "manual",
                    "jacrev",
                ),
            )
        ],
        names[0],
        [names],
    )
    opened = log.KIND.create(log.folder(results), header)
    with opened:
        for place, build_name in enumerate(names):
            facts = {"torch": f"2.{place}.0", "cpu_capability": "AVX512"}
            facts |= {"numpy": "2.0", "python": "3.11.7"}
            facts |= (identity or {}).get(build_name, {})
            opened.append(log.EnvironmentUsed(build_name, build_name, "2026-01-01", facts))
        for session in range(sessions):
            cases = []
            for mode in ("manual", "jacrev"):
                sides = []
                for build_name, pace in paces.items():
                    own = 1e5 * (pace if mode == "jacrev" else 1) * rng.lognormal(0, 0.008)
                    samples = [[int(x)] for x in own * rng.lognormal(0, 0.004, 8)]
                    entrant = Entrant(mode, "ok", number=1, samples=samples)
                    sides.append(log.Side(build_name, entrant))
                cases.append(log.CaseMeasured(mode, sides, "rounds"))
            opened.append(log.PartMeasured(EXP, session, 0, cases, 1.0, 2.0, 0.5))
        opened.append(Ended("2026-01-01T00:01:00Z", True, 60.0))


def test_a_change_is_called_where_it_was_made_and_nowhere_else(tmp_path):
    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 1.0, "2.2.0": 1.05, "2.3.0": 1.05})
    history = History.of(log.read_all(tmp_path)[0])
    judged = history.changes(history.steps())
    called = [c for c in judged.changes if c.verdict in ("slower", "faster")]
    assert [(str(c.case), str(c.before), str(c.after), c.verdict) for c in called] == [
        (f"{EXP}/jacrev", "2.1.0", "2.2.0", "slower")
    ]
    assert called[0].estimate.low < 1.05 < called[0].estimate.high
    table = frame(history)
    assert table.query("mode == 'jacrev' and release == '2.2.0'")["verdict"].item() == "slower"


def test_a_track_on_a_busy_machine_has_its_clock_and_both_times(tmp_path):
    def side(name, cpu):
        # Every sub-block was interrupted, for seven times as long as the call takes.
        lists = {"samples": [[8 * cpu + i] for i in range(8)], "cpu": [[cpu + i] for i in range(8)]}
        return log.Side(name, Entrant("manual", "ok", number=1, disturbed=[[0]] * 8, **lists))

    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 1.0})
    (track,) = log.read_all(tmp_path)[0]
    sides = [side("2.0.0", 1000), side("2.1.0", 2000)]
    cases = [log.CaseMeasured("manual", sides, "rounds")]
    track.parts = [log.PartMeasured(EXP, n, 0, cases, 1.0, 2.0, 9.0) for n in range(5)]
    history = History.of([track])
    table = frame(history).set_index("release")
    assert set(table["clock"]) == {"processor"}
    assert table["processor_seconds"].tolist() == pytest.approx([1e-6, 2e-6], rel=0.01)
    assert table["wall_seconds"].tolist() == pytest.approx([8e-6, 16e-6], rel=0.01)
    (change,) = history.changes(history.steps()).changes
    assert change.estimate.ratio == pytest.approx(2, rel=0.01)


def test_what_else_changed_with_a_release_is_said_beside_the_change(tmp_path):
    facts = {
        "2.0.0": {"cpu_capability": "AVX2", "numpy": "1.26", "torch_cuda": "11.7"},
        "2.1.0": {"torch_cuda": None},
    }
    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 0.8}, facts)
    history = History.of(log.read_all(tmp_path)[0])
    note = history.changes(history.steps()).changes[0].note
    for said in ("AVX2 → AVX512", "NumPy 1.26 → 2.0", "CUDA 11.7 build → CPU build"):
        assert said in note


def test_builds_that_were_measured_on_a_gpu_have_a_history(tmp_path):
    facts = {"2.0.0": {"device_names": ["NVIDIA H100"]}, "2.1.0": {"device_names": ["NVIDIA H200"]}}
    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 1.0}, facts)
    history = History.of(log.read_all(tmp_path)[0])
    (note,) = {change.note for change in history.changes(history.steps()).changes}
    assert "GPU NVIDIA H100 → NVIDIA H200" in note


def test_one_release_in_two_builds_is_told_apart(tmp_path):
    facts = {"cpu": {"torch": "2.9.0+cpu"}, "cuda": {"torch": "2.9.0+cu128"}}
    written(tmp_path, {"cpu": 1.0, "cuda": 1.0}, facts)
    history = History.of(log.read_all(tmp_path)[0])
    (change, _) = history.changes(history.steps()).changes
    assert "one release, two builds" in change.note


def test_two_tracks_join_through_the_baseline_they_share(tmp_path):
    same = {"base": {"torch": "2.1.0"}}
    written(tmp_path, {"base": 1.0, "old": 1.0}, same | {"old": {"torch": "2.0.0"}})
    written(tmp_path, {"base": 1.0, "new": 1.1}, same | {"new": {"torch": "2.2.0"}}, "t2", seed=1)
    history = History.of(log.read_all(tmp_path)[0])
    assert [str(b) for b in history.builds] == ["old", "base", "new"]
    pair = EXP.case("jacrev"), history.find("old"), history.find("new")
    ratio = history.ratios([pair])[pair]
    assert not ratio.paired
    assert st.verdict(ratio.estimate) == "slower"


def test_tracks_with_unlike_baselines_are_not_joined(tmp_path):
    written(tmp_path, {"base": 1.0, "old": 1.0})
    other = {"base": {"cpu_capability": "AVX2"}}
    written(tmp_path, {"base": 1.0, "new": 1.1}, other, "t2")
    history = History.of(log.read_all(tmp_path)[0])
    assert history.ratios([(EXP.case("jacrev"), history.find("old"), history.find("new"))]) == {}


def test_two_of_the_same_build_are_hardly_ever_called_different(tmp_path):
    calls = 0
    for seed in range(40):
        written(tmp_path / str(seed), {"a": 1.0, "b": 1.0}, seed=seed)
        history = History.of(log.read_all(tmp_path / str(seed))[0])
        counts = history.changes(history.steps()).counts()
        calls += counts["slower"] + counts["faster"]
    assert calls <= 1


# ── bisection ─────────────────────────────────────────────────────────────────────────────────


def releases(count: int) -> list[Request]:
    return [Request(f"2.{i}.0", f"2.{i}.0") for i in range(count)]


def near(log_ratio: float) -> st.Estimate:
    estimates = [st.median_interval(log_ratio + np.linspace(-0.002, 0.002, 9)) for _ in range(5)]
    return st.between_sessions(estimates)


def compared(paces: dict[str, float], tried: list[str]):
    def measure(before: Request, one: Request, after: Request) -> bisect.Measured:
        tried.append(one.name)
        mine = paces[one.name]
        return bisect.Measured(
            near(np.log(mine / paces[before.name])), near(np.log(mine / paces[after.name]))
        )

    return measure


@pytest.mark.parametrize("changed", [1, 5, 9, 15])
def test_bisection_finds_the_release_with_few_installations(changed):
    all_of_them = releases(16)
    paces = {r.name: 1.05 if i >= changed else 1.0 for i, r in enumerate(all_of_them)}
    tried: list[str] = []
    found = bisect.bisect(
        all_of_them[0],
        all_of_them[-1],
        all_of_them[1:-1],
        lambda request: False,
        compared(paces, tried),
    )
    assert found.after.name == f"2.{changed}.0"
    assert found.before.name == f"2.{changed - 1}.0"
    assert not found.left
    assert len(tried) <= 4


def test_bisection_asks_what_is_there_before_it_installs():
    all_of_them = releases(16)
    paces = {r.name: 1.05 if i >= 6 else 1.0 for i, r in enumerate(all_of_them)}
    tried: list[str] = []
    there = {"2.4.0", "2.5.0", "2.12.0"}
    bisect.bisect(
        all_of_them[0],
        all_of_them[-1],
        all_of_them[1:-1],
        lambda request: request.name in there,
        compared(paces, tried),
    )
    assert set(tried[:2]) <= there


def test_bisection_says_what_it_could_not_tell():
    all_of_them = releases(4)
    found = bisect.bisect(
        all_of_them[0],
        all_of_them[-1],
        all_of_them[1:-1],
        lambda request: True,
        lambda *three: "not installed: no wheel",
    )
    assert [r.name for r in found.left] == ["2.1.0", "2.2.0"]
    assert found.tried == [(name, "not installed: no wheel") for name in ("2.2.0", "2.1.0")]


def test_the_command_locates_a_planted_slowdown(home, tmp_path, capsys):
    for place, name in enumerate("abcd"):
        made = build(tmp_path, name, TEST_PACE="5" if place >= 2 else "1")
    capability = made.identity["cpu_capability"].lower()
    words = ["releases", "bisect", "jacobian/exp/paced", *"abcd", "--from", SUITE]
    words += ["--sessions", "2", "--cpu-capability", capability]
    code = cli.main([*words, "--results", str(tmp_path / "r")], standalone_mode=False)
    assert code == 0
    assert "Changed in c: b is as before" in capsys.readouterr().out
    # What was measured is kept, and the same search needs no measuring again.
    kept = log.paths(tmp_path / "r")
    assert len(kept) >= 2
    cli.main([*words, "--results", str(tmp_path / "r"), "--format", "json"], standalone_mode=False)
    assert log.paths(tmp_path / "r") == kept
    found = json.loads(capsys.readouterr().out)
    schemas.require("releases bisect", found)
    assert (found["first"], found["before"], found["after"]) == ("a", "b", "c")
    assert found["located"]
    assert found["verdict"] == "slower"
    assert 1 < found["ratio_low"] < found["ratio"] < found["ratio_high"]
    assert {step["release"]: step["belongs"] for step in found["steps"]}["b"] == "before"
    # It is where the history is looked for, and is no baseline of later tracks.
    first = log.read(kept[0])
    assert first.started.settings["cpu_capability"] == capability
    with pytest.raises(StoreError, match="there are no tracks"):
        log.latest(tmp_path / "r")
    with pytest.raises(StoreError, match="there are no tracks"):
        log.find(tmp_path / "r", "latest")
    assert log.find(tmp_path / "r", first.name).started.search
    code = cli.main(
        ["releases", "show", "-m", "paced", "--results", str(tmp_path / "r")], standalone_mode=False
    )
    assert code == 0
    assert "paced" in capsys.readouterr().out


def test_candidates_are_the_known_releases_between_the_ends(home):
    _, between = seeking.candidates(["2.8.0", "2.10.0"], False)
    assert [r.name for r in between] == ["2.9.0", "2.9.1"]
    assert seeking.most_installations(between) == 2
    with pytest.raises(ReleaseError, match="is not before"):
        seeking.candidates(["2.10.0", "2.8.0"], False)
    ends, between = seeking.candidates(["2.10.0", "2.13.0", "2.8.0"], False)
    assert [r.name for r in (ends[0], *between, ends[1])] == ["2.10.0", "2.13.0", "2.8.0"]


# ── what the commands say ─────────────────────────────────────────────────────────────────────


def test_show_and_compare_name_the_change_and_gate_on_it(tmp_path, capsys):
    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 1.08})
    place = ["--results", str(tmp_path)]
    assert cli.main(["releases", "show", *place], standalone_mode=False) == 0
    assert "× release before" in capsys.readouterr().out, "two cases are shown as courses"
    assert cli.main(["releases", "show", "--by", "mode", *place], standalone_mode=False) == 0
    assert "1.08× 1↑ 0↓" in capsys.readouterr().out
    words = ["releases", "compare", "2.0.0", "2.1.0", *place]
    assert cli.main([*words, "--fail-on", "slower"], standalone_mode=False) == 1
    assert cli.main([*words, "--fail-on", "faster"], standalone_mode=False) == 0
    capsys.readouterr()
    cli.main([*words, "--format", "json"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)
    assert {row["case"]: row["verdict"] for row in rows}[f"{EXP}/jacrev"] == "slower"
    cli.main([*words, "--format", "md"], standalone_mode=False)
    assert "| jacobian exp documents float32 jacrev |" in capsys.readouterr().out


def test_a_stored_track_can_be_told_in_asv_s_files_again(tmp_path, capsys):
    written(tmp_path, {"2.0.0": 1.0, "2.1.0": 1.08})
    assert cli.main(["releases", "asv", "--results", str(tmp_path)], standalone_mode=False) == 0
    found = {path.name.split("-")[0] for path in (tmp_path / "asv").glob("*/v*.json")}
    assert found == {"v2.0.0", "v2.1.0"}
    assert (tmp_path / "asv" / "benchmarks.json").is_file()
