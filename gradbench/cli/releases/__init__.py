"""gradbench releases: a file for the commands that belong together."""

from __future__ import annotations

from gradbench.cli.groups import Group

command = Group(
    "releases",
    words=("releases",),
    help="""Install, measure, compare and bisect torch releases.

    A release is named by its version (2.9.0). NAME=WHAT gives an environment a name of your own:
    WHAT is a version, a wheel, or a Python that has torch (mine=/path/to/bin/python).
    """,
    homes={
        "list": "releases.environments.list_",
        "install": "releases.environments.install",
        "remove": "releases.environments.remove",
        "track": "releases.track.track",
        "show": "releases.history.show",
        "compare": "releases.history.compare",
        "asv": "releases.track.asv",
        "bisect": "releases.bisect.bisect",
        "explain": "releases.explain.explain",
    },
)
