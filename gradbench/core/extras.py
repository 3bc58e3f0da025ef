"""The packages that a plain installation lacks, by the extra that brings each."""

from __future__ import annotations

import importlib.util
import sys

DISTRIBUTION = "torch-gradbench"
"""What pip installs; it is imported as `gradbench`."""

EXTRAS = {
    "matplotlib": "report",
    "asv": "asv",
    "asv_runner": "asv",
    "pytest": "pytest",
    "pytest_benchmark": "pytest",
    "pyarrow": "parquet",
    "pyperf": "studies",
    "dask": "fleet",
    "distributed": "fleet",
}


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message says which, and what to type."""


def installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def require(what: str, *modules: str) -> None:
    """Raises MissingExtra where one of the modules is not installed. `what` needs them."""
    missing = [name for name in modules if not installed(name)]
    if missing:
        raise MissingExtra(told(what, missing[0]), name=missing[0])


def told(what: str, module: str) -> str:
    """One line about a module of an extra that is not installed, and that `what` needs."""
    package = module.replace("_", "-")
    return (
        f"{what} needs {package}, which is not installed: "
        f"pip install '{DISTRIBUTION}[{EXTRAS[module]}]'"
    )


def missing(error: BaseException) -> str:
    """The module of an extra that could not be imported, if that is the error; else empty."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    top = (name or "").partition(".")[0]
    return top if top in EXTRAS else ""
