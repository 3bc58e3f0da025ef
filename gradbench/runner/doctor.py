"""Whether this machine is suitable for benchmarking."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gradbench.analysis import conditions
from gradbench.analysis.clocks import STOLEN
from gradbench.core.cases import Comparison, Entry
from gradbench.core.clocks import clock_of
from gradbench.core.units import call_time, counted
from gradbench.runner import machine
from gradbench.runner.noise import SECONDS, Noise, listen
from gradbench.runner.nvml import Nvml
from gradbench.runner.session import Measurement
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Workers, discover
from gradbench.statistics import Stopping, median_interval

BUSY, QUIET = 0.5, 0.02
"""The shares of the time that other processes have the core, from which on times should not be
trusted, and up to which they hardly matter."""

UNSTEADY = 1.2
"""The spread of the same work's processor time that is worth a warning."""

PROBE = Entry(Comparison("vjp", "three_x_squared", "documents", "float32"), ("forward", "backward"))
"""A short case, measured against itself."""


@dataclass(frozen=True)
class Check:
    """One finding. `grade` is good, note (worth knowing), poor (expect wide intervals) or bad."""

    grade: str
    what: str
    found: str
    advice: str = ""


def examine(results: Path) -> list[Check]:
    """All checks. Raises WorkerError where torch cannot be imported at all."""
    facts = machine.facts()
    environment = discover(WorkerOptions()).environment
    return [
        *_torch(environment),
        *gpus(environment, Nvml()),
        *_processor(facts),
        *_load(),
        *_memory(),
        *_storage(results),
        *_tools(),
        *interference(listen()),
        *_noise(),
    ]


def interference(noise: Noise) -> Iterator[Check]:
    """What other processes do to work on this machine, and to its speed."""
    said = (
        f"other processes had the core for {noise.away:.1%} of {SECONDS:.0f} s: "
        f"{noise.switches:.0f} interruptions a second, the longest {call_time(noise.longest)}"
    )
    if noise.stolen > STOLEN:
        said += f"; the hypervisor took {noise.stolen:.0%} of the processor time"
    if noise.away > BUSY:
        advice = "stop other processes; until then calls of some ms are compared by processor time"
        yield Check("bad", "interruptions", said, advice)
    elif noise.away > QUIET:
        advice = "stop other processes; disturbed sub-blocks are left out, so runs take longer"
        yield Check("poor", "interruptions", said, advice)
    else:
        yield Check("good", "interruptions", said)
    said = f"the same work takes up to {noise.spread:.2f}× its processor time"
    if noise.spread > UNSTEADY:
        advice = (
            "something else uses the core, its caches or its clock: other guests of the host, turbo"
        )
        yield Check("poor", "speed", said, advice)
    else:
        yield Check("good", "speed", said)


def _torch(environment: dict[str, Any]) -> Iterator[Check]:
    yield Check(
        "good",
        "torch",
        f"{environment['torch']}, {environment['cpu_capability']}, NumPy {environment['numpy']}",
    )
    devices = [d for d in environment["devices"] if d != "cpu"]
    names = ", ".join(environment.get("device_names", []))
    yield Check("note", "CUDA", f"{', '.join(devices)}: {names}" if devices else "no device")
    forced = {
        name: os.environ[name]
        for name in ("LD_PRELOAD", "MALLOC_CONF", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
        if name in os.environ
    }
    if forced:
        said = ", ".join(f"{name}={value}" for name, value in forced.items())
        yield Check("note", "environment variables", said, "they affect what is measured")


def gpus(environment: dict[str, Any], nvml: Nvml) -> Iterator[Check]:
    """The state of each CUDA device, by its driver."""
    for device, uuid in environment.get("device_uuids", {}).items():
        state = nvml.state("now", uuid)
        if state is None:
            yield Check(
                "note",
                device,
                "NVML does not report its clocks and temperature",
                "pip install nvidia-ml-py, if it is missing",
            )
            continue
        said = conditions.described(state) or "NVML reports nothing"
        if state.slowed:
            slowed = f"{said}; slowed down now: {', '.join(state.slowed)}"
            yield Check("poor", device, slowed, "let it cool, or raise its power limit")
        else:
            yield Check("good", device, said)


def _processor(facts: dict[str, Any]) -> Iterator[Check]:
    yield Check("note", "processor", f"{facts['cpu']}, {facts['logical_cores']} logical cores")
    usable = facts["usable_cores"]
    if usable < 2:
        yield Check(
            "poor",
            "usable cores",
            str(usable),
            "with one core, every other process interrupts the measurement",
        )
    else:
        yield Check("good", "usable cores", str(usable))
    governor, turbo = facts["governor"], facts["turbo"]
    if governor is None:
        yield Check("note", "clock", "governor and turbo not readable (a virtual machine?)")
        return
    grade = "good" if governor == "performance" else "poor"
    yield Check(
        grade,
        "frequency governor",
        governor,
        "" if grade == "good" else "cpupower frequency-set --governor performance",
    )
    if turbo == "on":
        yield Check(
            "note", "turbo", "on", "turning it off makes times more repeatable, at a lower clock"
        )


def _load() -> Iterator[Check]:
    usable = machine.usable_cores()
    cores = len(usable)
    load = os.getloadavg()[0]
    shares = psutil.cpu_percent(interval=0.5, percpu=True)
    busy = sum(share for core, share in enumerate(shares) if core in usable) / 100
    said = f"load average {load:.2f}, {busy:.2f} of {counted(cores, 'usable core')} busy now"
    if busy > cores - 1 + 0.5:
        yield Check("bad", "other work", said, "wait, or stop other processes")
    elif busy > 0.3:
        yield Check("poor", "other work", said, "stop other processes for narrower intervals")
    else:
        yield Check("good", "other work", said)


def _memory() -> Iterator[Check]:
    memory = psutil.virtual_memory()
    said = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < 2 << 30:
        yield Check("poor", "memory", said, "lower --memory-limit, or free some memory")
    else:
        yield Check("good", "memory", said)
    swapped = psutil.swap_memory().used
    if swapped > 1 << 30:
        yield Check("note", "swap", f"{swapped / 2**30:.1f} GiB in use")


def _storage(results: Path) -> Iterator[Check]:
    place = results.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        yield Check("bad", "results", f"{place} is not writable", "choose another with --results")
    elif free < 100 << 20:
        yield Check("bad", "results", f"{free / 2**20:.0f} MiB free", "free some space")
    else:
        yield Check("good", "results", f"{free / 2**30:.0f} GiB free")


def _tools() -> Iterator[Check]:
    for name, use in (("g++", "compiled modes"), ("valgrind", "instruction counts")):
        path = shutil.which(name)
        yield Check(
            "good" if path else "note",
            name,
            "found" if path else "missing",
            "" if path else f"only needed for {use}",
        )


def _noise() -> Iterator[Check]:
    resolution = _resolution()
    grade = "good" if resolution < 1000 else "poor"
    yield Check(grade, "clock resolution", f"{resolution} ns")
    stopping = Stopping(min_rounds=100, max_rounds=100)
    with Workers(WorkerOptions()) as workers:
        measured = Measurement(
            PROBE, 0, workers.current, Settings(stopping=stopping), frozenset(), "backward", {}
        ).run()
    lost = [e for e in measured.entrants if e.status != "ok"]
    if lost:
        yield Check("bad", "noise", f"not measured: {lost[0].status}: {lost[0].reason}")
        return
    timed = {(e.mode, e.control): e.visits for e in measured.entrants}
    clock = clock_of(timed.values())
    times = {key: np.array(own.by(clock)) for key, own in timed.items()}
    base, control = times["backward", False], times["backward", True]
    apparent = median_interval(np.log(control / base))
    width = apparent.half_width
    scatter = float(np.subtract(*np.percentile(np.log(base), [75, 25])))
    said = (
        f"the same code differs from itself by {abs(apparent.median):.2%} ± {width:.2%} "
        f"in {measured.visiting:.1f} s; visits scatter by {scatter:.1%}"
    )
    if width > 0.02 or abs(apparent.median) > 0.02:
        yield Check(
            "bad", "noise", said, "wait until the machine is quieter; intervals will be wide"
        )
    elif width > 0.005 or abs(apparent.median) > 0.01:
        yield Check("poor", "noise", said, "expect more undecided cases")
    else:
        yield Check("good", "noise", said)


def _resolution() -> int:
    """The smallest observed step of the clock, in nanoseconds."""
    steps = []
    for _ in range(1000):
        start = time.perf_counter_ns()
        end = start
        while end == start:
            end = time.perf_counter_ns()
        steps.append(end - start)
    return min(steps)
