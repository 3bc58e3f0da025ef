"""A few faults of each kind of the campaign: 'make faults' tries them by the hundred."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "campaign"))
import hostile
import kills
import mutations


@pytest.mark.parametrize(
    ("tried", "number"),
    [
        (kills.driver_killed, 2),
        (kills.driver_stopped, 2),
        (kills.worker_killed, 2),
        (mutations.logs, 15),
        (mutations.tracks, 8),
        (mutations.caches, 6),
        (mutations.odd_files, 6),
        (hostile.modes, 2),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_faults_are_held(tried, number, tmp_path, monkeypatch):
    # Some kinds set these for the commands that they start.
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lost = [outcome for outcome in tried(number, 0, tmp_path) if outcome]
    assert lost == []
