"""The documentation site: it builds without a warning, has every page, and needs no network."""

import logging
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gradbench

ROOT = Path(__file__).parent.parent


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = settings[settings.index("\nnav:") :].partition("\n\n")[0]
    listed = re.findall(r"[\w/-]+\.md", nav)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {"index.md", "contributing.md", "changelog.md"}  # written by docs/hooks.py
    missing = sorted(pages - set(listed))
    assert not missing, f"add to nav in mkdocs.yml: {', '.join(missing)}"
    gone = sorted(set(listed) - pages)
    assert not gone, f"nav in mkdocs.yml has pages that do not exist: {', '.join(gone)}"
    assert len(listed) == len(set(listed)), "nav in mkdocs.yml has a page twice"


class Built:
    """A page of the site: where its links lead, what it loads, and its anchors."""

    def __init__(self, path):
        self.path = path
        self.links, self.loads, self.anchors = [], [], {""}
        parser = HTMLParser()
        parser.handle_starttag = self._tag
        parser.feed(path.read_text(encoding="utf-8"))

    def _tag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id") or "")
        for name in ("href", "src"):
            if found.get(name):
                (self.links if tag == "a" else self.loads).append(found[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and what MkDocs warned of."""
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    warned = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=False))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    return folder, warned


@pytest.fixture(scope="module")
def pages(site):
    return {path: Built(path) for path in site[0].rglob("*.html")}


def test_the_site_builds_without_a_warning(site):
    _, warned = site
    assert not warned, "\n".join(warned)


def test_every_link_leads_to_a_file_and_an_anchor_of_the_site(pages):
    for path, page in pages.items():
        for link in page.links + page.loads:
            url = urlsplit(link)
            if url.scheme or path.name == "404.html":
                continue
            there = Path(os.path.normpath(path.parent / unquote(url.path))) if url.path else path
            assert there.is_file(), f"{path.name}: {link}"
            if there in pages:
                assert unquote(url.fragment) in pages[there].anchors, f"{path.name}: {link}"


def test_the_site_loads_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        assert not [url for url in page.loads if urlsplit(url).netloc], path.name
    for style in site[0].rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\W*(?:https?:)?//|@import", text), style.name


def test_no_line_breaks_an_option_after_its_dashes(site):
    pages = [path.read_text("utf-8") for path in site[0].glob("*.html")]
    inline = [code for page in pages for code in re.findall(r"[^>]<code>([^\n]*?)</code>", page)]
    options = [code for code in inline if re.match(r"(<[^>]*>)?--[a-z]", code)]
    assert len(options) > 100
    assert [code for code in options if not code.startswith('<span class="option">--')] == []


def test_the_reference_has_every_public_name(site, pages):
    anchors = pages[site[0] / "api.html"].anchors
    wanted = {f"gradbench.{name}" for name in gradbench.__all__} - {"gradbench.__version__"}
    assert wanted <= anchors


def test_the_search_finds_commands_and_functions(site):
    index = (site[0] / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "commands.html#gradbench-advise" in index
    assert "api.html#gradbench.compare" in index
