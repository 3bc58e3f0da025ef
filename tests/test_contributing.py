"""CONTRIBUTING's examples, moved into the package, pass the tests of functions and modes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PICKED_UP = "log_sum_exp or detached_grad or there_is_code or modes_in_order or pasted and loss"
"""The tests that pick a new function or mode up, by parts of their names."""


@pytest.mark.started
def test_the_examples_pass_all_tests_without_a_change_to_another_file(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples = dict(re.findall(r"`(\w+\.py)`[^`]*```python.*?\n(.*?)```", page, re.DOTALL))
    for folder in ("gradbench", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, folder in (("log_sum_exp.py", "problems/catalogue"), ("detached_grad.py", "modes")):
        (tmp_path / "gradbench" / folder / name).write_text(examples[name], encoding="utf-8")
    tests = [f"tests/test_{name}.py" for name in ("catalogue", "modes", "paste")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests, "-k", PICKED_UP],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert ran.stdout.count("log_sum_exp") > 5
    assert ran.stdout.count("detached_grad") > 5
