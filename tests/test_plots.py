"""The atlas, and figures of a given width: made-up times with known answers, the boxes of texts."""

import itertools
import math
import re

import click
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from gradbench import report
from gradbench.cli import cli
from gradbench.cli.parameters import Width
from gradbench.report import looks, regions, sections, sizes, style
from gradbench.report.fitting import faults, fit
from gradbench.report.style import NothingToDraw

GRID = (1, 16, 256, 4096)


def loop(m, n):
    return m * 10e-6


def batched(m, n):
    return 40e-6 + m * 1e-7


def forwards(m, n):
    return 60e-6 + n * 1e-7


MODES = {"functional_jacobian": lambda m, n: 3 * loop(m, n), "loop_grad": loop}
MODES |= {"jacrev": batched, "jacfwd": forwards}


def mapped(function="dense_map", operator="jacobian", modes=None, spread=0.02, limit=math.inf):
    """Rows of a function over GRID × GRID; a mode that takes longer than `limit` was refused."""
    rows = []
    for m, n in itertools.product(GRID, GRID):
        times = {mode: seconds(m, n) for mode, seconds in (modes or MODES).items()}
        timed = {mode: s for mode, s in times.items() if s <= limit}
        best = min(timed, key=timed.get, default="")
        for mode, s in times.items():
            ratio = s / timed[best] if mode in timed else math.nan
            off = 1 if mode == best else 1 + spread
            verdict = "undecided" if ratio < off else "slower"
            rows.append(
                {
                    **dict.fromkeys(("run", "cpu", "machine", "torch"), "a name"),
                    "operator": operator,
                    "function": function,
                    "size": f"m={m},n={n}",
                    **{"dtype": "float32", "device": "cpu", "device_name": "", "threads": 1},
                    "mode": mode,
                    "newest": True,
                    "by_hand": False,
                    "baseline": mode == "functional_jacobian",
                    "status": "ok" if mode in timed else "refused",
                    "seconds": s if mode in timed else math.nan,
                    "seconds_low": s,
                    "seconds_high": s,
                    "sessions": 5,
                    "to_fastest": ratio,
                    "to_fastest_low": ratio / off,
                    "to_fastest_high": ratio * off,
                    "verdict": "" if mode not in timed else "fastest" if mode == best else verdict,
                    "peak_memory": 1e4 * s,
                }
            )
    return pd.DataFrame(rows)


def families():
    return pd.concat([mapped(f"{name}_map") for name in ("dense", "wide", "batched", "small")])


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def maps(frame):
    return regions.maps(regions.gridded(frame))


def test_sizes_on_a_grid_are_no_line_over_their_product():
    """Several sizes have the same product, and would be drawn one above the other."""
    frame = mapped()
    assert sizes.families(frame) == []
    with pytest.raises(style.NothingToDraw, match="plot atlas"):
        report.scaling(frame)
    line = frame[frame["size"].str.startswith("m=16,")]
    assert len(sizes.families(line)) == 1
    report.scaling(line)


# ── the atlas ─────────────────────────────────────────────────────────────────────────────────


def test_a_map_knows_the_fastest_mode_of_each_point():
    (one,) = maps(mapped())
    assert (one.outputs, one.inputs) == (list(GRID), list(GRID))
    assert one.fastest[0] == ["loop_grad"] * 4
    assert one.fastest[3] == ["jacfwd"] * 3 + ["jacrev"]
    assert one.usual == "functional_jacobian"
    assert one.winners == ["jacfwd", "jacrev", "loop_grad"]


def test_boundaries_lie_where_the_times_are_equal():
    """Between 1 and 16 outputs the times are straight lines on logarithmic axes."""
    (one,) = maps(mapped(modes={k: MODES[k] for k in ("loop_grad", "jacrev")}))
    drawn = regions.mesh(one)
    column = drawn.seconds[:, :, -1]
    gap = column[one.modes.index("loop_grad")] - column[one.modes.index("jacrev")]
    crossing = float(np.exp(np.interp(0, gap[: regions.MESH + 1], drawn.y[: regions.MESH + 1])))
    low, high = math.log(loop(1, 1) / batched(1, 1)), math.log(loop(16, 1) / batched(16, 1))
    assert crossing == pytest.approx(16 ** (-low / (high - low)), rel=0.02)


def test_points_at_which_all_modes_were_refused_are_left_white_and_crossed_out():
    (one,) = maps(mapped(limit=2e-4))
    assert one.fastest[3][3] == ""
    drawn = regions.mesh(one)
    assert (drawn.seconds[:, -1, -1] > 1e3).all()
    assert (drawn.seconds[:, 0, 0] < 0).all()
    assert "all ruled out" in texts(report.atlas(mapped(limit=2e-4)))
    assert "all ruled out" not in texts(report.atlas(mapped()))


def test_the_price_of_the_usual_choice_is_written_at_its_lines():
    said = texts(report.atlas(mapped()))
    assert {"10×", "100×", "1000×"} <= set(said)
    assert "usual choice / fastest: functional_jacobian" in said


def striped(frame):
    """Whether a map has stripes at all."""
    collections = [c for ax in report.atlas(frame).axes for c in ax.collections]
    return any(hatch for c in collections for hatch in getattr(c, "hatches", None) or ())


def test_what_is_too_close_to_call_is_striped_in_both_colours():
    equal = {"loop_grad": loop, "loop_backward": lambda m, n: 1.005 * loop(m, n)}
    (one,) = maps(mapped(modes=equal))
    assert one.close.all()
    assert striped(mapped(modes=equal))
    # The other one is the fastest at no point, but its stripes are, and the legend names them.
    assert "loop_backward" in texts(report.atlas(mapped(modes=equal)))
    assert not striped(mapped(modes={"loop_grad": loop})), "nothing is as fast"


def test_kinds_are_lines_and_families_columns():
    frame = pd.concat(
        [
            mapped("dense_map"),
            mapped("batched_map", "batch_jacobian"),
            mapped("batched_sum", "batch_jacobian"),
            mapped("batched_sum", "batch_hessian"),
            mapped("mine", "hessian"),
        ]
    )
    kinds = [(one.kind, one.family) for one in maps(frame)]
    assert kinds == [
        ("jacobian", "dense"),
        ("jacobian", "batched"),
        ("hessian", "batched"),
        ("hessian", "mine"),
        ("gradient", "batched"),
    ]
    figure = report.atlas(frame)
    assert [ax.get_visible() for ax in figure.axes].count(True) == 5


def test_the_atlas_says_what_it_needs():
    with pytest.raises(NothingToDraw, match="--profile atlas"):
        report.atlas(mapped().assign(size="documents"))
    with pytest.raises(NothingToDraw, match="--profile atlas"):
        report.atlas(mapped()[lambda rows: rows["size"] != "m=1,n=16"])
    two = pd.concat([mapped(), mapped().assign(machine="another")])
    with pytest.raises(NothingToDraw, match="one machine"):
        report.atlas(two)
    beside = mapped("exp").assign(size="documents", machine="another")
    report.atlas(pd.concat([mapped(), beside]))


def test_the_page_has_the_atlas_of_one_build_and_says_it_in_words():
    frame = pd.concat([mapped(), mapped().assign(torch="older", run="a former run")])
    assert [s.id for s in sections.extras(mapped().assign(size="documents"), ())] == []
    (section,) = sections.extras(frame, ())
    (shown,) = section.figures
    assert "loop_grad at 4" in shown.described
    assert "<svg" in style.inline(shown.make(), shown.id, shown.described)
    # Its points are in no heat map.
    assert sections.figures(frame, pd.DataFrame()) == []


# ── colours and marks ─────────────────────────────────────────────────────────────────────────


def test_a_mode_has_one_colour_and_mark_whatever_is_beside_it():
    few, many = looks.numbers(["jacrev", "mine"]), looks.numbers(["loop_grad", "jacrev", "jacfwd"])
    assert few["jacrev"] == many["jacrev"]
    assert len(set(many.values())) == 3
    assert few["mine"] != few["jacrev"]


def test_no_two_modes_of_an_operator_look_alike():
    from gradbench.core.operators import OPERATORS
    from gradbench.problems import registry

    registry.load_builtin()
    for operator in OPERATORS:
        modes = [m.name for m in registry.modes_of(operator) if m.name in looks.KNOWN]
        made = [style.look(n) for n in looks.numbers(modes).values()]
        assert len({(look["color"], look["marker"]) for look in made}) == len(modes), operator
        marks = [look["marker"] for look in made]
        assert len(set(marks)) == len(marks), f"{operator} in greyscale"


# ── widths ────────────────────────────────────────────────────────────────────────────────────


def crowd(functions, modes):
    rng = np.random.default_rng(0)
    frame = pd.concat(mapped(f"a_function_of_the_catalogue_{f}")[:1] for f in range(functions))
    rows = []
    for row in frame.to_dict("records"):
        times = np.sort(rng.lognormal(1, 1, modes))
        for m in range(modes):
            verdict = "slower" if m else "fastest"
            ratios = dict.fromkeys(("to_fastest", "to_fastest_low", "to_fastest_high"), times[m])
            rows.append(row | ratios | {"mode": f"a_long_name_of_a_mode_{m}", "verdict": verdict})
    return pd.DataFrame(rows)


def one_comparison(frame):
    return frame[frame["size"] == "m=4096,n=4096"].assign(
        comparison="jacobian/dense_map/m=4096,n=4096/float32/cpu/1",
        groups=[[]] * 4,
        to_forward=5.0,
        to_forward_low=4.9,
        to_forward_high=5.1,
        ulps=1.5,
    )


def scaled():
    return mapped()[lambda rows: rows["size"].str.endswith("n=16")]


def on_devices():
    parts = []
    for device, seconds in {
        "cpu": lambda n: 2e-5 + n * 1e-8,
        "cuda:0": lambda n: 9e-5 + n * 2e-10,
        "cuda:0+transfer": lambda n: 2e-4 + n * 5e-10,
    }.items():
        row = mapped()[:1].to_dict("records")[0]
        for n in 4 ** np.arange(3, 10):
            times = {"seconds": seconds(n), "seconds_low": seconds(n), "seconds_high": seconds(n)}
            where = {"size": f"n={n}", "device": device, "verdict": "fastest", "sessions": 5}
            parts.append(row | where | times)
    return pd.DataFrame(parts)


def curve():
    x = np.linspace(-6, 6, 200)
    columns = {"x": x, "value": np.sin(x), "automatic": np.cos(x), "by_hand": np.cos(x) + 1e-16}
    return pd.DataFrame({**columns, "function": "log_sin_reciprocal", "formula": "ln(sin(1/x)+2)"})


FIGURES = {
    "atlas": lambda width: report.atlas(families(), width),
    "atlas of all": lambda width: report.atlas(
        pd.concat([families(), mapped("dense_sum", "hessian"), mapped("dense_sum", "gradient")]),
        width,
    ),
    "heatmap": lambda width: report.heat_map(crowd(8, 5)).figure,
    "dots": lambda width: report.dots(one_comparison(mapped())).figure,
    "forward": lambda width: report.forward(one_comparison(mapped())).figure,
    "scaling": lambda width: report.scaling(scaled()).figure,
    "memory": lambda width: report.memory(one_comparison(mapped())).figure,
    "correctness": lambda width: report.errors(one_comparison(mapped())).figure,
    "devices": lambda width: report.by_device(on_devices()).figure,
    "derivatives": lambda width: report.derivatives(curve()).figure,
}


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("width", [None, 3.3, 7.2])
def test_nothing_is_clipped_and_no_text_lies_on_another(kind, width):
    figure = FIGURES[kind](width)
    if width is not None:
        if kind in ("atlas of all", "heatmap") and width < 5:
            pytest.skip("it says that it needs more")
        fit(figure, width)
        assert figure.get_size_inches()[0] == pytest.approx(width)
        sizes = {text.get_fontsize() for text in figure.findobj(Text)}
        assert min(sizes) >= 4
    assert faults(figure) == []


def test_faults_are_seen():
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.set_axis_off()
    ax.text(0.6, 0.3, "one thing")
    ax.text(0.62, 0.3, "another")
    ax.text(0.0, 0.2, "turned like it", rotation=40)
    ax.text(0.2, 0.2, "but apart", rotation=40)
    ax.text(0.9, 0.9, "beyond the edge of it")
    found = faults(figure)
    assert found == ["'beyond the edge of it' is clipped", "'one thing' overlaps 'another'"]


def test_a_figure_that_needs_more_names_a_width_that_does():
    with pytest.raises(NothingToDraw, match=r"use --width [\d.]+") as caught:
        fit(report.heat_map(crowd(6, 12)).figure, 3.0)
    wide = float(re.search(r"--width ([\d.]+)", str(caught.value))[1])
    figure = report.heat_map(crowd(6, 12)).figure
    fit(figure, wide)
    assert faults(figure) == []


def test_a_figure_that_fits_nowhere_is_soon_refused(monkeypatch):
    drawn = []
    own = Figure.draw_without_rendering
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda f: drawn.append(1) or own(f))
    with pytest.raises(NothingToDraw, match=r"fit into 2 inches: (select|use)"):
        fit(report.heat_map(crowd(4, 60)).figure, 2.0)
    assert len(drawn) < 30


def test_labels_side_by_side_keep_apart():
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.set_axis_off()
    first = ax.text(0.1, 0.5, "2.12.1")
    figure.draw_without_rendering()
    end = ax.transAxes.inverted().transform(first.get_window_extent())[1][0]
    second = ax.text(end + 0.001, 0.5, "2.13.0")
    assert faults(figure) == ["'2.12.1' overlaps '2.13.0'"]
    second.set_x(end + 0.05)
    assert faults(figure) == []


def test_a_wide_legend_leaves_narrow_axes():
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], label="one process, background load on the other core")
    ax.legend()
    fit(figure, 3.5)
    assert ax.get_legend() is None
    assert len(figure.legends) == 1


def test_text_in_svg_and_pdf_is_text(tmp_path):
    figure = report.atlas(mapped())
    fit(figure, 3.5)
    style.save(figure, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    for word in ("The fastest mode", "outputs", "functional_jacobian", "100×", "4096"):
        assert word in " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn)), word
    assert len(drawn) < 400_000
    style.save(figure, tmp_path / "a.pdf")
    assert b"/CIDFontType2" in (tmp_path / "a.pdf").read_bytes(), "a font, not outlines"


@pytest.mark.parametrize(("given", "inches"), [("column", 3.5), ("page", 7.2), ("4.25", 4.25)])
def test_widths_have_names(given, inches):
    assert Width().convert(given, None, None) == inches


@pytest.mark.parametrize(
    ("given", "said"),
    [("colum", "did you mean"), ("1", "not in the range"), ("inf", "not a finite number")],
)
def test_a_bad_width_is_one_line(given, said):
    with pytest.raises(click.BadParameter, match=said) as caught:
        Width().convert(given, None, None)
    assert "\n" not in caught.value.message


def test_plot_takes_a_width(tmp_path):
    words = ["plot", "peers", "-t", str(tmp_path / "peers.svg"), "--width", "page"]
    cli.main([*words, "--results", "results"], standalone_mode=False)
    head = (tmp_path / "peers.svg").read_text()[:2000]
    assert float(re.search(r'width="([\d.]+)pt"', head)[1]) == pytest.approx(7.2 * 72, abs=0.1)
