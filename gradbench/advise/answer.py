"""An answer of advise: the findings, the judged modes, the code of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.advise import shown, telling
from gradbench.advise.question import Question
from gradbench.advise.telling import PEAK
from gradbench.analysis.table import Judged, Row, record
from gradbench.core.cases import FORWARD
from gradbench.core.extras import require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["PEAK", "Advice"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a function was looked at or measured; `advice` is what was known by then."""

    def __init__(self, advice: Advice) -> None:
        super().__init__("stopped")
        self.advice = advice


@dataclass(frozen=True, repr=False)
class Advice:
    """The findings on a function, and the judged run.

    `print` shows all of it; in a notebook it displays itself as a table, a figure and code.
    """

    question: Question
    found: dict[str, Any]
    """The evidence, the structure and the theoretical cost, in sentences, and the inputs."""
    operator: str
    """The operator that was asked for or suits the function; empty if it was not called in time."""
    judged: Judged | None
    path: Path | None
    """The stored run; None where there was no time for one."""
    seconds: float
    """The time the answer took."""
    first: str = ""
    """The mode that people usually write first."""
    facts: str = ""
    """Dtype, threads, build and machine in one line."""
    stopped: bool = False
    """Whether Ctrl-C ended it: it has what was known by then."""

    @property
    def target(self) -> str:
        return self.question.target

    @property
    def budget(self) -> float:
        return self.question.budget

    @property
    def name(self) -> str:
        """The function's name without its module."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per mode, with the columns of `gradbench.verdicts`."""
        from gradbench.analysis import schema

        judged = self.judged
        rows = [record(row, judged) for row in judged.rows] if judged else []
        return schema.of_records(rows, schema.VERDICTS)

    @property
    def operators(self) -> list[str]:
        """The operators that were measured."""
        return [self.operator] if self.judged and self.judged.rows else []

    @property
    def run(self) -> str:
        """The name of the stored run; empty where there is none."""
        return self.judged.run if self.judged else ""

    def winner(self, operator: str = "") -> str:
        """The fastest mode; empty if none was timed."""
        row = telling.winner(self.rows(operator))
        return row.mode if row else ""

    def rows(self, operator: str = "") -> list[Row]:
        """The modes, the fastest first, modes without times last.

        Raises ValueError if the operator was not measured.
        """
        operator = operator or self.operator
        if operator != self.operator:
            raise ValueError(f"{operator!r} was not measured, but {self.operator or 'nothing'}")
        mine = [row for row in self.judged.rows if row.mode != FORWARD] if self.judged else []
        return sorted(mine, key=lambda r: math.inf if r.seconds is None else r.seconds)

    def code(self, operator: str = "", mode: str = "") -> str:
        """The code of a mode (default: the fastest, or where nothing was timed the most promising),
        to paste.

        Raises ValueError if there is no such mode.
        """
        operator, mode = operator or self.operator, mode or telling.recommended(self)
        code: dict[str, str] = self.found["code"] | self.found["own"]
        if operator != self.operator or mode not in code:
            raise ValueError(f"there is no code of a mode {mode!r} of {operator}")
        return code[mode]

    @property
    def took(self) -> str:
        """A sentence on how long the answer took."""
        return f"Took {self.seconds:.0f} s (budget {self.budget:g} s)."

    def figure(self, operator: str = "") -> Figure:
        """A plot of each mode's time as a multiple of the fastest's, with its interval.

        Raises NothingToDraw if no mode was timed, MissingExtra without matplotlib.
        """
        require("a figure", "matplotlib")
        from matplotlib.figure import Figure

        from gradbench.report.ratios import dots

        rows = self.rows(operator)
        frame = self.frame[self.frame["mode"].isin([row.mode for row in rows])]
        frame = frame.assign(comparison=str(rows[0].comparison), by_hand=False)
        # Not of pyplot: a notebook would show it a second time.
        drawn = Figure(figsize=(8.6, 1.5 + 0.27 * len(rows)))
        ax = drawn.add_subplot()
        dots(frame, ax)
        ax.set_title(f"{self.operator} of {self.name}", loc="left", fontsize=9.5)
        ax.set_title("")
        return drawn

    def __str__(self) -> str:
        return shown.as_text(self)

    def __repr__(self) -> str:
        said = f"{self.operator}: {self.winner() or 'none'}" if self.operator else "nothing"
        return f"<Advice on {self.name}: {said}>"

    def _repr_html_(self) -> str:
        return shown.as_html(self)
