"""The report: one self-contained HTML page, or Markdown with a folder of figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench import __version__
from gradbench.core import text
from gradbench.core.cases import FORWARD
from gradbench.core.units import call_time, reading
from gradbench.report import correctness, curves, history, pareto, places, ratios, sizes, style
from gradbench.report.data import Stored, rows
from gradbench.report.findings import Note, anchor, findings, scaling_anchor, warnings
from gradbench.report.ratios import multiple
from gradbench.store.files import NotOurs, require_free, require_ours, write_text
from gradbench.store.runs import StoreError, now

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DOTS, MOST_SCALING, MOST_MEMORY = 24, 12, 6
"""Figures of a kind in one page; `gradbench plot` draws any other."""
MOST_PLAIN = 500
"""Rows of a table that no script sorts."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page with its text alternative, made when it is written."""

    id: str
    described: str
    make: Callable[[], Figure]
    folded: bool = False


@dataclass
class Section:
    id: str
    title: str
    intro: str
    figures: list[Shown] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All that a page says, before it is written in one form or the other."""

    stored: Sequence[Stored]
    frame: pd.DataFrame
    findings: list[Note]
    warnings: list[str]
    sections: list[Section]
    sources: list[dict[str, Any]]
    sources_of: str
    changes: pd.DataFrame
    """The tracked builds: a `releases.timeline`, perhaps empty."""


def releases(results: Path) -> pd.DataFrame:
    """The tracked releases of a results folder; empty where there are none."""
    from gradbench.releases import timeline

    return timeline(results)


def assemble(
    stored: Sequence[Stored],
    problems: Sequence[str],
    keep: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
    changes: pd.DataFrame | None = None,
    studies: Sequence[tuple[str, Figure]] = (),
    code: tuple[list[dict[str, Any]], str] = ([], ""),
    drawn: Sequence[pd.DataFrame] = (),
) -> Report:
    """The report of runs. `keep` narrows the rows; `changes` is a `releases.timeline`; `studies`
    the kind and figure of each; `code` the modes that a worker told of and the sentence
    that says of which version; `drawn` what
    `curves.computed` gave. Raises StoreError where nothing is left to report."""
    every = rows(stored)
    frame = keep(every) if len(every) else every
    changes = pd.DataFrame() if changes is None else changes
    if frame.empty and (changes.empty or len(every)):
        raise StoreError("there is nothing to report: no stored case is selected")
    newest = frame[frame["newest"]] if len(frame) else frame
    sections = [*_operators(newest), _scaling(newest), _places(newest), _memory(newest)]
    sections += [_releases(changes)]
    sections += [_correctness(newest), _curves(drawn), _studies(studies)]
    there = set() if frame.empty else set(zip(frame["operator"], frame["mode"]))
    return Report(
        stored,
        frame,
        findings(frame, stored, changes),
        warnings(frame, stored, problems),
        [s for s in sections if s.figures],
        [m for m in code[0] if (m["operator"], m["mode"]) in there and m["mode"] != FORWARD],
        code[1],
        changes,
    )


def _figure(draw: Callable[..., Any], frame: pd.DataFrame) -> Callable[[], Figure]:
    def make() -> Figure:
        made: Figure = draw(frame).figure
        return made

    return make


def _leading(frame: pd.DataFrame) -> str:
    """Which mode is the fastest most often."""
    fastest = frame[(frame["verdict"] == "fastest") & ~frame["by_hand"]]
    if fastest.empty:
        return "no mode was timed"
    mode, times = Counter(fastest["mode"]).most_common(1)[0]
    return f"{mode} is the fastest in {times} of {len(fastest)} rows"


def _ends(frame: pd.DataFrame, column: str, written: Callable[[float], str]) -> str:
    """The least and the largest of a column over the automatic modes, with the modes."""
    own = frame[frame[column].notna() & frame["mode"].ne(FORWARD) & ~frame["by_hand"]]
    if own.empty:
        return "no automatic mode was read"
    own = own.sort_values(column)
    return " to ".join(f"{written(own[column].iloc[i])} ({own['mode'].iloc[i]})" for i in (0, -1))


def _operators(frame: pd.DataFrame) -> list[Section]:
    found: list[Section] = []
    if frame.empty:
        return found
    timed = frame[frame["to_fastest"].notna()]
    operators = list(dict.fromkeys(timed["operator"]))
    each = max(1, MOST_DOTS // max(1, len(operators)))
    for operator in operators:
        own = frame[frame["operator"] == operator]
        section = Section(
            anchor("operator", operator),
            str(operator),
            "The time of each way as a multiple of the fastest that needs no derivative by hand.",
        )
        # A machine or build more is a table of its own; a table has a page's height at most.
        for (cpu, torch), part in own.groupby(["cpu", "torch"], dropna=False, sort=False):
            names = list(dict.fromkeys(part["comparison"]))
            for start in range(0, len(names), 45):
                some = part[part["comparison"].isin(names[start : start + 45])]
                if some["to_fastest"].notna().any():
                    section.figures.append(
                        Shown(
                            anchor("heat", operator, str(cpu), str(torch), str(start)),
                            f"{operator}: multiple of the fastest by function and mode, on {cpu} "
                            f"with torch {torch}. {_leading(some)}; all numbers are in the table "
                            "of cases",
                            _figure(ratios.heat_map, some),
                        )
                    )
        with_forward = own[(own["verdict"] == "fastest") & own["to_forward"].notna()]
        if len(with_forward):
            section.figures.append(
                Shown(
                    anchor("forward", operator),
                    f"{operator}: the fastest mode as a multiple of the forward pass, "
                    f"{multiple(with_forward['to_forward'].min())}× to "
                    f"{multiple(with_forward['to_forward'].max())}×",
                    _figure(ratios.forward, own),
                    folded=True,
                )
            )
        for (name, run), part in _telling(own, each):
            section.figures.append(
                Shown(
                    anchor("dots", name, run),
                    f"{name}: each mode's ratio to the fastest with its interval. "
                    f"{_ends(part, 'to_fastest', lambda v: multiple(v) + '×')}",
                    _figure(ratios.dots, part),
                    folded=True,
                )
            )
        found.append(section)
    return found


def _telling(frame: pd.DataFrame, most: int) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The comparisons worth a figure: those with undecided modes first, then those with most."""
    groups: list[Any] = [
        (key, part)
        for key, part in frame.groupby(["comparison", "run"], sort=False)
        if part["to_fastest"].notna().sum() > 1
    ]
    groups.sort(key=lambda g: (-(g[1]["verdict"] == "undecided").sum(), -len(g[1]), g[0]))
    return groups[:most]


def _scaling(frame: pd.DataFrame) -> Section:
    section = Section(
        "scaling",
        "Time over size",
        "Bands reach from the lowest to the highest session. Dotted lines mark the sizes at which "
        "another mode becomes the fastest, interpolated between measured sizes, and only where "
        "both sides are decided.",
    )
    families = sorted(sizes.families(frame), key=lambda rows: -len(rows))
    for part in families[:MOST_SCALING]:
        first = part.iloc[0].to_dict()
        _, named = sizes.sized(part)
        section.figures.append(
            Shown(
                scaling_anchor(first),
                f"time of one call over size: {first['operator']} of {first['function']}"
                + "".join(
                    f"; {c.before} is the fastest below {named} ≈ {c.about}, {c.after} above"
                    for c in sizes.crossovers(part)
                ),
                _figure(sizes.scaling, part),
            )
        )
    return section


def _places(frame: pd.DataFrame) -> Section:
    section = Section(
        "devices",
        "Devices",
        "The fastest mode of each device over size. Dotted lines mark the sizes from which on "
        "another device is the faster: on either side every session of one is faster than all of "
        f"the other, in at most {places.CHANCE:.0%} of cases by chance. On a device ending in "
        "+transfer both copies are timed too; ending in +cold, caches were emptied before each "
        "call; ending in +8sets, calls took eight sets of inputs in turn.",
    )
    for part in places.families(frame)[:MOST_SCALING]:
        first: dict[Any, Any] = part.iloc[0].to_dict()
        said = " ".join(places.told(part))
        section.figures.append(
            Shown(
                anchor("devices", *(str(first[name]) for name in places.PROBLEM)),
                "time of one call by device over size: {operator} of {function}. ".format(**first)
                + (said or "No device is told to be the faster from some size on."),
                _figure(places.by_device, part),
            )
        )
    return section


def _memory(frame: pd.DataFrame) -> Section:
    section = Section(
        "memory",
        "Memory against time",
        "Down and to the left is better. Nothing automatic beats the modes on the dashed line in "
        "both. Bars reach from the lowest to the highest session.",
    )
    for part in pareto.readable(frame)[:MOST_MEMORY]:
        first = part.iloc[0]
        section.figures.append(
            Shown(
                anchor("memory", first.comparison, first.run),
                f"peak memory against time: {first.comparison}. "
                f"Time: {_ends(part, 'seconds', call_time)}. "
                f"Memory: {_ends(part, 'peak_memory', lambda v: reading(v, 'bytes'))}",
                _figure(pareto.memory, part),
            )
        )
    return section


def _releases(changes: pd.DataFrame) -> Section:
    section = Section(
        "releases",
        "Torch releases",
        "Ratios to the release that all were measured in turns with. ▲ called slower than the "
        "release before, ▼ faster; at most 12 cases, those with the largest called change first.",
    )
    if len(changes) and history.shown(changes):
        described = "time over torch releases as a ratio to the baseline release"
        section.figures.append(Shown("timelines", described, lambda: history.figure(changes)))
    return section


def _correctness(frame: pd.DataFrame) -> Section:
    section = Section(
        "correctness",
        "Correctness",
        "Every mode is held against the analytic derivative in float64 before and after it is "
        "timed. A mark is a case: its worst entry over all checks.",
    )
    if len(frame) and frame.loc[frame["mode"] != FORWARD, "ulps"].notna().any():
        checked = frame[frame["status"].isin(("ok", "wrong")) & (frame["mode"] != FORWARD)]
        if len(checked):
            described = (
                "worst error in units in the last place by mode and dtype: "
                f"{_ends(checked, 'ulps', lambda v: f'{v:.2g}')}"
            )
            section.figures.append(Shown("errors", described, _figure(correctness.errors, frame)))
    return section


def _curves(drawn: Sequence[pd.DataFrame]) -> Section:
    section = Section(
        "curves",
        "The documents' plots",
        "A function, its derivative by hand and by reverse mode, computed anew for this page.",
    )
    for part in drawn:
        name = str(part["function"].iloc[0])
        described = f"{name} with its derivative by autograd and by hand, which coincide"
        section.figures.append(
            Shown(anchor("curve", name), described, _figure(curves.derivatives, part))
        )
    return section


def _studies(studies: Sequence[tuple[str, Figure]]) -> Section:
    section = Section(
        "studies",
        "How far to trust the verdicts",
        "The same code against itself, and slowdowns of known size: the newest stored studies.",
    )
    for kind, figure in studies:
        headline = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
        described = " ".join(f"study {kind}: {headline}".split())
        section.figures.append(
            Shown(anchor("study", kind), described, lambda made=figure: made)  # type: ignore[misc]
        )
    return section


# ── writing ───────────────────────────────────────────────────────────────────────────────────

_COLUMNS = (
    *("operator", "function", "size", "dtype", "device", "threads", "mode", "seconds"),
    *("to_fastest", "to_fastest_low", "to_fastest_high", "verdict", "to_forward", "to_baseline"),
    *("peak_memory", "ulps", "sessions", "status", "reason", "note", "torch"),
    "run",
)


def packed(frame: pd.DataFrame) -> str:
    """The table of cases as JSON for the page's script: columns; texts once each, then numbers.

    Numbers have 4 digits. Nothing in it can end a script element.
    """
    columns: dict[str, Any] = {}
    for name in _COLUMNS:
        if frame.empty:
            columns[name] = {"texts": [], "at": []}
        elif frame[name].dtype.kind == "f":
            columns[name] = [
                None if math.isnan(v) else float(f"{max(-1e308, min(v, 1e308)):.4g}")
                for v in frame[name].tolist()
            ]
        else:
            codes, texts = pd.factorize(frame[name].astype(str))
            columns[name] = {"texts": [text.shown(t) for t in texts], "at": codes.tolist()}
    packed = json.dumps(columns, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return packed.replace("<", "\\u003c")


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradbench", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=text.finalized,
    )
    environment.filters["markdown"] = text.markdown_cell
    return environment


def _text(path: str) -> str:
    return Path(__file__).with_name(path).read_text(encoding="utf-8")


def write_html(
    report: Report, path: Path, told: Callable[[int, int, str], None] = lambda *at: None
) -> None:
    """Writes the page whole or not at all. Raises StoreError where it cannot be written."""
    from markupsafe import Markup

    _require_ours(path)
    total, done = sum(len(s.figures) for s in report.sections), 0
    drawings: dict[str, Any] = {}
    for section in report.sections:
        for shown in section.figures:
            told(done, total, shown.id)
            drawings[shown.id] = Markup(style.inline(shown.make(), shown.id, shown.described))
            done += 1
    page = (
        _template()
        .get_template("page.html.jinja")
        .render(
            report=report,
            drawings=drawings,
            environments=environments(report),
            rows=Markup(packed(report.frame)),
            plain=plain(report.frame),
            script=Markup(_text("page.js")),
            looks=Markup(_text("page.css")),
            version=__version__,
            made=now(),
        )
    )
    _write(path, page)


def write_markdown(
    report: Report, path: Path, told: Callable[[int, int, str], None] = lambda *at: None
) -> None:
    """Writes Markdown and, in a folder `figures` beside it, each figure as PNG and SVG.

    Raises StoreError where it cannot be written.
    """
    folder = path.with_name("figures")
    total, done = sum(len(s.figures) for s in report.sections), 0
    written_before = _require_ours(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not written_before:
            for shown in (shown for section in report.sections for shown in section.figures):
                for ending in _ENDINGS:
                    require_free(folder / f"{shown.id}{ending}")
        for section in report.sections:
            for shown in section.figures:
                told(done, total, shown.id)
                figure = shown.make()
                for ending in _ENDINGS:
                    style.save(figure, folder / f"{shown.id}{ending}")
                done += 1
    except NotOurs as error:
        raise StoreError(f"{error}; --to names another folder") from error
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    cases = plain(report.frame)
    template = _template().get_template("page.md.jinja")
    page = template.render(
        report=report,
        environments=environments(report),
        plain=cases,
        left_out=len(report.frame) - len(cases),
        version=__version__,
        made=now(),
    )
    _write(path, page)


def plain(frame: pd.DataFrame) -> list[list[str]]:
    """The table where no script runs: what is not called slower, `MOST_PLAIN` rows at most.

    A row has comparison, mode, time, ratio to the fastest, verdict, status, and reason with
    note, unescaped.
    """
    if frame.empty:
        return []
    kept = frame[frame["verdict"].ne("slower") & frame["mode"].ne(FORWARD)]
    return list(_cells(kept.head(MOST_PLAIN)))


def _cells(frame: pd.DataFrame) -> Iterator[list[str]]:
    for row in frame.to_dict("records"):
        cells = [str(row["comparison"]), str(row["mode"])]
        cells.append("" if math.isnan(row["seconds"]) else call_time(row["seconds"]))
        held = ""
        if not math.isnan(row["to_fastest"]):
            held = f"{row['to_fastest']:.3g}"
            if row["sessions"] > 1:
                held += f" [{row['to_fastest_low']:.3g}, {row['to_fastest_high']:.3g}]"
        reason = "; ".join(filter(None, (str(row["reason"]), str(row["note"]))))
        yield [*cells, held, str(row["verdict"]), str(row["status"]), reason]


def environments(report: Report) -> list[dict[str, str]]:
    """A row per run, and per build of the tracks: where, with what and when it was measured."""
    runs = [
        {
            "run": run.name,
            "started": run.header.started.started,
            "command": "gradbench " + " ".join(run.header.started.command),
            "sessions": str(run.judged.sessions),
            "cases": str(len(run.judged.rows)),
            "finished": "yes" if run.judged.finished else "no",
            **{k: "" if v is None else str(v) for k, v in run.environment.items()},
        }
        for run in report.stored
    ]
    if report.changes.empty:
        return runs
    told = ["release", "date", "track", "torch", "torch_git", "cpu_capability", "python", "numpy"]
    builds = report.changes[[*told, "note"]].drop_duplicates(["track", "release"])
    return runs + [
        {
            "run": f"torch {build['release']}, tracked",
            **{name: "" if build[name] is None else str(build[name]) for name in told[1:]},
            "also differs from the one before": str(build["note"]),
        }
        for build in builds.to_dict("records")
    ]


_ENDINGS = (".svg", ".png")
_MARK = " by gradbench "
"""What every page says near its beginning: another file of that name is somebody else's."""


def _require_ours(path: Path) -> bool:
    """Whether there is a page to be replaced. Raises StoreError where it is not gradbench's, or
    where there can be none: drawing takes minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return require_ours(path, _MARK)
    except NotOurs as error:
        raise StoreError(f"{error}; --to names another folder") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
