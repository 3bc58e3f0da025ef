"""gradbench explain"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradbench.advise.yours import BY_CASE
from gradbench.cli import completing, options, parameters
from gradbench.cli.output import on_stop, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Renderer, Terminal
from gradbench.cli.yours import Yours, own_options
from gradbench.core.cases import SelectionError
from gradbench.core.naming import one_entry, selected
from gradbench.runner.choosing import Measuring, Suite
from gradbench.runner.wire import WorkerOptions

if TYPE_CHECKING:
    from gradbench.runner.profiling import Side


@dataclass(frozen=True)
class Counting:
    """How calls are counted, and what is shown of them, as the options say."""

    top: int
    files: tuple[str, ...]
    seed: int
    timeout: float
    memory_limit: int
    results: Path
    form: Renderer

    def suite(self, case: str, yours: Yours) -> Suite:
        """What the name of a case selects, and the files that declare it."""
        measuring = Measuring("", None, None, (), self.seed, self.timeout, self.memory_limit)
        return yours.suite(selected(case), self.files, measuring, self.results, warn, named=BY_CASE)

    def worker(self, suite: Suite) -> WorkerOptions:
        return WorkerOptions(files=suite.files, memory_limit=self.memory_limit)

    def explained(self, of: str, sides: Sequence[Side], files: Sequence[str]) -> int:
        """Measures what the sides execute, stores it and shows it."""
        import time

        from gradbench.analysis import explained as analysis
        from gradbench.cli import explained as shown
        from gradbench.core.units import duration
        from gradbench.runner import machine
        from gradbench.runner.profiling import profiled
        from gradbench.runner.settings import Settings
        from gradbench.store import explanations

        began = time.perf_counter()
        settings = Settings(timeout=self.timeout, memory_limit=self.memory_limit, seed=self.seed)
        with on_stop("Stopped. Nothing was stored."), progress("explaining") as report:
            measured = profiled(sides, settings, report)
        elapsed = time.perf_counter() - began
        stored = explanations.write(
            self.results, of, measured, machine.facts(), options.given_command(), files, elapsed
        )
        found = analysis.of(stored)
        assert found is not None
        self.form.write(shown.answer(found, self.top))
        if isinstance(self.form, Terminal):
            warn(f"Took {duration(elapsed)}. Stored in {stored.path}")
        return 0


counting_options = options.as_one(
    "counting",
    Counting,
    click.option(
        "--top", type=parameters.Whole(1, 10**6), default=10, help="Number of functions shown."
    ),
    options.files_option,
    options.seed_option,
    options.limit_options,
    options.results_option,
    options.format_option,
)


@click.command()
@click.argument("case", type=parameters.Text(), metavar="CASE", shell_complete=completing.case)
@click.argument(
    "mode",
    type=parameters.Text(),
    required=False,
    metavar="[MODE]",
    shell_complete=completing.offered("mode"),
)
@own_options
@counting_options
def command(case: str, mode: str | None, yours: Yours, counting: Counting) -> int:
    """Say what one call of CASE executes, or why MODE executes more or less.

    CASE is a full name, as 'gradbench list cases' prints it, or OPERATOR/FUNCTION/MODE, with a
    size or a dtype before the mode if needed: vjp/exp/n=64/grad. The function may be one of your
    own: gradient/model.py:loss/grad, with --input or --inputs. Instructions are counted under
    Callgrind, function by function, which takes one to two minutes. A case in two torch releases:
    'gradbench releases explain'.
    """
    from gradbench.runner.profiling import Side, require_valgrind

    require_valgrind()
    suite = counting.suite(case, yours)
    worker = counting.worker(suite)
    discovery = options.discovered(worker)
    if mode is not None and mode == case.rpartition("/")[2]:
        raise SelectionError(f"{mode!r} is the mode of {case!r} itself: name another, or none")
    modes = [] if mode is None else [mode]
    entry = one_entry(discovery.offers, case, suite.selection, modes)
    chosen = dict.fromkeys([one for one in entry.modes if one not in modes] + modes)
    sides = [
        Side(one, entry.comparison.case(one), worker, one in discovery.opt_in) for one in chosen
    ]
    return counting.explained("modes", sides, suite.files)
