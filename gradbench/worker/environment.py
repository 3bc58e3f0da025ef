"""The environment of a measuring process: torch, devices, and what else times depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from gradbench import __version__


def environment() -> dict[str, Any]:
    """The facts that times may depend on and only this process knows."""
    facts: dict[str, Any] = {
        "gradbench": __version__,
        "torch": str(torch.__version__),
        "torch_git": torch.version.git_version,
        "torch_cuda": torch.version.cuda,
        "cpu_capability": _cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "malloc": os.environ.get("LD_PRELOAD", ""),
        "interop_threads": torch.get_num_interop_threads(),
        "pid": os.getpid(),
        "devices": ["cpu"],
    }
    if torch.cuda.is_available():
        facts["devices"] += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        facts["device_names"] = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
        # A driver's tool may number devices differently than torch.
        facts["device_uuids"] = {
            f"cuda:{i}": str(getattr(torch.cuda.get_device_properties(i), "uuid", ""))
            for i in range(torch.cuda.device_count())
        }
    return facts


def _cpu_capability() -> str:
    """The widest instructions that torch uses, as `AVX2`."""
    if hasattr(torch.backends, "cpu"):
        return str(torch.backends.cpu.get_cpu_capability())
    # Before torch 2.1 only its description has it.
    _, _, told = torch.__config__.show().partition("CPU capability usage: ")
    return told.split("\n")[0].strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
