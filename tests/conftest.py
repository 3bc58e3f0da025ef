"""What every test has in common: a cache folder that is not the user's, and how many examples
property tests try.

`HYPOTHESIS_PROFILE=nightly` tries thousands. Nothing is kept between runs; a failure prints the
example, and `@reproduce_failure` repeats it.
"""

import os
from typing import Any

import pytest
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


@pytest.fixture(scope="session", autouse=True)
def _cache_folder_of_the_tests(tmp_path_factory):
    """Of this process and all that it starts."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before
