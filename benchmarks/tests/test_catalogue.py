"""`pytest benchmarks/`: a test per case, a group per comparison."""

from collections.abc import Callable


def test_mode(gradbench_case: Callable[[], None]) -> None:
    """The mode passes the gate, is timed, and passes the gate again."""
    gradbench_case()
