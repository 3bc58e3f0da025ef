"""What every test has in common: a cache folder that is not the user's."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_folder_of_the_tests(tmp_path_factory):
    """Of this process and all that it starts."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before
