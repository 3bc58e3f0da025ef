"""Modes that forge answers of the worker, end it, or cut it off from its driver.

Their results are right; the driver must report them as crashed, failed or timed out.
"""

import contextlib
import ctypes
import os
import signal
import sys

from gradbench.problems import registry


def _right(problem):
    formula = problem.function.derivatives["vjp"]
    return lambda inputs, seed: formula(seed, *inputs)


def _doing(deed, after=0, until=1_000_000):
    """A builder of a mode that runs `deed` in its calls from number `after` + 1 to `until`."""

    def builder(problem):
        right = _right(problem)
        calls = 0

        def call(inputs, seed):
            nonlocal calls
            calls += 1
            if after < calls <= until:
                deed()
            return right(inputs, seed)

        return call

    return builder


def _mode(name, deed, after=0, until=1_000_000):
    builder = _doing(deed, after, until)
    builder.__name__ = name
    builder.__doc__ = name.replace("_", " ")
    registry.mode("vjp")(builder)


def write_on_all(text):
    for descriptor in range(3, 1024):
        with contextlib.suppress(OSError):
            os.write(descriptor, text)


def write_endlessly():
    for descriptor in range(3, 1024):
        with contextlib.suppress(OSError):
            for _ in range(100):
                os.write(descriptor, b"x" * 1_000_000)


def answer_twice():
    wire = sys.modules["__main__"].wire
    once = type(wire).answer

    def twice(answer):
        once(wire, answer)
        once(wire, answer)

    wire.answer = twice


def end_quietly():
    raise SystemExit


# At most 64 processes, should nobody notice.
_mode("forks", os.fork, 0, 6)
_mode("forks_by_the_c_library", lambda: ctypes.CDLL(None).fork(), 0, 6)
_mode("writes_on_all_descriptors", lambda: write_on_all(b"\x1b[31m\n"))
_mode("forges_an_answer", lambda: write_on_all(b'{"id": "1", "ok": true, "status": "ok"}\n'))
_mode("writes_an_endless_line", write_endlessly)
_mode("answers_twice", answer_twice)
_mode("closes_all_descriptors", lambda: os.closerange(3, 4096))
_mode("exits", lambda: os._exit(0))
_mode("exits_when_timed", lambda: os._exit(0), 40)
_mode("raises_system_exit", end_quietly)
_mode("kills_its_group", lambda: os.killpg(0, signal.SIGTERM), 40)
_mode("stops_itself", lambda: os.kill(os.getpid(), signal.SIGSTOP))


@registry.mode("vjp")
def raises_what_no_encoding_has(problem):
    """raises with a file name that is not UTF-8"""

    def call(inputs, seed):
        raise RuntimeError("cannot read " + os.fsdecode(b"caf\xe9"))

    return call


class _Unspeakable(Exception):
    def __str__(self):
        raise ValueError("nothing to say")


@registry.mode("vjp")
def raises_what_cannot_be_shown(problem):
    """raises an error whose __str__ raises"""

    def call(inputs, seed):
        raise _Unspeakable

    return call


@registry.mode("vjp")
def raises_at_length(problem):
    """raises with a message of a hundred million characters"""

    def call(inputs, seed):
        raise RuntimeError("x" * 100_000_000)

    return call
