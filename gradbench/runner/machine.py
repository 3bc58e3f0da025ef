"""The facts of this machine that times depend on."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil

from gradbench.core.units import counted
from gradbench.runner.nvml import Nvml

CAPABILITIES = {
    "x86_64": ("default", "avx2", "avx512"),
    "aarch64": ("default", "sve256"),
    "ppc64le": ("default", "vsx"),
    "s390x": ("default", "zvector"),
}
"""The values of ATEN_CPU_CAPABILITY on an architecture, the fewest instructions first."""


def capabilities() -> tuple[str, ...]:
    """The instruction sets to which torch can be limited on this machine, the smallest first."""
    architecture = platform.machine().lower()
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    return CAPABILITIES.get(names.get(architecture, architecture), ("default",))


FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
"""The flags of a processor with these instructions."""


def lacks(capability: str) -> bool:
    """Whether this processor lacks instructions: torch would use them anyway, and crash.

    Takes a second. False if the processor's flags are unknown.
    """
    import cpuinfo

    flags = set(cpuinfo.get_cpu_info().get("flags", ()))
    return bool(flags) and not FLAGS.get(capability, set()) <= flags


def facts() -> dict[str, Any]:
    """The machine's processor, memory, system and clock settings."""
    machine: dict[str, Any] = {
        "cpu": processor(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": len(usable_cores()),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "governor": governor(),
        "turbo": turbo(),
        "load": round(os.getloadavg()[0], 2),
    }
    driver = Nvml().driver()
    if driver is not None:
        machine["gpu_driver"] = driver
    return machine


def processor() -> str:
    """The processor's name; cpuinfo, which also tries others than Linux, takes a second."""
    with contextlib.suppress(OSError):
        names = re.findall(r"^model name\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        if names and names[0].strip():
            return " ".join(names[0].split())
    import cpuinfo

    return " ".join(str(cpuinfo.get_cpu_info().get("brand_raw", "unknown")).split())


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    with contextlib.suppress(AttributeError):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def stolen() -> float:
    """Seconds of processor time, of all cores, that a hypervisor gave to others since the start of
    the system; 0 where it does not tell."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def load() -> str:
    """The one-minute load average and the cores that it stands for, in words."""
    return f"load average {os.getloadavg()[0]:.1f} on {counted(len(usable_cores()), 'core')}"


def is_busy() -> bool:
    """Whether more processes want to run now than there are cores, beside this one. False where the
    system does not say."""
    running, _, _ = (_read("/proc/loadavg") or "").rpartition(" ")[0].rpartition("/")
    number = running.rpartition(" ")[2]
    return number.isdigit() and int(number) - 1 > len(usable_cores())


def governor() -> str | None:
    """The first core's frequency governor; None if unknown."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def turbo() -> str | None:
    """Whether the clock may rise above its nominal rate: "on", "off", or None if unknown."""
    boost = _read("/sys/devices/system/cpu/cpufreq/boost")
    if boost is not None:
        return "on" if boost == "1" else "off"
    no_turbo = _read("/sys/devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return "off" if no_turbo == "1" else "on"
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
