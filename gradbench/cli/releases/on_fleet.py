"""Tracks on the nodes of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradbench.advise.yours import say_if_changed
from gradbench.cli import options
from gradbench.cli.on_fleet import cluster, everywhere, measured_on, question, unfinished
from gradbench.cli.output import hint, info, notes, say, warn
from gradbench.cli.releases import tables
from gradbench.cli.rendering import Renderer, Terminal
from gradbench.core.cases import Entry, SelectionError
from gradbench.core.releases import ReleaseError
from gradbench.core.units import counted
from gradbench.fleet.engine import FleetError
from gradbench.fleet.jobs import Seen
from gradbench.fleet.machines import Kind, Nodes, kind_of, names
from gradbench.fleet.track import TrackShares
from gradbench.releases import builds
from gradbench.releases import track as tracking
from gradbench.releases.environments import Environment
from gradbench.releases.plan import Asked
from gradbench.releases.stored import history
from gradbench.releases.wanted import Installing
from gradbench.runner.choosing import Measuring, Opened, Suite, plan
from gradbench.runner.settings import Settings
from gradbench.runner.wire import WorkerOptions
from gradbench.store.executed import executed
from gradbench.store.lines import now
from gradbench.store.tracks import KIND, Track, folder, read


def track(
    address: str,
    asked: Asked,
    suite: Suite,
    measuring: Measuring,
    installing: Installing,
    results: Path,
    quiet: bool,
    dry_run: bool,
    form: Renderer,
) -> int:
    """Measures a selection in several builds on every kind of machine of a cluster; says what, if
    `dry_run`."""
    if not asked.names:
        raise ReleaseError("name the releases to track with --on: each node has its own")
    wanted = builds.requested(asked.names, asked.baseline, asked.dates, results)
    suite = everywhere(suite)
    look = question(
        *(suite.files, suite.loaded, measuring.memory_limit, quiet),
        builds={request.name: request.what for request in wanted.requests},
        baseline=wanted.baseline,
        capability=asked.cpu_capability,
        installing=None if dry_run else installing,
    )
    if not dry_run:
        say_if_changed(suite.own, KIND, results, warn)
    with cluster(address, look) as nodes, contextlib.ExitStack() as logs:
        kinds = nodes.by_kind()
        shares = []
        for kind, name in names(kinds).items():
            try:
                entries, settings = _planned(kinds[kind], suite, measuring)
            except SelectionError as error:
                if len(kinds) == 1:
                    raise
                warn(f"note: nothing is measured on {name}: {error}")
                continue
            cases = sum(len(entry.modes) for entry in entries)
            said = (
                f"{counted(cases, 'case')} in {counted(len(wanted.requests), 'build')} on "
                f"{counted(len(nodes.of(kind)), 'node')} of {name}"
            )
            if dry_run:
                say(f"Would measure {said}")
                continue
            info(f"Measuring {said}")
            seen = kinds[kind]
            opened = _begun(seen, suite, wanted, asked, entries, settings, results)
            logs.enter_context(opened.log)
            shares.append(TrackShares(kind, name, len(nodes.of(kind)), quiet, opened))
        if dry_run:
            return 0
        if not shares:
            raise SelectionError("nothing of what is selected can be measured on any node")
        return _measure(address, results, shares, nodes, form)


def _planned(seen: Seen, suite: Suite, measuring: Measuring) -> tuple[list[Entry], Settings]:
    profile = tracking.PROFILES[measuring.profile]
    return plan(seen.discovery, suite.selection, measuring, profile, warn)


def _begun(
    seen: Seen,
    suite: Suite,
    wanted: builds.Requested,
    asked: Asked,
    entries: Sequence[Entry],
    settings: Settings,
    results: Path,
) -> Opened[Track]:
    what = {request.name: request.what for request in wanted.requests}
    installed = [
        Environment(1, name, what[name], "", own.identity, now(), 0, own.arguments)
        for name, own in seen.builds.items()
    ]
    log, made = tracking.begin(
        folder(results),
        entries,
        settings,
        builds.Builds(installed, [], wanted.baseline, wanted.dates),
        suite.files,
        options.given_command(),
        asked.cpu_capability,
        suite.loaded,
        facts=seen.machine,
    )
    worker = WorkerOptions(files=suite.files, memory_limit=settings.memory_limit)
    return Opened(log, made, settings, worker, seen.discovery)


def go_on(
    address: str, results: Path, name: str, files: Sequence[str], quiet: bool, form: Renderer
) -> int:
    """Resumes a track on the nodes that are like the ones that it was begun on."""
    old = KIND.find(results, name)
    settings = tracking.settings_of(old)
    chosen = executed(KIND, old, results, old.started.files, tuple(files), warn)
    loaded = [file for file in old.started.digests if file not in old.started.files]
    look = question(
        *(chosen, loaded, settings.memory_limit, quiet),
        builds={used.name: used.what for used in old.environments.values()},
        baseline=old.baseline,
        capability=str(old.started.settings.get("cpu_capability", "")),
    )
    with cluster(address, look) as nodes:
        kinds = nodes.by_kind()
        labels = names(kinds)
        kind = _same_kind(old, kinds)
        if kind is None:
            there = "; ".join(labels.values())
            raise FleetError(
                f"no node is of the kind that {old.name} was begun on; there are: {there}"
            )
        with KIND.reopen(old) as log:
            made = read(old.path)
            worker = WorkerOptions(files=chosen, memory_limit=settings.memory_limit)
            opened = Opened(log, made, settings, worker, kinds[kind].discovery)
            share = TrackShares(kind, labels[kind], len(nodes.of(kind)), quiet, opened)
            return _measure(address, results, [share], nodes, form)


def _same_kind(old: Track, kinds: Mapping[Kind, Seen]) -> Kind | None:
    identities = {name: used.identity for name, used in old.environments.items()}
    try:
        own = kind_of(old.started.machine, identities[old.baseline], identities)
    except (ValueError, KeyError):
        return None
    return own if own in kinds else None


def _measure(
    address: str, results: Path, shares: Sequence[TrackShares], nodes: Nodes, form: Renderer
) -> int:
    again = measured_on(address, "gradbench releases track", shares, nodes)
    if not isinstance(form, Terminal) and len(shares) > 1:
        # Programs get one list: the tracks of all machines, which are judged apart.
        past = history(results, [own.stored.name for own in shares], lambda said: notes([said]))
        form.write(tables.changes(tables.Course.of(past)))
    else:
        for own in shares:
            if isinstance(form, Terminal):
                say(f"\n{own.name}")
            past = history(results, [own.stored.name], lambda said: notes([said]))
            form.write(tables.changes(tables.Course.of(past)))
    for own in shares:
        info(f"Stored in {own.stored.path}")
    code = unfinished(shares, again)
    timed = any(
        side.entrant.samples
        for own in shares
        for part in own.stored.parts
        for case in part.cases
        for side in case.sides
    )
    if not timed:
        warn("gradbench: no case could be timed in any build")
        return 1
    if isinstance(form, Terminal):
        hint("Next: 'gradbench releases compare A B', or 'gradbench releases show -f FUNCTION'")
    return code
