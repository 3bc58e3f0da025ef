"""The code blocks of README and docs, and running them as a reader would.

A page's blocks run in order, in a folder of their own that looks like a checkout: stored results
are a copy of the repository's. What a block needs is in its language and, if that is not enough, in
an HTML comment above it, which no reader sees:

    ```console      commands after `$ `, each with the output that it must have
    ```sh           commands
    ```python       run; one with a title ("title=model.py") is a file, which is written
    ```pycon        a session, as doctest runs it
    ```text         anything else, but no commands
    ```toml         and yaml, json, ini: data

    <!-- not run: REASON -->        the reason is for whoever maintains the page
    <!-- dry run: REASON -->        commands that have --dry-run are run with it
    <!-- parsed: REASON -->         commands of gradbench are parsed, options and values, not run
    <!-- output -->                 above a text block: what the block before it prints
    <!-- output varies: REASON -->  numbers, names of modes and verdicts differ between machines
    <!-- exits with 1 -->           instead of 0

A line `…` or `...` in an output stands for any lines, and one of these at the end of a line for the
rest of it. `python tests/blocks.py` prints what becomes of each page's blocks.
"""

from __future__ import annotations

import contextlib
import difflib
import doctest
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import yaml

from gradbench.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

COMMANDS = ("console", "sh")
RUN = (*COMMANDS, "python", "pycon")
DATA = ("toml", "yaml", "json", "ini")
PLAIN = ("text",)
COMPARED = {"output", "output varies"}
UNRUN = {"not run", "parsed"}

TOOLS = (
    "cat",
    "cp",
    "diff",
    "echo",
    "git",
    "grep",
    "head",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "touch",
)
"""What a block may call besides gradbench, python and pytest: these take milliseconds."""

_INSTALLED = any(entry.name == "gradbench" for entry in entry_points(group="pytest11"))
_PLUGIN = [] if _INSTALLED else ["-p", "gradbench.integrations.pytest_plugin"]
"""Where this checkout was installed before it had the entry point."""

NAMES = ("gradbench", "asv", "pytest", "python", "python3", "pip", "make", "uv", "git")
_COMMAND = re.compile(rf"\s*(?:\$ |(?:\.venv/bin/)?(?:{'|'.join(NAMES)}) \S)")
"""How a line begins that a reader would take for a command."""

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_MARK = re.compile(r"^ *<!-- *(.*?) *-->$")
_KINDS = "not run|dry run|parsed|output|exits with"
_TITLE = re.compile(r'title="?([^"]+?)"?$')


class BlockError(AssertionError):
    """A block does not do what its page says."""


@dataclass
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    code: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not self.marks.keys() & UNRUN and not self.title

    @property
    def is_parsed(self) -> bool:
        return self.language in COMMANDS and "parsed" in self.marks

    def statements(self) -> Iterator[tuple[str, list[str]]]:
        """The commands of the block, each with the lines of its output, if the block shows any."""
        if self.language == "sh":
            joined = re.sub(r"\\\n", "", self.code)
            yield from ((line, []) for line in joined.splitlines() if line.strip())
            return
        commands = re.split(r"^\$ ", self.code, flags=re.M)
        if commands[0].strip():
            raise BlockError(f"{self.place}: a console block begins with '$ '")
        for text in commands[1:]:
            command, _, output = re.sub(r"\\\n(?:> ?)?", "", text).partition("\n")
            yield command, output.rstrip().splitlines()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, with the marks above them."""
    found, mark, opened, lines = [], "", None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened:
            indent, ticks, block = opened
            if fence and fence[2].startswith(ticks) and not fence[3].strip():
                block.code = "".join(text.removeprefix(indent) + "\n" for text in lines)
                found.append(block)
                opened, lines, mark = None, [], ""
            else:
                lines.append(line)
        elif fence:
            language, _, attributes = fence[3].strip().partition(" ")
            title = _TITLE.search(attributes)
            made = Block(page, number, language, title[1] if title else "", "", dict(_marks(mark)))
            opened = fence[1], fence[2], made
        elif line.strip():
            mark = said[1] if (said := _MARK.match(line)) else ""
    return found


def _marks(comment: str) -> Iterator[tuple[str, str]]:
    """What a comment says: 'not run: why', or 'exits with 1; output varies: why'."""
    for part in filter(None, re.split(rf"; (?={_KINDS})", comment)):
        kind, _, said = part.partition(":")
        if exits := re.match(r"exits with (\d+)$", kind):
            kind, said = "exits with", exits[1]
        yield kind.strip(), said.strip()


def faults(page: Path) -> list[str]:
    """What is wrong with the blocks of a page, without running any."""
    known = {*UNRUN, "dry run", *COMPARED, "exits with"}
    said = []
    for block in blocks(page):
        place = block.place
        if block.language not in (*RUN, *DATA, *PLAIN):
            said.append(
                f"{place}: name the block's language ({', '.join((*RUN, *DATA, *PLAIN))}): "
                f"{block.language or 'none'} says neither that it is run nor that it is not"
            )
        lines = [line for line in block.code.splitlines() if _COMMAND.match(line)]
        if lines and block.language not in (*RUN, *DATA):
            said.append(f"{place}: make this block of commands sh or console: {lines[0]}")
        for mark, reason in block.marks.items():
            if mark not in known and block.language in RUN:
                said.append(f"{place}: {mark!r} is no mark of a block (see tests/blocks.py)")
            if mark in (*UNRUN, "dry run", "output varies") and len(reason) < 10:
                said.append(f"{place}: say why: <!-- {mark}: REASON -->")
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= bool(_FENCE.match(line))
        if not fenced and line.startswith("    ") and _COMMAND.match(line):
            place = f"{os.path.relpath(page, ROOT)}:{number}"
            said.append(f"{place}: put commands into a block of ```sh: {line.strip()}")
    return said


# Comparing outputs

_ELIDED = ("…", "...")
_UNIT = r"(?:[µnm]?s|min|h|[KMG]?i?B)\b|%|×"
_NUMBER = re.compile(rf"(?<![A-Za-z_])[±<]?\d[\d.,]*(?:e[+-]?\d+)?(?:\s?(?:{_UNIT}))?")
_VERDICTS = re.compile(r"\b(?:fastest|faster|slower|same|undecided)\b(?: ~)?")


def compare(shown: list[str], output: str, varies: bool, modes: Iterable[str] = ()) -> None:
    """Raises BlockError if an output is not the one shown."""
    told = [line.rstrip() for line in output.strip("\n").splitlines()]
    shown = [line.rstrip() for line in shown]
    if varies:
        lines = {_shape(line, modes) for line in told}
        wanting = [line for line in shown if line not in _ELIDED and not _is_in(line, lines, modes)]
        if wanting:
            raise BlockError("\n".join(["not in the output:", *wanting, "the output:", *told]))
        return
    pattern = "".join(map(_pattern, shown))
    if not re.fullmatch(pattern, "".join(line + "\n" for line in told)):
        changes = difflib.unified_diff(shown, told, "the page", "the output", lineterm="", n=2)
        raise BlockError("\n".join(changes))


def _pattern(line: str) -> str:
    if line in _ELIDED:
        return r"(?:.*\n)*?"
    for mark in _ELIDED:
        if line.endswith(mark):
            return re.escape(line.removesuffix(mark).rstrip()) + ".*\n"
    return re.escape(line) + "\n"


def _shape(line: str, modes: Iterable[str]) -> str:
    """A line without what differs between machines: numbers, widths, modes and verdicts."""
    words = set(modes)
    line = re.sub(r"\w+", lambda found: "MODE" if found[0] in words else found[0], line)
    line = _VERDICTS.sub("VERDICT", _NUMBER.sub("#", line))
    return " ".join(re.sub("─+", "─", line).split())


def _is_in(line: str, lines: Iterable[str], modes: Iterable[str]) -> bool:
    for mark in _ELIDED:
        if line.endswith(mark):
            begins = _shape(line.removesuffix(mark), modes)
            return any(told.startswith(begins) for told in lines)
    return _shape(line, modes) in lines


# Running


class Reader:
    """Runs the blocks of a page in a folder, one after the other."""

    def __init__(self, folder: Path, gradbench: Callable[..., Any], modes: Iterable[str] = ()):
        self.folder = folder
        self.gradbench = gradbench
        self.modes = modes
        self.names: dict[str, Any] = {"__name__": "page"}
        self.environment: dict[str, str] = {}
        self.printed = ""

    def follow(self, page: Path) -> None:
        """Does what a page says. Raises BlockError where the page is wrong."""
        for block in blocks(page):
            try:
                self.take(block)
            except BlockError as error:
                raise BlockError(f"{block.place}: {error}") from None
            except Exception as error:
                raise BlockError(f"{block.place}: {type(error).__name__}: {error}") from error

    def take(self, block: Block) -> None:
        if "not run" in block.marks:
            return
        if block.is_parsed:
            for command, _ in block.statements():
                self.parse(command)
            return
        if block.title:
            self._write(block)
        elif block.language in COMMANDS:
            self._commands(block)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block.code, block.place, "exec"), self.names)
            self.printed = printed.getvalue()
        elif block.language == "pycon":
            self._session(block)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            yaml.safe_load(block.code)
        elif block.marks.keys() & COMPARED:
            compare(
                block.code.splitlines(), self.printed, "output varies" in block.marks, self.modes
            )

    def _write(self, block: Block) -> None:
        path = self.folder / block.title
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BlockError(f"{block.title} would lie outside the page's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
        if path.suffix == ".py":
            compile(block.code, block.place, "exec")

    def _session(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.code, self.names, block.place, str(block.page), block.line
        )
        said = io.StringIO()
        runner = doctest.DocTestRunner(
            verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        if runner.run(test, out=said.write, clear_globs=False).failed:
            raise BlockError(said.getvalue())
        self.names.update(test.globs)

    def _commands(self, block: Block) -> None:
        expected = int(block.marks.get("exits with", 0))
        for command, shown in block.statements():
            narrow = max(map(len, shown), default=100) <= 80
            self.environment["COLUMNS"] = "80" if narrow else "100"
            code, out, err = self.run(command, dry="dry run" in block.marks)
            if code != expected:
                raise BlockError(f"{command}: exit code {code}\n{out}{err}")
            self.printed = out + (err if code else "")
            if shown:
                compare(shown, self.printed, "output varies" in block.marks, self.modes)

    def parse(self, command: str) -> None:
        """Has the commands of gradbench in a line parsed. Raises BlockError for a wrong one."""
        for pipeline in _split(_words(command), ("&&", ";")):
            for call in _split(pipeline, ("|",)):
                if call[0] == "gradbench":
                    words = call[1 : -2 if call[-2:-1] in ([">"], [">>"]) else None]
                    with _command_of(words) as (found, rest):
                        try:
                            found.command.parse_args(found, rest)
                        except click.UsageError as error:
                            raise BlockError(f"{command}: {error.format_message()}") from None

    def run(self, command: str, dry: bool = False) -> tuple[int, str, str]:
        """Runs a line of commands: its exit code, and what it wrote to both streams."""
        code, told, warned = 0, "", ""
        for pipeline in _split(_words(command), ("&&", ";")):
            text = None
            for call in _split(pipeline, ("|",)):
                target, mode = None, "w"
                if call[-2:-1] in ([">"], [">>"]):
                    target, mode = self.folder / call[-1], "w" if call[-2] == ">" else "a"
                    call = call[:-2]
                code, text, err = self._call(call, text, dry)
                warned += err
                if target:
                    with target.open(mode, encoding="utf-8") as file:
                        file.write(text)
                    text = ""
            told += text or ""
            if code:
                break
        return code, told, warned

    def _call(self, words: list[str], given: str | None, dry: bool) -> tuple[int, str, str]:
        environment = dict(self.environment)
        while words and (variable := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            environment[variable[1]] = variable[2]
            words = words[1:]
        name, rest = Path(words[0]).name, words[1:]
        if name == "export":
            self.environment |= dict(word.split("=", 1) for word in rest)
            return 0, "", ""
        if name == "cd":
            self.folder = (self.folder / rest[0]).resolve()
            os.chdir(self.folder)
            return 0, "", ""
        if name == "python" and rest[:2] == ["-m", "gradbench"]:
            name, rest = "gradbench", rest[2:]
        if name == "gradbench":
            if dry:
                # Whatever room there is on the disk.
                with _command_of(rest) as (found, _):
                    there = {option for each in found.command.params for option in each.opts}
                rest = [*rest, *(o for o in ("--dry-run", "--yes") if {o, "--dry-run"} <= there)]
            done = self.gradbench(*rest, **environment)
            return done.returncode, done.stdout, done.stderr
        if name == "pytest":
            name, rest = "python", ["-m", "pytest", *_PLUGIN, "-p", "no:cacheprovider", *rest]
        if name == "python" and rest[:1] and rest[0].endswith(".py"):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                runpy.run_path(str(self.folder / rest[0]), run_name="__main__")
            return 0, printed.getvalue(), ""
        if name == "python":
            words = [sys.executable, *rest]
        elif name not in TOOLS:
            raise BlockError(
                f"{name} is not run by the tests: mark the block (see tests/blocks.py)"
            )
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, cwd=self.folder,
            env={**os.environ, **environment}, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


def _words(command: str) -> list[str]:
    """The words of a line, without its comment."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(itertools.takewhile(lambda word: not word.startswith("#"), lexer))


@contextlib.contextmanager
def _command_of(words: list[str]) -> Iterator[tuple[click.Context, list[str]]]:
    """A command by the words that call it, and the words after these. Raises BlockError."""
    context = click.Context(cli, info_name="gradbench")
    while isinstance(context.command, click.Group) and words:
        command = context.command.get_command(context, words[0])
        if command is None:
            raise BlockError(f"there is no command {words[0]!r}")
        context = click.Context(command, parent=context, info_name=words[0])
        words = words[1:]
    with context:
        yield context, list(words)


def _split(words: list[str], at: tuple[str, ...]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in at:
            yield part
            part = []
        else:
            part.append(word)
    if part:
        yield part


def checkout(folder: Path) -> Path:
    """Makes a folder look like a checkout, as far as the pages need one."""
    shutil.copytree(ROOT / "results", folder / "results", ignore=shutil.ignore_patterns(".*"))
    (folder / "tests").mkdir()
    for name in ("benchmarks", "asv.conf.json", "tests/suites"):
        (folder / name).symlink_to(ROOT / name)
    return folder


# What becomes of each page's blocks


def table() -> str:
    """A row per page: its blocks, those run, those whose output is compared, and marks."""
    rows = [
        "| page | blocks | run | of it dry | compared | parsed | data, text | not run, and why |",
        "|" + "---|" * 8,
    ]
    for page in PAGES:
        of_page = blocks(page)
        if not of_page:
            continue
        ran = [b for b in of_page if b.is_run]
        dry, parsed = ([b for b in of_page if mark in b.marks] for mark in ("dry run", "parsed"))
        shown = [b for b in ran if b.language == "pycon" or _shows(b)]
        outputs = [b for b in of_page if b.language == "text" and b.marks.keys() & COMPARED]
        plain = [b for b in of_page if b.language not in RUN and b not in outputs]
        files = [b for b in of_page if b.title]
        reasons: dict[str, int] = {}
        for block in of_page:
            if "not run" in block.marks:
                reason = block.marks["not run"]
                reasons[reason] = reasons.get(reason, 0) + 1
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.items())
        rows.append(
            f"| {page.relative_to(ROOT)} | {len(of_page)} | {len(ran)} + {len(files)} files "
            f"| {len(dry)} | {len(shown) + len(outputs)} | {len(parsed)} | {len(plain)} | {why} |"
        )
    return "\n".join(rows)


def _shows(block: Block) -> bool:
    return block.language == "console" and any(shown for _, shown in block.statements())


if __name__ == "__main__":
    print(table())
