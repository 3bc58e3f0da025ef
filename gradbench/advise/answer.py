"""An answer of advise: the verdicts on each mode in sentences, and a notebook's view of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.analysis.table import Judged, Row, record
from gradbench.core import text
from gradbench.core.cases import FORWARD
from gradbench.core.instruments import PEAK_MEMORY
from gradbench.core.units import reading

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PEAK = PEAK_MEMORY.name

LEAN = 0.5
"""Another mode's memory is worth a word below this share of the fastest's, where it takes no more
than `NEARLY` times as long."""
NEARLY = 1.5


@dataclass(frozen=True, repr=False)
class Advice:
    """The findings on a function, and the judged run.

    In a notebook it displays itself as a table and a figure for each operator.
    """

    target: str
    found: dict[str, Any]
    """The evidence, the structure and the theoretical cost, in sentences, and the inputs."""
    judged: Judged
    path: Path
    """The stored run."""
    seconds: float
    budget: float
    """The time the answer took, and its budget, in seconds."""

    @property
    def name(self) -> str:
        """The function's name without its module."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per mode, with the columns of `gradbench.verdicts`."""
        import pandas as pd

        return pd.DataFrame([record(row, self.judged) for row in self.judged.rows])

    @property
    def operators(self) -> list[str]:
        """The operators that were measured."""
        return [c.operator for c in self.judged.baselines]

    def winner(self, operator: str = "") -> str:
        """The fastest mode of an operator (default: the first); empty if none was timed."""
        row = _winner(self.rows(operator))
        return row.mode if row else ""

    def rows(self, operator: str = "") -> list[Row]:
        """The modes of an operator, the fastest first, modes without times last.

        Raises ValueError if the operator was not measured.
        """
        operator = operator or self.operators[0]
        if operator not in self.operators:
            raise ValueError(f"{operator!r} was not measured, but {', '.join(self.operators)}")
        mine = [
            row
            for row in self.judged.rows
            if row.comparison.operator == operator and row.mode != FORWARD
        ]
        return sorted(mine, key=lambda r: math.inf if r.seconds is None else r.seconds)

    def code(self, operator: str = "", mode: str = "") -> str:
        """The code of a mode (default: the fastest), to paste.

        Raises ValueError if there is no such mode.
        """
        operator, mode = operator or self.operators[0], mode or self.winner(operator)
        code: dict[str, str] = self.found["code"] | self.found["own"]
        if operator not in self.operators or mode not in code:
            raise ValueError(f"there is no code of a mode {mode!r} of {operator}")
        return code[mode]

    def gain(self, operator: str = "") -> str:
        """A sentence on how much faster the fastest mode is than the usual choice; empty if they
        are the same."""
        rows = self.rows(operator)
        best = _winner(rows)
        first = self.judged.baselines[rows[0].comparison] if rows else ""
        usual = next((row for row in rows if row.mode == first), None)
        if best is None or usual is None or usual is best or usual.to_fastest is None:
            return ""
        ratio = usual.to_fastest
        return (
            f"{best.mode} is {ratio.value:.3g}× faster than {first}, the usual choice "
            f"(95 % interval {ratio.low:.3g} to {ratio.high:.3g}"
            f"{', too close to call' if usual.verdict == 'undecided' else ''})."
        )

    def own(self, operator: str = "") -> list[str]:
        """A sentence for each derivative given with `also`."""
        best, said = _winner(self.rows(operator)), []
        for row in self.rows(operator):
            if row.mode not in self.found["own"] or row is best:
                continue
            if row.to_fastest is None or best is None:
                said.append(f"Your {row.mode} was not timed: {row.status}, {row.reason}.")
                continue
            ratio = row.to_fastest
            said.append(
                f"Your {row.mode} takes {ratio.value:.3g}× the time of {best.mode} (95 % interval "
                f"{ratio.low:.3g} to {ratio.high:.3g}; {row.verdict})."
            )
        return said

    def memory(self, operator: str = "") -> str:
        """A sentence on the mode that needs far less memory in nearly the same time as the fastest;
        empty if there is none."""
        rows = [row for row in self.rows(operator) if PEAK in row.readings and row.seconds]
        best = _winner(rows)
        if best is None or best.seconds is None:
            return ""
        near = [row for row in rows if row.seconds and row.seconds <= NEARLY * best.seconds]
        lean = min(near, key=lambda row: row.readings[PEAK])
        if lean.readings[PEAK] > LEAN * best.readings[PEAK]:
            return ""
        return (
            f"{lean.mode} needs {reading(lean.readings[PEAK], 'bytes')} of memory instead of "
            f"{reading(best.readings[PEAK], 'bytes')}, in "
            f"{lean.seconds / best.seconds:.3g}× the time."  # type: ignore[operator]
        )

    def told(self, operator: str = "") -> list[str]:
        """The sentences of `gain`, `own` and `memory`."""
        said = [self.gain(operator), *self.own(operator), self.memory(operator)]
        return [sentence for sentence in said if sentence]

    @property
    def took(self) -> str:
        """A sentence on how long the answer took."""
        return f"Took {self.seconds:.0f} s (budget {self.budget:g} s)."

    def figure(self, operator: str = "") -> Figure:
        """A plot of each mode's time as a multiple of the fastest's, with its interval.

        Raises NothingToDraw if no mode was timed.
        """
        from matplotlib.figure import Figure

        from gradbench.report.ratios import dots

        name = self.rows(operator)[0].comparison
        frame = self.frame.assign(
            comparison=[str(row.comparison) for row in self.judged.rows], by_hand=False
        )
        # Not of pyplot: a notebook would show it a second time.
        drawn = Figure(figsize=(8.6, 1.5 + 0.27 * len(self.rows(operator))))
        ax = drawn.add_subplot()
        dots(frame[frame["comparison"] == name], ax)
        ax.set_title(f"{name.operator} of {self.name}", loc="left", fontsize=9.5)
        ax.set_title("")
        return drawn

    def __repr__(self) -> str:
        winners = [f"{operator}: {self.winner(operator) or 'none'}" for operator in self.operators]
        return f"<Advice on {self.name}: {', '.join(winners)}>"

    def _repr_html_(self) -> str:
        return html(self)


def _winner(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.verdict == "fastest"), None)


_PAGE = """
{% for part in parts %}
<h4>{{ part.title }}</h4>
<table><thead><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr></thead><tbody>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% if part.picture %}<img src="data:image/png;base64,{{ part.picture }}"
  alt="{{ part.title }}: time as a multiple of the fastest" style="max-width: 100%">{% endif %}
{% for line in part.said %}<p>{{ line }}</p>
{% endfor %}
{% if part.code %}<pre>{{ part.code }}</pre>{% endif %}
{% endfor %}
<details><summary>Evidence, structure and cost</summary><ul>
{% for line in said %}<li>{{ line }}</li>{% endfor %}</ul></details>
"""


def _figures(number: float) -> str:
    """A number with three figures at least, and no exponent."""
    return f"{number:,.0f}" if number >= 99.5 else f"{number:.3g}"


def html(advice: Advice) -> str:
    """The advice as a piece of a page: a table, a figure and the code for each operator."""
    import base64
    import io

    import jinja2

    from gradbench.report.style import NothingToDraw, write

    parts = []
    for operator in advice.operators:
        rows = advice.rows(operator)
        picture = io.BytesIO()
        with contextlib.suppress(NothingToDraw):
            write(advice.figure(operator), picture, format="png", dpi=110, bbox_inches="tight")
        parts.append(
            {
                "title": f"{operator} of {advice.name}, by {', '.join(advice.found['wrt'])}",
                "rows": [
                    (
                        row.mode,
                        _figures(row.seconds * 1e6) if row.seconds is not None else "",
                        _figures(row.to_fastest.value) if row.to_fastest else "",
                        reading(row.readings[PEAK], "bytes") if PEAK in row.readings else "",
                        row.verdict or f"{row.status}: {row.reason}",
                    )
                    for row in rows
                ],
                "picture": base64.b64encode(picture.getvalue()).decode(),
                "said": advice.told(operator),
                "code": advice.code(operator) if _winner(rows) else "",
            }
        )
    findings = advice.found
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, finalize=text.finalized)
    page = environment.from_string(_PAGE)
    return page.render(
        parts=parts,
        columns=("mode", "µs a call", "× fastest", "peak memory", "verdict"),
        said=[
            *(findings["evidence"] + findings["hints"] + findings["structure"] + findings["cost"]),
            advice.took,
        ],
    )
