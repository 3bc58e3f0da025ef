"""Fault injection into whole commands.

    python tests/campaign --seed 0            # the full campaign, 'make faults'
    python tests/campaign --tries 3 mutated-log driver-killed

Prints one row per kind with the numbers of faults tried, passed and failed, then each failure with
the seed that reproduces it. Exits with 1 if a fault failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import kills
import mutations

Kind = Callable[[int, int, Path], Iterator[str]]
"""Takes the number of faults, a seed and a scratch folder; yields a line for each fault, empty if
it passed, else what was lost."""

KINDS: dict[str, tuple[str, Kind, int]] = {
    "driver-killed": ("the driver is killed (SIGKILL), then resumed", kills.driver_killed, 100),
    "driver-stopped": ("SIGTERM, SIGHUP or SIGINT, then resumed", kills.driver_stopped, 30),
    "worker-killed": ("a worker is killed during a run", kills.worker_killed, 100),
    "mutated-log": ("bytes and lines of a run's log changed", mutations.logs, 350),
    "mutated-track": ("bytes and lines of a track changed", mutations.tracks, 150),
    "mutated-cache": ("bytes of the cache of verdicts changed", mutations.caches, 150),
    "odd-file": ("a file that is not a log lies beside the logs", mutations.odd_files, 20),
    "hostile-mode": ("a mode that disturbs its process", hostile.modes, 90),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, help="number of faults of each kind")
    options = parser.parse_args()
    unknown = [kind for kind in options.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    chosen = {kind: KINDS[kind] for kind in options.kinds or KINDS}
    rows, lost = [], []
    for kind, (summary, tried, number) in chosen.items():
        began = time.monotonic()
        outcomes = []
        with tempfile.TemporaryDirectory(prefix="gradbench-") as place:
            for outcome in tried(options.tries or number, options.seed, Path(place)):
                outcomes.append(outcome)
                if outcome:
                    lost.append(f"{kind}, fault {len(outcomes)} of seed {options.seed}: {outcome}")
                    print(lost[-1], file=sys.stderr, flush=True)
                _progress(kind, len(outcomes), options.tries or number, began)
        failed = sum(map(bool, outcomes))
        rows.append((kind, summary, len(outcomes), len(outcomes) - failed, failed))
    print("| kind | fault | tried | passed | failed |")
    print("| --- | --- | ---: | ---: | ---: |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    for line in lost:
        print(f"\n{line}")
    return 1 if lost else 0


def _progress(kind: str, done: int, total: int, began: float) -> None:
    each = (time.monotonic() - began) / done
    left = max(total - done, 0) * each
    print(f"\r{kind}: {done} of {total}, about {left:.0f} s left   ", end="", file=sys.stderr)
    if done >= total:
        print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
