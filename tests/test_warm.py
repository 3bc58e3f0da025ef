"""The processes that tests fork have loaded what a new Python would not load again."""

import tempfile
from pathlib import Path
from types import ModuleType

import warm


def test_a_library_in_a_temporary_folder_is_kept_and_a_test_s_module_is_not(tmp_path, monkeypatch):
    """An environment may lie there, with torch, which no process can import twice."""
    folders = {"library": Path(tempfile.gettempdir(), "env/site-packages"), "written": tmp_path}
    for name, folder in folders.items():
        module = ModuleType(name)
        module.__file__ = str(folder / f"{name}.py")
        monkeypatch.setitem(warm.sys.modules, name, module)
    forgotten = {"written": True, "warm": True, "gradbench.core": True}
    kept = {"library": False, "torch": False, "builtins": False}
    for name, expected in {**forgotten, **kept}.items():
        assert warm._of_tests(name) is expected, name
