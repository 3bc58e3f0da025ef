"""What pyperf runs: `Runner.bench_func` on one arm, with its own defaults."""

from __future__ import annotations

import pyperf

from gradbench.studies.peers import subject

if __name__ == "__main__":
    runner = pyperf.Runner()
    runner.parse_args()
    if runner.args.worker:
        subjects, asked = subject.from_environment()
        runner.bench_func("arm", subjects.make(asked["turns"][0]))
    else:
        # The process that only starts the others need not import torch.
        runner.bench_func("arm", lambda: None)
