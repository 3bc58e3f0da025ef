"""What instruments other than the clock read, in judged rows; and the limits of the device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from statistics import median

import msgspec

from gradbench.analysis.table import Row
from gradbench.core.cases import FORWARD, Case
from gradbench.core.verdicts import Status
from gradbench.store.runs import Run


def read_values(run: Run) -> dict[Case, dict[str, float]]:
    """What each instrument read of each case: the median over sessions of each
    session's median."""
    found: dict[Case, dict[str, list[float]]] = {}
    for reading in run.readings:
        for mode, values in reading.values.items():
            if values:
                read = found.setdefault(reading.comparison.case(mode), {})
                read.setdefault(reading.instrument, []).append(median(values))
    return {
        case: {name: median(values) for name, values in read.items()}
        for case, read in found.items()
    }


def with_readings(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows with what was read, and rows of their own for what was read and not timed."""
    values = read_values(run)
    reasons: dict[Case, dict[str, str]] = {}
    for reading in run.readings:
        for mode, reason in reading.reasons.items():
            reasons.setdefault(reading.comparison.case(mode), {})[reading.instrument] = reason
    if not run.readings:
        return list(rows)
    found = {row.case: row for row in rows}
    for case in [*found, *(case for entry in run.started.plan for case in entry.cases)]:
        read, unread = values.get(case, {}), reasons.get(case, {})
        if not read and not unread:
            continue
        if case not in found:
            status, reason = (Status.OK, "") if read else _unread(next(iter(unread.values())))
            found[case] = Row(
                comparison=case.comparison, mode=case.mode, status=status, reason=reason
            )
        found[case] = msgspec.structs.replace(found[case], readings=read, unread=unread)
    return list(found.values())


def _unread(said: str) -> tuple[Status, str]:
    """The status and the reason of a case, from why an instrument did not read it."""
    status, _, reason = said.partition(": ")
    with contextlib.suppress(ValueError):
        return Status(status), reason
    return Status.FAILED, said


LARGE = 1e-4
"""Seconds that a case's matmuls take at least, where their rate is stated as a share."""


def with_limits(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows of large cases with the shares that they reach of what the device can do.

    `of_bandwidth`: what a call cannot but move, its arguments and its result, over its time and the
    bandwidth of a copy, where that is more than the caches hold. `of_rate`: its operations, where
    `flops` were read, over its time and the rate of a matmul.
    """
    limits = {(known.device, known.threads): known for known in run.limits}
    moved: dict[str, int] = {}
    for session in run.sessions:
        both = session.argument_bytes + session.result_bytes
        if session.argument_bytes:
            moved[session.comparison] = max(both, moved.get(session.comparison, 0))
    made = []
    for row in rows:
        c = row.comparison
        known = limits.get((c.place.device, c.threads))
        # Over the bus, or without a derivative, the traffic is another.
        if known and row.seconds and row.mode != FORWARD and not c.place.transfer:
            traffic, rate = moved.get(row.comparison, 0), known.rates.get(c.dtype)
            work = row.readings.get("flops", 0.0)
            row = msgspec.structs.replace(
                row,
                of_bandwidth=traffic / known.bandwidth / row.seconds
                if traffic > known.cache
                else None,
                of_rate=work / rate / row.seconds if rate and work > LARGE * rate else None,
            )
        made.append(row)
    return made


LAUNCH_BOUND = 0.5
"""A call is bound by its launches where the device works for less than this share of its time."""


def launch_bound(seconds: float | None, device_time: float | None) -> bool:
    """Whether the host's launching rather than the device's work is what takes a call's time.

    Both in seconds a call; False where one of them is not known.
    """
    if not seconds or device_time is None:
        return False
    return device_time < LAUNCH_BOUND * seconds
