"""Names of a user's own functions: as they are typed, and as cases carry them.

A function of one's own is typed as ``module:function`` or ``file.py:function``. In the name of a
case it is ``module:function@1a2b3c4d``, with the first digits of a digest of its source and inputs:
an edited function is another one, and its times are not compared with earlier ones.
"""

from __future__ import annotations

import re
from pathlib import PurePath

_TARGET = re.compile(r"[^:*?\[\]]+:[A-Za-z_][A-Za-z0-9_.]*")
_VERSION = re.compile(r"(.+)@[0-9a-f]{8}")


def is_target(text: str) -> bool:
    """Whether this names a function of the user's, rather than being a glob."""
    return _TARGET.fullmatch(text) is not None


def label(target: str) -> str:
    """The name of a function without its version: ``models/net.py:loss`` is ``net:loss``."""
    place, _, function = target.rpartition(":")
    name = PurePath(place).name.removesuffix(".py") if place.endswith(".py") else place
    return f"{name}:{function}"


def unversioned(name: str) -> str:
    """A function's name without the digest; the name of any other function as it is."""
    found = _VERSION.fullmatch(name)
    return found[1] if found else name


def is_own(name: str) -> bool:
    """Whether a case's function is one of the user's, which only their files declare."""
    return _VERSION.fullmatch(name) is not None
