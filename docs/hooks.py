"""What the site needs beyond MkDocs: links that leave docs/, pages from outside, the commands.

Pages are written for a reader of the repository, where `../README.md` and a path to a source file
work. `mkdocs.yml` names this file as a hook. README, CONTRIBUTING and CHANGELOG become pages, links
to them lead there, and any other file that a page links to is copied into the site. So a link that
works in the repository works on the site, without a network.
"""

from __future__ import annotations

import html
import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

import click
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from gradbench.cli import cli

ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside docs/, and what they are called on the site."""

_SOURCES = {uri: source for source, uri in PAGES.items()}


class _Links(Treeprocessor):
    """Turns links between files of the repository into links between files of the site."""

    page: Page
    files: Files
    config: MkDocsConfig

    def run(self, root: Element) -> None:
        for element in root.iter():
            for name in ("href", "src"):
                if target := element.get(name):
                    self._lead(element, name, target)
        for element in list(root.iter()):
            if element.tag != "a":
                for place, picture in enumerate(element):
                    if picture.tag == "img":
                        # A figure opens by itself, at its full size.
                        element[place] = link = Element("a", href=picture.get("src", ""))
                        link.tail, picture.tail = picture.tail, None
                        link.append(picture)

    def _lead(self, element: Element, name: str, target: str) -> None:
        url = urlsplit(target)
        if url.scheme or url.netloc or not url.path:
            return
        here = self.page.file.src_uri
        source = _SOURCES.get(here, f"docs/{here}")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(url.path)))
        if (ROOT / path).is_dir():
            # A folder is no page: its name stays, and leads nowhere.
            element.tag = "span"
            del element.attrib[name]
            return
        there = posixpath.relpath(self._uri(path), posixpath.dirname(here) or ".")
        element.set(name, there + (f"#{url.fragment}" if url.fragment else ""))

    def _uri(self, path: str) -> str:
        """Where the site has a file of the repository."""
        if path in PAGES:
            return PAGES[path]
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        uri = f"repository/{path}"
        if (ROOT / path).is_file() and not self.files.get_file_from_path(uri):
            self.files.append(File.generated(self.config, uri, abs_src_path=str(ROOT / path)))
        return uri


_links = _Links()


class _Doctests(Preprocessor):
    """Makes code blocks of the examples in docstrings, which have no fences."""

    def run(self, lines: list[str]) -> list[str]:
        written, fenced, example = [], False, False
        for line in lines:
            fenced ^= line.lstrip().startswith("```")
            begins = line.startswith(">>> ") and not fenced
            if begins and not example:
                written.append("```pycon")
            elif example and not line.strip():
                written.append("```")
            example = (begins or example) and bool(line.strip())
            written.append(line)
        return [*written, "```"] if example else written


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # Before code blocks are taken out (25).
        md.preprocessors.register(_Doctests(md), "doctests", 40)
        # After links are made of the text (20), before MkDocs checks them (0).
        md.treeprocessors.register(_links, "repository", 1)


def on_config(config: MkDocsConfig) -> None:
    config.markdown_extensions.append(_Extension())  # type: ignore[arg-type]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    _links.page, _links.files, _links.config = page, files, config
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # It would have one entry.
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, "\n".join(_commands(cli, "gradbench")))
    return markdown


_PARTS = re.compile(r"(<pre\b.*?</pre>)|<code>(.*?)</code>|(?<=\d) (?=%)", re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_UNBROKEN = r'<span class="option">\g<0></span>'


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keeps what no line of the text should break: options, which site.css keeps whole, and 5 %."""

    def kept(part: re.Match[str]) -> str:
        if part[2] is not None:
            return f"<code>{_OPTION.sub(_UNBROKEN, part[2])}</code>"
        return part[1] or "&nbsp;"

    return _PARTS.sub(kept, content)


_COMMANDS = "<!-- every command: docs/hooks.py writes them here -->"


def _commands(command: click.Command, name: str, depth: int = 2) -> Iterator[str]:
    """Sections of a page on a command and those below it."""
    with click.Context(command, info_name=name) as context:
        help_text = inspect.cleandoc(command.help or "")
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        yield f"{'#' * depth} `{name}`\n\n{_escaped(help_text)}\n\n```text\n{usage}\n```\n"
        options = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        yield "| option | meaning |\n|---|---|"
        yield from (
            f"| `{said[0]}` | {_escaped(said[1])} |" for said in options if said and said[1]
        )
        yield ""
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                if found := command.get_command(context, below):
                    deeper = depth + (command is not cli)
                    yield from _commands(found, f"{name} {below}", deeper)


def _escaped(text: str) -> str:
    """Text of the command line, in which nothing is markup."""
    text = html.escape(text.replace("\b\n", ""), quote=False).replace("|", "&#124;")
    return re.sub(r"([*_`\[\\])", r"\\\1", text)
