"""Measured releases go back to torch 2.0: what a worker loads asks torch for no more than it has.

No other release is installed with the tests, so that this looks at the imports alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradbench

LOADED = ("core", "modes", "problems", "state", "worker")
"""The folders that a worker loads when it starts."""

HAS = {
    "torch": {"Tensor", "cuda", "nn"},
    "torch._decomp": {"decomposition_table"},
    "torch.autograd": {"forward_ad", "profiler"},
    "torch.multiprocessing.reductions": {"StorageWeakRef"},
    "torch.nn": {"functional"},
    "torch.overrides": {"TorchFunctionMode"},
    "torch.utils": {"_python_dispatch"},
    "torch.utils._python_dispatch": {"TorchDispatchMode"},
    "torch.utils._pytree": {"tree_flatten", "tree_map", "tree_unflatten"},
    "torch.utils.checkpoint": {"checkpoint"},
}
"""What was seen in torch 2.0.1, by module."""


def imported(source: str) -> Iterator[tuple[str, str]]:
    """The names that a module takes from torch whenever it is loaded."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("folder", LOADED)
def test_what_a_worker_loads_is_in_the_oldest_torch(folder):
    place = Path(gradbench.__file__).parent / folder
    asked = {
        (module, name, path.name)
        for path in place.rglob("*.py")
        for module, name in imported(path.read_text())
    }
    assert not [(m, n, where) for m, n, where in sorted(asked) if n not in HAS.get(m, ())]


def test_an_import_in_a_function_is_its_own_affair():
    source = "from torch.a import b\nif 1:\n    from torch import c\ndef f():\n    import torch.d\n"
    assert sorted(imported(source)) == [("torch", "c"), ("torch.a", "b")]
