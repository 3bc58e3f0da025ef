"""Committed logs open in every later version, and say what they said when they were written.

The runs have a test of their own (test_judged_rows.py); here are tracks and studies. Columns may be
renamed and sentences rewritten: numbers, names and verdicts may not change. To write the expected
values anew: `python tests/test_stored_logs.py`.
"""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
EXPECTED = HERE / "stored_logs.json"
COMMANDS = {
    "track": "releases show -f exp --all",
    "track, for a gate": "releases show -f affine --method holm --floor 0.05",
    "study aa": "study report aa-20261127-065313-5e2778",
    "study of a gate": "study report releases-20261127-003618-c23eaa",
    "study power": "study report power-20261126-230835-628ae0",
    "study load": "study report load-20261126-231745-a84710",
    "study coverage": "study report coverage-20261127-030624-3022ff",
    "study of other tools": "study report peers-20261127-021213-136fcd",
}


def cells(name: str) -> list[list[float | str]]:
    """What a command says of the committed logs: a list a row, without columns' names and prose."""
    from gradbench.cli import cli

    kind = "csv" if name.startswith("track") else "json"
    command = [*COMMANDS[name].split(), "--results", str(RESULTS), "--format", kind]
    answer = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert answer.exit_code == 0, answer.stderr
    if kind == "csv":
        rows = list(csv.reader(io.StringIO(answer.stdout)))[1:]
    else:
        rows = [row.values() for table in documents(answer.stdout) for row in table]
    return [[number(cell) for cell in row if " " not in str(cell)] for row in rows]


def documents(text: str) -> list[list[dict]]:
    """The JSON documents that stand one after the other in `text`."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def number(cell: object) -> float | str:
    try:
        return float(str(cell))
    except ValueError:
        return str(cell)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stored_log_says_what_it_said(name):
    expected = json.loads(EXPECTED.read_text())[name]
    rows = cells(name)
    assert len(rows) == len(expected)
    for row, before in zip(rows, expected):
        assert len(row) == len(before)
        for cell, value in zip(row, before):
            if isinstance(value, float) and isinstance(cell, float):
                assert math.isclose(cell, value, rel_tol=1e-5, abs_tol=1e-12), (row, before)
            else:
                assert cell == value, (row, before)


if __name__ == "__main__":
    rows = {name: cells(name) for name in COMMANDS}
    EXPECTED.write_text(json.dumps(rows, indent=0).replace(",\n", ", ") + "\n")
