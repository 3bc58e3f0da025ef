"""asv's plugin for torch releases: each release is a commit with its own environment.

asv loads this module by `plugins` in `asv.conf.json`, and finds `ReleaseHistory` by `dvcs` and
`ReleaseEnvironment` by `environment_type`. There is no git repository and nothing is built. It uses
internals of asv 0.6.6.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asv_runner
from asv import util
from asv.benchmarks import Benchmarks
from asv.commands import make_argparser
from asv.commands.compare import Compare
from asv.commands.run import Run
from asv.console import log
from asv.environment import Environment
from asv.machine import Machine, MachineCollection
from asv.repo import NoSuchNameError, Repo
from asv.results import Results

import gradbench
from gradbench.advise import registering
from gradbench.core.releases import RELEASES, Release, ReleaseError, parse
from gradbench.integrations import asv_files, asv_names, asv_own
from gradbench.integrations.asv_own import OwnError
from gradbench.releases import environments
from gradbench.releases.wanted import Installing
from gradbench.runner import machine
from gradbench.runner.progress import silent
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import discover
from gradbench.store.lines import StoreError

BRANCH = "releases"
INSTALLED = "installed"
"""The range of all releases that are installed."""


def setup() -> None:
    """Called by asv: sets the machine's name to that of gradbench's files, and amends what asv does
    with these. Takes a second."""
    fields = asv_files.asv_machine(machine.facts())
    name = Machine.hardcoded_machine_name = fields["machine"]
    try:
        MachineCollection.load(name)
    except util.UserError:
        MachineCollection.save(name, fields)
    _amend(name)


def _looked_at(conf: Any) -> tuple[registering.Registered, ...]:
    """The user's functions in ``"gradbench": {"functions": [...]}`` of the configuration, each
    looked at once by an asv command that measures. Raises UserError."""
    try:
        return _registered(
            json.dumps(getattr(conf, "gradbench", {})), str(Path(conf.results_dir).parent)
        )
    except OwnError as error:
        raise util.UserError(str(error)) from error


@functools.cache
def _registered(configured: str, results: str) -> tuple[registering.Registered, ...]:
    declared = asv_own.declared(json.loads(configured))
    return tuple(asv_own.registered(one, Path(results), log.info) for one in declared)


def _amend(mine: str) -> None:
    """The list of benchmarks is written as gradbench writes it, and made where it is missing, as in
    a fresh clone; `asv compare` is of this machine where there are several; what was never measured
    is n/a."""
    load, compare = Benchmarks.load.__func__, Compare.run.__func__
    value = Results.get_result_value

    def loaded(cls: Any, conf: Any, regex: Any = None) -> Any:
        folder = Path(conf.results_dir)
        if not Path(cls.get_benchmark_file_path(conf.results_dir)).is_file():
            try:
                # A project with functions of its own does not measure the catalogue.
                own = hasattr(conf, "gradbench")
                offers = () if own else discover(WorkerOptions()).offers
                asv_files.list_benchmarks(folder, offers)
            except (StoreError, WorkerError) as error:
                raise util.UserError(str(error)) from error
        return load(cls, conf, regex)

    def saved(self: Any) -> None:
        try:
            folder = Path(self._conf.results_dir)
            # Those of functions that have changed since keep their history.
            merged = asv_names.merge([self._all_benchmarks.values(), asv_names.stored(folder)])
            asv_files.save_benchmarks(folder, merged)
        except StoreError as error:
            raise util.UserError(str(error)) from error

    def compared(cls: Any, conf: Any, *words: Any, **named: Any) -> Any:
        if named.get("machine") is None:
            named["machine"] = _compared_machine(Path(conf.results_dir), mine)
        return compare(cls, conf, *words, **named)

    def valued(self: Any, key: str, params: Any) -> Any:
        values, known = value(self, key, params), self._benchmark_params[key]
        if self._results[key] is None or not known:
            return values
        measured = set(itertools.product(*known))
        return [
            v if of in measured else math.nan for of, v in zip(itertools.product(*params), values)
        ]

    Benchmarks.load, Benchmarks.save = classmethod(loaded), saved
    Compare.run, Results.get_result_value = classmethod(compared), valued


def _compared_machine(folder: Path, mine: str) -> str | None:
    """The machine whose results are compared where none is named; None leaves it to asv. Raises
    UserError where there are none, or several of which none is this one."""
    names = sorted(path.parent.name for path in folder.glob("*/machine.json"))
    if not names:
        raise util.UserError(
            f"{folder} has no results: 'asv run' measures some, and 'gradbench releases asv' "
            "writes those of stored tracks"
        )
    if mine in names or len(names) < 2:
        return mine if mine in names else None
    raise util.UserError(
        f"{folder} has no results of this machine, but of {len(names)} others: add --machine "
        f"{names[0]}"
    )


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

        The newest installed one, if any: a plain `asv run` measures that one, and asv looks for
        the benchmarks in it.
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
    """Installs a release that `asv run` names. Raises UserError in any other command."""
    if not names_releases(sys.argv[1:]):
        raise util.UserError(
            f"torch {release} is not installed, and only 'asv run' with releases installs them: "
            f"'gradbench releases install {release}' does it"
        )
    # In this process, so that the installation ends when asv does.
    how = Installing("auto", None, None, None, (), yes=False)
    request = environments.parse(release.version)
    try:
        failed = how.install([request], log.info, lambda what: contextlib.nullcontext(silent))
    except ReleaseError as error:
        raise util.UserError(f"torch {release} is not installed: {error}") from error
    if failed:
        raise util.ProcessError(["install", release.version], 1, "", failed[0].reason)
    return environments.find(release.version)


def names_releases(words: Sequence[str]) -> bool:
    """Whether asv's arguments are those of `run` with a range of releases to measure."""
    given = make_argparser()[0].parse_known_args(list(words))[0]
    asked = getattr(given, "range", None)
    return getattr(given, "func", None) == Run.run_from_args and asked not in (None, "EXISTING")


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
        self._own: tuple[registering.Registered, ...] = ()
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
        self._own = _looked_at(conf)
        self._release, self._executable = release, Path(environment.python)
        self._set_commit_hash(release.tag)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Runs the release's Python with both packages on its path."""
        if self._executable is None:
            raise util.UserError("no torch release has been chosen")
        env = dict(kwargs.pop("env", os.environ))
        env.update(self._global_env_vars)
        env[asv_names.OWN] = os.pathsep.join(one.suite for one in self._own)
        # asv's script removes PYTHONPATH unless ASV_PYTHONPATH names the same.
        env["PYTHONPATH"] = env["ASV_PYTHONPATH"] = self._path
        return util.check_output([str(self._executable), *args], env=env, **kwargs)
