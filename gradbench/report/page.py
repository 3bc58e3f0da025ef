"""A report written as one HTML page, or as Markdown with figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench import __version__
from gradbench.core import text
from gradbench.core.cases import FORWARD
from gradbench.core.units import call_time
from gradbench.report import answers, looks, multiples, style
from gradbench.report.block import block, meanings
from gradbench.report.content import Report
from gradbench.store.files import NotOurs, require_free, require_ours, write_text
from gradbench.store.runs import StoreError, now

MOST_PLAIN = 500
"""Rows of the table that is shown without scripts."""


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
    return (Path(__file__).parent / path).read_text(encoding="utf-8")


SCRIPTS = ("state.js", "answer.js", "tables.js", "charts.js", "cases.js", "page.js")
"""The page's script, in the order in which its parts need each other."""


def write_html(
    report: Report, path: Path, told: Callable[[int, int, str], None] = lambda *at: None
) -> None:
    """Writes the page whole or not at all. Raises StoreError where it cannot be written."""
    from markupsafe import Markup

    _require_ours(path)
    total, done = sum(len(s.figures) for s in report.extras), 0
    drawings: dict[str, Any] = {}
    for section in report.extras:
        for shown in section.figures:
            told(done, total, shown.id)
            drawings[shown.id] = Markup(style.inline(shown.make(), shown.id, shown.described))
            done += 1
    first = answers.default_view(report.answered)
    cases = report.newest(report.machine)
    script = "\n".join(_text(f"script/{name}") for name in SCRIPTS)
    page = (
        _template()
        .get_template("page.html.jinja")
        .render(
            report=report,
            first=first,
            sentence=answers.sentence(first.found) if first else [],
            bars=answers.bars(first.found) if first else [],
            meaning=meanings().get(first.operator, "") if first else "",
            summary=answers.summary(report.answered),
            run=report.run,
            caveats=report.caveats.get(report.machine, []),
            drawings=drawings,
            data=Markup(block(report)),
            plain=plain(cases),
            cases=len(cases),
            script=Markup(f'"use strict";\n(() => {{\n{script}}})();\n'),
            looks=Markup(looks.stylesheet() + _text("page.css")),
            multiples_intro=multiples.INTRO,
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
    parts = [*report.figures, *report.extras]
    total, done = sum(len(s.figures) for s in parts), 0
    written_before = _require_ours(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not written_before:
            for shown in (shown for section in parts for shown in section.figures):
                for ending in _ENDINGS:
                    require_free(folder / f"{shown.id}{ending}")
        for section in parts:
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
    frame = report.newest(report.machine)
    cases = plain(frame)
    template = _template().get_template("page.md.jinja")
    page = template.render(
        report=report,
        parts=parts,
        run=report.run,
        summary=answers.summary(report.answered),
        sentences=[str(view) for view in report.answered if not view.size],
        plain=cases,
        left_out=len(frame) - len(cases),
        multiples_intro=multiples.INTRO,
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
