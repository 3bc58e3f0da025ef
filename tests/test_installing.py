"""Installations: why one failed, what is stored of it, and that it ends with its command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from in_process import gradbench

from gradbench.cli import cli
from gradbench.core import releases as known
from gradbench.core.releases import ReleaseError
from gradbench.releases import environments, installing
from gradbench.releases.environments import Request
from gradbench.releases.installing import Installer

ADDRESS = "https://me:secret@registry.example.org:8443/simple"

PIP_UNREACHABLE = f"""
Looking in indexes: {ADDRESS}
WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(
'<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new
WARNING: Retrying (Retry(total=3, connect=None)) after connection broken by 'NewConnectionError(
'<HTTPSConnection(host='registry.example.org', port=8443)>: Failed to establish a new connection:
[Errno 111] Connection refused')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.9.0 (from versions: none)
ERROR: No matching distribution found for torch==2.9.0
[notice] A new release of pip is available
"""

PIP_CONSTRAINT = """
ERROR: Cannot install torch==2.9.0 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested torch==2.9.0
    The user requested (constraint) torch==2.5.1

To fix this you could try to:
1. loosen the range of package versions you've specified
2. remove package versions to allow pip to attempt to solve the dependency conflict

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency
"""

UV_UNREACHABLE = f"""
error: Request failed after 3 retries
  Caused by: Failed to fetch: `{ADDRESS}/torch/`
  Caused by: error sending request for url ({ADDRESS}/torch/)
  Caused by: client error (Connect)
  Caused by: tcp connect error
  Caused by: Connection refused (os error 111)
"""


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (PIP_UNREACHABLE, ["No matching distribution", "Connection refused"]),
        (PIP_CONSTRAINT, ["conflicting dependencies", "(constraint) torch==2.5.1"]),
        (UV_UNREACHABLE, ["Request failed", "Connection refused"]),
        ("", ["exit code 3"]),
        ("Killed", ["Killed"]),
        ("ERROR: " + "x" * 10_000 + "\nERROR: No space left on device", ["No space left"]),
        ("building\nOSError: [Errno 28] No space left on device", ["No space left"]),
    ],
)
def test_a_reason_is_one_line_with_the_cause_and_no_address(output, told):
    said = installing.reason(output, 3)
    assert "\n" not in said
    assert len(said) < 800
    for words in told:
        assert words in said
    assert "example.org" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (["--index-url", ADDRESS, "-f", "exp"], ["--index-url", "…", "-f", "exp"]),
        ([f"--index-url={ADDRESS}"], ["--index-url=…"]),
        ([f"--pip-arg=--extra-index-url={ADDRESS}"], ["--pip-arg=--extra-index-url=…"]),
        (["--pip-arg=--trusted-host", "--pip-arg=host"], ["--pip-arg=--trusted-host", "…"]),
        (["--pip-arg", f"torch @ {ADDRESS}/torch.whl"], ["--pip-arg", "torch @ …"]),
        (["--pre", "--torch-backend", "cpu"], ["--pre", "--torch-backend", "cpu"]),
    ],
)
def test_stored_arguments_tell_no_address(words, stored):
    assert installing.public(words) == stored


def script(tmp_path: Path, body: str) -> Installer:
    """An installer that is a script; `$PLACE` is this test's folder."""
    path = tmp_path / "installer"
    path.write_text(f"#!/bin/sh\nPLACE={tmp_path}\n{body}\n")
    path.chmod(0o755)
    return Installer(uv=(str(path),))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("GRADBENCH_RELEASES", str(place))
    return place


def test_all_that_an_installer_wrote_is_kept_until_it_works(home, tmp_path):
    how = script(tmp_path, f"echo 'first line of {ADDRESS}'; echo 'error: no such thing'; exit 1")
    with pytest.raises(ReleaseError, match="no such thing"):
        environments.install(Request("2.9.0", "2.9.0"), how)
    kept = environments.output("2.9.0")
    assert kept.read_text() == "first line of …\nerror: no such thing\n"
    assert [failure.name for failure in environments.failures()] == ["2.9.0"]
    environments.remove("2.9.0")
    assert [p.name for p in home.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (None, "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "no answer within 10 s"),
    ],
)
@pytest.mark.parametrize("where", ["--index-url", "PIP_INDEX_URL"])
def test_an_index_that_cannot_be_reached_is_one_line_at_once(
    home, monkeypatch, error, cause, where
):
    def fails(place, timeout):
        raise error

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}/simple"
    if error is not None:
        monkeypatch.setattr(socket, "create_connection", fails)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    words = ["--index-url", address] if where == "--index-url" else []
    variables = {} if words else {where: address}
    done = gradbench("releases", "install", "2.9.0", "--installer", "pip", *words, **variables)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert f"the package index of {where} cannot be reached: " in said
    assert cause in said
    assert "secret" not in said
    assert "127.0.0.1" not in said
    assert not [path for path in home.iterdir() if not path.name.endswith(".lock")]


def test_installers_try_an_index_a_few_times_unless_told_otherwise(home, tmp_path, monkeypatch):
    how = script(tmp_path, 'echo "error: $PIP_RETRIES $UV_HTTP_RETRIES"; exit 1')
    monkeypatch.delenv("PIP_RETRIES", raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "7")
    with pytest.raises(ReleaseError, match="error: 2 7"):
        environments.install(Request("2.9.0", "2.9.0"), how)


def test_an_installer_that_is_not_there_is_one_line(home):
    with pytest.raises(ReleaseError, match="cannot start"):
        environments.install(Request("2.9.0", "2.9.0"), Installer(uv=("/nowhere/uv",)))


def wait_for(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.1)
    pytest.fail(f"{path} did not appear")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_installation_ends_with_the_command_that_began_it(home, tmp_path, how):
    """The installer has a child of its own, as pip has when it builds a package."""
    script(tmp_path, "sleep 600 & echo $! > $PLACE/pid; wait")
    code = (
        "from gradbench.releases import environments as e\n"
        f"how = e.Installer(uv=({str(tmp_path / 'installer')!r},))\n"
        "e.install(e.Request('2.9.0', '2.9.0'), how)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pid = wait_for(tmp_path / "pid")
    driver.send_signal(how)
    driver.wait(60)
    for _ in range(300):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the installer's child lives on")


def test_what_a_killed_installation_left_is_cleared_by_the_next_of_any_name(home, tmp_path):
    (home / ".2.8.0.part" / "lib").mkdir(parents=True)
    (home / ".2.7.0.gone").mkdir()
    (home / ".mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / ".link.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError):
        environments.install(Request("2.9.0", "2.9.0"), script(tmp_path, "exit 1"))
    left = sorted(p.name for p in home.iterdir() if p.is_dir())
    assert left == [".link.part", ".mine"]


@pytest.mark.parametrize(
    ("text", "near"), [("2.9.9", "2.9.1"), ("2.6.1", "2.6.0"), ("2.1.7", "2.1.2"), ("v2.10", "")]
)
def test_a_release_that_never_was_gets_the_nearest_that_are(text, near):
    if not near:
        known.require_published(text)
        return
    with pytest.raises(ReleaseError, match=near):
        known.require_published(text)


@pytest.mark.parametrize("text", ["3.0.0", "2.16.0.dev20261103", "2.9.9+mine", "/some/wheel.whl"])
def test_a_build_that_may_be_there_is_tried(text):
    known.require_published(text)


def test_install_names_the_nearest_releases_and_makes_nothing(home):
    answer = CliRunner().invoke(
        cli, ["releases", "install", "2.9.0", "2.9.9"], standalone_mode=False
    )
    assert "there is no torch 2.9.9" in str(answer.exception)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        (["run", "v2.13.0^!"], True),
        (["run", "-b", "x", "v2.12.1..v2.13.0"], True),
        (["run"], False),
        (["run", "-b", "v2.13.0^!"], False),
        (["run", "EXISTING"], False),
        (["--config", "x.json", "check"], False),
        (["-v", "find", "v2.0.0..v2.13.0", "x"], False),
        (["continuous", "v2.12.1", "v2.13.0"], False),
        (["profile", "x", "v2.13.0"], False),
        (["show", "v2.13.0"], False),
    ],
)
def test_only_asv_run_with_releases_asks_for_them(words, asks):
    from gradbench.integrations.asv_plugin import names_releases

    assert names_releases(words) == asks


@pytest.mark.parametrize("words", [["check"], ["run"], ["continuous", "v2.12.1", "v2.13.0"]])
def test_an_asv_command_that_was_not_asked_to_installs_nothing(home, monkeypatch, words):
    from asv import util

    from gradbench.integrations import asv_plugin

    monkeypatch.setattr(sys, "argv", ["asv", *words])
    with pytest.raises(util.UserError, match=r"'gradbench releases install 2\.13\.0' does"):
        asv_plugin._install(known.find("2.13.0"))
    assert list(home.iterdir()) == []


def test_asv_leaves_what_is_in_the_place_of_its_links(tmp_path, monkeypatch):
    from asv import util

    from gradbench.integrations import asv_plugin

    environment = object.__new__(asv_plugin.ReleaseEnvironment)
    environment._path = str(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "gradbench").symlink_to(tmp_path / "other")
    with pytest.raises(util.UserError, match="is in the way"):
        environment.create()
    assert (tmp_path / "gradbench").resolve() == tmp_path / "other"
    (tmp_path / "gradbench").unlink()
    environment.create()
    environment.create()
    assert (tmp_path / "gradbench" / "__init__.py").exists()
