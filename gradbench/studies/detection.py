"""What it costs to look for interference: `python -m gradbench.studies.detection`.

Prints the instructions of a visit with and without it, as Callgrind counts them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from gradbench.runner import callgrind
from gradbench.runner.wire import process_environment


def counts() -> dict[str, float]:
    """Instructions of a visit, `with` and `without`. Raises OSError where Valgrind is missing."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        done = subprocess.run(
            [*callgrind.prefix(scratch), sys.executable, "-m", "gradbench.worker.detection"],
            env={**process_environment(sys.executable), **callgrind.environment(scratch)},
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    found = counts()
    more = found["with"] - found["without"]
    print(
        f"instructions of a visit: {found['without']:,.0f} without looking for interference, "
        f"{found['with']:,.0f} with it: {more:,.0f} or {more / found['without']:.2%} more"
    )


if __name__ == "__main__":
    main()
