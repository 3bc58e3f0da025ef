"""Only what pyproject.toml cannot say: the page that a package index shows.

It is the README, but an index has no other files: links to them become names of files.
"""

import re
from pathlib import Path

from setuptools import setup


def page(readme: str) -> str:
    """The README with no link or picture that is relative."""
    pictures = re.compile(r"!\[([^\]]*)\]\((?![a-z]+:)([^)#]+)[^)]*\)")
    links = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)([^)#]+)[^)]*\)")
    return links.sub(r"\1 (`\2`)", pictures.sub(r"*\1* (`\2`)", readme))


if __name__ == "__main__":
    setup(
        long_description=page((Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
