"""The page and the Markdown of a report: what they say, of which machine, and in which form."""

import json
import os
import re

import click
import numpy as np
import pandas as pd
import pytest
from made_runs import (
    NAME,
    OURS,
    PLAIN,
    data_of,
    jacobian,
    page_of,
    rows_of,
    stored,
    without_data,
)

import gradbench
from gradbench.cli import cli
from gradbench.core import units
from gradbench.core.cases import Comparison
from gradbench.report import content, looks, machines
from gradbench.report.block import block

THEIRS = {"cpu": "another", "usable_cores": 64, "memory": 512 << 30, "load": 0.1}

SEVERAL = {
    jacobian("exp"): {"forward": 2.0, "loop_grad": 100.0, "jacrev": 50.0, "manual": 5.0},
    jacobian("log"): {"forward": 2.0, "loop_grad": 30.0, "jacrev": 60.0, "manual": 6.0},
    jacobian("sine"): {"forward": 2.0, "loop_grad": 90.0, "jacrev": 30.0, "manual": 3.0},
    Comparison("vjp", "exp", "documents", "float32"): {
        "forward": 2.0,
        "backward": 9.0,
        "vjp": 12.0,
    },
}


@pytest.fixture
def here(monkeypatch):
    """Makes the machine of `made_runs` this one."""
    monkeypatch.setattr(machines, "here", lambda: machines.named(OURS))


def answered(page):
    """The sentence of the first screen, as plain text."""
    return re.sub(r"<[^>]+>", "", re.search(r'<p id="sentence">(.*?)</p>', page, re.S)[1])


def test_the_page_begins_with_the_machine_and_the_answer_in_numbers(tmp_path, capsys, here):
    stored(tmp_path, SEVERAL)
    page = page_of(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1].endswith("report.html")
    assert "test, 2 cores, 8 GiB" in page
    assert page.index('id="machine"') < page.index('id="sentence"') < page.index('id="bars"')
    assert page.index('id="bars"') < page.index("All operators") < page.index("All cases")
    # jacrev: 1, 2 and 1 times the fastest; the geometric mean is 1.26.
    assert re.search(
        r"For jacobian try jacrev first: 1\.2[56]× the fastest on average over 3 ", answered(page)
    )
    assert re.search(r"(1\.9[89]|2\.0\d)× at worst \(log\)", answered(page))
    assert "The usual choice, loop_grad, takes 1.4" in answered(page)


def test_the_page_says_what_gradbench_recommend_says(tmp_path, here):
    stored(tmp_path, SEVERAL)
    data = data_of(page_of(tmp_path))
    for found in gradbench.recommend(tmp_path):
        (view,) = [v for v in data["views"] if v["operator"] == found.where.operator]
        by_mode = {m["mode"]: m for m in view["modes"]}
        assert view["modes"][0]["mode"] == found.first.mode
        for standing in found.standings + found.by_hand:
            mode = by_mode[standing.mode]
            assert mode["average"] == pytest.approx(standing.average, rel=1e-3)
            assert mode["worst"] == pytest.approx(standing.worst, rel=1e-3)
            assert (mode["tied"], mode["byHand"]) == (standing.tied, standing.by_hand)


def test_the_averages_are_those_of_the_verdicts(tmp_path, here):
    stored(tmp_path, SEVERAL)
    verdicts = gradbench.verdicts(tmp_path)
    timed = verdicts[verdicts["to_fastest"].notna() & verdicts["mode"].ne("forward")]
    for view in data_of(page_of(tmp_path))["views"]:
        own = timed[timed["operator"] == view["operator"]]
        averages = own.groupby("mode")["to_fastest"].agg(lambda v: np.exp(np.log(v).mean()))
        shown = {m["mode"]: m["average"] for m in view["modes"]}
        assert shown == pytest.approx(averages.to_dict(), rel=1e-3)
        automatic = averages.drop("manual", errors="ignore")
        assert view["text"][3] == view["modes"][0]["mode"] == automatic.idxmin()


def test_a_folder_of_tracks_alone_has_a_page_of_releases(here):
    one = pd.DataFrame(
        {
            **dict.fromkeys(("function", "size", "dtype", "date", "note", "torch"), "x"),
            **dict.fromkeys(("track", "torch_git", "cpu_capability", "python", "numpy"), "x"),
            "operator": "vjp",
            "mode": ["grad", "grad"],
            "device": "cpu",
            "threads": 1,
            "release": ["2.0.0", "2.1.0"],
            "status": "ok",
            "baseline": "2.0.0",
            "verdict": ["", "slower"],
            "change": [np.nan, 1.5],
            "from_first": [np.nan, 1.5],
            "from_first_verdict": ["", "slower"],
            "to_baseline": [1.0, 1.5],
            "to_baseline_low": [1.0, 1.4],
            "to_baseline_high": [1.0, 1.6],
        }
    )
    report = content.assemble([], [], changes={"a machine": one})
    (machine,) = json.loads(block(report))["machines"]
    assert machine["name"] == "a machine"
    assert [step["slower"] for step in machine["releases"]["strip"]] == [0, 1]
    assert machine["releases"]["whole"]["slower"] == 1
    found = machine["releases"]["operators"]["vjp"]
    assert [step["slower"] for step in found["strip"]] == [0, 1]
    assert found["strip"][1]["average"] == pytest.approx(1.5)
    (case,) = found["cases"]
    assert case["points"][1] == [1.5, 1.4, 1.6, "slower", ""]


def test_a_page_shows_this_machine_and_no_number_of_another(tmp_path, here):
    stored(tmp_path, SEVERAL)
    other = {c: {m: 7.77 * t for m, t in modes.items()} for c, modes in SEVERAL.items()}
    # Newer, and with modes in another order.
    other[jacobian("log")]["loop_grad"] = 2000.0
    stored(tmp_path, other, 1, machine=THEIRS, torch="2.10.0+cpu")
    page = page_of(tmp_path)
    data = data_of(page)
    read = without_data(page)
    assert data["machines"][0]["name"] == "test, 2 cores, 8 GiB"
    assert "another" not in read, "the other machine is behind the selector"
    assert "2.10.0" not in read
    alone = tmp_path / "alone"
    stored(alone, SEVERAL)
    assert answered(page_of(alone)) == answered(page)
    ours, theirs = NAME.format(0), NAME.format(1)
    of = {run["name"]: run["machine"] for run in data["runs"]}
    assert of[ours] != of[theirs]
    single = data_of(page_of(alone))
    mine = [view for view in data["views"] if of[view["run"]] == of[ours]]
    assert mine == single["views"], "nothing of theirs is in an average of ours"
    for machine in data["machines"]:
        rest = str({k: v for k, v in machine.items() if k != "name"})
        assert (ours in rest) == (machine["name"] == of[ours])
        assert (theirs in rest) == (machine["name"] == of[theirs])


def test_a_report_of_another_machine_only_says_so(tmp_path, here):
    stored(tmp_path, SEVERAL, machine=THEIRS)
    read = without_data(page_of(tmp_path))
    assert "another, 64 cores, 512 GiB" in read
    assert "Measured on another machine" in read
    assert "Measured on another machine" not in without_data(page_of_ours(tmp_path))


def page_of_ours(tmp_path):
    folder = tmp_path / "ours"
    stored(folder, SEVERAL)
    return page_of(folder)


def test_the_page_begins_with_the_newest_run_of_several_operators(tmp_path, here):
    stored(tmp_path, SEVERAL)
    stored(
        tmp_path,
        {jacobian("exp", f"n={n}"): {"jacrev": n, "loop_grad": 9.0} for n in (4, 8, 16)},
        1,
    )
    data = data_of(page_of(tmp_path))
    (machine,) = data["machines"]
    assert machine["run"] == NAME.format(0)
    (family,) = machine["families"]
    assert [n for n, _ in family["points"]] == [4, 8, 16]
    rows = rows_of(page_of(tmp_path))
    for n, indices in family["points"]:
        assert set(rows.loc[indices, "size"]) == {f"n={n}"}
        assert "forward" not in set(rows.loc[indices, "mode"])


def test_sizes_have_answers_of_their_own(tmp_path, here):
    sizes = {jacobian("exp", f"n={n}"): {"jacrev": n * 1.0, "loop_grad": 9.0} for n in (4, 16)}
    stored(tmp_path, sizes)
    first = {v["size"]: v["modes"][0]["mode"] for v in data_of(page_of(tmp_path))["views"]}
    assert first["n=4"] == "jacrev"
    assert first["n=16"] == "loop_grad"


def test_the_page_needs_no_network_and_is_small(tmp_path, here):
    stored(tmp_path, SEVERAL)
    page = page_of(tmp_path)
    loaded = re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', page)
    assert not loaded
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert len(page) < 200_000


def test_a_reader_without_scripts_gets_an_answer_a_figure_and_a_table(tmp_path, here):
    comparison = jacobian()
    stored(tmp_path, {comparison: {**PLAIN[comparison], "<i>odd</i>": ("failed", "a | <b>b</b>")}})
    read = without_data(page_of(tmp_path))
    assert read.count('<li class="bar') == 3, "loop_grad, jacrev, jacfwd"
    assert re.search(r'<span class="fill" style="width:[\d.]+%">', read)
    assert re.search(r"<table id=\"summary\">.*<code>jacrev</code>", read, re.S)
    table = re.search(r"<noscript><p>(.*?)</noscript>", read, re.S)[1]
    assert "5 of 7 cases" in table
    for said in ("jacrev", "fastest", "ended by SIGSEGV", "&lt;i&gt;odd", "a | &lt;b&gt;b"):
        assert said in table
    assert "loop_grad" not in table


def test_names_and_messages_with_markup_are_shown_as_text(tmp_path, here):
    evil = "<script>alert(1)</script>"
    stored(
        tmp_path,
        {
            jacobian("f<script><b>"): {
                "loop_grad": 10.0,
                f'{evil}"quoted"': 20.0,
                "微分": 30.0,
                "m" * 300: 40.0,
                "dying": ("failed", f"{evil} & \u2028 'quotes' | `ticks`"),
            }
        },
    )
    page = page_of(tmp_path, "--format", "html", "--format", "md")
    assert evil not in page
    rows = rows_of(page)
    assert f'{evil}"quoted"' in set(rows["mode"])
    assert "微分" in set(rows["mode"])
    assert page.count("<script") == page.count("</script>") == 2
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1


@pytest.mark.parametrize(
    ("comparisons", "sessions", "said"),
    [
        ({jacobian(): {"jacrev": 5.0}}, 5, "1 case: 1 ok"),
        (PLAIN, 1, "has one session: too few for a verdict"),
        ({jacobian(): {"jacrev": ("failed", "x"), "jacfwd": ("refused", "y")}}, 2, "1 failed"),
    ],
)
def test_runs_with_holes_give_a_page_that_says_so(tmp_path, here, comparisons, sessions, said):
    stored(tmp_path, comparisons, sessions=sessions)
    assert said in without_data(page_of(tmp_path))


def test_a_busy_machine_is_said_before_the_answer(tmp_path, here):
    stored(tmp_path, SEVERAL, machine=OURS | {"load": 3.0})
    read = without_data(page_of(tmp_path))
    assert read.index("The machine was busy when the run began (load 3.0 on 2 cores)") < read.index(
        'id="sentence"'
    )


def test_what_a_careful_reader_must_know_is_said(tmp_path, here):
    stored(tmp_path, PLAIN)
    stored(tmp_path, PLAIN, 1, finished=False, torch="2.10.0+cpu", cpu_capability="AVX512")
    page = without_data(page_of(tmp_path))
    assert "several torch builds (2.10.0+cpu, 2.9.0+cpu)" in page
    assert "is not finished" in page
    assert "false positives expected" in page
    assert "largest error is 0.5 units in the last place" in page


def test_a_run_of_a_newer_gradbench_is_left_out_and_named(tmp_path, here):
    stored(tmp_path, PLAIN)
    stored(tmp_path, PLAIN, 1, schema=99)
    assert "written by a newer gradbench" in without_data(page_of(tmp_path))


def test_no_results_at_all_are_one_line(tmp_path):
    with pytest.raises(click.UsageError, match="there are no runs in"):
        page_of(tmp_path)


def test_the_markdown_report_stands_on_its_own(tmp_path, here):
    stored(tmp_path, SEVERAL)
    page_of(tmp_path, "--format", "md", "--format", "html")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "try jacrev first" in text.replace("\\", "")
    names = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(names) == 2, "a heat map for each operator"
    for name in names:
        assert (tmp_path / "report" / name).stat().st_size > 1000
        assert (tmp_path / "report" / name).with_suffix(".svg").is_file()


def test_sections_that_few_need_are_there_on_request(tmp_path, here):
    stored(tmp_path, SEVERAL)
    assert "<svg" not in page_of(tmp_path)
    page = page_of(tmp_path, "--with", "correctness")
    assert page.count("<svg") == page.count('role="img" aria-label="') == 1
    assert "Error of each mode" in page


def test_selected_cases_alone_are_averaged(tmp_path, here):
    stored(tmp_path, SEVERAL)
    data = data_of(page_of(tmp_path, "-f", "exp", "-o", "jacobian"))
    (view,) = data["views"]
    assert view["comparisons"] == 1
    assert set(rows_of(page_of(tmp_path, "-f", "exp"))["function"]) == {"exp"}


def test_the_code_of_the_modes_is_in_the_page(tmp_path):
    stored(tmp_path, PLAIN)
    cli.main(["report", "--results", str(tmp_path)], standalone_mode=False)
    data = data_of((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    code = data["code"]["jacobian"]["jacrev"][1]
    assert code.startswith("def jacrev("), "without the decorator that registers it"
    assert "jacrev(" in code.partition(":")[2]
    assert "As installed when this report was made" in data["codeOf"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, here):
    stored(tmp_path, PLAIN)
    before = page_of(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(click.UsageError, match="No space left"):
        page_of(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "report" / "report.html").read_text(encoding="utf-8") == before


def test_a_close_call_is_no_recommendation_against_the_other(tmp_path, here):
    stored(tmp_path, {jacobian(): {"forward": 2.0, "loop_grad": 100.1, "jacrev": 100.0}})
    assert "Too close to call: " in answered(page_of(tmp_path))
    assert "takes" not in answered(page_of(tmp_path))


def test_each_mode_has_one_look_and_rivals_differ(tmp_path, here):
    stored(tmp_path, SEVERAL)
    page = page_of(tmp_path)
    data = data_of(page)
    for view in data["views"]:
        numbers = [data["looks"][m["mode"]] for m in view["modes"]]
        assert len(set(numbers)) == len(numbers)
    assert data["looks"].items() >= looks.numbers(["jacrev", "backward"]).items(), "as in figures"
    assert all(f"--series-{n}: {light}" in page for n, (light, _) in enumerate(looks.COLOURS))
    assert data["marks"] == [path for _, path in looks.MARKS]


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.004, "1.00"), (9.994, "9.99"), (9.996, "10.0"), (140.4, "140"), (2e5, "2.0e5")],
)
def test_multiples_have_three_digits(value, said):
    assert units.multiple(value) == said


def test_the_page_begins_with_the_suite_and_not_with_a_later_look_at_few_operators():
    from types import SimpleNamespace

    from gradbench.report.answers import default_run

    def stored(name, *operators):
        rows = [
            SimpleNamespace(comparison=SimpleNamespace(operator=operator), to_fastest=1.0)
            for operator in operators
        ]
        return SimpleNamespace(name=name, judged=SimpleNamespace(rows=rows))

    suite, few = stored("suite", *"abcdefg"), stored("atlas", "a", "b")
    assert default_run([suite, few]) == "suite"
    assert default_run([suite, few, stored("again", *"abcd")]) == "again"
    assert default_run([few, stored("one", "a")]) == "atlas"
    assert default_run([]) == ""
