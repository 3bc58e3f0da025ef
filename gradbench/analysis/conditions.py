"""The conditions of a run in lines: limits of its devices, clocks and throttling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from statistics import median

from gradbench.core.cases import Place
from gradbench.core.units import counted, short, size
from gradbench.store.runs import DeviceState, Limits, Run

NODES = 8
"""So many nodes of a cluster are named."""

HEAT_AND_POWER = 0.01
"""Seconds of throttling in one session's rounds that are worth mentioning."""


def lines(run: Run) -> list[str]:
    """A line for each device: its name, its limits, its clocks and temperature; and one for the
    nodes of a cluster."""
    places = {worker.process: str(worker.environment.get("node") or "") for worker in run.workers}
    said = nodes(places.get(session.process, "") for session in run.sessions)
    return [*map(_limits, run.limits), *_states(run), *filter(None, [said])]


def nodes(sessions: Iterable[str]) -> str:
    """How many sessions each node of a cluster measured, by the node of each session; empty on one
    machine."""
    found = Counter(sessions)
    if set(found) <= {""}:
        return ""
    parts = [f"{name or 'this machine'} {number}" for name, number in found.most_common()]
    if len(parts) > NODES:
        rest = sum(number for _, number in found.most_common()[NODES:])
        parts[NODES:] = [f"{len(parts) - NODES} more {rest}"]
    return f"sessions by node: {', '.join(parts)}"


def cautions(run: Run) -> list[str]:
    """A line for each device that was throttled while it was timed, and one that names the modes
    that changed their process's state."""
    said = []
    for device, pairs in _pairs(run).items():
        slowed = [pair for pair in pairs if _slowed(*pair)]
        if not slowed:
            continue
        reasons = dict.fromkeys(reason for pair in slowed for reason in _slowed(*pair))
        said.append(
            f"{device} was throttled in {len(slowed)} of {counted(len(pairs), 'session')} (counted "
            f"per comparison) by {', '.join(reasons)}: times, and perhaps ratios, are inflated."
        )
    noted = {e.mode: None for s in run.sessions for e in s.entrants if e.note}
    if noted:
        said.append(
            f"{counted(len(noted), 'mode')} changed the state of the measuring process, which was "
            f"restored: {', '.join(noted)} (see the note of each case)."
        )
    return said


BUSY = 0.5
"""The load per core, of other programs, from which a machine is called busy."""


def busy(run: Run) -> str:
    """That other programs ran on the machine, when the run began or in most of its sessions; empty
    where they did not, or where it is not known.

    The load average while measuring includes the measuring process with its threads.
    """
    machine = run.started.machine
    cores = machine.get("usable_cores") or machine.get("cores")
    if not isinstance(cores, int) or not run.sessions:
        return ""
    own = median(session.comparison.threads for session in run.sessions)
    loads = [session.load for session in run.sessions if not math.isnan(session.load)]
    start = machine.get("load")
    for load, idle, when in (
        (start if isinstance(start, (int, float)) else 0.0, 0, "when the run began"),
        (median(loads) if loads else 0.0, own, "while measuring"),
    ):
        if load - idle > BUSY * cores:
            return (
                f"The machine was busy {when} (load {load:.1f} on {counted(cores, 'core')}): times "
                "are inflated, and intervals wider."
            )
    return ""


def _limits(found: Limits) -> str:
    rates = ", ".join(f"{d} {_flops(rate)}" for d, rate in found.rates.items())
    threads = f" ({counted(found.threads, 'thread')})" if found.device == "cpu" else ""
    return (
        f"limits of {found.device}{threads}: copies {size(found.bandwidth)}/s"
        + (f"; matmul {rates}" if rates else "")
        + f"; last-level cache {size(found.cache)}"
    )


def _flops(rate: float) -> str:
    return f"{short(rate / 1e9)} GFLOP/s" if rate < 1e12 else f"{short(rate / 1e12)} TFLOP/s"


def _pairs(run: Run) -> dict[str, list[tuple[DeviceState, DeviceState]]]:
    """The states before and after the rounds of each session, by device."""
    found: dict[str, list[tuple[DeviceState, DeviceState]]] = {}
    for session in run.sessions:
        if len(session.states) == 2:
            device = session.comparison.place.device
            found.setdefault(device, []).append((session.states[0], session.states[1]))
    return found


def _states(run: Run) -> list[str]:
    said = []
    for device, pairs in _pairs(run).items():
        name = Place.parse(device).name(run.first_environment)
        parts = [name, described(*(end for _, end in pairs))]
        said.append(f"state of {device} after its rounds: " + ", ".join(filter(None, parts)))
    return said


def described(*states: DeviceState) -> str:
    """Clocks, temperature and power of one state, or the ranges of several; unknown values are
    omitted."""
    parts = [
        _range("clock", [s.sm_clock for s in states], "MHz"),
        _range("memory clock", [s.memory_clock for s in states], "MHz"),
        _range("", [s.temperature for s in states], "°C"),
        _range("", [s.power for s in states], "W"),
    ]
    limits = [s.power_limit for s in states if s.power_limit is not None]
    if limits:
        parts.append(f"limit {short(median(limits))} W")
    return ", ".join(filter(None, parts))


def _range(name: str, values: Iterable[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = f"{min(known):.0f}", f"{max(known):.0f}"
    return f"{name} {low if low == high else f'{low} to {high}'} {unit}".strip()


def _slowed(before: DeviceState, after: DeviceState) -> list[str]:
    """Why a device was throttled at one of two states or between them."""
    reasons = list(dict.fromkeys(before.slowed + after.slowed))
    for name, start, end in (
        ("power cap", before.slowed_by_power, after.slowed_by_power),
        ("temperature", before.slowed_by_heat, after.slowed_by_heat),
    ):
        known = start is not None and end is not None and end - start > HEAT_AND_POWER
        if known and not any(reason.startswith(name) for reason in reasons):
            reasons.append(name)
    return reasons
