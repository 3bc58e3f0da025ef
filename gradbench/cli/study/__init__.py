"""gradbench study: a file for the commands that belong together."""

from __future__ import annotations

from gradbench.cli.groups import Group

command = Group(
    "study",
    words=("study",),
    help="""Validate the verdicts on this machine.

    Each study measures something whose answer is known and counts the verdicts: false positives on
    identical code (aa), injected slowdowns found (power), the same for other tools (peers), and
    how often an interval contains the true ratio (coverage). 'gate' does so for correctness: right
    derivatives of real functions, and planted errors. 'load' measures known ratios
    beside busy processes, 'releases' the gate on releases. 'budgets' times advice itself, 'experts'
    compares it with an expert's code. 'report' writes the evidence page.
    """,
    homes={
        "aa": "study.measured.aa",
        "power": "study.measured.power",
        "coverage": "study.measured.coverage",
        "peers": "study.measured.peers",
        "load": "study.measured.load",
        "asv-steps": "study.asv_steps.asv_steps",
        "experts": "study.gate.experts",
        "releases": "study.measured.releases",
        "gate": "study.gate.gate",
        "budgets": "study.gate.budgets",
        "report": "study.stored.report",
    },
)
