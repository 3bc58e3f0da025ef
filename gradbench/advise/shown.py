"""An answer as text for a terminal, as a piece of a page, and as a document for programs."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gradbench.advise import telling
from gradbench.advise.telling import PEAK
from gradbench.analysis.table import Row, record
from gradbench.core import text
from gradbench.core.units import reading
from gradbench.core.verdicts import Verdict

if TYPE_CHECKING:
    from gradbench.advise.answer import Advice

WIDTH = 80
"""Columns of the text."""

TIED, UNIT = "\u00a0", re.compile(r"(?<=[0-9]) (?=%|(?:[nµm]?s|[KMG]iB)\b)")
"""A space at which no line is broken, and where it stands: between a number and its unit."""

HEADINGS = ("mode", "time", "× fastest", "peak memory", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """A timed mode's cells under `HEADINGS`."""
    memory = reading(row.readings[PEAK], "bytes") if PEAK in row.readings else ""
    fastest = row.verdict == Verdict.FASTEST
    factor = "1" if fastest else telling.factor(row.to_fastest)
    return row.mode, telling.spread(row), factor, memory, str(row.verdict)


def heading(advice: Advice) -> str:
    return f"{advice.operator} of {advice.name}, by {', '.join(advice.found['wrt'])}"


def as_text(advice: Advice) -> str:
    """The answer in lines of up to `WIDTH` columns, but for the code."""
    lines: list[str] = []
    for title, said in sections(advice):
        if said:
            lines += [title, *_folded(said)]
    timed = [row for row in advice.rows() if row.seconds is not None]
    if timed:
        lines += ["", *textwrap.wrap(heading(advice), WIDTH), "", *table(map(cells, timed))]
    left_out = telling.statuses(advice.rows())
    lines += ["", *_folded(left_out)] if left_out else []
    lines += ["", *_folded(telling.sentences(advice), "")]
    mode = telling.recommended(advice)
    if code := advice.found["code"].get(mode) or advice.found["own"].get(mode, ""):
        lines += ["", f"The code of {mode}, to paste:", "", code.rstrip("\n"), ""]
    lines += _folded([advice.facts, advice.took] if advice.facts else [advice.took], "")
    return "\n".join(lines).strip("\n")


def sections(advice: Advice) -> list[tuple[str, list[str]]]:
    """The headings of the findings and what is said under each."""
    found = advice.found
    return [
        ("Evidence", found["evidence"]),
        ("Hints", found["hints"]),
        ("Structure", found["structure"]),
        ("Cost by theory", found["cost"]),
    ]


def table(rows: Iterable[Sequence[str]], headings: Sequence[str] = HEADINGS) -> list[str]:
    """Rows under headings; the first and the last column stand on the left, columns without
    anything are left out."""
    columns = list(zip(*_filled(headings, rows)))
    widths = [max(map(len, column)) for column in columns]
    ends = (0, len(columns) - 1)
    lines = [
        "  ".join(
            cell.ljust(width) if place in ends else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths))
        ).rstrip()
        for cells in zip(*columns)
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return [" " + line for line in (lines[0], rule, *lines[1:])]


def _filled(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Headings and rows, without the columns that have nothing but a heading."""
    columns = zip(headings, *rows)
    return list(zip(*(column for column in columns if any(column[1:]))))


def _folded(said: Iterable[str], indent: str = "  ") -> list[str]:
    """Sentences, folded, with their further lines set in."""
    lines: list[str] = []
    for sentence in said:
        wrapped = textwrap.wrap(
            UNIT.sub(TIED, sentence),
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_on_hyphens=False,
        )
        lines += (line.replace(TIED, " ") for line in wrapped)
    return lines


def as_document(advice: Advice) -> dict[str, Any]:
    """The answer for programs: findings, a record for each mode, sentences and code."""
    found = advice.found
    judged = advice.judged
    mode = telling.recommended(advice)
    return {
        "target": advice.target,
        "operator": advice.operator,
        "wrt": found["wrt"],
        "winner": advice.winner(),
        "recommended": mode,
        "said": telling.sentences(advice),
        **{title.lower().replace(" ", "_"): said for title, said in sections(advice)},
        "modes": [record(row, judged) for row in advice.rows()] if judged else [],
        "code": found["code"].get(mode) or found["own"].get(mode, ""),
        "conditions": advice.facts,
        "seconds": round(advice.seconds, 2),
        "budget": advice.budget,
        "run": advice.run,
    }


_PAGE = """
<div class="gradbench-advice">
<h4>{{ title }}</h4>
{% for line in said %}<p>{{ line | options }}</p>
{% endfor %}
{% macro line(cells, tag) %}<tr>{% for cell in cells %}<{{ tag }} style="padding: 0.1em 0.7em;
 white-space: nowrap; text-align: {{ 'left' if loop.first or loop.last else 'right' }}">
{{- cell }}</{{ tag }}>{% endfor %}</tr>
{% endmacro %}
{% if rows %}<table><thead>{{ line(rows[0], "th") }}</thead><tbody>
{% for row in rows[1:] %}{{ line(row, "td") }}{% endfor %}</tbody></table>{% endif %}
{% if left_out %}<ul>{% for line in left_out %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
{% if picture %}<img src="data:image/png;base64,{{ picture }}"
  alt="{{ title }}: time as a multiple of the fastest" style="max-width: 100%">{% endif %}
{% if code %}<p>The code of {{ mode }}, to paste:</p>
<pre style="font-family: monospace; white-space: pre; overflow-x: auto; text-align: left">
{{- code }}</pre>{% endif %}
<details><summary>Evidence, structure and cost</summary>
{% for heading, lines in sections if lines %}<p>{{ heading }}</p><ul>
{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>{% endfor %}
<p>{{ conditions }} {{ took }}</p></details>
</div>
"""


def _options(said: str) -> str:
    """A sentence as HTML, in which no line ends inside an option with its value."""
    import markupsafe

    kept = r'<span style="white-space: nowrap">\g<0></span>'
    return markupsafe.Markup(
        re.sub(r"--[a-z-]+( \w+)?", kept, str(markupsafe.escape(text.shown(said))))
    )


def as_html(advice: Advice) -> str:
    """The answer as a piece of a page: sentences, a table, a figure and the code."""
    import base64
    import io

    import jinja2

    from gradbench.report.style import NothingToDraw, write

    rows = advice.rows()
    picture = io.BytesIO()
    with contextlib.suppress(NothingToDraw, IndexError):
        write(advice.figure(), picture, format="png", dpi=110, bbox_inches="tight")
    mode = telling.recommended(advice)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, finalize=text.finalized)
    environment.filters["options"] = _options
    return environment.from_string(_PAGE).render(
        title=heading(advice),
        rows=_filled(HEADINGS, [cells(row) for row in rows if row.seconds is not None]),
        left_out=telling.statuses(rows),
        picture=base64.b64encode(picture.getvalue()).decode(),
        said=telling.sentences(advice),
        mode=mode,
        code=advice.found["code"].get(mode) or advice.found["own"].get(mode, ""),
        sections=sections(advice),
        conditions=advice.facts,
        took=advice.took,
    )
