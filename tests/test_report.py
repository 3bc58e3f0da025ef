"""Reports and figures: from made-up runs with holes, odd names and known answers."""

import itertools
import re

import click
import numpy as np
import pandas as pd
import pytest
from made_runs import NAME, PLAIN, jacobian, stored

from gradbench import report
from gradbench.analysis.readings import launch_bound
from gradbench.cli import cli
from gradbench.core.units import reading
from gradbench.report import data, findings, history, pareto, places, sizes, style
from gradbench.report.style import NothingToDraw

# ── figures ───────────────────────────────────────────────────────────────────────────────────


def crowd(functions=36, modes=13):
    """A frame as `report.table` makes them, with as many names as the catalogue has."""
    rng = np.random.default_rng(0)
    rows = []
    for f in range(functions):
        times = np.sort(rng.lognormal(1, 1, modes))
        for m in range(modes):
            rows.append(
                {
                    "operator": "jacobian",
                    "function": f"a_function_of_the_catalogue_{f}",
                    "size": "documents",
                    "dtype": "float32",
                    "device": "cpu",
                    "threads": 1,
                    "mode": f"a_way_of_differentiating_{m}",
                    "status": "ok",
                    "verdict": "fastest" if m == 0 else "slower",
                    "to_fastest": times[m] / times[0],
                    "by_hand": False,
                    "cpu": "test",
                    "torch": "2.9.0",
                    "run": "r",
                }
            )
    return pd.DataFrame(rows)


def boxes(labels, figure):
    renderer = figure.canvas.get_renderer()
    return [label.get_window_extent(renderer) for label in labels if label.get_text()]


def test_no_labels_of_the_heat_map_collide_with_36_functions_and_13_modes():
    ax = report.heat_map(crowd())
    figure = ax.figure
    figure.canvas.draw()
    rows = boxes(ax.get_yticklabels(), figure)
    assert len(rows) == 36
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(rows))
    # Slanted names may share a box's corner, never a line: their ends lie apart.
    ends = [box.x1 for box in boxes(ax.get_xticklabels(), figure)]
    assert min(np.diff(ends)) > 10
    everything = figure.bbox
    for box in (*rows, *boxes(ax.get_xticklabels(), figure)):
        assert everything.x0 <= box.x0
        assert everything.y0 <= box.y0, "nothing is cut off"


def test_the_heat_map_says_what_its_signs_mean_and_what_is_by_hand():
    frame = crowd(2, 4)
    said = report.heat_map(frame).get_xlabel()
    assert said == "bold: the fastest"
    frame.loc[1, "verdict"] = "undecided"
    frame.loc[2, ["status", "to_fastest", "verdict"]] = ["crashed", np.nan, ""]
    frame.loc[frame["mode"].str.endswith("_0"), "by_hand"] = True
    ax = report.heat_map(frame.drop(index=3))
    said = ax.get_xlabel().replace("\n", " ")
    assert "?: cannot be told from it" in said
    assert "C: crashed" in said
    assert "empty: not in that comparison" in said
    assert "unsupported" not in said, "only what occurs"
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert [name for name in names if "by hand" in name] == ["a_way_of_differentiating_0 (by hand)"]


def scaled(seconds):
    """Rows over n of modes with given seconds; the least at each n is called the fastest."""
    rows = []
    for n, modes in seconds.items():
        best = min(modes, key=modes.get)
        for mode, s in modes.items():
            rows.append(
                {
                    **dict.fromkeys(("machine", "torch", "run", "device_name"), "x"),
                    "operator": "jacobian",
                    "function": "exp",
                    "size": f"n={n}",
                    "dtype": "float32",
                    "device": "cpu",
                    "threads": 1,
                    "mode": mode,
                    "by_hand": mode == "manual",
                    "newest": True,
                    "seconds": s,
                    "seconds_low": 0.9 * s,
                    "seconds_high": 1.1 * s,
                    "sessions": 5,
                    "verdict": "fastest" if mode == best else "slower",
                }
            )
    return pd.DataFrame(rows)


def test_a_crossover_lies_where_the_lines_meet():
    # a is linear in n and b constant; they meet at n = 100.
    frame = scaled({n: {"a": n * 1e-6, "b": 1e-4} for n in (10, 50, 200, 1000)})
    (found,) = sizes.crossovers(frame)
    assert (found.before, found.after, found.low, found.high) == ("a", "b", 50, 200)
    assert found.n == pytest.approx(100, rel=0.01)
    a = frame["mode"] == "a"
    frame.loc[a & (frame["size"] == "n=200"), "verdict"] = "undecided"
    (found,) = sizes.crossovers(frame)
    assert (found.low, found.high) == (50, 1000), "an undecided size between widens what is said"
    assert found.n == pytest.approx(100, rel=0.01)
    frame.loc[a & (frame["size"] == "n=1000"), "verdict"] = "undecided"
    assert sizes.crossovers(frame) == [], "none where a side is not decided"


def on_devices(times):
    """The fastest mode's rows: device to size to seconds."""
    parts = []
    for device, by_size in times.items():
        part = scaled({n: {"a": s} for n, s in by_size.items()})
        parts.append(part.assign(device=device))
    return pd.concat(parts, ignore_index=True)


def test_devices_cross_where_their_sessions_are_apart():
    cpu = {n: n * 1e-6 for n in (10, 50, 200, 1000)}
    gpu = dict.fromkeys(cpu, 1e-4)
    frame = on_devices({"cpu": cpu, "cuda:0": gpu})
    (found,) = places.crossings(frame)
    assert (found.before, found.after, found.low, found.high) == ("cpu", "cuda:0", 50, 200)
    assert found.n == pytest.approx(100, rel=0.01)
    ax = report.by_device(frame)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"cpu", "cuda:0"}
    assert any("cuda:0" in text.get_text() for text in ax.texts)
    (said,) = places.told(frame)
    assert "cuda:0 is faster than cpu" in said
    assert "p = 1/126" in said
    alike = on_devices({"cpu": gpu, "cuda:0": gpu})
    assert places.crossings(alike) == []
    with pytest.raises(NothingToDraw, match="two devices at two sizes"):
        report.by_device(frame[frame["device"] == "cpu"])


def test_devices_that_cross_back_and_forth_end_on_the_right_one():
    cpu = dict(zip((10, 100, 1000, 10000), (1e-4, 4e-4, 2e-4, 2e-2)))
    gpu = dict(zip(cpu, (3e-4, 3e-4, 3e-4, 4e-4)))
    found = places.crossings(on_devices({"cpu": cpu, "cuda:0": gpu}))
    assert [(c.before, c.after) for c in found] == [
        ("cpu", "cuda:0"),
        ("cuda:0", "cpu"),
        ("cpu", "cuda:0"),
    ]
    assert [(c.low, c.high) for c in found] == [(10, 100), (100, 1000), (1000, 10000)]


def test_devices_are_told_apart_only_beyond_chance_and_under_like_conditions():
    cpu = {n: n * 1e-6 for n in (10, 50, 200, 1000)}
    gpu = dict.fromkeys(cpu, 1e-4)
    few = on_devices({"cpu": cpu, "cuda:0": gpu}).assign(sessions=3)
    assert places.crossings(few) == [], "three sessions each lie apart by chance in 1 of 10"
    assert len(places.crossings(few.assign(sessions=4))) == 1
    cold = on_devices({"cpu": cpu, "cuda:0+cold": gpu})
    assert places.crossings(cold) == [], "hot against cold tells nothing of the devices"
    assert len(places.crossings(on_devices({"cpu": cpu, "cuda:0+transfer": gpu}))) == 1


def test_a_call_that_mostly_waits_for_launches_is_called_launch_bound():
    assert launch_bound(1e-4, 1e-5)
    assert not launch_bound(1e-4, 9e-5)
    assert not launch_bound(None, 1e-5)
    assert not launch_bound(1e-4, None)


def test_the_scaling_figure_names_its_units_and_draws_its_bands():
    ax = report.scaling(scaled({n: {"a": n * 1e-6, "b": 1e-4} for n in (10, 50, 200, 1000)}))
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "logarithmic" in ax.get_xlabel()
    assert "time" in ax.get_ylabel()
    assert "float32" in ax.get_title(loc="left")
    assert len(ax.collections) >= 2, "a band for each mode"


def test_nothing_on_the_pareto_front_is_beaten_in_both():
    frame = pd.DataFrame(
        {"seconds": [1.0, 2.0, 3.0, 2.5], "peak_memory": [100.0, 50.0, 10.0, 60.0]}
    )
    assert list(pareto.front(frame).index) == [0, 1, 2]


def test_figures_say_what_they_lack():
    with pytest.raises(NothingToDraw, match="one operator and 2"):
        report.heat_map(pd.concat([crowd(2, 2), crowd(2, 2).assign(operator="vjp")]))
    with pytest.raises(NothingToDraw, match="two sizes"):
        report.scaling(scaled({4: {"a": 1e-6, "b": 2e-6}}))


def course(verdicts, note="", mode="grad"):
    ratios = np.cumprod([1.3 if v == "slower" else 0.8 if v == "faster" else 1 for v in verdicts])
    return pd.DataFrame(
        {
            "operator": "vjp",
            "function": "exp",
            "size": "documents",
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "mode": mode,
            "release": [f"2.{i}.0" for i in range(len(verdicts))],
            "status": "ok",
            "to_baseline": ratios,
            "to_baseline_low": 0.98 * ratios,
            "to_baseline_high": 1.02 * ratios,
            "change": [np.nan, *(ratios[1:] / ratios[:-1])],
            "verdict": verdicts,
            "baseline": "2.0.0",
            "note": ["", note, *[""] * (len(verdicts) - 2)],
        }
    )


def test_a_timeline_marks_what_was_called_and_what_else_changed():
    frame = course(["", "slower", "same", "faster"], "CPU capability AVX2 → AVX512")
    ax = report.timelines(frame)
    marks = [line.get_marker() for line in ax.lines]
    assert "^" in marks
    assert "v" in marks
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2.0.0", "2.1.0*", "2.2.0", "2.3.0"]
    figure = history.figure(frame)
    assert "AVX2 → AVX512" in figure.get_supxlabel().replace("\n", " ")


def test_the_cases_with_changes_come_first_and_no_mode_takes_all_places():
    frames = [course(["", "slower"], mode=f"grad {i}") for i in range(3)]
    many = [course(["", "slower"]).assign(function=f"f{i}") for i in range(5)]
    quiet = course(["", "same"], mode="calm")
    names = [name for name, _ in history.shown(pd.concat([quiet, *many, *frames]), most=5)]
    assert len({name.rpartition("/")[2] for name in names}) == 4
    assert "calm" not in " ".join(names)


def test_a_figure_in_a_page_takes_the_page_s_colours():
    text = style.inline(report.heat_map(crowd(3, 3)).figure, "heat", 'it says "<b>"')
    assert text.startswith("<svg")
    assert "var(--ink)" in text
    assert style.INK not in text
    assert "&lt;b&gt;" in text


def test_ids_are_safe_whatever_is_in_a_name():
    assert findings.anchor('a"<b>', "c/d 微") == "a--b--c-d--"


def test_the_newest_run_of_a_comparison_is_marked(tmp_path):
    stored(tmp_path, PLAIN)
    stored(tmp_path, PLAIN, 1)
    frame = report.table(tmp_path)
    assert set(frame.loc[frame["newest"], "run"]) == {NAME.format(1)}
    assert data.selected(frame, modes=("jac*",))["mode"].nunique() == 2


# ── gradbench plot ────────────────────────────────────────────────────────────────────────────


def plotted(results, target, *words):
    return cli.main(
        ["plot", *words, "-t", str(target), "--results", str(results)], standalone_mode=False
    )


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_plot_writes_one_figure(tmp_path, capsys, ending):
    stored(tmp_path, PLAIN)
    target = tmp_path / f"dots.{ending}"
    plotted(tmp_path, target, "dots", "-f", "exp")
    assert target.stat().st_size > 1000
    assert capsys.readouterr().out.strip() == str(target)


@pytest.mark.parametrize(
    ("words", "name", "said"),
    [
        (["dots"], "x.gif", "must be one of .svg, .png, .pdf"),
        (["dots", "-f", "nix"], "x.svg", "no stored case has a function 'nix'"),
        (["memory"], "x.svg", "--instrument peak_memory"),
        (["scaling"], "x.svg", "two sizes"),
        (["releases"], "x.svg", "releases track"),
        (["derivatives"], "x.svg", "name one function"),
    ],
)
def test_plot_says_what_it_lacks_in_one_line(tmp_path, words, name, said):
    stored(tmp_path, PLAIN)
    with pytest.raises(click.UsageError, match=re.escape(said)) as caught:
        plotted(tmp_path, tmp_path / name, *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / name).exists()


def test_plot_draws_the_newest_study_of_a_kind_or_the_one_named(tmp_path, capsys):
    from gradbench.store.logs import Ended
    from gradbench.store.studies import Trial, begin

    with pytest.raises(click.UsageError, match="'gradbench study power' makes one"):
        plotted(tmp_path, tmp_path / "power.svg", "power")
    log_, study = begin(tmp_path, "aa", {"between": False}, {}, {}, [])
    with log_ as opened:
        for number in range(6):
            ratios = [1000 * (number - 3) + 10 * k for k in range(20)]
            trial = Trial(f"{number}", "process", jacobian().case("grad"), number, number)
            trial.log_ratios.extend(ratios)
            opened.append(trial)
        opened.append(Ended("now", True, 1.0))
    plotted(tmp_path, tmp_path / "aa.svg", "aa")
    plotted(tmp_path, tmp_path / "named.svg", "aa", study.started.name)
    text = (tmp_path / "aa.svg").read_text(encoding="utf-8")
    assert "false positives in 6 comparisons" in text
    assert (tmp_path / "named.svg").read_text(encoding="utf-8") == text


def test_the_documents_curves_lie_on_each_other(tmp_path):
    plotted(tmp_path, tmp_path / "sine.svg", "derivatives", "-f", "sine")
    text = (tmp_path / "sine.svg").read_text()
    differ = re.search(r"differ by at most ([\d.e+-]+)", text)
    assert float(differ[1]) < 1e-12 if differ else "are equal at every point" in text


@pytest.mark.parametrize(
    ("size", "said"), [(999, "999 B"), (1020, "1020 B"), (1020 * 1024, "1020 KiB"), (2048, "2 KiB")]
)
def test_bytes_need_no_exponent(size, said):
    assert reading(size, "bytes") == said
