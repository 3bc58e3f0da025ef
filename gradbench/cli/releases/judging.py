"""How changes between releases are judged: to explore them, or as a gate."""

from __future__ import annotations

from typing import NamedTuple

import click

from gradbench.cli import options, parameters
from gradbench.statistics import Method


class Asked(NamedTuple):
    """What the user said of how to judge; None where nothing was said."""

    threshold: float
    confidence: float | None
    method: Method | None

    def judging(self, gate: bool) -> options.Judging:
        """With the defaults: a gate is to fail by chance in at most one of a hundred runs, while
        of the changes that are found in exploring a twentieth may be false."""
        method: Method = "holm" if gate else "benjamini-hochberg"
        confidence = 0.99 if gate else 0.95
        return options.Judging(self.threshold, self.confidence or confidence, self.method or method)


release_options = options.all_of(
    options.as_one(
        "asked",
        Asked,
        options.threshold_option(0.02),
        click.option(
            "--confidence",
            type=parameters.Real(0.5, 1, max_open=True),
            help="Confidence level of the intervals.  [default: 0.99 in 'compare' and with "
            "--fail-on, else 0.95]",
        ),
        click.option(
            "--method",
            type=parameters.Choice(["benjamini-hochberg", "holm"]),
            help="How false positives are controlled over the whole table: their share "
            "(benjamini-hochberg, to explore) or the chance of any (holm, for CI).  [default: holm "
            "in 'compare' and with --fail-on, else benjamini-hochberg]",
        ),
    ),
    options.shown_options,
    click.option(
        "--allow-fewer",
        is_flag=True,
        help="With --fail-on: pass although cases that the tracks have were not compared.",
    ),
)
"""How two releases are compared, and when that fails a check."""
