"""What `gradbench init` writes into a project: benchmarks of its own functions for pytest and asv,
and a workflow for CI. The texts are in `project/`, with `<<name>>` where something is put in."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path, PurePosixPath
from typing import Any

from gradbench.core import own
from gradbench.core.expressions import LOAD, read
from gradbench.core.releases import RELEASES, ReleaseError, parse

PARTS = ("tests", "asv", "workflow")
"""What can be written alone."""

FOLDER = "benchmarks"
PACKAGE = f"{FOLDER}/__init__.py"
INPUTS = f"{FOLDER}/inputs.py"
EXAMPLE = (f"{FOLDER}/example.py:example", (("x", "randn(8, 16)"), ("w", "randn(16, 4)")))
"""The function, and its inputs, of a project that names none."""

WORKFLOW = ".github/workflows/gradbench.yml"
PYTHON = "3.12"
"""Of the workflow."""


class Unwritable(ValueError):
    """The project's files cannot be written for this function; the message says why."""


@dataclass(frozen=True)
class Start:
    """A function of the project, its inputs as `Question` has them, and what else is known of it.

    `folder` is the project's, and paths in `target` and `maker` start from it.
    """

    folder: Path
    target: str
    inputs: tuple[tuple[str, str], ...]
    maker: str
    operator: str
    more: Mapping[str, tuple[str, ...]]
    """Further fields for asv.conf.json and options of the command line, by name."""

    @property
    def name(self) -> str:
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @property
    def from_file(self) -> bool:
        """Whether the inputs are made by a file that is written too."""
        return not self.maker

    @property
    def makes_inputs(self) -> str:
        return self.maker or f"{INPUTS}:{self.name}_inputs"


def files(start: Start, parts: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The files of these parts: by path, the text and a few words on it. Raises Unwritable.

    PACKAGE is not among them where the project has one: any will do.
    """
    texts = {PACKAGE: (_text("package.py"), "so that no other package of this name is meant")}
    if start.target == EXAMPLE[0]:
        texts[f"{FOLDER}/example.py"] = _text("example.py"), "a function to start with"
    if start.from_file:
        texts[INPUTS] = _inputs(start), "what the functions are called with"
    if "tests" in parts:
        texts[f"{FOLDER}/conftest.py"] = _conftest(start), "finds the project's modules"
        texts[f"{FOLDER}/test_derivatives.py"] = _tests(start), "tests with the gradbench fixture"
    if "asv" in parts:
        texts["asv.conf.json"] = _asv(start), "asv over torch releases"
        texts[f"{FOLDER}/releases/__init__.py"] = _text("releases.py"), "what asv measures"
    if "workflow" in parts:
        texts[WORKFLOW] = _workflow(start), "pull requests and torch releases in CI"
    if (start.folder / PACKAGE).is_file():
        del texts[PACKAGE]
    return texts


def _text(file: str, /, **put: str) -> str:
    """A text of `project/` with what is put in."""
    kind = "" if file.endswith((".json", ".yml")) else ".txt"
    text = resources.files("gradbench.integrations").joinpath("project", file + kind)
    written = text.read_text(encoding="utf-8")
    for key, value in put.items():
        written = written.replace(f"<<{key}>>", value)
    return written


def _inputs(start: Start) -> str:
    lines = [f"    {name} = {_code(text)}" for name, text in start.inputs]
    names = ", ".join(name for name, _ in start.inputs)
    return _text(
        "inputs.py",
        name=f"{start.name}_inputs",
        target=start.target,
        lines="\n".join(lines),
        names=names + "," * (len(start.inputs) == 1),
    )


def _code(text: str) -> str:
    """An expression of the command line, which was read before, as Python."""
    said = read(text)
    if said.maker == LOAD:
        (path,) = said.positional
        return f"torch.load({path!r}, weights_only=True)"
    node = ast.parse(text.strip(), mode="eval").body
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        for keyword in node.keywords:
            if keyword.arg == "dtype" and isinstance(keyword.value, ast.Name):
                keyword.value.id = f"torch.{keyword.value.id}"
        return f"torch.{ast.unparse(node)}"
    return ast.unparse(node)


def _place(start: Start, target: str) -> tuple[str, str, str]:
    """The module of ``module:name`` or ``file.py:name``, the name's first part, and the folder from
    which the module is imported, relative to the project's; empty for a module."""
    place, _, name = target.rpartition(":")
    first = name.partition(".")[0]
    if not place.endswith(".py"):
        return place, first, ""
    path = Path(os.path.normpath(start.folder / place))
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists() and folder != start.folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    if folder.name == FOLDER and folder.parent == start.folder:
        # Of the project's folder, which is where these are written.
        parts.insert(0, FOLDER)
        folder = start.folder
    if not all(part.isidentifier() for part in parts):
        raise Unwritable(f"{place} cannot be imported: {'.'.join(parts)} is no module's name")
    return ".".join(parts), first, PurePosixPath(os.path.relpath(folder, start.folder)).as_posix()


def _conftest(start: Start) -> str:
    targets = (start.target, start.makes_inputs, *start.more.get("also", ()))
    folders = dict.fromkeys([".", *(_place(start, target)[2] for target in targets)])
    return _text("conftest.py", folders=json.dumps([folder for folder in folders if folder]))


def _tests(start: Start) -> str:
    targets = (start.target, start.makes_inputs, *start.more.get("also", ()))
    imports = sorted({_place(start, target)[:2] for target in targets})
    function, makes, *ways = (target.rpartition(":")[2] for target in targets)
    given = f"*{makes}()" if start.from_file else "*ordered, **named"
    options = [f"{key}={list(start.more[key])!r}" for key in ("wrt",) if start.more.get(key)]
    options += [f"definition={text!r}" for text in start.more.get("definition", ())]
    also = [f"also=[{', '.join(ways[1:])}]"] if ways[1:] else []
    return _text(
        "test_derivatives.py",
        imports="\n".join(f"from {place} import {name}" for place, name in imports),
        test=start.name.strip("_").lower() or "function",
        before="" if start.from_file else _text("given.py", makes=makes),
        call=", ".join([function, given, *options]),
        operator=start.operator,
        ways=", ".join([*ways[:1], *also]),
    )


def _asv(start: Start) -> str:
    entry: dict[str, Any] = {"function": start.target, "inputs": start.makes_inputs}
    for key, values in start.more.items():
        if values:
            entry[key] = values[0] if key == "definition" else list(values)
    project = start.folder.resolve().name or "project"
    return _text("asv.conf.json", project=project.replace('"', ""), entry=json.dumps(entry))


def _workflow(start: Start) -> str:
    words = ["--function", start.target, "--inputs", start.makes_inputs]
    for option, values in start.more.items():
        words += [word for value in values for word in (f"--{option}", value)]
    for word in words:
        if set(word) & set(" \t'\"$`\\*?[]"):
            raise Unwritable(
                f"{word!r} cannot stand in a workflow: it has a space or a special sign"
            )
    return _text(
        "workflow.yml",
        baseline=baseline(),
        what=json.dumps(" ".join(words)),
        label=own.label(start.target),
        python=PYTHON,
    )


def baseline() -> str:
    """The torch release that is installed or, where it is none, the newest that is known."""
    try:
        version = str(parse(metadata.version("torch")))
    except (metadata.PackageNotFoundError, ReleaseError):
        version = ""
    known = [release.version for release in RELEASES]
    return version if version in known else known[-1]
