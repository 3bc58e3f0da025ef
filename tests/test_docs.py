"""What the documentation names exists: files, links, tests, modules, commands and options."""

import re
import shlex
from pathlib import Path

import click
import pytest
from blocks import PAGES

from gradbench.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gradbench"

ROOMS = "|".join(sorted(path.name for path in PACKAGE.iterdir() if path.is_dir()))
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))

every_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


def code(page):
    """The code on a page: blocks, with continued lines joined, and spans."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*\n(.*?)^```$", text, re.M | re.S)
    text = re.sub(r"^```.*\n.*?^```$", "", text, flags=re.M | re.S)
    blocks += re.findall(r"^    .*$", text, re.M)
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    return lines, [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


@every_page
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", text):
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert anchor in [slug(heading) for heading in headings], f"{target}#{anchor}"


@every_page
def test_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.~-])(?:gradbench|tests|benchmarks|docs)/[\w/.-]*\w", text):
        # The files of a user's project have the same folder.
        theirs = page.stem == "installing" and path.startswith("benchmarks/")
        assert theirs or (ROOT / path).exists(), path
    for path, name in re.findall(rf"(?<![\w/.-])((?:{ROOMS})/[\w/]+)(?:\.py: |\.)(\w+)", text):
        source = (PACKAGE / path).with_suffix(".py")
        assert source.exists(), path
        assert name == "py" or re.search(rf"\b{name}\b", source.read_text("utf-8")), (path, name)


@every_page
def test_modules_and_their_names_exist(page):
    text = page.read_text(encoding="utf-8")
    dotted = re.findall(r"(?<![\w./@-])gradbench(?:\.[A-Za-z_]\w*)+", text)
    for module, names in re.findall(r"^from (gradbench[\w.]*) import ([\w, ]+)$", text, re.M):
        dotted += [f"{module}.{name.split()[0]}" for name in names.split(", ")]
    for path in dotted:
        place, names = PACKAGE, path.split(".")[1:]
        while names and ((place / names[0]).is_dir() or (place / f"{names[0]}.py").is_file()):
            name = names.pop(0)
            place = place / name if (place / name).is_dir() else place / f"{name}.py"
        source = (place / "__init__.py" if place.is_dir() else place).read_text(encoding="utf-8")
        assert not names or re.search(rf"\b{names[0]}\b", source), path


@every_page
def test_tests_exist(page):
    for name in re.findall(r"`(test_\w+…?|…_\w+)`", page.read_text(encoding="utf-8")):
        begins = r"\w*" if name.startswith("…") else r"\b"
        ends = r"\w*" if name.endswith("…") else r"\b"
        known = f"def {begins}{name.strip('…')}{ends}"
        assert re.search(known, TESTS) or (ROOT / "tests" / f"{name}.py").exists(), name


def commands(lines, spans):
    """Each call of gradbench on a page, as words."""
    for text in (*lines, *spans):
        call = re.match(r"\s*(?:\$ |- run: )?(?:\.venv/bin/)?gradbench( .*)", text)
        if call:
            words = re.split(r"\s#\s|\s[|>]\s", call[1])[0].replace("…", "").rstrip("\\")
            yield shlex.split(words)


def options(command):
    """The options of a command; of a group, those of all its commands."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        below = [command.get_command(context, name) for name in command.list_commands(context)]
        return set().union(*map(options, below))
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


@every_page
def test_commands_and_their_options_exist(page):
    for words in commands(*code(page)):
        command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            command = command.get_command(click.Context(command), name)
            assert command is not None, name
        known = {"--help"} | options(command)
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{command.name} {word}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in ("asv", "pytest")], ids=lambda p: p.stem
)
def test_options_in_the_text_exist(page):
    _, spans = code(page)
    named = {found[0] for span in spans if (found := re.match(r"--[a-z][a-z-]*", span))}
    assert not named - options(cli)
