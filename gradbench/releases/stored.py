"""The stored tracks that a question is about, and their history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gradbench.analysis.tracks import Build, History, Judged
from gradbench.core.cases import SelectionError, nothing_fits
from gradbench.core.units import counted
from gradbench.runner import machine
from gradbench.statistics import Method
from gradbench.store import tracks as log
from gradbench.store.lines import StoreError
from gradbench.store.tracks import Track

Note = Callable[[str], None]
Filters = dict[str, Iterable[str]]


def tracks(results: Path, names: Sequence[str], note: Note) -> list[Track]:
    """These tracks, or all, oldest first; `note` is told what was left out.

    Raises StoreError where there is none.
    """
    if names:
        found, problems = log.KIND.once([log.find(results, name) for name in names])
    else:
        found, problems = log.read_all(results)
    for problem in [*problems, *(p for track in found for p in track.problems)]:
        note(problem)
    if not found:
        raise StoreError(
            f"there are no tracks in {log.folder(results)}; 'gradbench releases track' makes one"
        )
    return found


def history(
    results: Path,
    names: Sequence[str],
    note: Note,
    filters: Filters | None = None,
    beside: bool = False,
) -> History:
    """The history of these tracks; without a name, of all that this machine measured or, where it
    has measured none, of all.

    `beside`: with what the other tracks know, for `analysis.scope`. Raises SelectionError where the
    filters fit nothing, StoreError where there is no track.
    """
    chosen = tracks(results, names, note)
    others: list[Track] = []
    if not names:
        cpu = machine.facts().get("cpu")
        mine = [track for track in chosen if track.started.machine.get("cpu") == cpu]
        if mine and len(mine) < len(chosen):
            others = [track for track in chosen if track not in mine]
            chosen = mine
            number = counted(len(others), "track")
            note(f"{number} of other machines left out; --track includes them")
    elif beside:
        known = {track.name for track in chosen}
        others = [track for track in log.read_all(results)[0] if track.name not in known]
    made = History.of(chosen, filters, others if beside else ())
    if not made.cases and filters and any(filters.values()):
        planned = [case for track in chosen for entry in track.started.plan for case in entry.cases]
        raise SelectionError(nothing_fits(planned, **filters))
    if not made.cases or not made.builds:
        raise StoreError("no case of these tracks was measured in any build")
    return made


def compared(
    history: History, old: str, new: str, judging: tuple[float, float, Method]
) -> tuple[list[Build], list[Build], Judged]:
    """Two releases, in all builds that were measured, and what changed from one to the other.

    Raises SelectionError where they are one, or were never timed on the same case.
    """
    before, after = history.find_all(old), history.find_all(new)
    if before == after:
        raise SelectionError(f"{old!r} and {new!r} are the same build")
    judged = history.changes(history.between(old, new), *judging)
    if not judged.changes:
        raise SelectionError(
            f"{old!r} and {new!r} have no case in common that was timed in both; measure them "
            f"together: 'gradbench releases track {old} {new}'"
        )
    return before, after, judged
