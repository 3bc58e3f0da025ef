"""What pytest-benchmark runs: its `benchmark` fixture on each arm, with its own defaults."""

from __future__ import annotations

from typing import Any

import pytest

from gradbench.studies.peers import subject

subjects, asked = subject.from_environment()


@pytest.mark.parametrize("arm", range(len(asked["turns"])))
def test_arm(benchmark: Any, arm: int) -> None:
    benchmark(subjects.make(*subject.arms(asked)[arm]))
