"""Every comparison of the catalogue as a benchmark of asv's, timed by gradbench's own visits.

What is stored already is listed too: asv overwrites its list of benchmarks with what one
environment discovers.
"""

import os
from pathlib import Path

from gradbench.integrations import asv_names as _names
from gradbench.integrations import asv_suite as _suite

_stored = Path(os.environ.get("ASV_CONF_DIR", "."), "results", "asv")

_listed = _names.merged([_suite.discover(), _names.listed(_stored)])

globals().update(_suite.callables(_listed.values()))
