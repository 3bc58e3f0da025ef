"""Modes for the releases: the environment sets the pace of one; others fail."""

import os
import time

from gradbench.problems import registry

PACE = float(os.environ.get("TEST_PACE", "1"))
LACKS = "TEST_LACKS" in os.environ
DIES = "TEST_DIES" in os.environ


def analytic(problem):
    return problem.function.derivatives["jacobian"]


@registry.mode("jacobian")
def paced(problem):
    """The analytic derivative and a wait"""
    derivative = analytic(problem)
    wait = int(100_000 * PACE)

    def call(inputs):
        end = time.perf_counter_ns() + wait
        found = derivative(*inputs)
        while time.perf_counter_ns() < end:
            pass
        return found

    return call


@registry.mode("jacobian")
def lacking(problem):
    """Unsupported in some environments"""
    if LACKS:
        from gradbench.problems.mode import Unsupported

        raise Unsupported("this build has no such thing")
    return lambda inputs: analytic(problem)(*inputs)


@registry.mode("jacobian")
def dying(problem):
    """Ends its process in some environments"""

    def call(inputs):
        if DIES:
            os._exit(3)
        return analytic(problem)(*inputs)

    return call
