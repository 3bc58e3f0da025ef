"""A name is never a path: what removes, overwrites or creates by a name stays where it belongs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from click.testing import CliRunner

from gradbench.cli import cli
from gradbench.core.releases import ReleaseError
from gradbench.integrations import asv_files
from gradbench.releases import builds, environments
from gradbench.releases.environments import Environment, Request
from gradbench.releases.installing import Installer
from gradbench.report import content, page, sections
from gradbench.report.findings import anchor
from gradbench.store import files
from gradbench.store.lines import StoreError


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The environments' folder, in a folder that holds something of the user's."""
    place = tmp_path / "user" / "releases"
    place.mkdir(parents=True)
    monkeypatch.setenv("GRADBENCH_RELEASES", str(place))
    (tmp_path / "user" / "thesis.tex").write_text("years of work")
    return place


def environment(home: Path, name: str, record: str | None = None) -> Path:
    """A folder as `install` leaves it; its record may claim another name."""
    folder = home / name
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "torch.py").write_text("")
    made = Environment(1, record or name, "2.9.0", "python", {"torch": "2.9.0"}, "", 10)
    (folder / environments.RECORD).write_bytes(msgspec.json.encode(made))
    return folder


def everything(place: Path) -> list[str]:
    """All that is under a folder; locks aside, which come and go."""
    return sorted(str(p) for p in place.rglob("*") if not p.name.endswith(".lock"))


def remove(*names: str):
    return CliRunner(env=dict(os.environ)).invoke(
        cli, ["releases", "remove", "--", *names], standalone_mode=False
    )


@pytest.mark.parametrize(
    "name",
    ["..", "../..", ".", "", " ", "./2.9.0", "2.9.0/", "2.9.0/lib", "../user", "a\0b", "\x1b[2J",
     "~", ".cache", "-", "*", "v", "v..", "x" * 300, "2.9.0.failed.json", "\udcff"],
)  # fmt: skip
def test_a_name_that_is_a_path_removes_nothing(home, tmp_path, name):
    environment(home, "2.9.0")
    before = everything(tmp_path)
    answer = remove(name)
    said = ("names no environment", "not installed", "must not be empty", "must not contain")
    assert any(words in f"{answer.exception}{answer.output}" for words in said)
    assert "\n" not in str(answer.exception)
    assert "\x1b" not in str(answer.exception)
    assert everything(tmp_path) == before


def test_an_absolute_path_removes_nothing(home, tmp_path):
    target = environment(tmp_path, "elsewhere")
    answer = remove(str(target))
    assert "names no environment" in str(answer.exception)
    assert (target / environments.RECORD).exists()


def test_one_bad_name_among_good_ones_removes_nothing(home, tmp_path):
    environment(home, "2.9.0")
    before = everything(tmp_path)
    assert remove("2.9.0", "..").exception is not None
    assert everything(tmp_path) == before


def test_a_link_out_of_the_folder_is_not_followed(home, tmp_path):
    target = environment(tmp_path, "elsewhere", record="mine")
    (home / "mine").symlink_to(target)
    before = everything(tmp_path)
    assert "was not made by gradbench" in str(remove("mine").exception)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("record", [None, b"", b"{}", b'{"schema": 1, "name": "other"}'])
def test_a_folder_without_gradbenchs_record_is_left_as_it_is(home, tmp_path, record):
    (home / "photos").mkdir()
    (home / "photos" / "1.jpg").write_text("")
    if record is not None:
        (home / "photos" / environments.RECORD).write_bytes(record)
    before = everything(tmp_path)
    assert "was not made by gradbench" in str(remove("photos").exception)
    with pytest.raises(ReleaseError, match="was not made by gradbench"):
        environments.install(Request("photos", "2.9.0"), Installer(uv=("false",)))
    left = [p for p in everything(tmp_path) if not p.endswith(environments.FAILURE)]
    assert left == before


def test_a_record_of_another_name_is_no_record_of_this_one(home, tmp_path):
    environment(home, "copied", record="2.9.0")
    assert environments.installed() == []
    assert "was not made by gradbench" in str(remove("copied").exception)


def test_a_name_that_begins_with_v_is_no_tag(home):
    environment(home, "vanilla")
    environment(home, "2.9.0")
    assert remove("vanilla").exception is None
    assert remove("v2.9.0").exception is None
    assert environments.installed() == []


def test_what_a_killed_removal_left_is_removed(home):
    (home / ".2.9.0.gone").mkdir()
    (home / ".2.9.0.part").mkdir()
    assert remove("2.9.0").exception is None
    assert [p.name for p in home.iterdir() if p.is_dir()] == []


# ── files that are written ────────────────────────────────────────────────────────────────────


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / ("x" * 255)
    path.write_text("old")

    def full() -> None:
        with files.replacing(path) as draft:
            draft.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        full()
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "there" / "x.csv")
    files.write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "x.csv").read_text() == "new"


def test_a_report_replaces_only_what_gradbench_has_made(tmp_path):
    shown = sections.Shown(
        "errors", "", lambda: pytest.fail("drawn before the folder was looked at")
    )
    report = content.Report([], pd.DataFrame(), "", {})
    # A cached property: what is set here is what is drawn.
    vars(report)["extras"] = [sections.Section("s", "", "", [shown])]
    for write, name in ((page.write_html, "report.html"), (page.write_markdown, "report.md")):
        (tmp_path / name).write_text("years of work")
        with pytest.raises(StoreError, match="was not made by gradbench"):
            write(report, tmp_path / name)
        assert (tmp_path / name).read_text() == "years of work"
        (tmp_path / name).unlink()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "errors.png").write_text("a photo")
    with pytest.raises(StoreError, match="was not made by gradbench"):
        page.write_markdown(report, tmp_path / "report.md")
    assert (tmp_path / "figures" / "errors.png").read_text() == "a photo"


def test_a_report_replaces_its_own(tmp_path):
    report = content.Report([], pd.DataFrame(), "", {})
    for write, name in ((page.write_html, "report.html"), (page.write_markdown, "report.md")):
        write(report, tmp_path / name)
        first = (tmp_path / name).read_text()
        write(report, tmp_path / name)
        assert len((tmp_path / name).read_text()) == len(first)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a" * 5000, "\udce9\x1b[2J", ".."])
def test_names_from_a_log_make_file_names_that_stay_in_their_folder(name):
    made = anchor("dots", name, name)
    assert os.sep not in made
    assert len(made) < 200
    assert made.isascii()


def test_long_names_that_differ_at_their_ends_make_different_file_names():
    assert anchor("a" * 500 + "b") != anchor("a" * 500 + "c")


@pytest.mark.parametrize(
    "name",
    ["../../x", "/tmp/x", "..", ".", "", "a/b", "a\0b", "x" * 300, ".hidden", "con", "\x1b[2J"],
)
def test_a_machine_named_like_a_path_gets_a_folder_of_its_own_in_asvs_results(name):
    facts = dict.fromkeys(asv_files.FIELDS, "x") | {"machine": name}
    made = asv_files.asv_machine(facts)["machine"]
    assert made
    assert Path(made).name == made
    assert not made.startswith(".")
    assert len(made) <= 100


def test_a_machine_keeps_a_name_that_is_one():
    facts = dict.fromkeys(asv_files.FIELDS, "x") | {"machine": "Intel-Xeon_8.2 lab"}
    assert asv_files.asv_machine(facts)["machine"] == "Intel-Xeon_8.2 lab"


def test_one_build_is_refused_before_anything_is_installed(home, tmp_path):
    with pytest.raises(ReleaseError, match=r"2\.9\.0 is named twice"):
        builds.requested(["2.9.0", "v2.9.0"], "", [], tmp_path)
    with pytest.raises(ReleaseError, match="name two different releases"):
        builds.requested(["2.9.0"], "", [], tmp_path)
