"""Tables in terminals of any width: nothing is broken, numbers stay whole, and the most important
columns stay."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import gradbench
from rich.cells import cell_len

from gradbench.cli import layout, output, rendering
from gradbench.cli.rendering import Answer, Column, Styled, Table, Terminal

RESULTS = Path(__file__).parent.parent / "results"
RUN = "20261122-052809"
STUDIES = [  # The newest of each of these kinds.
    max(path.name.partition(".")[0] for path in (RESULTS / "studies").glob(f"{kind}-*"))
    for kind in ("gate", "peers", "power")
]


def shown(capsys, monkeypatch, answer, width):
    monkeypatch.setenv("COLUMNS", str(width))
    Terminal().write(answer)
    return capsys.readouterr().out.splitlines()


def columns(*given):
    return [
        Column(heading, lambda row, place=place: row[place], **how)
        for place, (heading, how) in enumerate(given)
    ]


WIDE = Table(
    columns(
        ("function", {}),
        ("fastest", {}),
        ("time", {"right": True}),
        ("× by hand", {"right": True, "rank": 2}),
        ("× forward", {"right": True, "rank": 1}),
        ("note", {"prose": True}),
    ),
    [
        ("exp", "functional_jacobian_vectorized", "12.3 µs", "11.1 ±1.7%", "26.1 ±8.3%", ""),
        (
            "polynomial_map_in_place",
            "functional_jacobian_forward",
            "1.2 ms",
            "8.35 ±2.9%",
            "7.34 ±4.2%",
            "sessions disagree: 1.40×, 1.64×",
        ),
    ],
    "jacobian",
)


def test_where_all_fits_nothing_is_cut(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, Answer(details=[WIDE]), 200)
    whole = "\n".join(lines)
    for row in WIDE.rows:
        assert all(cell in whole for cell in row)
    assert len(lines) == 1 + 2 + len(WIDE.rows) + 1
    assert "No room" not in whole


def test_the_least_important_columns_go_first(capsys, monkeypatch):
    def headings(width):
        lines = shown(capsys, monkeypatch, Answer(details=[WIDE]), width)
        return "\n".join(lines[1 : next(n for n, line in enumerate(lines) if line[:1] == "─")])

    assert "hand" in headings(120)
    assert "hand" not in headings(88)
    assert "forward" in headings(88)
    assert "forward" not in headings(76)
    for width in (120, 88, 76, 60):
        assert {"function", "fastest", "time"} <= set(headings(width).split())


def test_what_has_no_room_is_named(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, Answer(details=[WIDE]), 76)
    said = " ".join(lines[lines.index("") :])
    assert "No room in 76 columns for: × by hand, × forward" in said


def test_names_lose_their_middle_and_numbers_nothing(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, Answer(details=[WIDE]), 64)
    whole = "\n".join(lines)
    assert "12.3 µs" in whole
    assert "1.2 ms" in whole
    assert re.search(r"func\w*…\w*ized", whole)
    assert re.search(r"func\w*…\w*ard", whole)


def test_sentences_go_on_below_between_words(capsys, monkeypatch):
    reason = "RuntimeError: torch.func transforms do not support saved tensor hooks yet"
    table = Table(columns(("mode", {}), ("reason", {"prose": True})), [("func_grad", reason)])
    lines = shown(capsys, monkeypatch, Answer(details=[table]), 40)
    words = " ".join(lines[2:]).replace("func_grad", "", 1).split()
    assert words == reason.split()
    assert max(map(len, lines)) <= 40


def test_intervals_and_shares_are_not_broken():
    assert layout.words("rate [95 %]") == ["rate", "[95 %]"]
    text = "detects 2 % at [0.9, 1.1] (got [1, 4]) of size [4])"
    assert " ".join(layout.words(text)) == text
    assert layout.folded("detects 2 %", 9) == ["detects", "2 %"]


def test_a_path_in_a_sentence_stays_whole(capsys, monkeypatch):
    path = "/a/path/that/is/much/longer/than/the/terminal/is/wide/run.jsonl"
    lines = shown(capsys, monkeypatch, Answer(summary=[f"Stored in {path}"]), 40)
    assert lines == ["Stored in", path]


def test_styles_colour_the_text_alone(monkeypatch):
    import io

    from rich.console import Console

    table = Table(
        columns(("mode", {}), ("time", {"right": True})),
        [(Styled("grad", "bold green"), Styled("1 µs", "red")), ("backward", "20 µs")],
    )
    lines, _ = rendering._table_lines(table, 80)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(rendering._Lines(lines), end="")
    written = console.file.getvalue()
    assert "\x1b[1;32mgrad\x1b[0m" in written
    assert "\x1b[31m1 µs\x1b[0m" in written


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=60)
CELLS = st.one_of(NAMES, st.lists(NAMES, max_size=12).map(" ".join))


@st.composite
def tables(draw):
    count = draw(st.integers(1, 7))
    shapes = [
        {
            "right": draw(st.booleans()),
            "prose": draw(st.booleans()),
            "whole": draw(st.booleans()),
            "rank": draw(st.integers(0, 3)),
        }
        for _ in range(count)
    ]
    headings = draw(st.lists(CELLS, min_size=count, max_size=count))
    rows = draw(st.lists(st.tuples(*[CELLS] * count), min_size=1, max_size=4))
    return Table(columns(*zip(headings, shapes)), rows, draw(NAMES))


@given(tables(), st.integers(20, 200))
def test_no_line_of_any_table_is_too_long(table, width):
    lines, _ = rendering._table_lines(table, width)
    for line in lines:
        assert cell_len("".join(part for part, _ in line).rstrip()) <= width


@given(NAMES, st.integers(1, 40))
def test_a_cut_name_keeps_both_ends(name, width):
    cut = layout.cut(name, width)
    assert cell_len(cut) <= width
    if "…" not in name and "…" in cut:
        head, _, tail = cut.partition("…")
        assert name.startswith(head)
        assert name.endswith(tail)


# ── the width ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "width"), [("80", 80), ("200", 200), ("7", output.NARROW), ("", 120), ("wide", 120)]
)
def test_columns_sets_the_width_of_a_pipe_too(said, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: False, raising=False)
    assert output.console().width == width


ROWS = [
    ("show", RUN),
    ("show", RUN, "--summary"),
    ("show", RUN, "--all", "-o", "hessian", "-o", "jvp"),
    ("show", "--runs"),
    ("compare", RUN, RUN, "--all", "-o", "vjp"),
    ("releases", "show"),
    ("releases", "show", "--by", "mode"),
    ("releases", "show", "-f", "exp", "-o", "vjp", "-m", "grad"),
    ("releases", "compare", "2.0.1", "2.2.2"),
    *(("study", "report", name) for name in STUDIES),
]


@pytest.mark.parametrize("words", ROWS, ids=" ".join)
def test_every_command_fits_the_terminal(words, monkeypatch):
    """At several widths; the answer is worked out once."""
    write = Terminal.write

    def at_each_width(renderer, answer):
        lists = {name: list(getattr(answer, name)) for name in ("details", "summary", "notes")}
        for width in (60, 80, 120, 200):
            monkeypatch.setenv("COLUMNS", str(width))
            print(f"width {width}")
            write(renderer, replace(answer, **lists))

    monkeypatch.setattr(Terminal, "write", at_each_width)
    done = gradbench(*words, "--results", RESULTS)
    assert done.returncode == 0, done.stderr
    widths = set()
    for line in done.stdout.splitlines():
        if line.startswith("width "):
            width = int(line.removeprefix("width "))
            widths.add(width)
        # A path stays whole, on a line of its own.
        assert cell_len(line) <= width or line == str(Path(line)), line
        assert line == line.rstrip()
    assert widths == {60, 80, 120, 200}


def test_a_run_is_answered_on_one_screen(monkeypatch):
    """The stored run of all that `make bench` measures, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = gradbench("show", RUN, "--summary", "--results", RESULTS).stdout.splitlines()
    assert len(lines) <= 36  # The end of a run adds where it is stored, the report its path.
    assert lines[0].startswith("What to try first")
    assert any(
        re.match(r"hessian +grad_twice +1\.06× +1\.21× +functional_hessian +1\.77×", line)
        for line in lines
    )
    for beginning in ("Machine: ", "Conditions: ", "Too close to call: "):
        assert sum(line.startswith(beginning) for line in lines) == 1


@pytest.mark.started
def test_no_unicode_where_there_is_none():
    done = subprocess.run(
        [sys.executable, "-m", "gradbench", "show", RUN, "-o", "hessian", "--results", RESULTS],
        capture_output=True,
        env=os.environ | {"COLUMNS": "60", "PYTHONIOENCODING": "ascii"},
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert b"..." in done.stdout


# ── progress ──────────────────────────────────────────────────────────────────────────────────


def test_a_line_of_progress_names_its_unit_and_what_leads(capsys, monkeypatch):
    from gradbench.cli import progress
    from gradbench.runner.progress import Progress

    monkeypatch.setattr(progress._Lines, "EVERY", 0)
    with progress.progress("measuring") as report:
        report(Progress(3, 10, "vjp/exp", 6.0, unit="sessions", leads="grad leads backward by 2×"))
    line = "measuring: 3 of 10 sessions, 6 s so far, about 14 s left (vjp/exp); grad leads"
    assert capsys.readouterr().err.startswith(line)


def test_the_first_line_of_progress_comes_within_two_seconds(capsys, monkeypatch):
    from gradbench.cli import progress
    from gradbench.runner.progress import Progress

    clock = iter([100.0, 100.9, 101.1, 101.1, 110.0])
    monkeypatch.setattr("gradbench.runner.progress.time.monotonic", lambda: next(clock))
    with progress.progress("measuring") as report:
        report(Progress(0, 9, "", 0.0))
        assert capsys.readouterr().err == ""
        report(Progress(1, 9, "", 1.0))
        assert "1 of 9" in capsys.readouterr().err
        report(Progress(2, 9, "", 1.0))
        assert capsys.readouterr().err == ""


def test_what_leads_is_the_fastest_automatic_mode():
    from gradbench.runner.progress import leader
    from gradbench.store import runs

    run = runs.read(next((RESULTS / "runs").glob(f"{RUN}*")))
    (record,) = (
        s for s in run.sessions if s.comparison.startswith("hessian/recurrence/") and not s.session
    )
    said = leader(record, run.started.by_hand)
    assert said.startswith("hessian of recurrence: grad_twice leads ")
    assert leader(record, [e.mode for e in record.entrants]) == ""
