"""The page in a browser: choices, filters, sorting, the address, and how it looks at every width.

They need playwright and a chromium (see CONTRIBUTING.md), and are skipped without.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from made_runs import OURS, jacobian, page_of, stored

from gradbench.core.cases import Comparison
from gradbench.report import machines

pytestmark = pytest.mark.slow

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
THEIRS = {"cpu": "another", "usable_cores": 64, "memory": 512 << 30, "load": 0.1}


def vjp(function):
    return Comparison("vjp", function, "documents", "float32")


MADE = {
    **{
        jacobian(function): {
            "forward": 2.0,
            "loop_grad": 20.0 + at,
            "jacrev": 30.0 - at,
            "jacfwd": 31.0 + 7 * at,
            "a_mode_with_quite_a_long_name": 77.0,
            "functional_jacobian": 150.0,
            "vmapped": ("unsupported", "no such thing in torch"),
            **{f"another_way_{n}": 200.0 + 31 * n for n in range(9)},
            "manual": 4.0,
        }
        for at, function in enumerate(("exp", "expm1", "log", "a_function_with_quite_a_long_name"))
    },
    **{
        vjp(function): {"backward": 9.0, "grad": 10.0, "vjp": 40.0, "constructor": 50.0}
        for function in ("exp", "log")
    },
    Comparison("batch_jacobian", "exp", "documents", "float32"): {"jacrev": 9.0, "loop_grad": 12.0},
    **{
        jacobian("softmax", f"n={n}"): {"jacrev": 20.0 + n, "loop_grad": 6.0 * n, "jacfwd": 99.0}
        for n in (2, 4, 8, 16, 128)
    },
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of two machines, as the address of its file."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machines, "here", lambda: machines.named(OURS))
        stored(results, MADE)
        other = {
            c: {m: t if isinstance(t, tuple) else 7.77 * t for m, t in modes.items()}
            for c, modes in MADE.items()
            if c.operator == "jacobian"
        }
        stored(results, other, 1, machine=THEIRS)
        page_of(results)
    return (results / "report" / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; CHROMIUM=/path/to/it names one")
    with sync_playwright() as started:
        try:
            opened = started.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
            )
        except Error as error:
            pytest.skip(f"chromium does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page; an error of its script fails the test."""
    errors, pages = [], []

    def opens(choices="", width=1280, **settings):
        page = browser.new_page(viewport={"width": width, "height": 900}, **settings)
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address + choices)
        pages.append(page)
        return page

    yield opens
    for page in pages:
        page.close()
    assert not errors


def checked(page, what):
    page.add_script_tag(path=Path(__file__).with_name("page_checks.js"))
    return page.evaluate(what)


def choose(page, name, value):
    page.select_option(f"#selectors select[name={name}]", value)


def rows(page, columns="td:nth-child(1), td:nth-child(2)"):
    cells = page.eval_on_selector_all(
        "#table tbody tr",
        f"rows => rows.map(r => [...r.querySelectorAll('{columns}')]"
        ".map(c => c.firstChild ? c.innerText.split('\\n')[0] : ''))",
    )
    return [tuple(row) for row in cells]


def test_a_choice_changes_the_answer_and_stays_in_the_address(opened):
    page = opened()
    assert "For jacobian try" in page.inner_text("#sentence")
    choose(page, "operator", "vjp")
    assert "For vjp try backward first" in page.inner_text("#sentence")
    assert "operator=vjp" in page.url
    again = opened(page.url[page.url.index("#") :])
    assert "For vjp try backward first" in again.inner_text("#sentence")
    choose(again, "operator", "jacobian")
    choose(again, "size", "n=128")
    assert "the only function compared" in again.inner_text("#sentence")
    assert again.eval_on_selector_all("#matrix tbody th", "heads => heads.length") == 2


def test_another_baseline_is_in_every_part(opened):
    page = opened("#operator=jacobian&size=documents")
    choose(page, "baseline", "manual")
    assert "the derivative by hand" in page.inner_text("#bars-title")
    # loop_grad takes about 20 µs and the derivative by hand 4.
    cell = page.inner_text("#matrix tbody tr:nth-child(2) td:nth-child(2)")
    assert 4 < float(cell.strip("~")) < 7
    assert "the derivative by hand" in page.inner_text("#dots-title")


def test_no_number_of_one_machine_is_in_the_view_of_the_other(opened):
    page = opened("#operator=jacobian&size=documents")
    ours = page.inner_text("main")
    assert "another, 64" not in ours
    choose(page, "machine", "another, 64 cores, 512 GiB")
    theirs = page.inner_text("main")
    times = [set(re.findall(r"\d[\d.]* [µm]s", text)) for text in (ours, theirs)]
    assert times[0]
    assert times[1]
    assert not times[0] & times[1]
    assert "Measured on another machine" in page.inner_text("#caution")


def test_words_find_whole_values_and_nothing_else(opened):
    page = opened()
    page.fill("input[name=find]", "exp jacobian")
    assert set(rows(page)) == {("exp", "jacobian")}
    assert "17 cases" in page.inner_text("#count")
    page.fill("input[name=find]", "quite_a jacobian")
    assert {operator for _, operator in rows(page)} == {"jacobian"}
    page.fill("input[name=find]", "no_such_word")
    assert "0 cases" in page.inner_text("#count")
    page.fill("input[name=find]", "")
    page.select_option("select[name=only-function]", "exp")
    page.select_option("select[name=only-operator]", "vjp")
    assert set(rows(page)) == {("exp", "vjp")}
    assert "only-function=exp" in page.url


def test_sizes_and_times_are_sorted_by_number(opened):
    page = opened("#only-function=softmax&only-mode=jacrev")
    size = "#table th:has-text('size') button"
    page.click(size)
    assert [r[0] for r in rows(page, "td:nth-child(4)")] == ["n=2", "n=4", "n=8", "n=16", "n=128"]
    assert page.get_attribute("#table th:has-text('size')", "aria-sort") == "ascending"
    page.click(size)
    assert next(r[0] for r in rows(page, "td:nth-child(4)")) == "n=128"
    page.click("#table th:has-text('time') button")
    assert [r[0] for r in rows(page, "td:nth-child(4)")] == ["n=2", "n=4", "n=8", "n=16", "n=128"]


def test_a_cell_shows_its_numbers_and_a_function_its_comparison(opened):
    page = opened("#operator=jacobian&size=documents")
    page.click("#matrix td.win")
    card = page.inner_text("#card")
    for said in ("a call (sessions:", "the fastest", "runner-up:"):
        assert said in card
    page.keyboard.press("Escape")
    assert page.is_hidden("#card")
    page.click("#matrix tbody th button:has-text('log')")
    assert "jacobian of log" in page.inner_text("#dots-title")
    assert "compare=log" in page.url
    assert page.locator("#dots li").count() == 15, (
        "the modes that were timed, without the forward pass"
    )
    assert "by hand" in page.locator("#dots li").last.inner_text()


def test_cells_are_reached_and_read_by_the_keyboard(opened):
    page = opened("#operator=jacobian&size=documents")
    focus = "document.activeElement.getAttribute('aria-label')"
    assert page.locator("#matrix td[tabindex='0']").count() == 1, "one stop for the Tab key"
    page.focus("#matrix td[tabindex='0']")
    first = page.evaluate(focus)
    assert re.fullmatch(r"\S+ for exp: [\d.]+×, the fastest", first)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    moved = page.evaluate(focus)
    assert " for expm1: " in moved
    assert moved.split()[0] != first.split()[0]
    page.keyboard.press("Enter")
    assert page.get_attribute("#card", "role") == "dialog"
    assert page.evaluate(focus) == page.get_attribute("#card", "aria-label")
    assert page.inner_text("#card b") == moved.split()[0]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Compare all modes"
    page.keyboard.press("Escape")
    assert page.is_hidden("#card")
    assert page.evaluate(focus) == moved, "the focus is back where it was"
    for _ in range(30):
        page.keyboard.press("ArrowUp")
    assert page.evaluate(focus).split()[0] == moved.split()[0], "the arrows stop at the edge"


def test_columns_are_in_the_order_of_the_averages(opened):
    page = opened("#operator=jacobian&size=documents")
    averages = page.eval_on_selector_all(
        "#matrix tr.average td:not(.apart)", "cells => cells.map(c => parseFloat(c.innerText))"
    )
    known = [a for a in averages if a == a]
    assert len(known) > 5
    assert known == sorted(known)
    assert page.locator("#matrix td.win").count() == 4


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280])
def test_nothing_is_wider_than_the_screen_or_cut_off(opened, width):
    page = opened("#operator=jacobian", width)
    found = checked(page, "tooWide()")
    assert found["page"] <= found["screen"]
    assert found["beyond"] == []
    assert found["clipped"] == []
    assert found["texts"] == []


def test_a_phone_turns_the_pages_of_a_wide_table(opened):
    page = opened("#operator=jacobian&size=documents", 390)
    first = page.inner_text("#matrix thead")
    page.click("#pager button:last-child")
    assert page.inner_text("#matrix thead") != first
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened, scheme):
    page = opened("#operator=jacobian", color_scheme=scheme)
    assert checked(page, "poorContrast()") == []


def test_it_prints_on_few_pages(opened, tmp_path):
    page = opened()
    sheet = page.pdf(format="A4", print_background=True)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", sheet)) <= 10


def test_without_scripts_the_answer_its_figure_and_a_table_are_there(browser, address):
    page = browser.new_page(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page.goto(address)
    assert "For jacobian try" in page.inner_text("#sentence")
    assert page.locator("#bars li").count() > 5
    assert page.locator("#summary tbody tr").count() == 3
    assert page.is_hidden("#filter")
    assert page.is_visible("noscript table")
    page.close()
