"""The builds of a track: named, installed, dated and identified."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gradbench.core.releases import ReleaseError, parse
from gradbench.releases import environments
from gradbench.releases.environments import Environment, Failure, Request
from gradbench.runner.wire import WorkerOptions
from gradbench.store import tracks as log
from gradbench.store.lines import StoreError


@dataclass(frozen=True)
class Builds:
    """The environments of a track, those that failed to install, and the dates of some."""

    installed: list[Environment]
    failed: list[Failure]
    baseline: str
    dates: dict[str, str]


@dataclass(frozen=True)
class Requested:
    """The builds of a track before any is installed, and the dates of some."""

    requests: list[Request]
    baseline: str
    dates: dict[str, str]


def requested(
    names: Sequence[str], baseline: str, dates: Sequence[str], results: Path
) -> Requested:
    """The builds of these names, or all installed ones, and the baseline.

    Raises ReleaseError where a name stands for no build, is given twice, or there are fewer than
    two.
    """
    requests = different([environments.named(name) for name in names])
    if not requests:
        requests = [Request(e.name, e.what) for e in environments.installed()]
    baseline = choose_baseline(baseline, requests, results)
    if baseline not in {request.name for request in requests}:
        requests = different([*requests, environments.named(baseline)])
    days = _dates(dates, [request.name for request in requests])
    _require_two(requests)
    return Requested(requests, baseline, days)


def made(
    wanted: Requested, base: WorkerOptions, install: Callable[[Sequence[Request]], list[Failure]]
) -> Builds:
    """The builds, installed. `install` installs missing ones and returns those that failed.

    `base` holds the options of workers: if they limit the instructions, each build is asked for its
    identity again. Raises ReleaseError where a build cannot be installed, or held to the limit.
    """
    failed = install(wanted.requests)
    if failed:
        names = ", ".join(failure.name for failure in failed)
        raise ReleaseError(
            f"nothing was measured: {names} could not be installed; name the other releases to "
            "measure them without"
        )
    installed = [environments.find(request.name) for request in wanted.requests]
    if base.environment:
        installed = held([*installed], base)
    return Builds(installed, [], wanted.baseline, wanted.dates)


def held(installed: Sequence[Environment], base: WorkerOptions) -> list[Environment]:
    """Environments with the identity that they report under these options.

    Raises ReleaseError where one cannot be held to the instructions that the options ask for.
    """
    told = [_asked(environment, base) for environment in installed]
    _require_held(told, base.environment.get(HELD_BY, ""))
    return told


def _require_two(builds: Sequence[Request]) -> None:
    """Raises ReleaseError where there are fewer than two builds."""
    if len(builds) < 2:
        raise ReleaseError("there is nothing to compare: name two different releases at least")


def choose_baseline(chosen: str, requests: Sequence[Request], results: Path) -> str:
    """The baseline's name: the chosen one, the last track's if it is installed, or the newest.

    The newest is a release, where there is one: how old a build of one's own is, is not known.

    Raises ReleaseError where there is nothing to choose from.
    """
    if chosen in {request.name for request in requests}:
        return chosen
    if chosen:
        return _same(environments.named(chosen), requests).name
    with contextlib.suppress(StoreError):
        last = log.latest(results).baseline
        if last in {r.name for r in requests} | {e.name for e in environments.installed()}:
            return last
    if not requests:
        raise ReleaseError("name the releases to track ('gradbench releases list --all')")
    releases = [request for request in requests if request.is_release] or requests
    return max(releases, key=lambda request: environments.order(request.what)).name


def _same(chosen: Request, requests: Sequence[Request]) -> Request:
    """Of the requests the one that is the same release as the chosen one, 2.13.0 for 2.13; else the
    chosen one."""
    if chosen.name != chosen.what or chosen in requests:
        return chosen
    version = parse(chosen.what)
    alike = [r for r in requests if r.name == r.what and parse(r.what) == version]
    return alike[0] if alike else chosen


HELD_BY = "ATEN_CPU_CAPABILITY"
"""The variable that limits torch's instructions."""


def held_to(base: WorkerOptions, capability: str) -> WorkerOptions:
    """Options of workers that use at most these instructions (`avx2`); empty: no limit."""
    if not capability:
        return base
    return replace(base, environment={**base.environment, HELD_BY: capability})


def _require_held(installed: Sequence[Environment], capability: str) -> None:
    """Raises ReleaseError where a build reports other instructions than the chosen ones."""
    if not capability:
        return
    for environment in installed:
        reported = str(environment.identity.get("cpu_capability", "")).lower()
        if reported.replace("no avx", "default") != capability:
            raise ReleaseError(
                f"{environment.name} cannot be held to {capability}: torch {environment.torch} "
                f"uses {reported or 'unknown instructions'} here; choose another --cpu-capability "
                "or omit it"
            )


def different(requests: Sequence[Request]) -> list[Request]:
    """The requested environments. Raises ReleaseError where one is named twice, or two names stand
    for the same release."""
    chosen: dict[str, Request] = {}
    versions: dict[str, str] = {}
    for request in requests:
        if request.name in chosen:
            raise ReleaseError(
                f"{request.name} is named twice; to measure a release against itself give it two "
                f"names: a={request.what} b={request.what}"
            )
        chosen[request.name] = request
        if not request.is_release:
            continue
        version = str(parse(request.what))
        # NAME=VERSION gives a release twice on purpose; 2.13 beside 2.13.0 is a mistake.
        if request.name == request.what and versions.setdefault(version, request.name) != (
            request.name
        ):
            raise ReleaseError(
                f"{versions[version]} and {request.name} are the same release; to measure it "
                f"against itself name them: a={request.what} b={request.what}"
            )
    return list(chosen.values())


def _asked(environment: Environment, base: WorkerOptions) -> Environment:
    return msgspec.structs.replace(environment, identity=environments.ask(environment.worker(base)))


def _dates(options: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    days: dict[str, str] = {}
    for text in options:
        name, _, day = text.partition("=")
        name = environments.plain_name(name)
        if name in days:
            raise ReleaseError(f"--date {text!r}: {name} has a date already ({days[name]})")
        try:
            days[name] = str(datetime.date.fromisoformat(day))
        except ValueError:
            raise ReleaseError(f"--date {text!r} is not NAME=YYYY-MM-DD") from None
        if name not in names:
            raise ReleaseError(f"--date {text!r}: {name!r} is none of the releases named")
    return days
