"""A name is never a path: what removes, overwrites or creates by a name stays where it belongs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from gradbench.cli import cli
from gradbench.releases import environments
from gradbench.releases.environments import Environment, Installer, Request
from gradbench.releases.known import ReleaseError


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
    assert "names no environment" in str(answer.exception) or "not installed" in str(
        answer.exception
    )
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
