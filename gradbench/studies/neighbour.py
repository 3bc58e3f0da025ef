"""Background load: a process that works in bursts, on the worker's core or on another.

Run as a program it works until its standard input closes, so it ends with the process that started
it, however that ends.
"""

from __future__ import annotations

import contextlib
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import psutil

from gradbench.runner.machine import usable_cores

Where = Literal["none", "other", "same", "both"]

MEMORY = 16 << 20

LOAD = """
import select, sys
while not select.select([sys.stdin], [], [], 0)[0]:
    sum(range(10**5))
"""
"""Works until its standard input closes, so it ends with the process that started it."""


class NoPinning(Exception):
    """This system cannot tie a process to a core, or has too few of them."""


def pin(pid: int, core: int) -> None:
    """Ties a process to one core. Raises NoPinning where the system cannot."""
    try:
        psutil.Process(pid).cpu_affinity([core])
    except (AttributeError, psutil.Error, OSError, ValueError) as error:
        raise NoPinning(
            "this system cannot tie a process to a core, which --neighbour needs: "
            "leave the option out"
        ) from error


def places(where: Where) -> tuple[int | None, list[int]]:
    """The worker's core (None: any) and the cores of the load. Raises NoPinning."""
    if where == "none":
        return None, []
    cores = usable_cores()
    if where != "same" and len(cores) < 2:
        raise NoPinning(f"--neighbour {where} needs two cores, and there is one")
    mine = cores[0]
    other = cores[-1]
    return mine, {"other": [other], "same": [mine], "both": [mine, other]}[where]


@contextlib.contextmanager
def beside(commands: Iterable[Sequence[str]]) -> Iterator[list[int]]:
    """Runs Python with each of these arguments, and yields the process ids. They are killed at
    the end; a program that reads its standard input also sees it close if this process dies."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # Ctrl-C is the driver's to handle.
                    start_new_session=True,
                )
            )
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


@contextlib.contextmanager
def neighbours(cores: Sequence[int], seed: int = 0) -> Iterator[list[int]]:
    """Runs a load on each core, and yields their process ids."""
    with beside(("-m", "gradbench.studies.neighbour", str(seed + core)) for core in cores) as pids:
        for pid, core in zip(pids, cores):
            pin(pid, core)
        yield pids


def load(number: int) -> contextlib.AbstractContextManager[list[int]]:
    """Runs so many busy processes, and yields their process ids."""
    return beside([("-c", LOAD)] * number)


def burst(seed: int) -> None:
    """Works and rests in turns of 5 to 150 ms, until standard input closes."""
    chance = random.Random(seed)
    memory = bytearray(MEMORY)
    view = memoryview(memory)
    half = MEMORY // 2
    while True:
        until = time.perf_counter() + chance.uniform(0.005, 0.15)
        heavy = chance.random() < 0.5
        while time.perf_counter() < until:
            if heavy:
                view[:half] = view[half:]
            else:
                sum(range(2000))
        if select.select([sys.stdin], [], [], chance.uniform(0.005, 0.15))[0]:
            return


if __name__ == "__main__":
    burst(int(sys.argv[1]))
