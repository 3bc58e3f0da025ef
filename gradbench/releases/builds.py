"""Which builds take part in a track: named, installed, dated, and asked what they are."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterable, Sequence
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
    """The environments of a track, those that could not be made, and the days of some."""

    made: list[Environment]
    failed: list[Failure]
    baseline: str
    dates: dict[str, str]


def gather(
    names: Sequence[str],
    baseline: str,
    dates: Sequence[str],
    results: Path,
    base: WorkerOptions,
    install: Callable[[Sequence[Request]], list[Failure]],
) -> Builds:
    """The builds of these names, or all installed ones, and the baseline.

    `install` makes what is missing and gives what could not be made. `base` is how workers are
    started: where it holds them to some instructions, each is asked anew what it is. Raises
    ReleaseError where there are not two builds to compare.
    """
    requests = different([environments.named(name) for name in names])
    if not requests:
        requests = [Request(e.name, e.what) for e in environments.installed()]
    baseline = choose_baseline(baseline, requests, results)
    if baseline not in {request.name for request in requests}:
        requests.append(environments.named(baseline))
    days = _dates(dates, [request.name for request in requests])
    _require_two(requests)
    failed = install(requests)
    lost = {failure.name for failure in failed}
    if baseline in lost:
        raise ReleaseError(f"the baseline {baseline} could not be installed")
    made = [environments.find(request.name) for request in requests if request.name not in lost]
    _require_two(made, lost)
    if base.environment:
        made = [_asked(environment, base) for environment in made]
        _require_held(made, base.environment.get(HELD_BY, ""))
    return Builds(made, failed, baseline, days)


def _require_two(builds: Sequence[Request | Environment], lost: Iterable[str] = ()) -> None:
    """Raises ReleaseError where there are not two builds to compare."""
    if len(builds) < 2:
        raise ReleaseError(
            "there is nothing to compare: name two different releases at least"
            + (f" ({', '.join(sorted(lost))} could not be installed)" if lost else "")
        )


def choose_baseline(given: str, requests: Sequence[Request], results: Path) -> str:
    """The baseline's name: the one asked for, the last track's where it is there, the newest.

    Raises ReleaseError where there is none to choose from.
    """
    if given:
        return environments.plain_name(given)
    with contextlib.suppress(StoreError):
        last = log.find(results, "latest").baseline
        if last in {r.name for r in requests} | {e.name for e in environments.installed()}:
            return last
    if not requests:
        raise ReleaseError("name the releases to track ('gradbench releases list --all')")
    return max(requests, key=lambda request: environments.order(request.what)).name


HELD_BY = "ATEN_CPU_CAPABILITY"
"""The variable that holds torch to some instructions."""


def held_to(base: WorkerOptions, capability: str) -> WorkerOptions:
    """Workers that use these instructions at most (`avx2`); empty: whatever each takes."""
    if not capability:
        return base
    return replace(base, environment={**base.environment, HELD_BY: capability})


def _require_held(made: Sequence[Environment], capability: str) -> None:
    """Raises ReleaseError where a build says that it uses other instructions than it is held to."""
    if not capability:
        return
    for environment in made:
        told = str(environment.identity.get("cpu_capability", "")).lower()
        if told.replace("no avx", "default") != capability:
            raise ReleaseError(
                f"{environment.name} cannot be held to {capability}: torch {environment.torch} "
                f"uses {told or 'what it does not tell'} here; choose another --cpu-capability, or "
                "leave it out"
            )


def different(requests: Sequence[Request]) -> list[Request]:
    """The environments that are asked for, each once.

    Raises ReleaseError where two names stand for one release: its two builds cannot be told apart.
    """
    chosen = list({request.name: request for request in requests}.values())
    versions: dict[str, str] = {}
    for request in chosen:
        if request.interpreter is not None or request.what.endswith(".whl"):
            continue
        version = str(parse(request.what))
        # NAME=VERSION is there to have a release twice; 2.13 beside 2.13.0 is a slip.
        if request.name == request.what and versions.setdefault(version, request.name) != (
            request.name
        ):
            raise ReleaseError(
                f"{versions[version]} and {request.name} are the same release; to measure it "
                f"against itself name them: a={request.what} b={request.what}"
            )
    return chosen


def _asked(environment: Environment, base: WorkerOptions) -> Environment:
    return msgspec.structs.replace(environment, identity=environments.ask(environment.worker(base)))


def _dates(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, _, day = text.partition("=")
        name = environments.plain_name(name)
        if name in found:
            raise ReleaseError(f"--date {text!r}: {name} has a date already ({found[name]})")
        try:
            found[name] = str(datetime.date.fromisoformat(day))
        except ValueError:
            raise ReleaseError(f"--date {text!r} is not NAME=YYYY-MM-DD") from None
        if name not in names:
            raise ReleaseError(f"--date {text!r}: {name!r} is none of the releases named")
    return found
