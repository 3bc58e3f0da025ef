"""Studies of gradbench itself: false positives, power, coverage, other tools, and the gate.

A study measures what is known beforehand (the same code twice, a slowdown of known size) by the
suite's own protocol, and counts. `corpus`, `experts.functions` and `peers.process` run in processes
of their own; the rest never imports torch.
"""

STUDIES = {
    "aa": "gradbench.studies.aa",
    "power": "gradbench.studies.power",
    "peers": "gradbench.studies.peers",
    "coverage": "gradbench.studies.coverage",
    "gate": "gradbench.studies.gate",
    "load": "gradbench.studies.load",
    "budgets": "gradbench.studies.budgets",
    "experts": "gradbench.studies.experts",
    "releases": "gradbench.studies.releases",
}
"""The module of each study; each has a `plan` and `rows`, and `tables` if it has several."""
