"""Every code block of README and docs does what its page says (see blocks.py)."""

import dataclasses
import os
import sys

import blocks
import pytest
from blocks import BlockError, Reader, compare
from in_process import gradbench

from gradbench.advise import advice, live
from gradbench.problems import registry
from gradbench.runner.settings import PROFILES

every_page = pytest.mark.parametrize(
    "page", blocks.PAGES, ids=[str(page.relative_to(blocks.ROOT)) for page in blocks.PAGES]
)
pages_that_run = pytest.mark.parametrize(
    "page",
    [page for page in blocks.PAGES if any(block.is_run for block in blocks.blocks(page))],
    ids=lambda page: str(page.relative_to(blocks.ROOT)),
)


AMPLE = 900
"""Seconds that advice may take, whatever the page says: it ends after a few rounds, and leaves
nothing out on a busy machine."""


def ample(*words, **environment):
    more = ("--budget", AMPLE) if words[:1] == ("advise",) else ()
    return gradbench(*words, *more, **environment)


def ample_advice(monkeypatch):
    asked = live.compare
    monkeypatch.setattr(live, "compare", lambda *a, **b: asked(*a, **{**b, "budget": AMPLE}))
    # The longest call of a mode is a share of the budget.
    monkeypatch.setattr(advice, "PATIENCE", advice.PATIENCE * 30 / AMPLE)


@pytest.fixture
def reader(tmp_path, monkeypatch, few_rounds):
    """A reader in a folder like a checkout, who measures as little as can be."""
    quick = PROFILES["quick"]
    stopping = dataclasses.replace(quick.settings.stopping, max_rounds=4, budget=0.05)
    settings = dataclasses.replace(quick.settings, sessions=2, stopping=stopping)
    monkeypatch.setitem(PROFILES, "quick", dataclasses.replace(quick, settings=settings))
    for name in [name for name in os.environ if name.startswith("GRADBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(blocks.checkout(folder))
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    registry.load_builtin()
    ample_advice(monkeypatch)
    yield Reader(folder, ample, {mode for _, mode in registry.MODES})
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@every_page
def test_every_block_says_what_it_is(page):
    faults = blocks.faults(page)
    assert not faults, "\n".join(faults)


PARSED = [
    page
    for page in blocks.PAGES
    if (of_page := blocks.blocks(page))
    and any(block.is_parsed for block in of_page)
    and not any(block.is_run for block in of_page)
]


@pytest.mark.parametrize("page", PARSED, ids=lambda page: str(page.relative_to(blocks.ROOT)))
def test_every_block_of_commands_is_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "suites").symlink_to(blocks.ROOT / "tests" / "suites")
    Reader(tmp_path, gradbench).follow(page)


@pages_that_run
def test_every_block_does_what_its_page_says(page, reader):
    reader.follow(page)


def test_output_is_compared_line_by_line_and_may_be_cut():
    output = "mode  time\ngrad  12 µs\njacrev  3.4 ms\nStored\n"
    for shown in ("mode  time\n…\nStored", "...\ngrad  12 µs\n…", "mode …\n…\nSto…"):
        compare(shown.splitlines(), output, varies=False)
    for shown in ("mode  time\nStored", "…\ngrad  13 µs\n…", "mode  time\n…\njacrev"):
        with pytest.raises(BlockError):
            compare(shown.splitlines(), output, varies=False)


def test_output_that_varies_has_the_same_words_in_any_order():
    output = "grad   12 µs  1.00 ±0.2%  fastest\njacrev 3.4 ms  over 9.2×  slower\nTook 3 s\n"
    modes = ("grad", "jacrev")
    compare(["jacrev  11 µs  1.0 ±11%  fastest", "Took 1 min…"], output, True, modes)
    compare(["…", "Took 28.1 s"], output, True, modes)
    for shown in ("jacrev  11 µs  1.0 ±11%  wrong", "It took 3 s", "jacrev 3 ms slower"):
        with pytest.raises(BlockError):
            compare([shown], output, True, modes)


def written(folder, text):
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```\nsome text\n```", "name the block's language"),
        ("```text\ngradbench list\n```", "make this block of commands sh or console"),
        ("Run\n\n    gradbench list\n", "put commands into a block of ```sh"),
        ("<!-- not run -->\n```sh\nmake bench\n```", "say why"),
        ("<!-- not running: it is slow -->\n```sh\nmake bench\n```", "is no mark of a block"),
    ],
)
def test_a_block_that_does_not_say_what_it_is_fails(text, says, tmp_path):
    (fault,) = blocks.faults(written(tmp_path, text))
    assert says in fault
    assert "page.md:" in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```console\n$ echo one\ntwo\n```", "-two\n+one"),
        ("```sh\nls not-there\n```", "exit code 2"),
        ("```sh\nmake bench\n```", "make is not run by the tests"),
        ("```python\nimport gradbench\ngradbench.none\n```", "AttributeError"),
        ("```pycon\n>>> 1 + 1\n3\n```", "Expected:\n    3\nGot:\n    2"),
        ('```python title="../out.py"\nx = 1\n```', "outside the page's folder"),
    ],
)
def test_a_block_that_does_something_else_fails(text, says, tmp_path, reader):
    with pytest.raises(BlockError, match=r"page\.md:1: ") as failed:
        reader.follow(written(tmp_path, text))
    assert says in str(failed.value)


def test_blocks_of_a_page_follow_each_other(tmp_path, reader):
    text = """
```python title="model.py"
SIZE = 3
```

```python
from model import SIZE
print(SIZE + 1)
```

<!-- output -->
```text
4
```

<!-- exits with 2; output varies: a number -->
```console
$ echo 12 µs > times.txt && cat times.txt | head -n 1; \\
> ls not-there
7.5 ms
```

<!-- not run: there is no such command -->
```sh
nothing
```
"""
    reader.follow(written(tmp_path, text))
