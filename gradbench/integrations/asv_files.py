"""asv's own result files, so that its site and its commands show what gradbench tracked.

Names and parameters are those that `asv run` produces with `asv.conf.json`
(`asv_names.py`), so both write one history. asv writes in place and without locks; here every file
is replaced whole, under a lock. The format is that of asv 0.6 (results 2, benchmarks 2, machine 1).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import msgspec
import numpy as np

from gradbench.core.cases import Case, Offer
from gradbench.core.releases import Release, ReleaseError
from gradbench.core.text import line
from gradbench.integrations import asv_names
from gradbench.runner import machine as machines
from gradbench.store.fields import Label, reason
from gradbench.store.files import write_text
from gradbench.store.lines import StoreError, content

LOCK_TIMEOUT = 60.0
FACTS = {
    "os": "system",
    "arch": "architecture",
    "cpu": "cpu",
    "num_cpu": "logical_cores",
    "ram": "memory",
}
"""asv's words for what `machine.facts` tells."""

FIELDS = ("machine", *FACTS)
MADE_UP = re.compile(r"[^a-z0-9]+")
FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w. @()+-]{0,99}", re.ASCII)


def remembered(path: Path) -> tuple[Release, ...]:
    """The builds besides `RELEASES` that a file names, oldest first; none where there is no file.

    The file is a JSON object of versions and their dates. Raises ReleaseError where it is not.
    """
    if not os.path.lexists(path):
        return ()
    try:
        told = json.loads(content(path))
        found = [Release(v, datetime.date.fromisoformat(day)) for v, day in told.items()]
    except (StoreError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ReleaseError(
            f"{path} should be a JSON object of versions and dates, as "
            f'{{"2.16.0.dev20261103": "2026-11-03"}}: {error}'
        ) from error
    return tuple(sorted((r for r in found if not r.known), key=lambda r: r.date))


@dataclasses.dataclass(frozen=True)
class AsvRow:
    """What is stored of a case on one release.

    `seconds` per call, NaN where the case is not supported there, None where it failed. `low` and
    `high` bound it by the 99 % interval between sessions, infinite where there is only one.
    `samples` are seconds per call, one a session; `number` the calls in a sub-block, `repeat` the
    sessions.
    """

    case: Case
    seconds: float | None
    low: float = -math.inf
    high: float = math.inf
    number: int = 1
    repeat: int = 1
    samples: tuple[float, ...] = ()
    version: str = asv_names.VERSION

    @property
    def statistics(self) -> dict[str, Any] | None:
        """asv's statistics; None where there is no value. Without samples the quartiles, which
        asv shows as ±, are the interval's ends."""
        if self.seconds is None or math.isnan(self.seconds):
            return None
        if self.samples:
            q_25, q_75 = (float(q) for q in np.quantile(self.samples, [0.25, 0.75]))
        else:
            q_25, q_75 = (
                end if math.isfinite(end) else self.seconds for end in (self.low, self.high)
            )
        return {
            "ci_99_a": self.low,
            "ci_99_b": self.high,
            "q_25": q_25,
            "q_75": q_75,
            "number": self.number,
            "repeat": self.repeat,
        }


def asv_machine(facts: dict[str, Any]) -> dict[str, Any]:
    """What asv keeps of a machine, from `machine.facts()`; what is asv's already stays.

    Its name is made of processor, cores and memory and not the host's, so that results can be
    published; ``facts["machine"]`` gives another.
    """
    if all(field in facts for field in FIELDS):
        return {field: facts[field] for field in FIELDS} | {"machine": _folder(facts["machine"])}
    told = {field: str(facts.get(key, "unknown")) for field, key in FACTS.items()}
    memory = f" {facts['memory'] / (1 << 30):.0f}gib" if "memory" in facts else ""
    made_up = f"{told['cpu']} {told['num_cpu']} cores{memory}".lower()
    return {"machine": _folder(facts.get("machine") or MADE_UP.sub("-", made_up)), **told}


def _folder(name: Any) -> str:
    """A machine's name, which names a folder of asv's results: as it is where it can be one."""
    if isinstance(name, str) and FOLDER_NAME.fullmatch(name):
        return name
    return MADE_UP.sub("-", str(name).lower()).strip("-")[:100] or "unknown"


def this_machine() -> dict[str, Any]:
    """The same of the machine that this runs on. Takes a second."""
    return asv_machine(machines.facts())


def write(
    folder: Path,
    machine: dict[str, Any],
    release: Release,
    environment: dict[str, Any],
    rows: Iterable[AsvRow],
    offers: Iterable[Offer] = (),
) -> list[Path]:
    """Merges one release's rows into a folder of asv's results; the result files written.

    `machine` is what `machine.facts()` gives or asv's own fields, `environment` a worker's.
    `offers` are what a worker offers: with them the list of benchmarks holds all that asv itself
    would discover, without them what was listed before and the rows. Values that the rows do not
    have stay. A release that is no known one is added to ``releases.json`` beside the folder.

    Raises StoreError where the folder cannot be written, is in use for a minute, or holds a file
    of asv's that cannot be read; nothing is half-written then.
    """
    rows = list(rows)
    told = asv_machine(machine)
    by_device: dict[str, list[AsvRow]] = {}
    for row in rows:
        by_device.setdefault(row.case.comparison.device, []).append(row)
    try:
        with _held(folder):
            # The line of a machine must not break because its kernel was upgraded.
            place = folder / told["machine"] / "machine.json"
            told = _machine(place) or told
            _replace(place, told | {"version": 1})
            _remember(folder.parent / "releases.json", release)
            listed = _benchmarks(folder, rows, offers)
            written = [
                _write_results(folder, told, release, environment, device, some, listed)
                for device, some in by_device.items()
            ]
            for path in sorted(set(place.parent.glob("*.json")) - {place, *written}):
                _fill_file(path, listed)
            _replace(folder / "benchmarks.json", {**listed, "version": 2})
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    return written


def _write_results(
    folder: Path,
    machine: dict[str, Any],
    release: Release,
    environment: dict[str, Any],
    device: str,
    rows: list[AsvRow],
    listed: dict[str, dict[str, Any]],
) -> Path:
    from asv.environment import get_env_name
    from asv.results import Results
    from asv.util import UserError, datetime_to_js_timestamp

    python = ".".join(str(environment["python"]).split(".")[:2])
    midnight = datetime.datetime.combine(
        release.date, datetime.time(), tzinfo=datetime.timezone.utc
    )
    results = Results(
        {field: machine[field] for field in FIELDS} | {"python": python},
        {},
        release.tag,
        datetime_to_js_timestamp(midnight),
        python,
        get_env_name("releases", python, {}, {("nobuild", asv_names.DEVICE): device}),
        {asv_names.DEVICE: device},
    )
    place = Path(folder, results._filename)
    # asv would wait for a FIFO, and raises whatever a file's content leads to.
    try:
        _read(place)
        results.load_data(str(folder))
    except (StoreError, UserError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{place} cannot be read ({line(str(error))}); restore or delete it"
        ) from error
    by_name: dict[str, list[AsvRow]] = {}
    for row in rows:
        by_name.setdefault(asv_names.name(row.case.comparison), []).append(row)
    now = datetime_to_js_timestamp(datetime.datetime.now(datetime.timezone.utc))
    for name, some in by_name.items():
        _merge(results, name, some, now)
    _fill(results, listed)
    target = Path(folder, results._filename)
    _save(results, target)
    return target


def _save(results: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=target.parent.parent) as draft:
        results.save(draft)
        os.replace(Path(draft, results._filename), target)


def _fill_file(path: Path, listed: dict[str, dict[str, Any]]) -> None:
    """Does the same as `_fill` to a file; one that cannot be read is left as it is."""
    from asv.results import Results
    from asv.util import UserError

    try:
        results = Results.load(str(path))
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return
    if Path(results._filename).name == path.name and _fill(results, listed):
        _save(results, path)


def _fill(results: Any, listed: dict[str, dict[str, Any]]) -> bool:
    """Says of each listed mode that a benchmark has no value of that it was not measured (NaN);
    whether there was any. What asv finds no value of it calls failed."""
    filled = False
    for name in results.get_all_result_keys():
        params = results.get_result_params(name)
        one_of_modes = name in listed and len(params) == 1 and len(listed[name]["params"]) == 1
        if not one_of_modes or results._results[name] is None:
            continue
        missing = [mode for mode in listed[name]["params"][0] if mode not in params[0]]
        if not missing:
            continue
        filled = True
        results._benchmark_params[name] = [[*params[0], *missing]]
        results._results[name] = [*results._results[name], *[math.nan] * len(missing)]
        for column in (results._stats, results._samples):
            if column.get(name) is not None:
                column[name] = [*column[name], *[None] * len(missing)]
    return filled


def _merge(results: Any, name: str, rows: list[AsvRow], now: int) -> None:
    """Puts rows into what asv's `Results` holds of one benchmark; `add_result` would work out
    an interval of its own."""
    version = rows[0].version
    old: dict[str, tuple[Any, Any, Any]] = {}
    if name in results.get_all_result_keys() and results.benchmark_version.get(name) == version:
        params = results.get_result_params(name)
        old = {
            mode: (value, stats, samples)
            for mode, value, stats, samples in zip(
                params[0],
                results.get_result_value(name, params),
                results.get_result_stats(name, params),
                results.get_result_samples(name, params),
            )
        }
    new = {
        repr(row.case.mode): (row.seconds, row.statistics, list(row.samples) or None)
        for row in rows
    }
    values = old | new
    columns = [list(column) for column in zip(*values.values())]
    kept = [column if any(one is not None for one in column) else None for column in columns]
    results._results[name], results._stats[name], results._samples[name] = kept
    results._benchmark_params[name] = [list(values)]
    results._benchmark_version[name] = version
    results._started_at[name] = now


def _benchmarks(
    folder: Path, rows: list[AsvRow], offers: Iterable[Offer]
) -> dict[str, dict[str, Any]]:
    """All benchmarks by name: those offered, those listed already, and the rows'."""
    modes: dict[Any, dict[str, None]] = {}
    for row in rows:
        modes.setdefault(row.case.comparison, {})[row.case.mode] = None
    mine = [asv_names.described(comparison, given) for comparison, given in modes.items()]
    known = (_read(folder / "benchmarks.json") or {}).values()
    stored = [one for one in known if isinstance(one, dict)]
    return dict(sorted(asv_names.merged([asv_names.of_offers(offers), stored, mine]).items()))


def _remember(path: Path, release: Release) -> None:
    if release.known:
        return
    try:
        others = remembered(path)
    except ReleaseError as error:
        raise StoreError(str(error)) from error
    if release.version not in {other.version for other in others}:
        days = {other.version: other.date.isoformat() for other in (*others, release)}
        _replace(path, days)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The lock of a results folder."""
    place = folder / ".locks"
    place.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(place / "asv.lock", timeout=LOCK_TIMEOUT):
            yield
    except filelock.Timeout:
        raise StoreError(f"{folder} is being written by another process") from None


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file. Raises StoreError where it is none."""
    if not os.path.lexists(path):
        return None
    try:
        found = json.loads(content(path))
    except StoreError as error:
        raise StoreError(f"{path.parent}: {error}") from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StoreError(f"{path} is damaged; delete it, and it is made again")
    return found


def _machine(path: Path) -> dict[str, Any] | None:
    """asv's facts of a machine; None where there is no file. Raises StoreError where they are not
    those of the folder that they are in."""
    found = _read(path)
    if found is None:
        return None
    try:
        told = msgspec.convert({field: found.get(field) for field in FIELDS}, dict[str, Label])
    except msgspec.ValidationError as error:
        raise StoreError(f"{path} is damaged ({reason(error)}); restore or delete it") from error
    if told["machine"] != path.parent.name:
        raise StoreError(f"{path} is of another machine ({told['machine']}); restore or delete it")
    return dict(told)


def _replace(path: Path, data: dict[str, Any]) -> None:
    """Writes a JSON object whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names and machine facts from a log may hold what UTF-8 cannot: it is escaped as JSON can.
    write_text(path, json.dumps(data, indent=4, sort_keys=True) + "\n")
