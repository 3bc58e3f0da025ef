"""asv's benchmarks: every comparison of the catalogue, timed by gradbench's visits.

Stored benchmarks are listed too, since asv replaces its list by what one environment discovers.
"""

import os
from pathlib import Path

from gradbench.integrations import asv_names as _names
from gradbench.integrations import asv_suite as _suite

_suite.end_with_asv()
_results = Path(os.environ.get("ASV_CONF_DIR", "."), "results", "asv")
_benchmarks = _names.merge([_suite.discover(), _names.stored(_results)])

globals().update(_suite.functions(_benchmarks.values()))
