"""The torch releases that are known, and how any other build takes its place among them."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import re

from packaging.version import InvalidVersion, Version

TAG_LENGTH = 8
"""Names of asv's result files hold so many characters of a tag."""


class ReleaseError(ValueError):
    """A release that is not known, or text that names none; the message says what to do."""


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Release:
    """One build of torch: a release, a nightly or a build of one's own.

    `version` is in the canonical form of PEP 440, without a local part (``+cpu``) where it is a
    release or nightly: its builds are told apart by their environment. Releases sort by version.
    Raises ReleaseError where the version is none.
    """

    version: str
    date: datetime.date

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", str(parse(self.version)))

    @property
    def tag(self) -> str:
        """The name in asv's files, ``v2.13.0``: at most 8 characters, no ``-``.

        A nightly's is ``n`` and its date, as ``n261103``; that of any other version that is too
        long ``b`` and seven hexadecimal digits of its digest.
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
        """Whether it is one of `RELEASES`."""
        return self in RELEASES

    def __lt__(self, other: Release) -> bool:
        return parse(self.version) < parse(other.version)

    def __str__(self) -> str:
        return self.version


def parse(text: str) -> Version:
    """The version that ``2.13.0``, ``v2.13`` or ``2.13.0+cpu`` stands for.

    The local part of a release or a nightly is dropped: its builds for different devices are one
    release. Raises ReleaseError.
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
    """The known release of ``2.13.0``, ``2.13``, ``v2.13.0`` or ``2.13.0+cpu``.

    Raises ReleaseError, with the nearest known ones, where there is none; `build` takes any.
    """
    version = str(parse(text))
    for release in RELEASES:
        if release.version == version:
            return release
    hint = f"did you mean {' or '.join(near(version))}? "
    raise ReleaseError(
        f"torch {version} is no release known here ({RELEASES[0]} to {RELEASES[-1]}); "
        f"{hint}A newer one, a nightly or a build of your own needs its date"
    )


def near(text: str, most: int = 3) -> list[str]:
    """The known releases that are nearest to a version, the nearest first."""
    wanted = (*parse(text).release, 0, 0, 0)[:3]

    def distance(release: Release) -> tuple[int, ...]:
        there = (*parse(release.version).release, 0, 0, 0)[:3]
        return tuple(abs(a - b) for a, b in zip(there, wanted))

    return [release.version for release in sorted(RELEASES, key=distance)[:most]]


def require_published(text: str) -> None:
    """Raises ReleaseError, with the nearest that there are, for a release that there never was.

    Versions that are newer than every known release pass, and so do nightlies, builds with a local
    part and all that is no version.
    """
    try:
        version = parse(text)
    except ReleaseError:
        return
    plain = str(version)
    ours = Version(text).local or version.is_prerelease or version.is_postrelease
    if ours or version > parse(RELEASES[-1].version) or plain in {r.version for r in RELEASES}:
        return
    raise ReleaseError(
        f"there is no torch {plain}; the nearest releases are {', '.join(near(plain))} "
        "('gradbench releases list --all' shows every one)"
    )


def build(text: str, date: datetime.date | None = None) -> Release:
    """The known release of a version, or one made for it: newer, a nightly, one's own.

    Its date is the one given, else the day in a nightly's version, else today: the day on which
    it is first measured. Raises ReleaseError where the text is no version at all.
    """
    version = parse(text)
    for release in RELEASES:
        if release.version == str(version):
            return release
    return Release(str(version), date or _nightly(version) or datetime.date.today())


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
