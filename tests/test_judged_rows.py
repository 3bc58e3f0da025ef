"""The judged rows of stored runs, number by number: a faster way must not be another answer."""

import json
import math
from pathlib import Path

import msgspec
import pytest

from gradbench.analysis.runs import judge_run
from gradbench.store import runs as log

HERE = Path(__file__).parent
RUNS = HERE.parent / "results/runs"
GOLDEN = HERE / "judged_rows.json"
NUMBERS = ("seconds", "seconds_low", "seconds_high", "of_bandwidth", "of_rate")
RATIOS = ("to_fastest", "to_forward", "to_manual", "to_baseline")


def told(path: Path, **parameters) -> list[list]:
    """A list for each row: what is said, and every number."""
    rows = []
    for row in judge_run(log.read(path), **parameters).rows:
        ratios = [getattr(row, name) for name in RATIOS]
        numbers = [getattr(row, name) for name in NUMBERS]
        numbers += [n for r in ratios for n in ((r.value, r.low, r.high) if r else (None,) * 3)]
        said = [row.comparison, row.mode, row.status, row.verdict, row.sessions, row.rounds]
        rows.append([*said, row.voided, *numbers, *row.groups])
    return rows


def stored(run):
    """The log of a run, compressed or not."""
    (path,) = RUNS.glob(f"{run}.jsonl*")
    return path


CASES = {
    f"{run} {json.dumps(parameters)}": (run, parameters)
    for run in ("20261125-063236-ebd80c", "20261125-063256-40ed19")
    for parameters in ({}, {"floor": 0.05, "confidence": 0.99, "method": "holm"})
}


@pytest.mark.parametrize("name", CASES)
def test_the_rows_of_a_stored_run_are_what_they_were(name):
    run, parameters = CASES[name]
    before = json.loads(GOLDEN.read_text())[name]
    now = told(stored(run), **parameters)
    assert len(now) == len(before)
    for new, old in zip(now, before):
        assert len(new) == len(old)
        for a, b in zip(new, old):
            if isinstance(b, float):
                assert math.isclose(a, b, rel_tol=1e-12, abs_tol=0), (new[:4], a, b)
            else:
                assert a == b, new[:4]


def test_a_run_read_without_its_samples_is_judged_the_same():
    path = stored("20261125-063256-40ed19")
    whole, condensed = (judge_run(log.read(path, condensed=c)) for c in (False, True))
    assert msgspec.json.encode(whole, enc_hook=str) == msgspec.json.encode(condensed, enc_hook=str)


if __name__ == "__main__":  # Writes the file anew: only where other numbers are meant.
    found = {name: told(stored(run), **p) for name, (run, p) in CASES.items()}
    lines = (
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "]"
        for name, rows in found.items()
    )
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")
