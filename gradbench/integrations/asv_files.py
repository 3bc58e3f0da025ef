"""Writes asv's result files, so that asv's site and commands show results of gradbench.

Benchmarks have the names and parameters of `asv run` with `asv.conf.json` (`asv_names.py`), so both
write one history. asv writes in place without locks; this module replaces whole files under a lock.
The format is that of asv 0.6 (results 2, benchmarks 2, machine 1).
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import datetime
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import msgspec
import numpy as np

from gradbench.core.cases import Case, Offer
from gradbench.core.releases import Release, ReleaseError
from gradbench.core.text import line
from gradbench.integrations import asv_names
from gradbench.releases.builds import HELD_BY
from gradbench.statistics import ENOUGH
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
"""asv's names for facts of `machine.facts()`."""

FIELDS = ("machine", *FACTS)
NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w. @()+-]{0,99}", re.ASCII)


def other_builds(path: Path) -> tuple[Release, ...]:
    """The builds besides `RELEASES` in a JSON file of versions and dates, oldest first.

    None if there is no file. Raises ReleaseError if it is invalid.
    """
    if not os.path.lexists(path):
        return ()
    try:
        dates = json.loads(content(path))
        builds = [Release(v, datetime.date.fromisoformat(day)) for v, day in dates.items()]
    except (StoreError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ReleaseError(
            f"{path} should be a JSON object of versions and dates, as "
            f'{{"2.16.0.dev20261103": "2026-11-03"}}: {error}'
        ) from error
    return tuple(sorted((b for b in builds if not b.known), key=lambda b: b.date))


@dataclasses.dataclass(frozen=True)
class AsvRow:
    """The result of a case on one release.

    `seconds` is the time of a call, NaN if there is none, None if the case is wrong. `low` and
    `high` are its 99 % confidence interval between sessions, infinite for a single session.
    `samples` has the seconds per call of each session; `number` is the calls in a sub-block,
    `repeat` the number of sessions.
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
        """asv's statistics; None if there is no value. asv shows the quartiles as ±: without
        samples they are the ends of the interval."""
        if self.seconds is None or math.isnan(self.seconds):
            return None
        quartiles = [end if math.isfinite(end) else self.seconds for end in (self.low, self.high)]
        if self.samples:
            quartiles = [float(q) for q in np.quantile(self.samples, [0.25, 0.75])]
        return {
            "ci_99_a": self.low,
            "ci_99_b": self.high,
            "q_25": quartiles[0],
            "q_75": quartiles[1],
            "number": self.number,
            "repeat": self.repeat,
        }


def asv_machine(facts: dict[str, Any]) -> dict[str, Any]:
    """asv's fields of a machine, from `machine.facts()` or from asv's own fields.

    The machine's name is ``facts["machine"]``, or processor, cores and memory: the host's name is
    left out, so that results can be published.
    """
    if all(field in facts for field in FIELDS):
        return {field: facts[field] for field in FIELDS} | {"machine": _folder(facts["machine"])}
    fields = {field: str(facts.get(key, "unknown")) for field, key in FACTS.items()}
    memory = f" {facts['memory'] / (1 << 30):.0f}gib" if "memory" in facts else ""
    hardware = f"{fields['cpu']} {fields['num_cpu']} cores{memory}".lower()
    return {"machine": _folder(facts.get("machine") or NOT_IN_NAMES.sub("-", hardware)), **fields}


def _folder(name: Any) -> str:
    """A machine's name as the name of its folder."""
    if isinstance(name, str) and FOLDER_NAME.fullmatch(name):
        return name
    return NOT_IN_NAMES.sub("-", str(name).lower()).strip("-")[:100] or "unknown"


def write(
    folder: Path,
    machine: dict[str, Any],
    release: Release,
    environment: dict[str, Any],
    rows: Iterable[AsvRow],
    offers: Iterable[Offer] = (),
    capability: str = "",
) -> list[Path]:
    """Merges one release's rows into a folder of asv's results and returns the files written.

    `machine` is `machine.facts()` or asv's own fields, `environment` that of a worker. With the
    `offers` of a worker, the list of benchmarks has all that asv would discover; without, it has
    earlier ones and those of the rows. Other values stay. Builds held to a `capability` of the
    processor have files of their own, and lines in asv's graphs. A build that is no known release
    is added to ``releases.json`` beside the folder.

    Raises StoreError, without half-written files, if the folder cannot be written, is in use for a
    minute, or has an unreadable file.
    """
    rows = list(rows)
    fields = asv_machine(machine)
    by_device: dict[str, list[AsvRow]] = {}
    for row in rows:
        by_device.setdefault(row.case.comparison.device, []).append(row)
    try:
        with _locked(folder):
            # Stored fields win: an upgraded kernel must not start another history.
            path = folder / fields["machine"] / "machine.json"
            fields = _machine(path) or fields
            _replace(path, fields | {"version": 1})
            _add_build(folder.parent / "releases.json", release)
            benchmarks = _benchmarks(folder, rows, offers)
            held = {HELD_BY: capability} if capability else {}
            written = [
                _write_results(
                    folder,
                    fields,
                    release,
                    environment,
                    {asv_names.DEVICE: device, **held},
                    chunk,
                    benchmarks,
                )
                for device, chunk in by_device.items()
            ]
            for other in sorted(set(path.parent.glob("*.json")) - {path, *written}):
                _fill_file(other, benchmarks)
            _replace(folder / "benchmarks.json", {**benchmarks, "version": 2})
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    return written


def list_benchmarks(folder: Path, offers: Iterable[Offer]) -> None:
    """Writes the list of benchmarks where it is missing: those of the offers, and those that the
    result files have. Raises StoreError as `write` does."""
    from asv.results import Results
    from asv.util import UserError

    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/v*.json")):
        with contextlib.suppress(UserError, ValueError, KeyError, TypeError, AttributeError):
            results = Results.load(str(path))
            found += [
                asv_names.benchmark(
                    asv_names.parse(name),
                    [ast.literal_eval(mode) for mode in results.get_result_params(name)[0]],
                )
                for name in sorted(results.get_all_result_keys())
            ]
    save_benchmarks(folder, asv_names.merge([asv_names.offered(offers), found]))


def save_benchmarks(folder: Path, benchmarks: Mapping[str, dict[str, Any]]) -> None:
    """Writes the list of benchmarks: the same bytes for the same benchmarks, whoever writes it.
    Raises StoreError as `write` does."""
    try:
        with _locked(folder):
            _replace(folder / "benchmarks.json", {**benchmarks, "version": 2})
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error


def _write_results(
    folder: Path,
    machine: dict[str, Any],
    release: Release,
    environment: dict[str, Any],
    axes: dict[str, str],
    rows: list[AsvRow],
    benchmarks: dict[str, dict[str, Any]],
) -> Path:
    from asv.environment import get_env_name
    from asv.results import Results
    from asv.util import UserError, datetime_to_js_timestamp

    python = ".".join(str(environment["python"]).split(".")[:2])
    results = Results(
        {field: machine[field] for field in FIELDS} | {"python": python},
        {},
        release.tag,
        asv_names.milliseconds(release.date),
        python,
        get_env_name("releases", python, {}, {("nobuild", axis): of for axis, of in axes.items()}),
        dict(axes),
    )
    path = Path(folder, results._filename)
    # asv would wait for a FIFO, and does not catch what invalid content raises.
    try:
        _read(path)
        results.load_data(str(folder))
    except (StoreError, UserError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} cannot be read ({line(str(error))}); restore or delete it"
        ) from error
    by_name: dict[str, list[AsvRow]] = {}
    for row in rows:
        by_name.setdefault(asv_names.name(row.case.comparison), []).append(row)
    now = datetime_to_js_timestamp(datetime.datetime.now(datetime.timezone.utc))
    for name, chunk in by_name.items():
        _merge(results, name, chunk, now)
    _fill(results, benchmarks)
    _save(results, path)
    return path


def _save(results: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=target.parent.parent) as draft:
        results.save(draft)
        os.replace(Path(draft, results._filename), target)


def _fill_file(path: Path, benchmarks: dict[str, dict[str, Any]]) -> None:
    """Applies `_fill` to a file, unless it cannot be read."""
    from asv.results import Results
    from asv.util import UserError

    try:
        results = Results.load(str(path))
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return
    if Path(results._filename).name == path.name and _fill(results, benchmarks):
        _save(results, path)


def _fill(results: Any, benchmarks: dict[str, dict[str, Any]]) -> bool:
    """Sets modes without a value to NaN, which asv shows as not measured instead of failed.

    Returns whether there were any.
    """
    filled = False
    for name in results.get_all_result_keys():
        params, listed = results.get_result_params(name), benchmarks.get(name, {"params": []})
        if len(params) != 1 or len(listed["params"]) != 1 or results._results[name] is None:
            continue
        missing = [mode for mode in listed["params"][0] if mode not in params[0]]
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
    """Merges rows into asv's results of one benchmark; asv's `add_result` would compute another
    interval."""
    version = rows[0].version
    old: dict[str, tuple[Any, ...]] = {}
    if name in results.get_all_result_keys() and results.benchmark_version.get(name) == version:
        params = results.get_result_params(name)
        columns = (
            results.get_result_value(name, params),
            results.get_result_stats(name, params),
            results.get_result_samples(name, params),
        )
        old = dict(zip(params[0], zip(*columns)))
    new = {
        repr(row.case.mode): (row.seconds, row.statistics, [_short(s) for s in row.samples] or None)
        for row in rows
    }
    merged = old | {mode: own for mode, own in new.items() if not _weaker(own, old.get(mode))}
    results._results[name], results._stats[name], results._samples[name] = (
        list(column) if any(value is not None for value in column) else None
        for column in zip(*merged.values())
    )
    results._benchmark_params[name] = [list(merged)]
    results._benchmark_version[name] = version
    results._started_at[name] = now


def _short(seconds: float) -> float:
    """Six digits are more than a clock has; the rest would be a third of each file."""
    return float(f"{seconds:.5e}")


def _weaker(new: tuple[Any, ...], old: tuple[Any, ...] | None) -> bool:
    """Whether a result is not to take the place of an earlier one: it has no value, or fewer
    sessions than one that counts (`statistics.ENOUGH`)."""
    if old is None or old[0] is None or math.isnan(old[0]):
        return False
    if new[0] is None or math.isnan(new[0]):
        return True
    before, after = ((stats or {}).get("repeat") or 1 for stats in (old[1], new[1]))
    return bool(after < min(ENOUGH, before))


def _benchmarks(
    folder: Path, rows: list[AsvRow], offers: Iterable[Offer]
) -> dict[str, dict[str, Any]]:
    """All benchmarks by name: those of the offers, the stored list and the rows."""
    modes: dict[Any, dict[str, None]] = {}
    for row in rows:
        modes.setdefault(row.case.comparison, {})[row.case.mode] = None
    ours = [asv_names.benchmark(comparison, names) for comparison, names in modes.items()]
    entries = (_read(folder / "benchmarks.json") or {}).values()
    stored = [entry for entry in entries if isinstance(entry, dict)]
    return dict(sorted(asv_names.merge([asv_names.offered(offers), stored, ours]).items()))


def _add_build(path: Path, release: Release) -> None:
    if release.known:
        return
    try:
        others = other_builds(path)
    except ReleaseError as error:
        raise StoreError(str(error)) from error
    if release.version not in {other.version for other in others}:
        dates = {build.version: build.date.isoformat() for build in (*others, release)}
        _replace(path, dates)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(locks / "asv.lock", timeout=LOCK_TIMEOUT):
            yield
    except filelock.Timeout:
        raise StoreError(f"{folder} is being written by another process") from None


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no file. Raises StoreError if it is invalid."""
    if not os.path.lexists(path):
        return None
    try:
        data = json.loads(content(path))
    except StoreError as error:
        raise StoreError(f"{path.parent}: {error}") from error
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise StoreError(f"{path} is damaged; delete it, and gradbench writes a new one")
    return data


def _machine(path: Path) -> dict[str, Any] | None:
    """asv's fields of a machine; None if there is no file. Raises StoreError if they are invalid or
    of another machine than the folder's."""
    data = _read(path)
    if data is None:
        return None
    try:
        fields = msgspec.convert({field: data.get(field) for field in FIELDS}, dict[str, Label])
    except msgspec.ValidationError as error:
        raise StoreError(f"{path} is damaged ({reason(error)}); restore or delete it") from error
    name = fields["machine"]
    if name != path.parent.name:
        raise StoreError(f"{path} is of another machine ({name}); restore or delete it")
    return dict(fields)


def _replace(path: Path, data: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON escapes what UTF-8 cannot encode.
    write_text(path, json.dumps(data, indent=4, sort_keys=True) + "\n")
