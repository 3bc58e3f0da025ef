"""A few faults of each kind of the campaign: 'make faults' tries them by the hundred."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "campaign"))
import hostile
import kills
import mutations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tried", "number"),
    [
        (kills.driver_killed, 1),
        (kills.driver_stopped, 1),
        (kills.worker_killed, 1),
        (mutations.logs, 15),
        (mutations.tracks, 8),
        (mutations.caches, 6),
        (mutations.odd_files, 6),
        (hostile.modes, 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_faults_are_held(tried, number, tmp_path, monkeypatch):
    # Some kinds set these for the commands that they start.
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The machine of the tests may be as busy as it likes: the campaign itself compares times.
    monkeypatch.setattr(hostile, "BESIDE", math.inf)
    lost = [outcome for outcome in tried(number, 0, tmp_path) if outcome]
    assert lost == []
