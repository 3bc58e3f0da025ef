"""The published torch releases, and how nightlies and other builds are named and ordered."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import re

from packaging.version import InvalidVersion, Version

TAG_LENGTH = 8
"""The names of asv's result files keep this many characters of a tag."""


class ReleaseError(ValueError):
    """An unknown release, or text that is no version; the message says what to type."""


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Release:
    """One build of torch: a release, a nightly or your own build.

    `version` is in the canonical form of PEP 440; releases and nightlies have no local part
    (``+cpu``), since their environment tells their builds apart. Releases sort by version.
    Raises ReleaseError if the version is invalid.
    """

    version: str
    date: datetime.date

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", str(parse(self.version)))

    @property
    def tag(self) -> str:
        """The name in asv's files: at most 8 characters, no ``-``.

        ``v2.13.0`` for a release, ``n261103`` (the date) for a nightly, and ``b`` with seven
        hexadecimal digits of a digest for any other version that is too long.
        """
        plain = f"v{self.version}"
        if len(plain) <= TAG_LENGTH:
            return plain
        day = _nightly(parse(self.version))
        if day is not None:
            return f"n{day:%y%m%d}"
        return "b" + hashlib.sha256(self.version.encode()).hexdigest()[: TAG_LENGTH - 1]

    @property
    def known(self) -> bool:
        """Whether this is one of `RELEASES`."""
        return self in RELEASES

    def __lt__(self, other: Release) -> bool:
        return parse(self.version) < parse(other.version)

    def __str__(self) -> str:
        return self.version


def parse(text: str) -> Version:
    """The version of ``2.13.0``, ``v2.13`` or ``2.13.0+cpu``.

    Drops the local part of releases and nightlies: builds for different devices are one release.
    Raises ReleaseError if the text is no version.
    """
    try:
        version = Version(text.strip())
    except InvalidVersion:
        raise ReleaseError(
            f"{text!r} is no version of torch; write it as {RELEASES[-1].version}"
        ) from None
    padded = (*version.release, 0, 0)[: max(3, len(version.release))]
    if _nightly(version):
        return Version(version.public)
    if version.is_prerelease or version.is_postrelease:
        return version
    return Version(".".join(map(str, padded)))


def _nightly(version: Version) -> datetime.date | None:
    """The day of a nightly such as ``2.16.0.dev20261103``."""
    digits = str(version.dev or "")
    if not re.fullmatch(r"\d{8}", digits):
        return None
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None


def find(text: str) -> Release:
    """The published release of ``2.13.0``, ``2.13``, ``v2.13.0`` or ``2.13.0+cpu``.

    Raises ReleaseError, with the nearest releases, for any other; `build` accepts every version.
    """
    version = str(parse(text))
    if version in _BY_VERSION:
        return _BY_VERSION[version]
    hint = f"did you mean {' or '.join(near(version))}? "
    raise ReleaseError(
        f"torch {version} is not a known release ({RELEASES[0]} to {RELEASES[-1]}); "
        f"{hint}A newer release, a nightly or your own build needs its date"
    )


def near(text: str) -> list[str]:
    """The versions of the three releases nearest to a version, the nearest first."""
    wanted = (*parse(text).release, 0, 0, 0)[:3]

    def distance(release: Release) -> tuple[int, ...]:
        numbers = (*parse(release.version).release, 0, 0, 0)[:3]
        return tuple(abs(a - b) for a, b in zip(numbers, wanted))

    return [release.version for release in sorted(RELEASES, key=distance)[:3]]


_PUBLISHED = re.compile(r"cpu(\.cxx11\.abi)?|cu\d+(\.with\.pypi\.cudnn)?|rocm[\d.]+|xpu")
"""The local parts of published builds."""


def require_published(text: str) -> None:
    """Raises ReleaseError, with the nearest releases, for a release that was never published.

    Versions newer than every known release pass, and so do nightlies, builds of one's own and text
    that is no version.
    """
    try:
        version = parse(text)
    except ReleaseError:
        return
    local = Version(text).local or ""
    other = version.is_prerelease or version.is_postrelease
    own_build = other or bool(local and not _PUBLISHED.fullmatch(local))
    if own_build or version > parse(RELEASES[-1].version) or str(version) in _BY_VERSION:
        return
    raise ReleaseError(
        f"there is no torch {version}; the nearest releases are {', '.join(near(str(version)))} "
        "('gradbench releases list --all' shows every one)"
    )


def build(text: str, date: datetime.date | None = None) -> Release:
    """The published release of a version, or a new one: a newer release, a nightly, your own build.

    A new one's date is `date`, else the day in a nightly's version, else today, the day on which
    it is first measured. Raises ReleaseError if the text is no version.
    """
    version = parse(text)
    new_date = date or _nightly(version) or datetime.date.today()
    return _BY_VERSION.get(str(version)) or Release(str(version), new_date)


PYTHONS: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...] = (
    ("2.0.0", (3, 8), (3, 11)),
    ("2.2.0", (3, 8), (3, 12)),
    ("2.5.0", (3, 9), (3, 13)),
    ("2.9.0", (3, 10), (3, 14)),
)
"""From which release on there are wheels for which Pythons, the oldest and the newest."""


def require_python(text: str, python: tuple[int, int]) -> None:
    """Raises ReleaseError for a published release without a wheel for this version of Python.

    What newer Pythons the newest releases are built for is not known: they pass.
    """
    try:
        version = parse(text)
    except ReleaseError:
        return
    if str(version) not in _BY_VERSION:
        return
    rows = [row for row in PYTHONS if parse(row[0]) <= version]
    _, oldest, newest = rows[-1]
    if python < oldest or (python > newest and rows[-1] != PYTHONS[-1]):
        raise ReleaseError(
            f"torch {version} has no wheel for Python {_dotted(python)}: it has wheels for Python "
            f"{_dotted(oldest)} to {_dotted(newest)}; build its environment with one of these "
            "(--python)"
        )


def _dotted(python: tuple[int, int]) -> str:
    return ".".join(map(str, python))


# First upload of a wheel of each release to the package index.
RELEASES: tuple[Release, ...]
RELEASES = tuple(
    Release(version, datetime.date.fromisoformat(date))
    for version, date in {
        "2.0.0": "2023-03-15",
        "2.0.1": "2023-05-08",
        "2.1.0": "2023-10-04",
        "2.1.1": "2023-11-15",
        "2.1.2": "2023-12-14",
        "2.2.0": "2024-01-30",
        "2.2.1": "2024-02-22",
        "2.2.2": "2024-03-27",
        "2.3.0": "2024-04-24",
        "2.3.1": "2024-06-05",
        "2.4.0": "2024-07-24",
        "2.4.1": "2024-09-04",
        "2.5.0": "2024-10-17",
        "2.5.1": "2024-10-29",
        "2.6.0": "2025-01-29",
        "2.7.0": "2025-04-23",
        "2.7.1": "2025-06-04",
        "2.8.0": "2025-08-06",
        "2.9.0": "2025-10-15",
        "2.9.1": "2025-11-12",
        "2.10.0": "2026-01-21",
        "2.11.0": "2026-03-23",
        "2.12.0": "2026-05-13",
        "2.12.1": "2026-06-17",
        "2.13.0": "2026-07-08",
        "2.14.0": "2026-09-02",
        "2.14.1": "2026-09-30",
        "2.15.0": "2026-10-28",
    }.items()
)
"""Every release from 2.0.0 on, oldest first, with the day of its publication."""

_BY_VERSION = {release.version: release for release in RELEASES}
