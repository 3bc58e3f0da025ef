"""asv's plugin for torch releases: each release is a commit with its own environment.

asv loads this module by `plugins` in `asv.conf.json`, and finds `ReleaseHistory` by `dvcs` and
`ReleaseEnvironment` by `environment_type`. There is no git repository and nothing is built. It uses
internals of asv 0.6.6.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asv_runner
from asv import util
from asv.commands import command_order
from asv.console import log
from asv.environment import Environment
from asv.machine import Machine, MachineCollection
from asv.repo import NoSuchNameError, Repo

import gradbench
from gradbench.core.releases import RELEASES, Release, ReleaseError, parse
from gradbench.integrations import asv_files, asv_names
from gradbench.releases import environments, installing
from gradbench.runner import machine

BRANCH = "releases"
MEASURING = ("run", "dev", "continuous", "find", "profile")
"""asv's commands that measure and may install releases."""

INSTALLED = "installed"
"""The range of all releases that are installed."""


def setup() -> None:
    """Called by asv: sets the machine's name to that of gradbench's files. Takes a second."""
    fields = asv_files.asv_machine(machine.facts())
    name = Machine.hardcoded_machine_name = fields["machine"]
    try:
        MachineCollection.load(name)
    except util.UserError:
        MachineCollection.save(name, fields)


class ReleaseHistory(Repo):  # type: ignore[misc]
    """asv's repository: the releases by date are its commits.

    `url` is the file of builds that are no releases (`asv_files.other_builds`).
    """

    dvcs = "releases"
    _default_branch = BRANCH

    def __init__(self, url: str, mirror_path: str) -> None:
        try:
            others = asv_files.other_builds(Path(url))
        except ReleaseError as error:
            raise util.UserError(str(error)) from error
        builds = sorted((*RELEASES, *others), key=lambda build: build.date)
        self._builds = {build.tag: build for build in builds}

    @classmethod
    def url_match(cls, url: str) -> bool:
        return False

    def release(self, tag: str) -> Release:
        """The release of a tag. Raises NoSuchNameError."""
        if tag not in self._builds:
            raise NoSuchNameError(tag)
        return self._builds[tag]

    def _installed(self) -> list[str]:
        return [tag for tag, build in self._builds.items() if _installed(build)]

    def pull(self) -> None:
        """There is nothing to fetch."""

    def checkout(self, path: str, commit_hash: str) -> None:
        """There is no source tree."""

    def get_date(self, hash: str) -> int:
        return asv_names.milliseconds(self.release(hash).date)

    get_date_from_name = get_date

    def get_hash_from_name(self, name: str | None) -> str:
        """The tag of `v2.13.0`, `2.13` or `2.13.0+cpu`, or of the branch's newest release.

        The newest installed one, if any: a plain `asv run`, and asv's second attempt to discover
        the benchmarks, should not install gigabytes.
        """
        if name is None or name in (BRANCH, "HEAD"):
            return (self._installed() or list(self._builds))[-1]
        if name in self._builds:
            return name
        try:
            version = str(parse(name))
        except ReleaseError:
            raise NoSuchNameError(name) from None
        for build in self._builds.values():
            if build.version == version:
                return build.tag
        raise NoSuchNameError(name)

    def get_hash_from_parent(self, name: str) -> str:
        tags = list(self._builds)
        position = tags.index(self.get_hash_from_name(name))
        if position == 0:
            raise NoSuchNameError(name)
        return tags[position - 1]

    def get_name_from_hash(self, commit: str) -> str | None:
        """The version, if the tag differs from it. asv asks for unknown tags too."""
        build = self._builds.get(commit)
        return None if build is None or commit == f"v{build}" else build.version

    def get_tags(self) -> dict[str, str]:
        return {tag: tag for tag in self._builds}

    def get_branch_commits(self, branch: str | None) -> list[str]:
        """All tags, newest first."""
        return list(self._builds)[::-1]

    def get_revisions(self, commits: Any) -> dict[str, int]:
        return {tag: position for position, tag in enumerate(self._builds) if tag in commits}

    def get_range_spec(self, commit_a: str, commit_b: str) -> str:
        return f"{commit_a}..{commit_b}"

    def get_new_range_spec(self, latest_result: str, branch: str | None = None) -> str:
        return f"{latest_result}.."

    def get_hashes_from_range(self, range: str) -> list[str]:
        """Tags, newest first: `A..B` is those after A up to B, `A^!` only A, `A` all up to A, and
        `installed` those that are installed. Raises UserError."""
        tags = list(self._builds)
        try:
            if range == INSTALLED:
                chosen = self._installed()
            elif range.endswith(("^!", "^-")):
                chosen = [self.get_hash_from_name(range[:-2])]
            else:
                before, _, last = range.rpartition("..")
                end = tags.index(self.get_hash_from_name(last)) + 1 if last else len(tags)
                start = tags.index(self.get_hash_from_name(before)) + 1 if before else 0
                chosen = tags[start:end]
        except NoSuchNameError as error:
            raise util.UserError(
                f"{range!r}: {error} is not a known torch release; write v2.11.0..v2.13.0 "
                "(after the first, up to the second), v2.13.0^! (only this one) or installed"
            ) from None
        return chosen[::-1]


def _installed(release: Release) -> environments.Environment | None:
    """The environment of a release; of several, preferably the one named after it."""
    version = parse(release.version)
    matches = [env for env in environments.installed() if parse(env.torch) == version]
    return min(matches, key=lambda env: env.name != release.version, default=None)


def _install(release: Release) -> environments.Environment:
    command = asv_command(sys.argv[1:])
    if command not in MEASURING:
        raise util.UserError(
            f"torch {release} is not installed, and 'asv {command}' installs nothing: "
            f"'gradbench releases install {release}' does"
        )
    log.info(f"Installing torch {release}")
    try:
        # In this process, so that the installation ends when asv does.
        return environments.install(
            environments.parse(release.version), installing.Installer.choose()
        )
    except ReleaseError as error:
        log.error(f"torch {release} could not be installed: {error}")
        raise util.ProcessError(["install", release.version], 1, "", str(error)) from error


def asv_command(words: Sequence[str]) -> str:
    """The command among asv's arguments; empty if there is none."""
    commands = {word.lower() for word in (*command_order, "check", "dev", "gh-pages")}
    return next((word for word in words if word in commands), "")


class ReleaseEnvironment(Environment):  # type: ignore[misc]
    """asv's environment: runs benchmarks in the environments of `gradbench releases`.

    These have torch and NumPy. asv's runner and gradbench are added by path, so switching to
    another release takes no time and no network.
    """

    tool_name = "releases"

    def __init__(self, conf: Any, python: str, requirements: Any, tagged_env_vars: Any) -> None:
        # asv uses them for the name before it sets them.
        self._requirements = requirements
        super().__init__(conf, python, requirements, tagged_env_vars)
        self._release: Release | None = None
        self._executable: Path | None = None

    @classmethod
    def matches(cls, python: str) -> bool:
        return True

    @property
    def installed_commit_hash(self) -> str | None:
        return None if self._release is None else self._release.tag

    def check_presence(self) -> bool:
        return True

    def create(self) -> None:
        """Links asv's runner and gradbench into a folder for the path."""
        folder = Path(self._path)
        folder.mkdir(parents=True, exist_ok=True)
        for package in (gradbench, asv_runner):
            source = Path(str(package.__file__)).resolve().parent
            link = folder / source.name
            if link.is_symlink() and Path(os.readlink(link)).name == source.name:
                # A link to another, perhaps deleted, installation of the same package.
                link.unlink()
            if os.path.lexists(link):
                raise util.UserError(f"{link} is in the way: move it and run asv again")
            link.symlink_to(source, target_is_directory=True)

    def install_project(self, conf: Any, repo: ReleaseHistory, commit_hash: str) -> None:
        """Selects the environment of a release; a command that measures installs it if needed.

        Raises ProcessError if it cannot be installed, UserError if the command may not install it.
        """
        release = repo.release(commit_hash)
        environment = _installed(release) or _install(release)
        self._release, self._executable = release, Path(environment.python)
        self._set_commit_hash(release.tag)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Runs the release's Python with both packages on its path."""
        if self._executable is None:
            raise util.UserError("no torch release has been chosen")
        env = dict(kwargs.pop("env", os.environ))
        env.update(self._global_env_vars)
        # asv's script removes PYTHONPATH unless ASV_PYTHONPATH names the same.
        env["PYTHONPATH"] = env["ASV_PYTHONPATH"] = self._path
        return util.check_output([str(self._executable), *args], env=env, **kwargs)
