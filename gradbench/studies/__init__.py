"""Studies of gradbench itself: false positives, power, coverage, and other tools.

A study measures what is known beforehand (the same code twice, a slowdown of known size) by the
suite's own protocol, and counts. `injection` and `peer_process` are the worker's side; the rest
never imports torch.
"""

STUDIES = {
    "aa": "gradbench.studies.aa",
    "power": "gradbench.studies.power",
    "peers": "gradbench.studies.peers",
    "coverage": "gradbench.studies.coverage",
}
"""The module of each study; each has a `plan` and `tables`."""
