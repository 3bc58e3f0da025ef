"""Builds docs/api.md from the docstrings: ``python docs/build_api.py``."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

import gradbench
from gradbench import releases
from gradbench.advise import advice, answer
from gradbench.analysis import recommend
from gradbench.modes import structured
from gradbench.problems import colouring, detection, structure, tracing
from gradbench.problems import function as functions
from gradbench.problems import mode as modes
from gradbench.releases import live as tracks
from gradbench.runner import live as runs
from gradbench.worker import cost

PAGE = Path(__file__).parent / "api.md"

OPENING = """# API reference

Generated from the docstrings by `python docs/build_api.py`.
[CONTRIBUTING.md](../CONTRIBUTING.md) has complete examples of a function and a mode.

Your own package can add functions and modes. Its `pyproject.toml` names the modules that declare
them:

```toml
[project.entry-points."gradbench.functions"]
my_functions = "my_package.functions"

[project.entry-points."gradbench.modes"]
my_modes = "my_package.modes"
```

The worker imports them after the catalogue. If an entry point does not load, one line on standard
error says so, and everything else continues. For a single file, `gradbench run --from my_suite.py`
does the same without installing anything; if the file does not load, the command ends.
"""

SECTIONS: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = (
    (
        "Stored runs",
        (
            ("gradbench.load", gradbench.load),
            ("gradbench.samples", gradbench.samples),
            ("gradbench.verdicts", gradbench.verdicts),
            ("gradbench.recommend", gradbench.recommend),
            ("gradbench.releases.timeline", releases.timeline),
            ("gradbench.analysis.recommend.Recommendation", recommend.Recommendation),
            ("gradbench.analysis.recommend.Standing", recommend.Standing),
            ("gradbench.analysis.recommend.Where", recommend.Where),
        ),
    ),
    (
        "Measuring",
        (
            ("gradbench.run", gradbench.run),
            ("gradbench.runner.live.RunResult", runs.RunResult),
            ("gradbench.track", gradbench.track),
            ("gradbench.releases.live.TrackResult", tracks.TrackResult),
            ("gradbench.runner.live.Interrupted", runs.Interrupted),
        ),
    ),
    (
        "Advice",
        (
            ("gradbench.compare", gradbench.compare),
            ("gradbench.advise.answer.Advice", answer.Advice),
            ("gradbench.advise.advice.Refusal", advice.Refusal),
        ),
    ),
    (
        "Registering",
        (
            ("gradbench.function", gradbench.function),
            ("gradbench.mode", gradbench.mode),
            ("gradbench.problems.function.Function", functions.Function),
            ("gradbench.problems.function.scalar_valued", functions.scalar_valued),
            ("gradbench.problems.function.elementwise", functions.elementwise),
            ("gradbench.problems.function.vector_valued", functions.vector_valued),
            ("gradbench.problems.function.normal", functions.normal),
            ("gradbench.problems.function.uniform", functions.uniform),
            ("gradbench.problems.function.vector", functions.vector),
            ("gradbench.problems.mode.Mode", modes.Mode),
            ("gradbench.problems.mode.Unsupported", modes.Unsupported),
        ),
    ),
    (
        "Structure of a Jacobian",
        (
            ("gradbench.problems.tracing.trace", tracing.trace),
            ("gradbench.problems.tracing.Traced", tracing.Traced),
            ("gradbench.problems.detection.products", detection.products),
            ("gradbench.problems.detection.detect", detection.detect),
            ("gradbench.problems.structure.Structure", structure.Structure),
            ("gradbench.problems.colouring.colour", colouring.colour),
            ("gradbench.modes.structured.register", structured.register),
            ("gradbench.worker.cost.explain", cost.explain),
            ("gradbench.worker.cost.refuse", cost.refuse),
        ),
    ),
)


def build() -> str:
    """The page as Markdown."""
    parts = [OPENING]
    for title, entries in SECTIONS:
        parts.append(f"## {title}\n")
        parts += [_entry(name, documented) for name, documented in entries]
    return "\n".join(parts)


def _entry(name: str, documented: Any) -> str:
    docstring = (inspect.getdoc(documented) or "").replace("``(", "`(").replace(")``", ")`")
    lines = [f"### `{name}`", ""]
    if inspect.isclass(documented):
        lines += [docstring, "", *_fields(documented)]
    else:
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(documented))).body
        assert isinstance(declared, ast.FunctionDef)
        signature = f"{declared.name}({ast.unparse(declared.args)})"
        if declared.returns:
            signature += f" -> {ast.unparse(declared.returns)}"
        lines += [f"```python\n{signature}\n```", "", docstring, ""]
    return "\n".join(lines)


def _fields(documented: type) -> list[str]:
    """A line per field and property, with the docstring below it."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(documented))).body
    assert isinstance(declared, ast.ClassDef)
    lines = []
    for node, below in zip(declared.body, [*declared.body[1:], ast.Pass()]):
        docstring = ""
        if isinstance(node, ast.AnnAssign):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                docstring = str(below.value.value)
            default = f" = {ast.unparse(node.value)}" if node.value else ""
            signature = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            signature = f"{node.name}{'' if node.decorator_list else '()'}"
            if node.returns and node.decorator_list:
                signature += f": {ast.unparse(node.returns)}"
        else:
            continue
        docstring = " ".join(docstring.split())
        lines.append(f"- `{signature}`" + (f" – {docstring}" if docstring else ""))
    return [*lines, ""] if lines else []


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
