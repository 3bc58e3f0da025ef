"""A GPU's clocks, temperature, power and throttling, read from its driver by NVML.

The process that measures never reads them, and nothing sets them. Without the package
(`pip install nvidia-ml-py`), or if the library does not answer, nothing is recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from gradbench.store.runs import DeviceState

SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "temperature (software)",
    0x40: "temperature (hardware)",
    0x80: "power brake",
}
"""The reasons for low clocks other than the user's settings, by NVML's bits
(nvmlClocksEventReason*)."""

SM, MEMORY = 1, 2
"""NVML_CLOCK_SM and NVML_CLOCK_MEM."""

POWER, THERMAL = 0, 1
"""NVML_PERF_POLICY_POWER and NVML_PERF_POLICY_THERMAL."""

TEMPERATURE_GPU = 0


class Nvml:
    """The library, opened on first use; tests pass a `library` of their own."""

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._opened = False
        self._handles: dict[str, Any] = {}

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            try:
                if self._library is None:
                    import pynvml

                    self._library = pynvml
                self._library.nvmlInit()
            except Exception:
                # No package, no library, or no driver.
                self._library = None
        return self._library

    def driver(self) -> str | None:
        """The version of the GPU's driver, if there is one."""
        library = self._open()
        if library is None:
            return None
        return _text(_asked(library.nvmlSystemGetDriverVersion))

    def state(self, when: str, uuid: str) -> DeviceState | None:
        """The current state of the device with torch's uuid; None if nothing answers.

        Fields that a device does not support are None.
        """
        library = self._open()
        handle = self._handle(library, uuid) if library is not None and uuid else None
        if handle is None:
            return None

        def ask(name: str, *arguments: Any) -> Any:
            function = getattr(library, name, None)
            return None if function is None else _asked(function, handle, *arguments)

        # Before 2023 the reasons for low clocks were called those for throttling.
        bits = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return DeviceState(
            when=when,
            sm_clock=ask("nvmlDeviceGetClockInfo", SM),
            memory_clock=ask("nvmlDeviceGetClockInfo", MEMORY),
            temperature=ask("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
            power=_over(ask("nvmlDeviceGetPowerUsage"), 1e3),
            power_limit=_over(ask("nvmlDeviceGetEnforcedPowerLimit"), 1e3),
            slowed=[name for bit, name in SLOWED.items() if bits and bits & bit],
            slowed_by_power=_violation(ask("nvmlDeviceGetViolationStatus", POWER)),
            slowed_by_heat=_violation(ask("nvmlDeviceGetViolationStatus", THERMAL)),
        )

    def _handle(self, library: Any, uuid: str) -> Any:
        if uuid not in self._handles:
            named = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            handle = _asked(library.nvmlDeviceGetHandleByUUID, named)
            if handle is None:
                # Older versions take bytes.
                handle = _asked(library.nvmlDeviceGetHandleByUUID, named.encode())
            self._handles[uuid] = handle
        return self._handles[uuid]


def _asked(function: Callable[..., Any], *arguments: Any) -> Any:
    """The library's answer; None if the device does not support the question."""
    with contextlib.suppress(Exception):
        return function(*arguments)
    return None


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _over(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _violation(status: Any) -> float | None:
    """Seconds since the driver was loaded."""
    return None if status is None else float(status.violationTime) * 1e-9
