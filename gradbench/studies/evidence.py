"""Results of studies as tables for a terminal and as the evidence page."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gradbench.advise.telling import factor
from gradbench.analysis.table import Ratio
from gradbench.core.suggest import hint
from gradbench.core.units import counted, duration
from gradbench.store import studies as store
from gradbench.store.files import require_free, require_ours, write_text
from gradbench.store.lines import StoreError, stem
from gradbench.store.studies import Study
from gradbench.studies import STUDIES
from gradbench.studies.tally import conditions


def _percent(value: float) -> str:
    return f"{100 * value + 0.0:.3g} %"  # No "-0 %".


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _interval(name: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        if row.get(name) is None or not row["trials"]:
            return ""
        low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
        return f"{_percent(row[name])} [{low:.3g}, {high:.3g}]"

    return cell


def _as(form: Callable[[float], str], name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "" if row.get(name) is None else form(row[name])


def _ratio(name: str) -> Callable[[dict[str, Any]], str]:
    """A ratio with its interval, or why there is none."""

    def cell(row: dict[str, Any]) -> str:
        value = row.get(f"{name}_ratio")
        if value is None:
            return str(row.get(f"{name}_status", ""))
        told = factor(Ratio(value, row[f"{name}_low"], row[f"{name}_high"]))
        verdict = row[f"{name}_verdict"]
        return told + (f" {verdict}" if verdict in ("undecided", "same") else "")

    return cell


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "method": ("method", lambda row: str(row["method"])),
    "rule": ("rule", lambda row: str(row["rule"])),
    "sessions": ("sessions", lambda row: str(row["sessions"])),
    "cases": ("cases", lambda row: str(row["cases"])),
    "gates": ("gates", lambda row: str(row["gates"])),
    "gates_alarmed": ("with a false alarm", lambda row: str(row["gates_alarmed"])),
    "neighbour": ("background load", lambda row: str(row["neighbour"])),
    "busy": ("busy processes per core", lambda row: str(row["busy"])),
    "length": ("long call", lambda row: str(row["length"])),
    "off": ("ratio off by", _as(_percent, "off")),
    "near": ("single ratios within 10 %", _as(_percent, "near")),
    "floor": ("threshold", _as(_percent, "floor")),
    "budget": ("budget", _as(lambda v: f"{v:.3g} s", "budget")),
    "slowdown": ("slowdown", _as(_percent, "slowdown")),
    "calibrated": ("injected", _as(_percent, "calibrated")),
    "long_run": ("long runs", _as(_percent, "long_run")),
    "pair": ("pair", lambda row: str(row["pair"])),
    "case": ("case", lambda row: str(row["case"])),
    "place": ("planted in", lambda row: str(row["place"])),
    "function": ("function", lambda row: str(row["function"])),
    "kind": ("error", lambda row: str(row["kind"])),
    "dtype": ("dtype", lambda row: str(row["dtype"])),
    "point": ("point", lambda row: str(row["point"])),
    "functions": ("functions", lambda row: str(row["functions"])),
    "size": ("relative size", _as(lambda v: f"{v:.2g}", "size")),
    "share": ("share of the tolerance", _as(lambda v: f"{v:.2g}", "share")),
    "late": ("over by 10 %", lambda row: str(row["late"])),
    "overrun_median": ("overrun, median", _as(_percent, "overrun_median")),
    "longest": ("largest", _as(_percent, "longest")),
    "overrun": ("overrun", _as(_percent, "overrun")),
    "empty": ("without content", lambda row: str(row["empty"])),
    "winners": ("with a winner", lambda row: str(row["winners"])),
    "fault": ("fault", lambda row: str(row["fault"])),
    "operator": ("operator", lambda row: str(row.get("refused") or row["operator"])),
    "best": ("best of advice", lambda row: str(row.get("best", ""))),
    "usual": ("usual choice", lambda row: str(row.get("usual", ""))),
    "usual_verdict": ("usual / fastest", _ratio("usual")),
    "expert_status": ("expert / best", _ratio("expert")),
    "seconds": ("seconds", _as(lambda v: f"{v:.0f}", "seconds")),
    "trials": ("trials", lambda row: str(row["trials"])),
    "unsupported": ("unsupported", lambda row: str(row["unsupported"])),
    "modes": ("right modes", lambda row: str(row["modes"])),
    "called_wrong": ("called wrong", lambda row: str(row["called_wrong"])),
    "wrong_in_torch": ("wrong in torch", lambda row: str(row.get("wrong_in_torch", 0))),
    "contradicted": ("contradicted", lambda row: str(row["contradicted"])),
    "unconfirmed": ("not confirmed", lambda row: str(row["unconfirmed"])),
    "named": ("a mode passes", lambda row: str(row["named"])),
    "nameable": ("share [95 %]", _interval("nameable")),
    "false_alarms": ("false positives", lambda row: str(row["false_alarms"])),
    "rate": ("rate [95 %]", _interval("rate")),
    "found": ("detected", lambda row: str(row["found"])),
    "power": ("power [95 %]", _interval("power")),
    "power_said": ("power that the gate states", _as(_percent, "power_said")),
    "covered": ("covered", lambda row: str(row["covered"])),
    "coverage": ("coverage [95 %]", _interval("coverage")),
    "q95": ("q95", _as(_percent, "q95")),
    "worst": ("largest", _as(_percent, "worst")),
    "half_width": ("half-width", _as(_percent, "half_width")),
    "power_2_at_5": ("detects 2 % at 5 % false positives", _as(_percent, "power_2_at_5")),
    "alarms_at_equal_power": (
        "false positives at equal power",
        _as(_percent, "alarms_at_equal_power"),
    ),
    "power_2": ("detects 2 % [95 %]", _interval("power_2")),
    "power_5": ("detects 5 % [95 %]", _interval("power_5")),
    "by_minimum": ("minimum of wall time", _as(lambda v: f"{v:.3g}×", "by_minimum")),
    "by_undisturbed": ("undisturbed sub-blocks", _as(lambda v: f"{v:.3g}×", "by_undisturbed")),
    "by_cpu": ("processor time", _as(lambda v: f"{v:.3g}×", "by_cpu")),
    "disturbed": ("disturbed", _as(_percent, "disturbed")),
    "by_processor": ("by processor time", _as(_percent, "by_processor")),
    "seconds_measuring": ("measuring", _as(_seconds, "seconds_measuring")),
    "seconds_in_all": ("total", _as(_seconds, "seconds_in_all")),
}
"""The columns of tables, if a row has them; the other formats have every field."""


def show_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [heading for key, (heading, _) in COLUMNS.items() if rows and key in rows[0]]


def cells(row: dict[str, Any]) -> list[str]:
    return [cell(row) for key, (_, cell) in COLUMNS.items() if key in row]


# ── the page ──────────────────────────────────────────────────────────────────────────────────

HEADINGS = {
    "aa": (
        "False positives: the same code against itself",
        "Every *slower* or *faster* here is wrong. *One process* compares two instances of one "
        "mode in a single process (its order-statistic interval lies beyond the threshold); "
        "verdicts of a run use five processes. *q95* and *largest* are apparent differences.",
    ),
    "power": (
        "Power: slowdowns of known size",
        "A counted loop before the call makes one side slower. *Injected* is its size by "
        "calibration in place, *long runs* its size by separate runs of 100 rounds in each of up "
        "to four processes. *Detected* means called slower.",
    ),
    "releases": (
        "The gate on releases: one release installed twice",
        "A gate compares the two installations, whose processes take turns, by the code that "
        "judges tracks. All that it calls is false; and each case in turn is put in slower. *With "
        "a false alarm* counts whole gates, of which most share sessions with others; detected "
        "slowdowns and false positives are those of gates that share none.",
    ),
    "coverage": (
        "Coverage: does the interval contain the long-run ratio of two different modes?",
        "The long run is the mean over all processes outside the group that is judged.",
    ),
    "peers": (
        "Other tools, on the same pairs in the same run",
        "Each tool uses its documented defaults, and each comparison is between adjacent "
        "measurements. *Detects 2 % at 5 % false positives*: with the threshold that 5 % of this "
        "run's own A/A trials exceed. *False positives at equal power*: with the threshold at "
        "which the method detects 2 % as often as gradbench does within 1 s. asv is its own runner "
        "and test on forked processes, not the whole command, and pytest-benchmark runs in forked "
        "processes too; pyperf is slow, hence few trials.",
    ),
    "load": (
        "Busy machines: ratios of very different calls",
        "A call of about 20 µs against the same 15, 250 and 2500 times over, beside busy processes "
        "on every core that the study starts. *Ratio off by*: the largest difference of a pair's "
        "median ratio from the one that gradbench measures without them. False positives are of "
        "the same code twice, at every length. *Candidate clocks* are the ratios that gradbench "
        "would have read by each clock, as multiples of the quiet one in processor time; "
        "*disturbed* are sub-blocks of the long call.",
    ),
    "gate": (
        "Real functions: right derivatives kept, planted errors caught",
        "All derivatives of the functions are right, so every mode *called wrong* and every "
        "derivative *contradicted* is a fault of gradbench. *Wrong in torch*: modes that torch "
        "itself computes wrong, which the gate refused. *Not confirmed*: differences cannot "
        "decide, as beside a kink, and independent modes agree. *A mode passes*: it can be timed. "
        "*Unsupported*: torch has no such operation in that dtype, or its value is not finite. "
        "Errors *planted in results* are for the gate to catch, in float32 and float64; those in "
        "*backwards*, of one operation inside the function, for the evidence, in float64.",
    ),
    "experts": (
        "Experts: is advice as fast as code written from the documentation?",
        "Each function's derivative is measured in the ways of `gradbench advise` and by an "
        "expert's code, in the same rounds. *Usual* is `functional.jacobian` or "
        "`functional.hessian` (of a batch only its own blocks are kept), `.backward()` for a "
        "gradient. *Expert / best*: above 1 the best of advice is faster. ~: too close to call.",
    ),
    "budgets": (
        "Budgets: how long advice takes",
        "Each answer is that of `gradbench advise` with this budget, alone or beside busy "
        "processes that take every core. *Without content*: neither evidence nor costs nor times.",
    ),
}


def rows_of(study: Study, by_case: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = importlib.import_module(STUDIES[study.started.study]).rows(
        study, by_case
    )
    return found


def tables_of(study: Study, by_case: bool = False) -> list[tuple[str, list[dict[str, Any]]]]:
    """The tables of a study that have rows, each with its title; the first has none if it is all
    there is."""
    module = importlib.import_module(STUDIES[study.started.study])
    if hasattr(module, "tables"):
        return [(title, rows) for title, rows in module.tables(study, by_case) if rows]
    return [("", rows_of(study, by_case))]


def newest(studies: Iterable[Study]) -> list[Study]:
    """The newest finished study of each kind and condition, in the page's order; the newest
    interrupted one where none is finished."""
    found: dict[tuple[Any, ...], Study] = {}
    for study in studies:
        if study.trials:
            settings = study.settings
            key = (study.started.study, settings.get("between"), settings.get("neighbour"))
            if study.finished or not (key in found and found[key].finished):
                found[key] = study
    order = list(HEADINGS)
    return sorted(
        found.values(),
        key=lambda s: (
            order.index(s.started.study),
            bool(s.settings.get("between")),
            ("none", "other", "same", "both").index(s.settings.get("neighbour", "none")),
        ),
    )


def ended(study: Study) -> str:
    """How long a study took, and whether it was interrupted, as a clause."""
    took = f"took {duration(study.elapsed)}" if study.elapsed else ""
    if study.finished:
        return took
    measured = f"interrupted after {counted(len(study.trials), 'measurement')}"
    return f"{took}, {measured}" if took else measured


def chosen(results: Path, names: Sequence[str]) -> tuple[list[Study], list[str]]:
    """These studies, or the `newest` ones, and what is wrong with files that were left out.

    Raises StoreError where there is none.
    """
    if names:
        kinds = [name.partition("-")[0] for name in names]
        for name, kind in zip(names, kinds):
            if kind not in STUDIES:
                near = hint(name, map(stem, store.paths(results)))
                listed = ", ".join(f"{known}-" for known in STUDIES)
                raise StoreError(
                    f"{name!r} is not a study; " + (near or f"their names begin with {listed}")
                )
        return [store.find(results, name, kind) for name, kind in zip(names, kinds)], []
    studies, problems = store.read_all(results)
    shown = newest(studies)
    if not shown:
        raise StoreError(f"there are no studies with measurements in {store.folder(results)}")
    return shown, problems


_MARK = "Written by `gradbench study report"
"""Marks the page as gradbench's; a file of that name without it is not overwritten."""

_UNRUN = "<!-- parsed: takes minutes or hours; the table is that of the stored study -->"
"""For the tests that run the commands of pages: an HTML comment, which no reader sees."""


def write(studies: Sequence[Study], docs: Path) -> list[Path]:
    """Writes evidence.md and its figures into a folder and returns the files written.

    Raises OSError if it cannot, or if a file of that name is not gradbench's.
    """
    from gradbench.core.text import line, markdown, markdown_cell
    from gradbench.studies import figures

    page = docs / "evidence.md"
    docs.mkdir(parents=True, exist_ok=True)
    if not require_ours(page, _MARK):
        for kind in HEADINGS:
            for ending in (".svg", ".png"):
                require_free(docs / "figures" / f"{kind}{ending}")
    written = figures.draw(studies, docs / "figures")
    text = [
        "# Evidence",
        "",
        "How far to trust the verdicts, measured by gradbench on itself. Rates have "
        "Clopper–Pearson 95 % intervals. *Measuring* is seconds inside visits (for other tools, "
        "inside their timing); *total* adds preparing, warming up and starting processes. Both "
        "are per comparison. Log ratios are stored to 0.00001.",
        "",
        f"{_MARK} --docs docs`; the command above each table measured it.",
    ]
    kinds = [kind for kind in HEADINGS if any(s.started.study == kind for s in studies)]
    for kind in kinds:
        heading, said = HEADINGS[kind]
        text += ["", f"## {heading}", "", said]
        picture = next((path for path in written if path.stem == kind), None)
        if picture is not None:
            text += ["", f"![{heading}](figures/{picture.stem}.svg)"]
        for study in (s for s in studies if s.started.study == kind):
            tables = [(title, rows) for title, rows in tables_of(study) if rows]
            if not tables:
                continue
            command = line(shlex.join(study.started.command), 2000)
            text += ["", _UNRUN, "```sh", command, "```"]
            for title, rows in tables:
                text += ["", f"**{title}**"] if title else []
                text += ["", markdown([cells(row) for row in rows], show_columns(rows))]
            told = conditions(study)
            failed = sum(bool(t.reason) for t in study.trials)
            note = (
                f"torch {told['torch']}, {told['cpu']}, {counted(told['cores'], 'core')}, "
                f"{counted(told['threads'], 'thread')}, load {told['load']}; "
                f"{study.started.started}, {ended(study)}"
            )
            note += f"; {failed} measurements failed." if failed else "."
            text += ["", markdown_cell(note)]
    write_text(page, "\n".join(text) + "\n")
    return [page, *written]
