"""asv over torch releases: names, the axis of releases, files of its own format, its commands."""

import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.repo import NoSuchNameError
from asv.results import Results

from gradbench.core import releases as known
from gradbench.core.cases import Comparison, Entry, Offer
from gradbench.core.releases import RELEASES, Release, ReleaseError
from gradbench.integrations import asv_files, asv_history, asv_names, asv_suite
from gradbench.integrations.asv_files import AsvRow
from gradbench.releases.environments import Environment
from gradbench.store.runs import Entrant, StoreError
from gradbench.store.tracks import (
    CaseMeasured,
    EnvironmentUsed,
    PartMeasured,
    Side,
    Track,
    TrackStarted,
)
from gradbench.studies import asv_steps

ROOT = Path(__file__).parent.parent
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
ENVIRONMENT = {"python": sys.version.split()[0]}
MACHINE = {
    "cpu": "A CPU",
    "logical_cores": 4,
    "memory": 8 << 30,
    "system": "Linux 6",
    "architecture": "x86_64",
}
NAME = "a-cpu-4-cores-8gib"
EXP = Comparison("vjp", "exp", "documents", "float32")
OFFER = Offer(
    *("vjp", "exp", "S", "eˣ", "eˣ v", "float32", "n=3", ("n=64",), (), ("backward", "grad")),
    *(("compiled",), ("n",)),
)


def row(mode="grad", seconds=1e-5, comparison=EXP, **fields):
    return AsvRow(comparison.case(mode), seconds, seconds * 0.98, seconds * 1.02, 10, 5, **fields)


def write(folder, rows, release="2.13.0", **fields):
    return asv_files.write(folder, MACHINE, known.build(release), ENVIRONMENT, rows, **fields)


class TestReleases:
    def test_dates_ascend_with_the_versions_and_tags_fit_into_file_names(self):
        assert list(RELEASES) == sorted(RELEASES, key=lambda release: release.date)
        assert list(RELEASES) == sorted(RELEASES)
        tags = [release.tag for release in RELEASES]
        assert len(set(tags)) == len(tags)
        assert all(len(tag) <= 8 and "-" not in tag for tag in tags)
        assert RELEASES[0].version == "2.0.0"

    @pytest.mark.parametrize("text", ["2.13.0", "v2.13.0", "2.13", "2.13.0+cpu", " 2.13.0 "])
    def test_a_release_is_found_however_people_write_it(self, text):
        found = known.find(text)
        assert (found.version, found.tag) == ("2.13.0", "v2.13.0")
        assert found.date == datetime.date(2026, 7, 8)

    @pytest.mark.parametrize(
        ("text", "told"), [("2.13.7", "did you mean 2.13.0"), ("torch", "no version of torch")]
    )
    def test_what_is_no_release_gets_a_line_with_the_nearest(self, text, told):
        with pytest.raises(ReleaseError, match=told):
            known.find(text)

    @pytest.mark.parametrize(
        ("text", "version", "tag", "date"),
        [
            ("2.16.0.dev20261103+cpu", "2.16.0.dev20261103", "n261103", "2026-11-03"),
            ("2.15.1", "2.15.1", "v2.15.1", "2026-11-20"),
            ("2.14.0a0+git12ab", "2.14.0a0+git12ab", None, "2026-11-20"),
        ],
    )
    def test_any_other_build_has_a_tag_and_a_date(self, text, version, tag, date):
        given = None if "dev" in text else datetime.date(2026, 11, 20)
        found = known.build(text, given)
        assert found.version == version
        assert not found.known
        assert found.date.isoformat() == date
        assert tag in (None, found.tag)
        assert len(found.tag) <= 8

    def test_a_build_without_a_date_counts_from_today_and_a_known_one_keeps_its_own(self):
        assert known.build("9.0").date == datetime.date.today()
        assert known.build("2.13", datetime.date(2000, 1, 1)) == known.find("2.13")


class TestNames:
    @pytest.mark.parametrize(
        ("comparison", "name"),
        [
            (EXP, "vjp.exp.track_float32"),
            (Comparison("vjp", "exp", "n=64", "float64"), "vjp.exp.n=64.track_float64"),
            (
                Comparison("jacobian", "affine", "m=3,n=5", "float32", "cpu", 2),
                "jacobian.affine.m=3,n=5.threads=2.track_float32",
            ),
        ],
    )
    def test_a_name_and_its_comparison_are_the_same_thing(self, comparison, name):
        assert asv_names.name(comparison) == name
        assert asv_names.parse(name) == comparison

    def test_a_device_has_one_name_however_it_is_written(self):
        assert asv_names.parse("vjp.exp.track_float32", "cuda").device == "cuda:0"

    @pytest.mark.parametrize("text", ["", "vjp.exp", "vjp.exp.time_float32", "a.b.c.d.track_x"])
    def test_a_foreign_name_is_none(self, text):
        with pytest.raises(ValueError, match=r"track|size"):
            asv_names.parse(text)


class TestFiles:
    def test_asv_reads_back_what_was_written(self, tmp_path):
        samples = (1e-5, 1.1e-5)
        (path,) = write(tmp_path, [row(samples=samples), row("jvp", math.nan)], offers=[OFFER])
        assert path == tmp_path / NAME / f"v2.13.0-releases-py{PYTHON}-GRADBENCH_DEVICEcpu.json"
        results = Results.load(str(path), machine_name=NAME)
        name = asv_names.name(EXP)
        listed = Benchmarks.load(conf(tmp_path))
        assert listed[name]["params"] == [["'backward'", "'grad'", "'jvp'"]]
        value = results.get_result_value(name, listed[name]["params"])
        assert value[1] == 1e-5
        # A mode that was not measured, and one that is not supported: neither has failed (None).
        assert math.isnan(value[0])
        assert math.isnan(value[2])
        stats = results.get_result_stats(name, listed[name]["params"])[1]
        interval = {"ci_99_a": 0.98e-5, "ci_99_b": 1.02e-5, "q_25": 1.025e-5, "q_75": 1.075e-5}
        assert stats == pytest.approx(interval | {"number": 10, "repeat": 5})
        assert results.get_result_samples(name, listed[name]["params"])[1] == list(samples)
        assert name in results.get_result_keys(listed)
        assert results.date == 1000 * int(
            datetime.datetime(2026, 7, 8, tzinfo=datetime.timezone.utc).timestamp()
        )

    def test_later_rows_join_earlier_ones_and_replace_their_own(self, tmp_path):
        write(tmp_path, [row("grad", 1.0), row("backward", 2.0)])
        (path,) = write(tmp_path, [row("grad", 3.0), row("jvp", 4.0)])
        results = Results.load(str(path))
        params = [["'backward'", "'grad'", "'jvp'"]]
        assert results.get_result_value("vjp.exp.track_float32", params) == [2.0, 3.0, 4.0]

    def test_a_row_of_another_version_drops_what_was_measured_otherwise(self, tmp_path):
        write(tmp_path, [row("grad", 1.0), row("backward", 2.0)])
        (path,) = write(tmp_path, [row("grad", 3.0, version="2")])
        results = Results.load(str(path))
        params = [["'backward'", "'grad'"]]
        backward, grad = results.get_result_value("vjp.exp.track_float32", params)
        assert math.isnan(backward)
        assert grad == 3.0

    def test_a_mode_that_a_later_track_adds_has_not_failed_on_earlier_releases(self, tmp_path):
        (path,) = write(tmp_path, [row("grad", 1.0, samples=(1.0, 2.0))], "2.12.1")
        write(tmp_path, [row("grad", 1.0), row("compiled", 2.0)], "2.13.0")
        results, listed = Results.load(str(path)), Benchmarks.load(conf(tmp_path))
        (name,) = listed
        params = listed[name]["params"]
        found = dict(zip(params[0], results.get_result_value(name, params)))
        assert found["'grad'"] == 1.0
        assert math.isnan(found["'compiled'"])
        samples = dict(zip(params[0], results.get_result_samples(name, params)))
        assert samples == {"'grad'": [1.0, 2.0], "'compiled'": None}

    def test_devices_have_files_and_lines_of_their_own(self, tmp_path):
        cuda = Comparison("vjp", "exp", "documents", "float32", "cuda:0")
        paths = write(tmp_path, [row(), row(comparison=cuda)])
        assert len({path.name for path in paths}) == 2
        told = {Results.load(str(path)).env_vars["GRADBENCH_DEVICE"] for path in paths}
        assert told == {"cpu", "cuda:0"}
        assert len(Benchmarks.load(conf(tmp_path))) == 1

    def test_the_line_of_a_machine_goes_on_when_its_kernel_is_upgraded(self, tmp_path):
        write(tmp_path, [row()])
        upgraded = MACHINE | {"system": "Linux 7"}
        (path,) = asv_files.write(tmp_path, upgraded, known.find("2.12.1"), ENVIRONMENT, [row()])
        assert Results.load(str(path)).params["os"] == "Linux 6"

    def test_a_build_that_is_no_release_is_remembered_with_its_date(self, tmp_path):
        write(tmp_path / "asv", [row()], "2.16.0.dev20261103")
        write(tmp_path / "asv", [row()], "2.13.0")
        (found,) = asv_files.other_builds(tmp_path / "releases.json")
        assert found == Release("2.16.0.dev20261103", datetime.date(2026, 11, 3))

    def test_a_file_that_asv_left_half_written_is_named_and_left_alone(self, tmp_path):
        (path,) = write(tmp_path, [row()])
        path.write_text(path.read_text()[:100])
        with pytest.raises(StoreError, match=f"{path.name} cannot be read"):
            write(tmp_path, [row()])
        assert len(path.read_text()) == 100

    def test_a_full_disk_leaves_the_old_file_and_no_draft(self, tmp_path, monkeypatch):
        (path,) = write(tmp_path, [row()])
        before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}

        def full(*arguments, **fields):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            write(tmp_path, [row("backward")])
        monkeypatch.undo()
        assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before
        assert not list(tmp_path.rglob(".draft*"))
        assert path.exists()

    def test_nothing_that_was_listed_drops_out_of_the_list(self, tmp_path):
        large = Comparison("vjp", "exp", "n=64", "float32")
        write(tmp_path, [row("compiled"), row(comparison=large)], offers=[OFFER])
        write(tmp_path, [row("grad")], offers=[OFFER])
        listed = Benchmarks.load(conf(tmp_path))
        assert set(listed) == {asv_names.name(EXP), asv_names.name(large)}
        assert "'compiled'" in listed[asv_names.name(EXP)]["params"][0]
        found = {one["name"] for one in asv_names.stored(tmp_path)}
        assert found == set(listed)


def conf(folder):
    made = Config()
    made.results_dir = str(folder)
    return made


class TestTracks:
    """What `gradbench releases track` measured, in asv's files."""

    @staticmethod
    def track(results, builds, sessions=5):
        """A track in which build number i takes (i + 1) · 10 µs, and 1 % more each session."""
        names = list(builds)
        plan = [
            Entry(
                EXP,
                (
                    "grad",
                    "jvp",
                    "manual",
                ),
            )
        ]
        header = TrackStarted(1, "t", "2026-11-20T00:00:00Z", {}, MACHINE, plan, names[0], [names])
        found = Track(results / "t.jsonl", header)
        for name, torch in builds.items():
            found.take([EnvironmentUsed(name, name, "2026-11-20", {"torch": torch} | ENVIRONMENT)])
        for session in range(sessions):
            cases = []
            for mode in ("grad", "jvp", "manual"):
                sides = []
                for position, name in enumerate(names):
                    time = round(1e5 * (position + 1) * 1.01**session)
                    status = {"jvp": "unsupported", "manual": "wrong"}.get(mode, "ok")
                    samples = [[time], [time + 10]] if status == "ok" else []
                    sides.append(Side(name, Entrant(mode, status, number=10, samples=samples)))
                cases.append(CaseMeasured(mode, sides, "rounds"))
            found.take([PartMeasured(EXP, session, 0, cases, 1.0, 1.0, 0.0)])
        return found

    def test_each_release_has_its_median_and_the_interval_between_sessions(self, tmp_path):
        track = self.track(tmp_path, {"2.12.0": "2.12.0+cpu", "2.13.0": "2.13.0+cpu"})
        paths, left = asv_history.write(tmp_path, track, [OFFER])
        assert [path.name[:7] for path in paths] == ["v2.12.0", "v2.13.0"]
        assert not left
        results = Results.load(str(paths[1]), machine_name=NAME)
        params = [["'grad'", "'jvp'", "'manual'"]]
        value, skipped, wrong = results.get_result_value("vjp.exp.track_float32", params)
        assert value == pytest.approx(2e-5 * 1.01**2, rel=1e-3)
        assert math.isnan(skipped)
        assert wrong is None
        stats = results.get_result_stats("vjp.exp.track_float32", params)[0]
        # Five logarithms 0.00995 apart: mean ± 4.604 · 0.01573 / √5.
        assert stats["ci_99_b"] / value == pytest.approx(math.exp(0.0324), rel=1e-3)
        assert value / stats["ci_99_a"] == pytest.approx(math.exp(0.0324), rel=1e-3)
        assert stats["repeat"] == 5

    @pytest.mark.parametrize(
        "status", ["failed", "crashed", "timed out", "out of memory", "refused"]
    )
    def test_only_what_is_wrong_is_failed(self, status):
        """What could not be measured is n/a; so is what one session could not and none could."""
        header = TrackStarted(1, "t", "2026", {}, MACHINE, [Entry(EXP, ("grad",))], "a", [["a"]])
        track = Track(Path("t"), header)
        case = CaseMeasured("grad", [Side("a", Entrant("grad", status))], "")
        track.take([PartMeasured(EXP, 0, 0, [case], 1.0, 1.0, 0.0)])
        (row,) = asv_history.rows(track, "a")
        assert math.isnan(row.seconds)

    def test_a_function_of_the_user_s_own_is_left_out(self):
        own = Comparison("vjp", "model:f@0a1b2c3d", "documents", "float32")
        header = TrackStarted(1, "t", "2026", {}, MACHINE, [Entry(own, ("grad",))], "a", [["a"]])
        track = Track(Path("t"), header)
        case = CaseMeasured("grad", [Side("a", Entrant("grad", "wrong"))], "")
        track.take([PartMeasured(own, 0, 0, [case], 1.0, 1.0, 0.0)])
        assert not list(asv_history.rows(track, "a"))

    def test_of_two_builds_of_a_release_the_one_with_its_name_is_shown(self, tmp_path):
        track = self.track(tmp_path, {"cuda": "2.13.0+cu130", "2.13.0": "2.13.0+cpu"})
        (path,), left = asv_history.write(tmp_path, track)
        assert [used.name for used in left] == ["cuda"]
        value = Results.load(str(path)).get_result_value("vjp.exp.track_float32", [["'grad'"]])
        assert value[0] == pytest.approx(2e-5, rel=0.05)

    def test_builds_held_to_fewer_instructions_are_a_line_of_their_own(self, tmp_path):
        track = self.track(tmp_path, {"2.13.0": "2.13.0"})
        (usual,), _ = asv_history.write(tmp_path, track)
        before = usual.read_bytes()
        track.started.settings["cpu_capability"] = "avx2"
        (held,), _ = asv_history.write(tmp_path, track)
        assert held != usual
        assert usual.read_bytes() == before
        axes = {"ATEN_CPU_CAPABILITY": "avx2", "GRADBENCH_DEVICE": "cpu"}
        assert Results.load(str(held)).env_vars == axes

    def test_one_session_has_no_interval_and_can_still_be_read(self, tmp_path):
        (path,), _ = asv_history.write(tmp_path, self.track(tmp_path, {"2.13.0": "2.13.0"}, 1))
        stats = Results.load(str(path)).get_result_stats("vjp.exp.track_float32", [["'grad'"]])[0]
        assert math.isinf(stats["ci_99_b"])


class TestHistory:
    @pytest.fixture
    def history(self, tmp_path, monkeypatch):
        from gradbench.integrations import asv_plugin

        monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
        others = tmp_path / "releases.json"
        others.write_text('{"2.16.0.dev20261103": "2026-11-03"}')
        return asv_plugin.ReleaseHistory(str(others), "gradbench")

    @pytest.mark.parametrize(
        ("text", "tags"),
        [
            ("v2.11.0..v2.13.0", ["v2.13.0", "v2.12.1", "v2.12.0"]),
            ("2.12..2.12.1", ["v2.12.1"]),
            ("v2.13.0^!", ["v2.13.0"]),
            ("v2.15.0..", ["n261103"]),
            ("v2.0.1", ["v2.0.1", "v2.0.0"]),
            ("installed", []),
        ],
    )
    def test_ranges_are_of_releases_newest_first(self, history, text, tags):
        assert history.get_hashes_from_range(text) == tags

    def test_an_unknown_release_in_a_range_is_one_line(self, history):
        with pytest.raises(util.UserError, match=r"2\.99 is not a known torch release"):
            history.get_hashes_from_range("2.99..v2.13.0")
        with pytest.raises(NoSuchNameError):
            history.get_hash_from_name("nonsense")

    def test_a_nightly_stands_where_its_day_is_and_tells_its_version(self, history):
        assert history.get_branch_commits("releases")[0] == "n261103"
        assert history.get_decorated_hash("n261103") == "n261103 <2.16.0.dev20261103>"
        assert history.get_decorated_hash("v2.13.0") == "v2.13.0"
        assert history.get_hash_from_parent("n261103") == "v2.15.0"

    def test_a_damaged_list_of_builds_is_one_line(self, tmp_path):
        from gradbench.integrations import asv_plugin

        (tmp_path / "releases.json").write_text("[1]")
        with pytest.raises(util.UserError, match="JSON object of versions and dates"):
            asv_plugin.ReleaseHistory(str(tmp_path / "releases.json"), "gradbench")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """asv.conf.json with folders of its own, and two releases that are this very Python."""
    place = tmp_path_factory.mktemp("asv")
    settings = util.load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    settings |= {"benchmark_dir": str(ROOT / "benchmarks"), "version": 1}
    (place / "asv.conf.json").write_text(json.dumps(settings))
    for version in ("2.12.1", "2.13.0"):
        folder = place / "environments" / version
        folder.mkdir(parents=True)
        made = Environment(1, version, version, sys.executable, {"torch": version}, "", 0)
        (folder / "environment.json").write_bytes(msgspec.json.encode(made))
    return place


def asv(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "asv", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {"HOME": str(project), "GRADBENCH_RELEASES": str(project / "environments")},
    )


class TestCommands:
    def test_run_gates_measures_and_lists_exactly_what_the_writer_lists(self, project):
        one_mode = r"vjp\.exp\.track_float32\('grad'\)"
        run = asv(project, "run", "v2.13.0^!", "-b", one_mode, "-a", "rounds=2")
        assert run.returncode == 0, run.stdout + run.stderr
        (path,) = project.rglob("v2.13.0-*.json")
        results = Results.load(str(path))
        (value,) = results.get_result_value("vjp.exp.track_float32", [["'grad'"]])
        assert 1e-7 < value < 1
        stats = results.get_result_stats("vjp.exp.track_float32", [["'grad'"]])[0]
        # A sample a process: asv's interval is the one between processes.
        assert (stats["repeat"], stats["number"]) == (2, 1)

        listed = json.loads((project / "results" / "asv" / "benchmarks.json").read_text())
        del listed["version"]
        # In a process of its own: other tests of this one may have registered modes.
        code = "import json; from gradbench.integrations.asv_suite import discover; "
        fresh = [sys.executable, "-c", code + "print(json.dumps(discover()))"]
        discovered = subprocess.run(fresh, capture_output=True, text=True, check=True, cwd=ROOT)
        mine = {one["name"]: one for one in json.loads(discovered.stdout)}
        assert len(mine) > 100
        assert listed == mine
        # The writer's file of the same release is the same file, and its list the same bytes.
        folder = project / "results" / "asv"
        before = (folder / "benchmarks.json").read_bytes()
        asv_files.save_benchmarks(folder, mine)
        assert (folder / "benchmarks.json").read_bytes() == before
        facts = json.loads((path.parent / "machine.json").read_text())
        written = asv_files.write(folder, facts, known.find("2.13"), ENVIRONMENT, [row("jvp")])
        assert written == [path]

    def test_a_planted_step_is_shown_compared_and_published_without_a_warning(self, project):
        folder = project / "results" / "asv"
        for path in folder.glob("*/v*.json"):
            path.unlink()
        for position, release in enumerate(RELEASES[:15]):
            slower = 1.5 if position >= 10 else 1.0
            wobble = 1 + 0.001 * (position % 3)
            rows = [row("grad", 1e-5 * wobble * slower), row("backward", 1e-5 * wobble)]
            asv_files.write(folder, MACHINE, release, ENVIRONMENT, rows)
        told = RELEASES[10].tag
        published = asv(project, "publish")
        assert published.returncode == 0, published.stdout + published.stderr
        assert not published.stderr
        assert "arning" not in published.stdout
        html = project / ".asv" / "html"
        found = json.loads((html / "regressions.json").read_text())["regressions"]
        assert [one[0] for one in found] == ["vjp.exp.track_float32('grad')"]
        revisions = json.loads((html / "index.json").read_text())["revision_to_hash"]
        assert revisions[str(found[0][6][0][1])] == told

        compared = asv(project, "compare", RELEASES[9].tag, told, "--machine", NAME)
        assert "| 1.50 | vjp.exp.track_float32('grad')" in " ".join(compared.stdout.split()), (
            compared.stdout + compared.stderr
        )
        # A fresh clone has no list: it is made, with all that is in the catalogue and the results.
        (folder / "benchmarks.json").unlink()
        shown = asv(project, "show", told, "--machine", NAME)
        assert len(json.loads((folder / "benchmarks.json").read_text())) > 100
        assert "15.0" in shown.stdout, shown.stdout + shown.stderr
        assert "failed" not in shown.stdout

    def test_comparing_is_of_this_machine_or_says_what_to_add(self, tmp_path):
        from gradbench.integrations.asv_plugin import _compared_machine

        with pytest.raises(
            util.UserError, match=r"no results: 'asv run' measures some.* asv' writes"
        ):
            _compared_machine(tmp_path, "mine")
        for name in ("other", "another"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "machine.json").write_text("{}")
        with pytest.raises(util.UserError, match=r"no results of this machine.*--machine another"):
            _compared_machine(tmp_path, "mine")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "machine.json").write_text("{}")
        assert _compared_machine(tmp_path, "mine") == "mine"

    def test_what_is_no_release_is_one_line_and_no_traceback(self, project):
        run = asv(project, "run", "2.99^!")
        assert run.returncode != 0
        assert "is not a known torch release" in run.stdout + run.stderr
        assert "Traceback" not in run.stdout + run.stderr


class TestMeasuring:
    def test_a_mode_that_is_not_supported_is_skipped_with_its_reason(self):
        from asv_runner.benchmarks.mark import SkipNotImplemented

        mse = Comparison("gradient", "mse", "documents", "float32")
        with pytest.raises(SkipNotImplemented, match="unsupported: the function has no formula"):
            asv_suite.measure(mse, "manual_materialised")

    def test_what_is_not_here_is_skipped(self):
        from asv_runner.benchmarks.mark import SkipNotImplemented

        nothing = Comparison("vjp", "no_such_function", "documents", "float32")
        with pytest.raises(SkipNotImplemented, match="no_such_function"):
            asv_suite.measure(nothing, "grad")


class TestSteps:
    def test_large_steps_are_reported_and_none_where_none_was_planted(self):
        chosen = asv_steps.settings([0.01], [0.0, 0.5], 10, [3])
        none, large = asv_steps.study(chosen, 40, 5, 0.05, 0)
        assert none.at_step.count == 0
        assert none.elsewhere.count <= 2
        assert large.at_step.count == 40

    def test_the_seed_fixes_every_number(self):
        chosen = asv_steps.settings([0.03], [0.2], 10, [2])
        assert list(asv_steps.study(chosen, 20, 5, 0.05, 7)) == list(
            asv_steps.study(chosen, 20, 5, 0.05, 7)
        )

    def test_the_command_prints_a_row_per_kind_of_history(self):
        command = [sys.executable, "-m", "gradbench", "study", "asv-steps", "--trials", "5"]
        command += ["--noise", "1", "--step", "50", "--after", "2", "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout)
        assert (told["noise"], told["step"], told["after"], told["trials"]) == (0.01, 0.5, 2, 5)
        assert told["reported"] == 1.0
