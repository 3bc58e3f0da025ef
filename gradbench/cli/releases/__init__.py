"""gradbench releases: a file for the commands that belong together."""

from __future__ import annotations

from gradbench.cli.parameters import Group
from gradbench.cli.releases import bisect, environments, history, track

command = Group(
    "releases",
    help="""Install, measure, compare and bisect torch releases.

    A release is named by its version (2.9.0). NAME=WHAT gives an environment a name of your own:
    WHAT is a version, a wheel, or a Python that has torch (mine=/path/to/bin/python).
    """,
    commands=[
        environments.list_,
        environments.install,
        environments.remove,
        track.track,
        history.show,
        history.compare,
        track.asv,
        bisect.bisect,
    ],
)
