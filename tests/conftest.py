"""What every test has in common: a cache folder that is not the user's, processes that are forked,
and how many examples property tests try.

`HYPOTHESIS_PROFILE=nightly` tries thousands. Nothing is kept between runs; a failure prints the
example, and `@reproduce_failure` repeats it.
"""

import os
import signal
import subprocess
from typing import Any

import pytest
import warm
from hypothesis import HealthCheck, settings

# A machine that measures is no place for limits on the time of an example.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("default", max_examples=40, derandomize=True, **_COMMON)
settings.register_profile("nightly", max_examples=4000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C in what it runs in the background, and all that it starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _everywhere(tmp_path_factory):
    """A cache folder of the tests' own, and forked processes (see warm.py)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
            # pytest-benchmark does not measure in a process that it takes for one of several.
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(warm, "written", f"{tmp_path_factory.getbasetemp()}{os.sep}")
        patch.setattr(subprocess, "Popen", warm.Popen)
        yield


@pytest.fixture(autouse=True)
def _started(request, monkeypatch):
    """Started processes, in tests that are marked so because they are about processes."""
    if request.node.get_closest_marker("started"):
        monkeypatch.setattr(subprocess, "Popen", warm.STARTED)


@pytest.fixture
def few_rounds(monkeypatch):
    """Advice that ends after a few rounds on any machine, however large its budget."""
    monkeypatch.setattr("gradbench.advise.advice.SESSIONS", 2)
    monkeypatch.setattr("gradbench.advise.advice.ROUNDS", 8)
