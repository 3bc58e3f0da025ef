"""Instructions of one call, counted by Callgrind, in a process that serves many cases.

A count hardly depends on what else the machine does, so it tells a change of a fraction of a
per cent where times cannot. It is no time: an instruction costs more in one mode than in another,
and Valgrind's processor has no AVX-512. Compare counts of the same mode, not of two modes.
"""

from __future__ import annotations

import platform
import shutil
import statistics
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from gradbench.worker.instruments.callgrind import LOG_FOLDER, Callgrind
from gradbench.worker.instruments.instrument import Instrument, Launch, Unreadable

if TYPE_CHECKING:
    from gradbench.worker.gate import Contestant

SLOWER = 200
"""How many times longer a call takes under Callgrind, roughly: 100 to 250 were seen."""

LONGEST = 40.0
"""Seconds under Callgrind beyond which a case is refused, by estimate."""

FEWEST_CALLS = 2
"""Every case takes so many calls at least: a cold one and a counted one."""

CALLS = 11
"""Counted calls, as long as they are short."""

WARM = 5
"""Calls before those: CPython rewrites code that has run a few times."""

ENOUGH = 20_000_000
"""Instructions that all counted calls together need not exceed."""


class Instructions(Instrument):
    name = "instructions"
    unit = "instructions"
    summary = "instructions of a call, counted by Callgrind"
    own_process = True

    def __init__(self) -> None:
        self._counter: Callgrind | None = None

    def unavailable(self) -> str | None:
        here = f"{platform.system()} {platform.machine()}"
        if here != "Linux x86_64":
            return f"instructions are counted on Linux x86_64 alone, and this is {here}"
        if shutil.which("valgrind") is None:
            return "valgrind is not installed: apt-get install valgrind (or your system's package)"
        return None

    def launch(self, scratch: Path) -> Launch:
        return Launch(
            prefix=(
                shutil.which("valgrind") or "valgrind",
                "--tool=callgrind",
                "--instr-atstart=no",
                "--callgrind-out-file=/dev/null",
                f"--log-file={scratch}/%p",
                "--vgdb=no",
            ),
            # A hash seed moves a count by as much as a small change of the code does.
            environment={LOG_FOLDER: str(scratch), "PYTHONHASHSEED": "0"},
        )

    def refusal(self, call: int, compiles: bool) -> str | None:
        if compiles:
            return "compiling takes minutes under Callgrind"
        seconds = call * 1e-9 * SLOWER * FEWEST_CALLS
        if seconds <= LONGEST:
            return None
        return (
            f"{FEWEST_CALLS} calls of {call * 1e-6:.0f} ms would take about {seconds:.0f} s "
            f"under Callgrind, more than {LONGEST:.0f} s"
        )

    def read(self, contestant: Contestant, call: int) -> list[float]:
        import torch

        if contestant.gate.problem.device.type != "cpu":
            raise Unreadable("unsupported", "instructions of the processor alone are counted")
        if torch.get_num_threads() > 1:
            raise Unreadable("unsupported", "threads that wait spin, and do not repeat")
        if self._counter is None:
            self._counter = Callgrind()
        return [count(contestant, self._counter)]


def count(contestant: Contestant, counter: Callgrind) -> float:
    """Instructions per call: the median of single calls, each less what marking it costs.

    Single calls, since now and then one pays for a table that grows or a heap that is tidied up.
    """
    call, arguments = contestant.call, contestant.arguments
    first = counter.count(call, arguments, 1)
    number = max(1, min(CALLS, ENOUGH // first))
    for _ in repeat(None, WARM if number > 1 else 0):
        call(*arguments)
    counts = [counter.count(call, arguments, 1) for _ in repeat(None, number)]
    return statistics.median(counts) - counter.count(call, arguments, 0)
