"""The report as one HTML page or as Markdown: findings, figures and the table of all cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench import __version__
from gradbench.core import text
from gradbench.core.cases import FORWARD
from gradbench.core.units import call_time
from gradbench.report import sections, style
from gradbench.report.data import Stored, rows
from gradbench.report.findings import Note, findings, warnings
from gradbench.store.files import NotOurs, require_free, require_ours, write_text
from gradbench.store.runs import StoreError, now

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PLAIN = 500
"""Rows of the table that is shown without scripts."""


@dataclass(frozen=True)
class Report:
    """The content of a report, before it is written as HTML or Markdown."""

    stored: Sequence[Stored]
    frame: pd.DataFrame
    findings: list[Note]
    warnings: list[str]
    sections: list[sections.Section]
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
    """The report of runs.

    `keep` selects rows; `changes` is a `releases.timeline`; `studies` holds each study's kind and
    figure; `code` the modes as a worker lists them, and a sentence with their version; `drawn`
    frames of `curves.computed`. Raises StoreError if no row is left.
    """
    every = rows(stored)
    frame = keep(every) if len(every) else every
    changes = pd.DataFrame() if changes is None else changes
    if frame.empty and (changes.empty or len(every)):
        raise StoreError("nothing to report: no stored case is selected")
    newest = frame[frame["newest"]] if len(frame) else frame
    timed = set() if frame.empty else set(zip(frame["operator"], frame["mode"]))
    return Report(
        stored,
        frame,
        findings(frame, stored, changes),
        warnings(frame, stored, problems),
        sections.of(newest, changes, drawn, studies),
        [m for m in code[0] if (m["operator"], m["mode"]) in timed and m["mode"] != FORWARD],
        code[1],
        changes,
    )


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
    """The table without scripts: cases that are not *slower*, at most `MOST_PLAIN` of them.

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
    """Machine, versions and time of each run, and of each build of the tracks."""
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
            "other differences from the previous build": str(build["note"]),
        }
        for build in builds.to_dict("records")
    ]


_ENDINGS = (".svg", ".png")
_MARK = " by gradbench "
"""Every page has this near its beginning; a file without it is not overwritten."""


def _require_ours(path: Path) -> bool:
    """Whether a page will be replaced. Raises StoreError if the file is not gradbench's or cannot
    be written: drawing takes minutes, so this is checked first."""
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
