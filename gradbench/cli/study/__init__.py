"""gradbench study: a file for the commands that belong together."""

from __future__ import annotations

from gradbench.cli.parameters import Group
from gradbench.cli.study import asv_steps, experts, measured, stored

command = Group(
    "study",
    help="""Validate the verdicts on this machine.

    Each study measures something whose answer is known and counts the verdicts: false positives on
    identical code (aa), injected slowdowns found (power), the same for other tools (peers), and
    how often an interval contains the true ratio (coverage). 'report' writes the evidence page.
    """,
    commands=[
        measured.aa,
        measured.power,
        measured.coverage,
        measured.peers,
        asv_steps.asv_steps,
        experts.experts,
        stored.report,
    ],
)
