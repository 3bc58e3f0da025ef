"""Modes for the instruments: one with twice the work of another, and some that fail."""

import os
import signal
import time

from gradbench.core.instruments import CALLGRIND_LOG
from gradbench.problems import registry

COUNTED = CALLGRIND_LOG in os.environ
"""Whether this process runs under Callgrind."""


def analytic(problem):
    return problem.function.derivatives["jacobian"]


@registry.mode("jacobian")
def once(problem):
    """The analytic derivative"""
    derivative = analytic(problem)

    def call(inputs):
        for _ in range(20):
            found = derivative(*inputs)
        return found

    return call


@registry.mode("jacobian")
def twice(problem):
    """The same with twice the work"""
    derivative = analytic(problem)

    def call(inputs):
        for _ in range(40):
            found = derivative(*inputs)
        return found

    return call


@registry.mode("jacobian")
def doubled(problem):
    """Not the derivative"""
    return lambda inputs: 2 * analytic(problem)(*inputs)


@registry.mode("jacobian")
def dies_when_counted(problem):
    """Dies under Callgrind"""

    def call(inputs):
        if COUNTED:
            os.kill(os.getpid(), signal.SIGSEGV)
        return analytic(problem)(*inputs)

    return call


@registry.mode("jacobian")
def raises_when_counted(problem):
    """Raises under Callgrind"""

    def call(inputs):
        if COUNTED:
            raise ArithmeticError("not [here]")
        return analytic(problem)(*inputs)

    return call


@registry.mode("jacobian")
def slow(problem):
    """Takes long"""

    def call(inputs):
        time.sleep(0.12)
        return analytic(problem)(*inputs)

    return call
