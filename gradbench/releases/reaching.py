"""Whether the package index that is asked for answers, before an installer tries for minutes."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from gradbench.core.releases import ReleaseError

PATIENCE = 10.0
"""Seconds in which the index has to accept a connection."""

_OPTION = re.compile(r"(?:--index-url|--default-index|-i)(?:=(.*))?")
_PORTS = {"http": 80, "https": 443}


def require_reachable(passed: Sequence[str], uv: bool) -> None:
    """Raises ReleaseError, with the cause, where no connection to the index can be made.

    `passed` are the arguments for the installer. An index that only a file of pip's or uv's
    settings names is not tried, nor one that is reached in another way than HTTP.
    """
    address, source = _index(passed, uv)
    parts = urlsplit(address)
    proxies = urllib.request.getproxies()
    if parts.scheme not in _PORTS or not parts.hostname:
        return
    if parts.scheme in proxies and not urllib.request.proxy_bypass(parts.hostname):
        return
    try:
        port = parts.port or _PORTS[parts.scheme]
        socket.create_connection((parts.hostname, port), PATIENCE).close()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        if isinstance(error, TimeoutError):
            cause = f"no answer within {PATIENCE:g} s"
        raise ReleaseError(f"the package index of {source} cannot be reached: {cause}") from error


def _index(passed: Sequence[str], uv: bool) -> tuple[str, str]:
    """The address of the index, and what names it; empty where nothing does."""
    address, source = "", ""
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX") if uv else ("PIP_INDEX_URL",):
        if os.environ.get(name):
            address, source = os.environ[name], name
    for word, following in zip(passed, [*passed[1:], ""]):
        option = _OPTION.fullmatch(word)
        if option:
            address, source = option[1] or following, word.partition("=")[0]
    return address, source
