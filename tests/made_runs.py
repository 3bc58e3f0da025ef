"""Runs made up for tests of reports: known times, holes and odd names, and the page of a folder."""

import json
import re

import numpy as np

from gradbench.cli import cli
from gradbench.core.cases import Comparison, Entry
from gradbench.store import runs as log

NAME = "20260101-000000-00000{}"
OURS = {"cpu": "test", "usable_cores": 2, "memory": 8 << 30, "load": 0.1}


def entrant(mode, microseconds, rng, status="ok", reason="", takes=0.0, rounds=8):
    if status != "ok":
        return log.Entrant(mode, status, reason, takes=takes)
    times = 1e3 * microseconds * rng.lognormal(0, 0.004) * rng.lognormal(0, 0.003, rounds)
    samples = [[int(t)] for t in times]
    return log.Entrant(mode, "ok", number=1, samples=samples, error=0.1, ulps=0.5)


def stored(
    results,
    comparisons,
    number=0,
    sessions=5,
    finished=True,
    schema=1,
    machine=OURS,
    families=None,
    **identity,
):
    """A run: comparisons map a name to modes, those to µs, or to a status, a reason
    and perhaps the seconds that a call takes at least."""
    rng = np.random.default_rng(number)
    name = NAME.format(number)
    plan = [Entry(c, tuple(modes)) for c, modes in comparisons.items()]
    header = log.RunStarted(
        *(schema, name, "2026-01-01T00:00:00Z", {}, machine, plan),
        by_hand=["manual"],
        families=families or {},
    )
    facts = {"torch": "2.9.0+cpu", "cpu_capability": "AVX2", "python": "3.11", "numpy": "2.0"}
    with log.KIND.create(log.folder(results), header) as opened:
        opened.append(log.WorkerStarted(1, facts | {"gradbench": "0.1.0"} | identity, "now"))
        for session in range(sessions):
            for comparison, modes in comparisons.items():
                entrants = [
                    entrant(mode, 0, rng, *said)
                    if isinstance(said, tuple)
                    else entrant(mode, said, rng)
                    for mode, said in modes.items()
                ]
                order = [list(range(len(entrants)))] * 8
                opened.append(
                    log.SessionMeasured(
                        comparison, session, 1, "loop_grad", entrants, order, "rounds", 1, 2, 0.1
                    )
                )
        if finished:
            opened.append(log.RunEnded("2026-01-01T00:01:00Z", True, 60, 50))
    return opened.path


def jacobian(function="exp", size="documents", dtype="float32"):
    return Comparison("jacobian", function, size, dtype)


PLAIN = {
    jacobian(): {
        "forward": 2.0,
        "loop_grad": 100.0,
        "jacrev": 50.0,
        "jacfwd": 50.1,
        "vmapped": ("unsupported", "no such thing in torch"),
        "dying": ("crashed", "ended by SIGSEGV"),
    }
}


def page_of(results, *words):
    """The report of a folder, as its reader's browser gets it."""
    words = ["report", "--results", str(results), "--no-code", *words]
    cli.main(words, standalone_mode=False)
    return (results / "report" / "report.html").read_text(encoding="utf-8")


def data_of(page):
    """The page's block of data."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def without_data(page):
    """The page as a reader without scripts has it."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def rows_of(page):
    """The page's cases, unpacked as its script does."""
    import pandas as pd

    packed = data_of(page)["rows"]
    return pd.DataFrame(
        {
            name: c if isinstance(c, list) else [c["texts"][i] for i in c["at"]]
            for name, c in packed.items()
        }
    )
