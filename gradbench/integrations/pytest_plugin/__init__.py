"""The pytest plugin: the fixture `gradbench`, its options, its section. See docs/pytest.md.

pytest imports this file in every run on the machine, so it imports nothing else before it has to.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from gradbench.integrations.pytest_plugin.fixture import Bench
    from gradbench.integrations.pytest_plugin.room import Room

UNDECIDED = ("skip", "warn", "fail")
FAIL_ON = ("slower", "faster", "any")

INI = (
    ("gradbench_budget", "seconds that timing one test may take (default 30)"),
    ("gradbench_undecided", "what a claim that is too close to call does: skip, warn or fail"),
    ("gradbench_results", "results folder (default: results)"),
)

MARKER = (
    "gradbench(budget, threads, modes, wrt, dtype, definition, undecided, timeout, memory_limit, "
    "seed): options of the gradbench fixture in this test"
)


class GradbenchWarning(UserWarning):
    """A claim about times that was too close to call."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    # pytest rewrites the assertions of a package with a plugin, all modules of it: that takes
    # seconds the first time, and gradbench's assertions are not those of the tests.
    hook = getattr(pluginmanager, "rewrite_hook", None)
    getattr(hook, "_must_rewrite", set()).discard("gradbench")
    group = parser.getgroup("gradbench", "derivatives, checked and timed")
    group.addoption(
        "--gradbench",
        action="store_true",
        help="Time the derivatives that tests check with the gradbench fixture.",
    )
    group.addoption(
        "--gradbench-budget",
        type=_seconds,
        metavar="SECONDS",
        help="Seconds that timing one test may take (default 30).",
    )
    group.addoption(
        "--gradbench-undecided",
        choices=UNDECIDED,
        help="What a test does whose claim is too close to call (default skip).",
    )
    group.addoption(
        "--gradbench-results",
        type=_named,
        metavar="FOLDER",
        help="Results folder (default: GRADBENCH_RESULTS, or results).",
    )
    group.addoption(
        "--gradbench-save",
        action="store_true",
        help="Time, and store the times as a run.",
    )
    group.addoption(
        "--gradbench-compare",
        type=_named,
        metavar="REF",
        help="Time, and compare with a stored run: its name, the beginning of one, or latest.",
    )
    group.addoption(
        "--gradbench-fail-on",
        choices=FAIL_ON,
        help="Fail if a derivative is slower, or faster, than in the run compared with.",
    )
    for name, said in INI:
        parser.addini(name, said)


def _seconds(text: str) -> float:
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _named(text: str) -> str:
    """As it is, unless it is empty, as a variable of the shell that is not set is."""
    import argparse

    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    given = config.getoption
    if given("--gradbench-fail-on") and not given("--gradbench-compare"):
        raise pytest.UsageError("--gradbench-fail-on needs a run: add --gradbench-compare REF")
    timing = map(given, ("--gradbench", "--gradbench-save", "--gradbench-compare"))
    if any(timing) or any(config.getini(name) for name, _ in INI):
        # What is wrong with an option, or in the ini-file, is said before the first test.
        _room(config)


ROOM = pytest.StashKey["Room"]()


def _room(config: pytest.Config) -> Room:
    """What the tests of this session share."""
    if ROOM not in config.stash:
        from gradbench.integrations.pytest_plugin.room import Room

        config.stash[ROOM] = Room(config)
    return config.stash[ROOM]


@pytest.fixture
def gradbench(request: pytest.FixtureRequest) -> Generator[Bench, None, None]:
    """Checks your derivative of a function and, with --gradbench, times it against the others:
    gradbench(f, x).jacobian(my_jacobian)."""
    from gradbench.integrations.pytest_plugin.fixture import Bench

    bench = Bench(request, _room(request.config))
    request.node.stash[BENCH] = bench
    yield bench
    bench.end()


BENCH = pytest.StashKey["Bench"]()


def pytest_itemcollected(item: pytest.Item) -> None:
    # So that -m gradbench selects the tests with the fixture.
    if "gradbench" in getattr(item, "fixturenames", ()):
        item.add_marker("gradbench")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    room = item.config.stash.get(ROOM, None)
    if room is None or room.turns is None:
        return (yield)
    with room.turns.taken():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    bench = item.stash.get(BENCH, None)
    if bench is not None:
        # After the test's last line: a claim that fails counts for more than one that is open.
        bench.settle()
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist, before it starts a worker."""
    if ROOM in node.config.stash:
        node.workerinput["gradbench_place"] = str(node.config.stash[ROOM].place)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    room = session.config.stash.get(ROOM, None)
    if room is not None and room.end() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    room = config.stash.get(ROOM, None)
    if room is not None:
        room.show(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    room = config.stash.get(ROOM, None)
    if room is not None:
        room.close()
