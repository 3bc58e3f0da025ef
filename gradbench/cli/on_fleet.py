"""Measuring on the nodes of a cluster, for the commands that have ``--on``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradbench import __version__
from gradbench.advise.yours import say_if_changed
from gradbench.cli import options
from gradbench.cli.output import hint, info, on_stop, say, warn
from gradbench.cli.progress import progress, starting
from gradbench.cli.rendering import Renderer, Terminal
from gradbench.core.cases import Entry, SelectionError
from gradbench.core.units import counted
from gradbench.fleet.engine import Dask, FleetError
from gradbench.fleet.jobs import Look, Seen
from gradbench.fleet.machines import Kind, Nodes, kind_of, names
from gradbench.fleet.measuring import lacks_something, measure
from gradbench.fleet.run import RunShares
from gradbench.fleet.shares import Shares
from gradbench.runner.choosing import Measuring, Opened, Suite, plan, require_instruments
from gradbench.runner.plan import resume, settings_of, start
from gradbench.runner.settings import PROFILES, Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.store.executed import digests, executed
from gradbench.store.runs import KIND, Run, find


@contextlib.contextmanager
def cluster(address: str, asked: Look) -> Iterator[Nodes]:
    """The nodes at an address, which have said what they are. Raises FleetError where none
    measures."""
    with starting(f"connecting to {address}"):
        engine = Dask(address)
    with contextlib.closing(engine):
        nodes = Nodes(engine, asked, lambda said: warn(f"note: {said}"))
        with starting(f"asking the nodes at {address}"):
            nodes.gather()
        if engine.dashboard:
            info(f"The cluster's dashboard: {engine.dashboard}")
        yield nodes


def everywhere(suite: Suite) -> Suite:
    """The suite with files as nodes find them: they have another current folder."""
    return replace(
        suite,
        files=tuple(map(os.path.abspath, suite.files)),
        loaded=tuple(map(os.path.abspath, suite.loaded)),
    )


def question(
    files: Sequence[str], loaded: Sequence[str], memory_limit: int, quiet: bool, **more: Any
) -> Look:
    """What the nodes are asked. Raises StoreError where a file cannot be read."""
    made = digests([*files, *loaded])
    return Look(__version__, made, list(files), memory_limit, quiet, **more)


def run(
    address: str,
    suite: Suite,
    measuring: Measuring,
    results: Path,
    quiet: bool,
    dry_run: bool,
    form: Renderer,
) -> int:
    """Measures a selection on every kind of machine of a cluster; says what, if `dry_run`."""
    suite = everywhere(suite)
    asked = question(suite.files, suite.loaded, measuring.memory_limit, quiet)
    if not dry_run:
        say_if_changed(suite.own, KIND, results, warn)
    with cluster(address, asked) as nodes:
        kinds = nodes.by_kind()
        if dry_run:
            for kind, name in names(kinds).items():
                entries, _ = _planned(kinds[kind], suite, measuring)
                say(_plan(entries, len(nodes.of(kind)), name))
            return 0
        shares = []
        with contextlib.ExitStack() as logs:
            for kind, name in names(kinds).items():
                try:
                    opened = _started(kinds[kind], suite, measuring, results)
                except SelectionError as error:
                    if len(kinds) == 1:
                        raise
                    warn(f"note: nothing is measured on {name}: {error}")
                    continue
                logs.enter_context(opened.log)
                shares.append(RunShares(kind, name, len(nodes.of(kind)), quiet, opened))
            if not shares:
                raise SelectionError("nothing of what is selected can be measured on any node")
            return _measure(address, shares, nodes, form)


def _started(seen: Seen, suite: Suite, measuring: Measuring, results: Path) -> Opened[Run]:
    discovery = seen.discovery
    entries, settings = _planned(seen, suite, measuring)
    command = options.given_command()
    log, stored = start(
        results, entries, settings, discovery, suite.files, command, suite.loaded, seen.machine
    )
    worker = WorkerOptions(files=suite.files, memory_limit=measuring.memory_limit)
    return Opened(log, stored, settings, worker, discovery)


def _planned(seen: Seen, suite: Suite, measuring: Measuring) -> tuple[list[Entry], Settings]:
    profile = PROFILES[measuring.profile]
    return plan(seen.discovery, suite.selection, measuring, profile, warn)


def _plan(entries: Sequence[Entry], nodes: int, name: str) -> str:
    cases = sum(len(entry.modes) for entry in entries)
    return (
        f"{counted(cases, 'case')} in {counted(len(entries), 'comparison')} on "
        f"{counted(nodes, 'node')} of {name}"
    )


def go_on(
    address: str, results: Path, name: str, files: Sequence[str], quiet: bool, form: Renderer
) -> int:
    """Resumes a run on the nodes that are like the ones that it was begun on."""
    old = find(results, name)
    settings = settings_of(old)
    chosen = executed(KIND, old, results, old.started.files, tuple(files), warn)
    loaded = [file for file in old.started.digests if file not in old.started.files]
    with cluster(address, question(chosen, loaded, settings.memory_limit, quiet)) as nodes:
        kinds = nodes.by_kind()
        labels = names(kinds)
        kind = _same_kind(old, kinds)
        if kind is None:
            there = "; ".join(labels.values())
            raise FleetError(
                f"no node is of the kind that {old.name} was begun on; there are: {there}"
            )
        discovery = kinds[kind].discovery
        require_instruments(settings.instruments, discovery)
        log, stored, settings = resume(old)
        worker = WorkerOptions(files=chosen, memory_limit=settings.memory_limit)
        opened = Opened(log, stored, settings, worker, discovery)
        with log:
            share = RunShares(kind, labels[kind], len(nodes.of(kind)), quiet, opened)
            return _measure(address, [share], nodes, form)


def _same_kind(old: Run, kinds: Mapping[Kind, Seen]) -> Kind | None:
    """The kind of the nodes that a run was begun on; before its first session, of a machine like
    the one that it names."""
    for kind, seen in kinds.items():
        environment = old.first_environment or seen.environment
        try:
            if kind_of(old.started.machine, environment) == kind:
                return kind
        except ValueError:
            return None
    return None


def _measure(address: str, shares: Sequence[RunShares], nodes: Nodes, form: Renderer) -> int:
    from gradbench.cli.show_command import show_cases, show_run

    for own in shares:
        stored = own.opened.stored
        info(f"Measuring {_plan(stored.started.plan, own.nodes, own.name)}: {stored.name}")
    again = measured_on(address, "gradbench run", shares, nodes)
    if isinstance(form, Terminal):
        measured = False
        for own in shares:
            say(f"\n{own.name}")
            measured |= show_run(own.opened.stored, form)
    else:
        measured = show_cases([own.opened.stored for own in shares], form)
    for own in shares:
        info(f"Stored in {own.opened.stored.path}")
    if len(shares) > 1:
        hint("Next: 'gradbench show --machines' says where these machines agree")
    return unfinished(shares, again) or (0 if measured else 1)


def measured_on(address: str, command: str, shares: Sequence[Shares], nodes: Nodes) -> str:
    """Measures, and says how to resume it."""
    again = "\n".join(
        f"Resume it with: {command} --resume {own.stored.name} --on {address}" for own in shares
    )
    stop = f"Stopped. Everything that came home is stored.\n{again}"
    with on_stop(stop), progress("measuring") as report:
        measure(shares, nodes, report, lambda said: warn(f"note: {said}"))
    return again


def unfinished(shares: Sequence[Shares], again: str) -> int:
    """Says what is lacking; the exit code."""
    for said in lacks_something(shares):
        warn(f"gradbench: {said}")
    if not any(own.given_up for own in shares):
        return 0
    hint(again)
    return 1
