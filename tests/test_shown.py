"""Text from outside, as every command shows it: it is read, and neither obeyed, run nor clicked."""

import csv
import io
import itertools
import json
import lzma
import re
import subprocess
import sys
import unicodedata
import warnings
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import click
import pandas as pd
import pytest

import gradbench
from gradbench.advise import shown
from gradbench.cli import cli
from gradbench.core import text
from gradbench.runner.progress import Progress
from gradbench.store.lines import StoreError

ENTRY = (sys.executable, "-m", "gradbench")
STORED = Path(__file__).parents[1] / "results"
RUN, TRACK = "20261125-063236-ebd80c", "20261127-000903-adb97d"

EVIL = (
    "=cmd|' /C calc'!A0 \x1b[31mred\x1b]0;title\x07 \x9b2J \x00 \x7f \r \u202eexe.txt\u2066 \ufeff "
    "[a](javascript:alert(1)) ![i](https://evil.example/i.png) https://evil.example "
    "www.evil.example <script>alert(1)</script><img src=x onerror=alert(1)> </script> "
    "`code` | **bold** $\\frac{$ {{ 7*7 }} & \ufffe end"
)
FACT = text.shown(EVIL)
"""A fact of a machine has no control characters, or its line is refused."""
NAME = "=x[b](u)`<i>$\\frac{$\x1b[31m\u202e"


def poisoned(value, name=""):
    """A stored line with every text that anybody may write into it made hostile."""
    if name in ("machine", "environment", "identity") and isinstance(value, dict):
        kept = ("torch", "python", "devices", "device_names")
        return {k: FACT if isinstance(v, str) and k not in kept else v for k, v in value.items()}
    if name in ("command", "files"):
        return [EVIL, *value]
    if name in ("reason", "where", "note"):
        return EVIL
    if isinstance(value, dict):
        return {k: poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return value


def lines(path, keep=lambda line: True):
    packed = path.with_name(path.name + ".xz")
    content = lzma.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return [json.loads(line) for line in content.splitlines() if keep(line)]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def spoilt(record, name):
    """An entrant that was not measured, for its reason to be shown."""
    for entrant in record.get("entrants", ())[-1:]:
        entrant |= {"status": "failed", "reason": "x", "where": "y", "samples": []}
    return json.loads(json.dumps(record).replace('"mode": "functional_vjp"', f'"mode": "{name}"'))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with runs, a track and studies whose free text is hostile."""
    place = tmp_path_factory.mktemp("hostile")
    records = [poisoned(spoilt(r, "grad")) for r in lines(STORED / "runs" / f"{RUN}.jsonl")]
    write(place / "runs" / f"{RUN}.jsonl", records)
    other = RUN.replace("063236", "063237")
    write(place / "runs" / f"{other}.jsonl", [records[0] | {"run": other}, *records[1:]])
    # Names that may or may not be accepted; a run that is refused is named, and cleanly.
    plain, bad = RUN.replace("063236", "063235"), json.dumps(NAME)[1:-1]
    mode = records[0]["plan"][0]["modes"][-1]
    renamed = json.loads(json.dumps([records[0] | {"run": plain}, *records[1:]]).replace(mode, bad))
    write(place / "runs" / f"{plain}.jsonl", renamed)
    (place / "runs" / "odd\x1b[31m\u202e\n.jsonl").write_text("{}\n")
    part = lines(
        STORED / "releases" / f"{TRACK}.jsonl",
        lambda line: b'"kind":"part"' not in line or b'"comparison":"vjp/exp/' in line,
    )
    write(place / "releases" / f"{TRACK}.jsonl", map(poisoned, part))
    for name in ("aa-20261127-065313-5e2778", "peers-20261127-021213-136fcd"):
        study = lines(STORED / "studies" / f"{name}.jsonl")
        write(place / "studies" / f"{name}.jsonl", map(poisoned, study))
    return place


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """A folder of logs whose first lines are refused, each for a hostile text."""
    place = tmp_path_factory.mktemp("refused")
    for folder, name in (
        ("runs", RUN),
        ("releases", TRACK),
        ("studies", "aa-20261127-065313-5e2778"),
    ):
        (first,) = lines(STORED / folder / f"{name}.jsonl", lambda line: b'"schema"' in line)
        bad = first | {"machine": {"cpu": EVIL}, "settings": {EVIL: EVIL}}
        write(place / folder / f"{name}.jsonl", [bad])
        write(place / folder / f"{name}x.jsonl", [first | {"started": EVIL}])
        write(place / folder / f"{name}y.jsonl", [first | {EVIL: EVIL, "plan": EVIL}])
        write(place / folder / f"{name}z.jsonl", [{"kind": EVIL}])
    return place


def ran(results, capsys, *words):
    """The exit code of a command, what it wrote, and the message that it would end with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            arguments = [*words, "--results", str(results)]
            code, message = cli.main(arguments, standalone_mode=False), ""
        except click.ClickException as error:
            # The entry writes it as one line of this.
            code, message = 2, text.line(error.format_message())
    out, err = capsys.readouterr()
    return code, out, err + message


def assert_harmless(written, also=""):
    """Nothing in what was written is obeyed by a terminal, or hidden from its reader."""
    written.encode("utf-8")
    for letter in set(written) - {"\n", *also}:
        category = unicodedata.category(letter)
        assert category not in ("Cc", "Cf", "Cs", "Zl", "Zp"), (hex(ord(letter)), written[:500])


SHOWING = (
    ("show",),
    ("show", RUN, "--all"),
    ("show", RUN.replace("063236", "063235"), "--all"),
    ("show", "--runs"),
    ("compare", RUN, RUN.replace("063236", "063237"), "--all"),
    ("releases", "show"),
    ("releases", "show", "--all", "-m", "grad"),
    ("releases", "show", "--by", "mode"),
    ("releases", "compare", "2.11.0", "2.13.0", "--all"),
    ("study", "report", "--by-case"),
)
FORMS = ("table", "json", "csv", "md")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", SHOWING, ids=" ".join)
def test_what_is_shown_is_text_and_nothing_else(results, capsys, words, form):
    code, out, err = ran(results, capsys, *words, "--format", form)
    assert code in (0, 1) or (code == 2 and not out), err
    assert_harmless(out)
    assert_harmless(err)
    if code == 2:
        return
    if form == "json":
        # Studies are shown one after the other.
        decoder, rest = json.JSONDecoder(parse_constant=pytest.fail), out.strip()
        while rest:
            _, end = decoder.raw_decode(rest)
            rest = rest[end:].strip()
    elif form == "csv":
        assert_no_formula(out)
    elif form == "md":
        assert_no_markup(out)


@pytest.mark.parametrize("words", SHOWING, ids=" ".join)
def test_what_is_refused_is_named_in_harmless_lines(refused, capsys, words):
    code, out, err = ran(refused, capsys, *words)
    assert code == 2 or words == ("show", "--runs")
    assert out == ""
    assert_harmless(err)


def assert_no_formula(written):
    rows = list(csv.reader(io.StringIO(written)))
    assert rows
    for cell in itertools.chain.from_iterable(rows):
        if cell[:1] and cell[0] in "=+-@\t\r\n＝＋－＠":
            float(cell)  # a number may be negative


def assert_no_markup(written):
    prose = re.sub(r"\\[^\w\s]", "", written)  # what is escaped is no markup
    assert not re.search(r"\]\(", prose.replace("](figures/", ""))
    assert not re.search(r"<(?!/?(details|summary)>)", prose)
    assert not re.search(r"(?i)https?://|www\.", prose)
    assert "**bold" not in prose


@pytest.mark.parametrize("what", ["cases", "samples", "verdicts"])
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_an_export_holds_text_and_numbers(results, capsys, tmp_path, what, ending):
    target = tmp_path / f"x.{ending}"
    named = [RUN] if what == "verdicts" else []
    code, out, err = ran(results, capsys, "export", *named, "--what", what, "-t", str(target))
    assert code in (0, None), err
    assert_harmless(out + err)
    if ending == "csv":
        assert_harmless(target.read_text(encoding="utf-8"))
        assert_no_formula(target.read_text(encoding="utf-8"))
        frame = pd.read_csv(target)
    elif ending == "json":
        frame = pd.DataFrame(json.loads(target.read_bytes().decode("utf-8")))
    else:
        frame = pd.read_parquet(target)
    number = "nanoseconds" if what == "samples" else "ulps"
    assert frame[number].dtype.kind in "fi", "numbers stay numbers"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def test_a_report_runs_no_script_but_its_own(results, capsys):
    code, out, err = ran(
        results, capsys, "report", "--no-code", "--format", "html", "--format", "md"
    )
    assert code in (0, None), err
    assert_harmless(out + err)
    page = (results / "report" / "report.html").read_text(encoding="utf-8")
    assert "calc" in page, "the hostile text is in it"
    assert_harmless(page, "\t")
    parser = Page()
    parser.feed(page)
    assert parser.tags.count("script") == 2
    assert "img" not in parser.tags
    assert "i" not in parser.tags
    for name, value in parser.attributes:
        assert not name.startswith("on"), name
        assert not (value or "").lower().strip().startswith("javascript:")
    rows = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    json.loads(rows, parse_constant=pytest.fail)
    told = (results / "report" / "report.md").read_text(encoding="utf-8")
    assert_harmless(told)
    assert_no_markup(told)
    for drawing in (results / "report" / "figures").glob("*.svg"):
        ElementTree.parse(drawing)


@pytest.mark.parametrize(
    "kind", ["heatmap", "dots", "forward", "memory", "correctness", "releases", "aa", "peers"]
)
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_figure_is_drawn_whatever_the_labels(results, capsys, tmp_path, kind, ending):
    target = tmp_path / f"x.{ending}"
    one = [RUN, "-f", "*vector_field", "--size", "N=10"] if kind in ("dots", "memory") else []
    code, out, err = ran(results, capsys, "plot", kind, *one, "-t", str(target))
    assert_harmless(out + err)
    if code == 2:
        assert "nothing" in err or "no " in err, err
        return
    if ending == "svg":
        ElementTree.parse(target)


def test_labels_are_no_formulas(tmp_path):
    from matplotlib.figure import Figure

    from gradbench.report import style

    figure = Figure()
    ax = figure.subplots()
    ax.plot([1, 2], label=EVIL)
    ax.set_xticks([0, 1], [EVIL, "$\\frac{$"])
    ax.set_title(EVIL)
    ax.legend()
    for name in ("a.svg", "a.png", "a.pdf"):
        style.save(figure, tmp_path / name)
    assert "script" not in {
        node.tag.rpartition("}")[2] for node in ElementTree.parse(tmp_path / "a.svg").iter()
    }
    assert "<script" not in style.inline(figure, "x", EVIL)


def test_a_progress_line_is_one_line(capsys, monkeypatch):
    from gradbench.cli import progress

    monkeypatch.setattr(progress._Lines, "EVERY", 0)
    with progress.progress("measuring") as report:
        report(Progress(0, 2, EVIL + "\nforged", 1.0))
    err = capsys.readouterr().err
    assert_harmless(err)
    assert err.count("\n") == 1


def test_an_input_that_is_echoed_is_harmless(tmp_path):
    """Errors name what was typed; the terminal obeys none of it."""
    evil = EVIL.replace("\0", "")
    surrogate = b"\xff\xe9"
    for words in (
        ["show", evil],
        ["show", surrogate],
        ["show", "--comparison", evil],
        ["run", "--resume", evil],
        ["run", "-f", evil, "--dry-run"],
        [evil],
        [f"--{evil}"],
        ["plot", evil, "-t", "x.svg"],
        ["export", "-t", evil],
        ["releases", "remove", evil],
        ["import", evil],
        ["show", "--results", surrogate],
    ):
        done = subprocess.run([*ENTRY, *words], capture_output=True, cwd=tmp_path, timeout=120)
        err = done.stderr.decode("utf-8")
        assert done.returncode == 2, (words, err)
        assert len(err.strip().splitlines()) == 1, (words, err)
        assert_harmless(err)
        assert_harmless(done.stdout.decode("utf-8"))


def test_reading_from_python_raises_and_warns_and_never_prints(results, tmp_path, capsys):
    with pytest.raises(StoreError, match="no runs"):
        gradbench.load(tmp_path)
    with pytest.raises(StoreError):
        gradbench.verdicts(tmp_path)
    with pytest.raises(StoreError):
        gradbench.samples(results, ["never"])
    with pytest.warns(UserWarning, match="odd") as caught:
        frame = gradbench.load(results)
    assert len(frame)
    for warning in caught:
        assert_harmless(str(warning.message))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quantity", ["95 % of them", "1.5 ms", "12 µs", "4 GiB", "30 s"])
def test_no_line_of_advice_ends_between_a_number_and_its_unit(quantity):
    for words in range(56, 76):
        lines = shown._folded([f"{'x' * words} about {quantity} a call"])
        assert max(map(len, lines)) <= shown.WIDTH
        assert any(" ".join(quantity.split()[:2]) in line for line in lines)
        assert " ".join(" ".join(lines).split()) == f"{'x' * words} about {quantity} a call"
