"""What the package declares is right, by gradbench's own check."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("what", [["-f", "soft_clip"], ["-m", "ones_pullback"]])
def test_every_result_is_right(what):
    verify = [sys.executable, "-m", "gradbench", "verify", *what]
    ran = subprocess.run(verify, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 wrong" in ran.stdout
